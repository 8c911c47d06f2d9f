"""Sizes and passes, for every size of picture and all parameters."""

import re
from dataclasses import asdict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.errors import ResultImpossible
from server.job.job import Params
from server.job.plan import ONE_PASS_STRETCH, Pass, Plan, Sizes, checked_sizes, estimate, make_plan, result_size
from server.job.tiling import Geometry, Size

FIDELITY = Geometry("fidelity-x4", 4, tile=512, halo=34)
X2PLUS = Geometry("RealESRGAN_x2plus", 2, tile=512, halo=64)
SHAPES = st.sampled_from([FIDELITY, X2PLUS])
SIDES = st.integers(1, 20_000)
SIZES = st.tuples(SIDES, SIDES)
PARAMS = st.one_of(
    st.floats(0, 10, exclude_min=True).map(lambda scale: Params(scale=scale)),
    st.sampled_from(["2k", "4k", "8k"]).map(lambda target: Params(target=target)),  # type: ignore[arg-type]
    SIZES.map(lambda size: Params(size=size)),
    st.floats(0.0001, 400).map(lambda area: Params(megapixels=area)),
)


def planned(source: Size, params: Params, geometry: Geometry) -> Plan:
    return make_plan(Sizes(source, result_size(source, params)), geometry)


def check(source: Size, params: Params, max_pixels: int) -> None:
    checked_sizes(source, params, 1, max_source_pixels=max_pixels, max_result_pixels=max_pixels)


@given(SIZES, st.floats(0, 10, exclude_min=True))
@example((3, 5), 0.5)
@example((1, 1), 1e-300)
def test_a_scale_multiplies_both_sides_and_rounds(source: Size, scale: float) -> None:
    w, h = result_size(source, Params(scale=scale))
    assert (w, h) == (max(1, round(source[0] * scale)), max(1, round(source[1] * scale)))


@given(SIZES, st.sampled_from([("2k", 2048), ("4k", 4096), ("8k", 8192)]))
def test_a_target_is_exactly_the_long_edge_and_keeps_the_aspect(source: Size, target: tuple[str, int]) -> None:
    word, edge = target
    w, h = result_size(source, Params(target=word))  # type: ignore[arg-type]
    assert max(w, h) == edge
    assert (w >= h) if source[0] >= source[1] else (h >= w)
    short, long = min(source), max(source)
    assert min(w, h) == 1 or abs(min(w, h) - edge * short / long) <= 0.5


@given(SIZES, SIZES)
def test_a_size_is_the_size(source: Size, size: Size) -> None:
    assert result_size(source, Params(size=size)) == size


@given(SIZES, st.floats(1e-9, 1000))
@example((10_000, 1), 0.0001)
def test_megapixels_are_the_area_within_one_row_or_column_and_keep_the_aspect(source: Size, area: float) -> None:
    w, h = result_size(source, Params(megapixels=area))
    assert abs(w * h - area * 1e6) <= max(w, h)
    scale = (area * 1e6 / (source[0] * source[1])) ** 0.5
    assert all(side == 1 or abs(side - scale * was) <= 0.5 + 1e-6 for side, was in zip((w, h), source, strict=True))


@given(st.tuples(st.integers(100, 2000), st.integers(100, 2000)), st.integers(10**6, 10**9))
def test_the_advice_for_too_many_megapixels_works(source: Size, limit: int) -> None:
    with pytest.raises(ResultImpossible, match="limit") as refused:
        check(source, Params(megapixels=limit / 1e6 * 2 + 1), limit)
    found = re.search(r"at most ([\d.e+]+) megapixels", refused.value.message)
    assert found
    check(source, Params(megapixels=float(found[1])), limit)


@pytest.mark.parametrize(
    ("source", "params", "result"),
    [
        ((300, 200), Params(scale=2.5), (750, 500)),
        ((200, 300), Params(target="2k"), (1365, 2048)),
        ((4000, 3000), Params(target="2k"), (2048, 1536)),
        ((10_000, 1), Params(target="4k"), (4096, 1)),
        ((3000, 2000), Params(megapixels=24), (6000, 4000)),
        ((4000, 3000), Params(megapixels=1), (1155, 866)),
        ((7, 7), Params(target="8k"), (8192, 8192)),
    ],
)
def test_sizes_by_hand(source: Size, params: Params, result: Size) -> None:
    assert planned(source, params, FIDELITY).result == result


@given(SIZES, PARAMS, SHAPES)
def test_a_plan_is_at_most_two_passes_that_chain_up(source: Size, params: Params, geometry: Geometry) -> None:
    plan = planned(source, params, geometry)
    assert plan.result == result_size(source, params)
    assert len(plan.passes) <= 2
    before = source
    for each in plan.passes:
        assert each.result == (each.source[0] * geometry.scale, each.source[1] * geometry.scale)
        assert each.source[0] <= before[0] and each.source[1] <= before[1], "never enlarged before a network"
        before = each.result
    if plan.passes:
        assert plan.passes[0].source == source, "nothing is thrown away before the first"
        assert plan.model == geometry.name
    else:
        assert plan.model == "none"


@given(SIZES, PARAMS, SHAPES)
def test_a_network_runs_exactly_when_something_is_enlarged(source: Size, params: Params, geometry: Geometry) -> None:
    plan = planned(source, params, geometry)
    assert bool(plan.passes) == (plan.result[0] > source[0] or plan.result[1] > source[1])


@given(SIZES, st.floats(0, 1, exclude_min=True), SHAPES)
def test_a_scale_of_at_most_one_runs_no_network(source: Size, scale: float, geometry: Geometry) -> None:
    assert planned(source, Params(scale=scale), geometry).passes == ()


@given(SIZES, PARAMS, SHAPES)
def test_the_last_pass_needs_at_most_a_small_stretch(source: Size, params: Params, geometry: Geometry) -> None:
    plan = planned(source, params, geometry)
    if len(plan.passes) == 1:
        assert max(plan.result[i] / source[i] for i in (0, 1)) <= geometry.scale * ONE_PASS_STRETCH
    if len(plan.passes) == 2:
        possible = [source[i] * geometry.scale**2 for i in (0, 1)]
        assert all(plan.passes[1].result[i] >= min(plan.result[i], possible[i]) for i in (0, 1))


@given(SIZES, PARAMS, SHAPES)
def test_a_second_pass_is_not_fed_less_than_the_source_had(source: Size, params: Params, geometry: Geometry) -> None:
    """A picture that grows in one direction only must not lose detail in the other."""
    plan = planned(source, params, geometry)
    for each in plan.passes[1:]:
        assert all(each.source[i] >= min(source[i], plan.result[i]) for i in (0, 1))


@pytest.mark.parametrize(("scale", "passes"), [(1, 0), (1.01, 1), (4, 1), (5, 1), (5.01, 2), (10, 2)])
def test_when_a_second_pass_begins(scale: float, passes: int) -> None:
    assert len(planned((1000, 1000), Params(scale=scale), FIDELITY).passes) == passes


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0, 10.0])
def test_a_network_of_one_times_runs_once_at_the_sources_size(scale: float) -> None:
    sizes = Sizes((40, 30), (round(40 * scale), round(30 * scale)))
    plan = make_plan(sizes, Geometry("1x", 1, tile=512, halo=8))
    assert [(each.source, each.result) for each in plan.passes] == [((40, 30), (40, 30))]
    after = make_plan(sizes, FIDELITY, before=[Geometry("1x", 1, tile=512, halo=8)], name="1x, fidelity-x4")
    assert after.model == ("none" if scale <= 1 else "1x, fidelity-x4")
    assert [each.result for each in after.passes][:2] == ([] if scale <= 1 else [(40, 30), (160, 120)])


def test_a_plan_says_all_in_plain_values() -> None:
    plan = planned((1000, 500), Params(scale=8), FIDELITY)
    first, second = Pass((1000, 500), (4000, 2000), 3), Pass((2000, 1000), (8000, 4000), 5 * 3)
    assert plan == Plan((1000, 500), (8000, 4000), "fidelity-x4", (first, second), networks=("fidelity-x4",))
    assert plan.to_dict() == asdict(plan) | {"tiles": 18}


@pytest.mark.parametrize(
    ("format_", "size", "advice"),
    [
        ("webp", (16_383, 10), None),
        ("webp", (16_384, 10), "use jpeg, png, avif or tiff"),
        ("webp", (10, 70_000), "use png or tiff"),
        ("jpeg", (65_500, 1), None),
        ("jpeg", (1, 65_501), "use png or tiff"),
        ("png", (1_000_000, 1), None),
        ("png", (1_000_001, 1), "1000000 pixels"),
    ],
)
def test_a_format_that_can_not_hold_the_result_is_refused_with_advice(
    format_: str, size: Size, advice: str | None
) -> None:
    params = Params(size=size, format=format_)  # type: ignore[arg-type]
    if advice is None:
        check((8, 8), params, 10**12)
        return
    with pytest.raises(ResultImpossible, match=f"{advice}$") as caught:
        check((8, 8), params, 10**12)
    assert caught.value.field == "format"


def test_a_result_over_the_operators_limit_is_refused() -> None:
    params = Params(scale=2)
    check((50, 50), params, 10_000)
    with pytest.raises(ResultImpossible, match="100×101 pixels is over this server's limit of 10000 pixels"):
        check((100, 101), Params(scale=1), 10_000)


def test_an_estimate_tells_seconds_bytes_and_nothing_of_networks_that_do_not_run() -> None:
    params = Params(scale=8, format="jpeg")
    plan = planned((1000, 500), params, FIDELITY)
    assert plan.network_pixels == 1000 * 500 + 2000 * 1000
    known, unknown = estimate(plan, params, 10.04), estimate(plan, params, None)
    assert (known.seconds, unknown.seconds) == (10.0, None)
    assert known.result_bytes == unknown.result_bytes == round(0.6 * 8000 * 4000)
    smaller = planned((1000, 500), Params(scale=0.5), FIDELITY)
    assert estimate(smaller, params, None).seconds == 0


def test_a_result_four_times_as_large_does_not_take_four_times_the_memory() -> None:
    params = Params(scale=10, format="tiff")
    small, large = (estimate(planned(size, params, FIDELITY), params, None) for size in ((1280, 720), (2560, 1440)))
    assert large.result_bytes == 4 * small.result_bytes
    assert large.memory_bytes < 2 * small.memory_bytes
