"""Sizes, passes and tiles, for every picture and every wish."""

from dataclasses import asdict, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.engine.tile import cut
from server.errors import ResultImpossible
from server.job import plan as plan_module
from server.job.job import Params
from server.job.plan import (
    ONE_PASS_STRETCH,
    Pass,
    Plan,
    Shape,
    Size,
    Sizes,
    checked_sizes,
    estimate,
    make_plan,
    result_size,
    spans,
    sweep_step,
    tile_size,
)

FIDELITY = Shape("fidelity-x4", 4, tile=512, halo=34)
X2PLUS = Shape("RealESRGAN_x2plus", 2, tile=512, halo=64)
SHAPES = st.sampled_from([FIDELITY, X2PLUS])
SIDES = st.integers(1, 20_000)
SIZES = st.tuples(SIDES, SIDES)
PARAMS = st.one_of(
    st.floats(0, 10, exclude_min=True).map(lambda scale: Params(scale=scale)),
    st.sampled_from(["2k", "4k", "8k"]).map(lambda target: Params(target=target)),  # type: ignore[arg-type]
    SIZES.map(lambda size: Params(size=size)),
)


def planned(source: Size, params: Params, shape: Shape) -> Plan:
    return make_plan(Sizes(source, result_size(source, params)), shape)


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


@pytest.mark.parametrize(
    ("source", "params", "result"),
    [
        ((300, 200), Params(scale=2.5), (750, 500)),
        ((200, 300), Params(target="2k"), (1365, 2048)),
        ((4000, 3000), Params(target="2k"), (2048, 1536)),
        ((10_000, 1), Params(target="4k"), (4096, 1)),
        ((7, 7), Params(target="8k"), (8192, 8192)),
    ],
)
def test_sizes_by_hand(source: Size, params: Params, result: Size) -> None:
    assert planned(source, params, FIDELITY).result == result


@given(SIZES, PARAMS, SHAPES)
def test_a_plan_is_at_most_two_passes_that_chain_up(source: Size, params: Params, shape: Shape) -> None:
    plan = planned(source, params, shape)
    assert plan.result == result_size(source, params)
    assert len(plan.passes) <= 2
    before = source
    for each in plan.passes:
        assert each.result == (each.source[0] * shape.scale, each.source[1] * shape.scale)
        assert each.source[0] <= before[0] and each.source[1] <= before[1], "never enlarged before a network"
        before = each.result
    if plan.passes:
        assert plan.passes[0].source == source, "nothing is thrown away before the first"
        assert plan.model == shape.name
    else:
        assert plan.model == "none"


@given(SIZES, PARAMS, SHAPES)
def test_a_network_runs_exactly_when_something_is_enlarged(source: Size, params: Params, shape: Shape) -> None:
    plan = planned(source, params, shape)
    assert bool(plan.passes) == (plan.result[0] > source[0] or plan.result[1] > source[1])


@given(SIZES, st.floats(0, 1, exclude_min=True), SHAPES)
def test_a_scale_of_at_most_one_runs_no_network(source: Size, scale: float, shape: Shape) -> None:
    assert planned(source, Params(scale=scale), shape).passes == ()


@given(SIZES, PARAMS, SHAPES)
def test_the_last_pass_needs_at_most_a_small_stretch(source: Size, params: Params, shape: Shape) -> None:
    plan = planned(source, params, shape)
    if len(plan.passes) == 1:
        assert max(plan.result[i] / source[i] for i in (0, 1)) <= shape.scale * ONE_PASS_STRETCH
    if len(plan.passes) == 2:
        possible = [source[i] * shape.scale**2 for i in (0, 1)]
        assert all(plan.passes[1].result[i] >= min(plan.result[i], possible[i]) for i in (0, 1))


@given(SIZES, PARAMS, SHAPES)
def test_a_second_pass_is_not_fed_less_than_the_source_had(source: Size, params: Params, shape: Shape) -> None:
    """A picture that grows in one direction only must not lose detail in the other."""
    plan = planned(source, params, shape)
    for each in plan.passes[1:]:
        assert all(each.source[i] >= min(source[i], plan.result[i]) for i in (0, 1))


@pytest.mark.parametrize(("scale", "passes"), [(1, 0), (1.01, 1), (4, 1), (5, 1), (5.01, 2), (10, 2)])
def test_when_a_second_pass_begins(scale: float, passes: int) -> None:
    assert len(planned((1000, 1000), Params(scale=scale), FIDELITY).passes) == passes


@given(st.integers(1, 100_000), st.integers(0, 64), st.integers(2, 1000))
def test_the_tiles_counted_are_the_tiles_cut(length: int, halo: int, kept: int) -> None:
    tile = 2 * halo + kept
    assert spans(length, tile, halo) == len(cut(length, tile, halo))


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


@given(st.integers(1, 60_000), st.integers(1, 60_000), SHAPES)
def test_a_row_of_tiles_never_makes_a_large_band(width: int, height: int, shape: Shape) -> None:
    tile_width, tile_height = tile_size((width, height), shape)
    samples = 3 * width * (tile_height - 2 * shape.halo) * shape.scale**2
    assert samples <= 64 * 2**20 or tile_height <= 6 * shape.halo
    assert tile_width * tile_height <= shape.tile**2  # what fits as a square fits
    assert tile_width >= tile_height > 4 * shape.halo


def test_pictures_of_common_sizes_are_cut_into_squares() -> None:
    assert tile_size((2048, 2048), FIDELITY) == (512, 512)
    assert tile_size((6400, 3600), FIDELITY) == (960, 272)


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


@given(SIZES, st.sampled_from([(4, 34, 1), (4, 32, 1), (2, 64, 2), (1, 128, 4)]), st.integers(256, 3000))
@example((2853, 1637), (2, 64, 2), 1448)
@example((1737, 2692), (2, 64, 2), 1448)
@example((1891, 2622), (1, 128, 4), 2896)
@example((1, 1), (1, 128, 4), 256)
def test_fitted_tiles_cover_the_picture_within_their_area_and_waste_no_more_than_squares(
    size: Size, facts: tuple[int, int, int], tile: int
) -> None:
    scale, halo, multiple = facts
    tile = max(tile, 6 * halo) // multiple * multiple
    squares = Shape("x", scale, tile, halo, multiple=multiple)
    fitted = replace(squares, fitted=True)
    padded = -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple
    width, height = tile_size(padded, fitted)
    assert min(width, size[0]) * min(height, size[1]) <= tile * tile
    rows, columns = cut(padded[1], height, halo, 0, multiple), cut(padded[0], width, halo, 0, multiple)
    assert planned(size, Params(scale=2), fitted).passes[0].tiles == len(rows) * len(columns)
    band = (rows[0].keep_stop - rows[0].keep_start) * size[0] * scale**2 * 3
    assert band <= 2 * plan_module._BAND_SAMPLES or height <= 6 * halo + 16

    def computed(shape: Shape) -> int:
        w, h = tile_size(padded, shape)
        return len(cut(padded[0], w, halo)) * min(w, padded[0]) * len(cut(padded[1], h, halo)) * min(h, padded[1])

    assert computed(fitted) <= computed(squares)


@pytest.mark.parametrize(
    ("size", "tile", "wasted"),
    [((1920, 1080), 724, 0.15), ((1280, 720), 724, 0.06), ((1920, 1080), 570, 0.25), ((4000, 3000), 724, 0.28)],
)
def test_how_much_is_computed_twice(size: Size, tile: int, wasted: float) -> None:
    w, h = tile_size(size, Shape("RRDBNet", 4, tile, 32, fitted=True))
    assert spans(size[0], w, 32) * w * spans(size[1], h, 32) * h <= size[0] * size[1] * (1 + wasted)


@pytest.mark.parametrize(
    ("size", "steps"), [((1920, 1080), 45), ((1, 1), 1), ((256, 256), 1), ((256, 257), 2), ((50_000, 25), 3)]
)
def test_a_sweep_is_planned_in_steps_of_some_rows(size: Size, steps: int) -> None:
    shape = replace(FIDELITY, widest=50_000)
    assert planned(size, Params(scale=4), shape).passes[0].tiles == steps
    wider = planned((50_001, size[1]), Params(scale=4), shape)
    assert wider == planned((50_001, size[1]), Params(scale=4), FIDELITY)


@given(SIZES)
def test_a_step_can_be_taken_by_the_kernels_and_is_short(size: Size) -> None:
    step = sweep_step(size)
    assert step % 6 == 0 or step == size[1]
    assert step * size[0] <= max(1 << 16, 12 * size[0])
