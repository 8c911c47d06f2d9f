"""The borders of pictures that wrap: wide enough for every step, and counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import ResultImpossible
from server.job.job import Params
from server.job.plan import Plan, Sizes, check_border, checked_sizes, estimate, make_plan, resampling_only
from server.job.tiling import Geometry, Size
from server.job.wrap import JOIN, NO_BORDER, Stage, borders, grown

FIDELITY = Geometry("fidelity-x4", 4, tile=512, halo=34)
X2PLUS = Geometry("RealESRGAN_x2plus", 2, tile=512, halo=64)
CLEAN = Geometry("1x", 1, tile=512, halo=8)
SIDES = st.integers(1, 5000)
SIZES = st.tuples(SIDES, SIDES)


@given(SIZES, SIZES, st.sampled_from([FIDELITY, X2PLUS]), st.sampled_from([0.0, 2.0]))
def test_each_border_holds_what_the_next_one_shows_and_the_halo(
    source: Size, result: Size, geometry: Geometry, creativity: float
) -> None:
    plan = make_plan(Sizes(source, result, 1, "xy"), geometry, creativity=creativity)
    if not plan.passes:
        return
    assert plan.border == plan.passes[0].border
    last = JOIN + 64 if creativity > 0 else JOIN
    assert plan.result_border == (min(last, result[0]), min(last, result[1]))
    after, border_after = plan.result, plan.result_border
    for each in reversed(plan.passes):
        inside = each.source[0] - 2 * each.border[0], each.source[1] - 2 * each.border[1]
        for side in (0, 1):
            shown = border_after[side] * inside[side] / after[side]
            assert shown + geometry.halo <= each.border[side] + 1e-6
        after, border_after = inside, each.border
    assert after == source


@given(SIZES, SIZES, st.sampled_from([FIDELITY, X2PLUS]))
def test_without_wrap_nothing_is_added_and_along_one_axis_only_there(
    source: Size, result: Size, geometry: Geometry
) -> None:
    plain, x, y = (make_plan(Sizes(source, result, 1, wrap), geometry) for wrap in ("none", "x", "y"))  # type: ignore[arg-type]
    assert (plain.border, plain.result_border, plain.canvas) == (NO_BORDER, NO_BORDER, result)
    for one, side in ((x, 0), (y, 1)):
        assert (one.border[1 - side], one.result_border[1 - side]) == (0, 0)
        assert all(each.border[1 - side] == 0 for each in one.passes)
        assert not one.passes or one.border[side] > 0


def test_networks_before_add_their_halos() -> None:
    alone = make_plan(Sizes((100, 80), (400, 320), 1, "xy"), FIDELITY)
    after = make_plan(Sizes((100, 80), (400, 320), 1, "xy"), FIDELITY, before=[CLEAN, CLEAN])
    beside = make_plan(Sizes((100, 80), (400, 320), 1, "xy"), FIDELITY, beside=X2PLUS)
    assert alone.border == (34 + JOIN // 4,) * 2
    assert after.border == (34 + 16 + JOIN // 4,) * 2
    assert beside.border == (64 + JOIN // 4,) * 2
    assert [each.source for each in after.passes] == [grown((100, 80), after.border)] * 3


def test_the_added_pixels_count() -> None:
    plain, wrapped = (make_plan(Sizes((512, 512), (2048, 2048), 1, wrap), FIDELITY) for wrap in ("none", "xy"))  # type: ignore[arg-type]
    assert plain.network_pixels == 512**2
    assert wrapped.network_pixels == (512 + 2 * 42) ** 2
    assert wrapped.result == plain.result
    params = Params(scale=4)
    assert estimate(wrapped, params, 1.0).memory_bytes > estimate(plain, params, 1.0).memory_bytes


@given(SIZES, SIZES)
def test_resampling_alone_needs_a_window_and_joins_nothing(source: Size, result: Size) -> None:
    smaller = min(source[0], result[0]), min(source[1], result[1])
    plan = resampling_only(Sizes(source, smaller, 1, "xy"))
    assert plan.result_border == NO_BORDER
    for side in (0, 1):
        if source[side] == smaller[side]:
            assert plan.border[side] == 0
        elif smaller[side] >= 8:
            assert plan.border[side] >= 3 * source[side] / smaller[side]


def test_a_border_over_the_limits_is_refused_in_words() -> None:
    def checked(source: Size, most: int) -> Plan:
        sizes = checked_sizes(
            source, Params(scale=4, wrap="xy"), 1, max_source_pixels=most, max_result_pixels=16 * most
        )
        plan = make_plan(sizes, FIDELITY)
        check_border(plan, max_source_pixels=most, max_result_pixels=16 * most)
        return plan

    assert checked((1000, 1000), 1084**2).border == (42, 42)
    with pytest.raises(ResultImpossible, match="a border of 42 pixels .* 1084×1084 pixels are over .* use wrap none"):
        checked((1000, 1000), 1084**2 - 1)
    with pytest.raises(ResultImpossible, match="71×200084"):
        checked((1, 200_000), 10_000_000)


def test_a_result_smaller_than_the_border_repeats_it_once() -> None:
    assert borders("x", [Stage((1, 1), 4, 34)], (5, 5), networks=True, diffuses=True) == [(37, 0), (5, 0)]
