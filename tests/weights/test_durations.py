import json
import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from server.job.amounts import Amount, amounts
from server.job.job import Params
from server.job.plan import Pass, Plan
from server.weights import durations
from server.weights.durations import Durations
from server.weights.rates import write_rates

PIXELS = 1_000_000
NET = Amount("upscale", "fidelity-x4", PIXELS)


def learn(made: Durations, seconds: float, part: Amount = NET, times: int = 1) -> None:
    for _ in range(times):
        made.learn({part.step: seconds}, [part], "fidelity-x4")


def test_nothing_is_known_of_a_network_that_never_ran(tmp_path: Path) -> None:
    assert Durations(tmp_path).seconds([Amount("decode", "image/png", PIXELS), NET]) is None


def test_the_measured_rates_serve_until_jobs_have_run(tmp_path: Path) -> None:
    write_rates(tmp_path, "machine", {"fidelity-x4": PIXELS / 2, "RealESRGAN_x4plus": PIXELS / 30})
    made = Durations(tmp_path)
    assert made.of(NET) == pytest.approx(2)
    mixed = Amount("upscale", "fidelity-x4 0.5 + RealESRGAN_x4plus 0.5", PIXELS)
    assert made.of(mixed) == pytest.approx(32)
    assert made.of(Amount("upscale", "a, fidelity-x4", PIXELS)) is None
    learn(made, 3.0)
    assert made.of(NET) == pytest.approx(3, rel=0.05)


def test_rates_that_are_measured_again_are_used_at_once(tmp_path: Path) -> None:
    """An estimate is remembered only as long as all that it was made of."""
    made = Durations(tmp_path)
    for seconds in (2, 5):
        write_rates(tmp_path, "machine", {"fidelity-x4": PIXELS / seconds})
        assert made.of(NET) == pytest.approx(seconds)
    learn(made, 3.0)
    assert made.of(NET) == pytest.approx(3, rel=0.05)


def test_nothing_to_do_takes_no_time(tmp_path: Path) -> None:
    made = Durations(tmp_path)
    learn(made, 2.0)
    assert not made.of(replace(NET, amount=0))


def test_one_bad_sample_changes_little(tmp_path: Path) -> None:
    made = Durations(tmp_path)
    learn(made, 2.0, times=12)
    learn(made, 200.0)
    assert made.of(NET) == pytest.approx(2, rel=0.05)


def test_what_tiny_jobs_took_says_little_of_large_ones(tmp_path: Path) -> None:
    """As the first job of a format: most of what it takes does not grow with the picture."""
    write_rates(tmp_path, "machine", {"fidelity-x4": PIXELS / 2})
    made = Durations(tmp_path)
    learn(made, 0.5, Amount("upscale", "fidelity-x4", 500))
    learn(made, 0.1, Amount("encode", "avif beside a network", 2000))
    assert made.of(NET) == pytest.approx(2, rel=0.1), "not 1,000 s"
    encode = made.of(Amount("encode", "avif beside a network", 8 * PIXELS))
    assert encode is not None and encode < 2, "not 400 s"
    for _ in range(3):
        learn(made, 3.0)
    assert made.of(NET) == pytest.approx(3, rel=0.1)


def test_many_small_jobs_do_not_replace_what_is_known_of_large_ones(tmp_path: Path) -> None:
    made = Durations(tmp_path)
    learn(made, 2.0, times=3)
    learn(made, 0.5, Amount("upscale", "fidelity-x4", 1000), times=200)
    assert made.of(NET) == pytest.approx(2, rel=0.01)
    assert sum(map(len, made._samples.values())) < 60


def test_a_mean_of_networks_takes_what_each_takes(tmp_path: Path) -> None:
    made = Durations(tmp_path)
    learn(made, 2.0, times=3)
    learn(made, 30.0, Amount("upscale", "RealESRGAN_x4plus", PIXELS), times=3)
    assert made.of(Amount("upscale", "fidelity-x4 0.5 + RealESRGAN_x4plus 0.5", PIXELS)) == pytest.approx(32)


def test_wrong_estimates_of_what_never_ran_are_no_load_on_the_machine(tmp_path: Path) -> None:
    made = Durations(tmp_path)
    learn(made, 2.0, times=10)
    for step in ("refine", "encode", "faces", "grain", "certificate", "sign", "resize", "decode"):
        part = Amount(step, "new", 10 * PIXELS)
        made.learn({"upscale": 2.0, step: 50.0}, [NET, part], "fidelity-x4")
    assert made.of(NET) == pytest.approx(2, rel=0.01)


def test_the_speed_of_a_network_is_known_when_some_jobs_have_run(tmp_path: Path) -> None:
    made = Durations(tmp_path)
    assert made.speed("fidelity-x4") is None
    learn(made, 2.0, times=5)
    assert made.speed("fidelity-x4") == pytest.approx(PIXELS / 2)


def test_large_tiles_are_expected_where_jobs_of_that_size_had_them(tmp_path: Path) -> None:
    made, part = Durations(tmp_path), Amount("upscale", "RealESRGAN_x4plus", PIXELS)
    assert made.alone(part) == 0, "nothing is known"
    made.learn({"upscale": 30.0}, [part], part.kind, alone=True)
    made.learn({"upscale": 0.3}, [replace(part, amount=PIXELS / 100)], part.kind)
    assert made.alone(part) == made.of(part) == pytest.approx(30)
    assert made.alone(replace(part, amount=PIXELS / 80)) == 0


def test_another_load_on_the_machine_is_followed_by_all_steps_within_some_jobs(tmp_path: Path) -> None:
    made, encode = Durations(tmp_path), Amount("encode", "png alone", PIXELS)
    learn(made, 2.0, times=20)
    learn(made, 1.0, encode)
    learn(made, 6.0, times=7)
    assert made.of(NET) == pytest.approx(6, rel=0.25)
    other = made.of(encode)
    assert other is not None and other > 2, "it has not run since"
    learn(made, 2.0, times=30)
    assert made.of(NET) == pytest.approx(2, rel=0.05)


def test_samples_of_about_the_same_amount_count(tmp_path: Path) -> None:
    """Small pictures take more for each pixel."""
    made = Durations(tmp_path)
    small = Amount("upscale", "fidelity-x4", 1000)
    for _ in range(6):
        learn(made, 0.5, small)
        learn(made, 2.0)
    assert made.of(small) == pytest.approx(0.5, rel=0.1)
    assert made.of(NET) == pytest.approx(2, rel=0.1)
    larger = made.of(Amount("upscale", "fidelity-x4", 10 * PIXELS))
    assert larger == pytest.approx(20, rel=0.1)


def test_estimates_grow_with_the_amount_and_do_not_jump(tmp_path: Path) -> None:
    made = Durations(tmp_path)
    for size in (1000, 3000, 10_000, 50_000, 200_000, PIXELS):
        learn(made, 0.05 + size * 2e-6, Amount("upscale", "fidelity-x4", size))
    last = 0.0
    for exponent in range(300, 620, 5):
        seconds = made.of(Amount("upscale", "fidelity-x4", 10 ** (exponent / 100)))
        assert seconds is not None
        assert last == 0.0 or 0.9 * last < seconds < 1.6 * last
        last = seconds


def test_what_one_process_learns_another_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "_WRITE_S", 0.0)
    worker, other, api = Durations(tmp_path, "a machine"), Durations(tmp_path, "a machine"), Durations(tmp_path)
    learn(worker, 2.0)
    learn(other, 2.2)
    threads = [threading.Thread(target=learn, args=(each, 2.1, NET, 3)) for each in (worker, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert api.of(NET) == pytest.approx(2.1, rel=0.1)
    assert Durations(tmp_path, "another machine").of(NET) is None
    assert set(json.loads((tmp_path / "durations.json").read_text())["samples"]) >= {"upscale:fidelity-x4"}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"samples": 1}', '{"machine": "m", "samples": {"a": [1]}, "used": 1}']
)
def test_a_damaged_file_is_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "durations.json").write_text(content)
    made = Durations(tmp_path, "m")
    assert made.of(NET) is None
    learn(made, 2.0)
    made.write()
    assert Durations(tmp_path).of(NET) == pytest.approx(2)


def test_loading_counts_only_for_networks_that_were_not_used_of_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Durations(tmp_path)
    assert made.loading("fidelity-x4") == 0, "unknown"
    made.learn({"upscale": 2.0, "load": 1.5}, [NET], "fidelity-x4")
    assert made.loading("fidelity-x4") == 0
    monkeypatch.setattr(durations, "KEEP_S", -1.0)
    assert made.loading("fidelity-x4") == pytest.approx(1.5)


def test_a_masks_second_result_has_its_own_steps(tmp_path: Path) -> None:
    """Its network's times are those of the same network in other jobs."""
    from server.job.mask import Mask

    params = Params(scale=4, creativity=1.0, mask=Mask(boxes=((0, 0, 9, 9),)), grain=0.5, certificate=True)
    passes = (Pass((100, 100), (400, 400), 1),)
    plan = Plan((100, 100), (400, 400), "RealESRGAN_x4plus, masked fidelity-x4", passes)
    parts = {part.step: part for part in amounts(plan, params, "image/png", creativity=1.0)}
    assert list(parts) == [
        *("decode", "plan", "upscale", "refine", "kept upscale", "kept refine"),
        *("mask", "grain", "encode", "certificate", "rest"),
    ]
    assert parts["refine"].key == "refine:diffusion" and parts["kept refine"].key == "refine:strict"
    made = Durations(tmp_path)
    learn(made, 2.0, Amount("upscale", "fidelity-x4", 1e4), times=3)
    assert made.of(parts["kept upscale"]) == pytest.approx(2)
    assert made.of(parts["upscale"]) is None


@pytest.mark.parametrize(
    ("wanted", "steps"),
    [
        ({"scale": 4.0}, ["decode", "plan", "upscale", "encode", "rest"]),
        ({"scale": 2.0}, ["decode", "plan", "upscale", "resize", "encode", "rest"]),
        ({"scale": 4.0, "creativity": 1.0}, ["decode", "plan", "upscale", "refine", "encode", "rest"]),
        ({"scale": 4.0, "creativity": -2.0}, ["decode", "plan", "upscale", "refine", "encode", "rest"]),
    ],
)
def test_every_step_has_an_amount(wanted: dict[str, float], steps: list[str]) -> None:
    from server.job.plan import Sizes, make_plan, result_size
    from server.job.tiling import Geometry

    params = Params(**wanted)  # type: ignore[arg-type]
    plan = make_plan(Sizes((64, 48), result_size((64, 48), params)), Geometry("fidelity-x4", 4, 256, 8))
    parts = amounts(plan, params, "image/png", creativity=params.creativity or 0.0)
    assert [part.step for part in parts] == steps
    assert all(part.amount > 0 and math.isfinite(part.amount) for part in parts)


def test_what_only_reduces_runs_no_network_and_signing_is_a_step(tmp_path: Path) -> None:
    plan = Plan((640, 480), (320, 240), "none", ())
    parts = amounts(plan, Params(scale=0.5, format="avif"), "image/png", creativity=0.0, signed=True)
    assert [part.step for part in parts] == ["decode", "plan", "resize", "encode", "sign", "rest"]
    seconds = Durations(tmp_path).seconds(parts)
    assert seconds is not None and 0 < seconds < 10, "typical values, until jobs have run"
