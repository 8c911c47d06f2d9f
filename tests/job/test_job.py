"""Valid and invalid parameters; and jobs stay the same when they are stored."""

import json
from typing import Any

import pytest

from server.errors import InvalidField
from server.job.job import SIZES, Faces, Job, Params, Result, State

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("scale", value) for value in (0, -0.0, -1, 10.000001, 1e300, INF, -INF, NAN)),
        *(("target", value) for value in ("16k", "", "4K", "2048")),
        *(("size", value) for value in ((0, 1), (1, 0), (-5, 5), (1,), (1, 2, 3))),
        *(("megapixels", value) for value in (0, -1, 1e300, INF, NAN)),
        *(("format", value) for value in ("jpg", "", "bmp", "PNG")),
        *(("quality", value) for value in (0, -1, 101)),
        *(("wrap", value) for value in ("", "z", "yx")),
        *(("creativity", value) for value in (2.1, -2.0001, INF, -INF, NAN)),
        *(("seed", value) for value in (-1, 2**63)),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    wanted: dict[str, Any] = {} if field in SIZES else {"scale": 2}
    with pytest.raises(InvalidField, match=f"^{field} must be ") as caught:
        Params(**wanted, **{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("scale", value) for value in (1e-9, 1, 3.7, 10)),
        *(("target", value) for value in ("2k", "4k", "8k")),
        *(("size", value) for value in ((1, 1), (1_000_000, 1))),
        *(("megapixels", value) for value in (1e-9, 24.5, 1e6)),
        *(("quality", value) for value in (1, 100, None)),
        *(("creativity", value) for value in (-2, 0, 0.5, 2)),
        *(("seed", value) for value in (0, 2**63 - 1, None)),
    ],
)
def test_the_ends_of_the_ranges_are_in_them(field: str, value: Any) -> None:
    wanted: dict[str, Any] = {} if field in SIZES else {"scale": 2}
    assert getattr(Params(**wanted, **{field: value}), field) == value


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({}, "scale"),
        ({"scale": 2, "target": "2k"}, "target"),
        ({"scale": 2, "size": (1, 1)}, "size"),
        ({"scale": 2, "megapixels": 1.5}, "megapixels"),
        ({"scale": 2, "target": "2k", "size": (1, 1)}, "size"),
    ],
)
def test_exactly_one_size_is_asked_for(wanted: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField, match="^give exactly one of scale, target, size and megapixels$") as caught:
        Params(**wanted)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "params",
    [
        Params(scale=0.1 + 0.2),
        Params(
            target="8k",
            format="webp",
            quality=7,
            model="x",
            creativity=-1.25,
            denoise=0.5,
            faces=Faces(strength=0.5, only=(0, 2)),
            seed=2**63 - 1,
        ),
        Params(size=(3, 4), format="jpeg"),
    ],
)
def test_params_survive_json(params: Params) -> None:
    assert Params.from_dict(json.loads(json.dumps(params.to_dict()))) == params


def test_a_result_survives_json() -> None:
    result = Result(
        key="k.png",
        width=3,
        height=4,
        size_bytes=5,
        format="png",
        model="none",
        model_sha256=None,
        seconds={"decode": 0.1},
    )
    assert Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_a_new_job_waits_under_an_id_of_its_own() -> None:
    one, two = (Job(dialect="native", owner="local", params=Params(scale=2)) for _ in range(2))
    assert one.id != two.id and len(one.id) == 32 and int(one.id, 16)
    assert (one.state, one.attempt, one.progress) == (State.QUEUED, 0, 0.0)


def test_a_job_is_over_when_nothing_can_happen_to_it_any_more() -> None:
    assert [state.value for state in State if state.final] == ["succeeded", "failed", "cancelled"]
