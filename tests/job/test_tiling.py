"""Tiles and steps, for every size of picture."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.engine.tile import cut
from server.job.job import Params
from server.job.plan import Plan, Sizes, make_plan, result_size
from server.job.tiling import BAND_SAMPLES, Geometry, Size, step_rows, tile_size, tiles_along

FIDELITY = Geometry("fidelity-x4", 4, tile=512, halo=34)
X2PLUS = Geometry("RealESRGAN_x2plus", 2, tile=512, halo=64)
SHAPES = st.sampled_from([FIDELITY, X2PLUS])
SIDES = st.integers(1, 20_000)
SIZES = st.tuples(SIDES, SIDES)


def planned(source: Size, params: Params, geometry: Geometry) -> Plan:
    return make_plan(Sizes(source, result_size(source, params)), geometry)


@given(st.integers(1, 100_000), st.integers(0, 64), st.integers(2, 1000))
def test_the_tiles_counted_are_the_tiles_cut(length: int, halo: int, kept: int) -> None:
    tile = 2 * halo + kept
    assert tiles_along(length, tile, halo) == len(cut(length, tile, halo))


@given(st.integers(1, 60_000), st.integers(1, 60_000), SHAPES)
def test_a_row_of_tiles_never_makes_a_large_band(width: int, height: int, geometry: Geometry) -> None:
    tile_width, tile_height = tile_size((width, height), geometry)
    samples = 3 * width * (tile_height - 2 * geometry.halo) * geometry.scale**2
    assert samples <= 64 * 2**20 or tile_height <= 6 * geometry.halo
    assert tile_width * tile_height <= geometry.tile**2  # what fits as a square fits
    assert tile_width >= tile_height > 4 * geometry.halo


def test_pictures_of_common_sizes_are_cut_into_squares() -> None:
    assert tile_size((2048, 2048), FIDELITY) == (512, 512)
    assert tile_size((6400, 3600), FIDELITY) == (960, 272)


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
    squares = Geometry("x", scale, tile, halo, multiple=multiple)
    fitted = replace(squares, fitted=True)
    padded = -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple
    width, height = tile_size(padded, fitted)
    assert min(width, size[0]) * min(height, size[1]) <= tile * tile
    rows, columns = cut(padded[1], height, halo, 0, multiple), cut(padded[0], width, halo, 0, multiple)
    assert planned(size, Params(scale=2), fitted).passes[0].tiles == len(rows) * len(columns)
    band = (rows[0].keep_stop - rows[0].keep_start) * size[0] * scale**2 * 3
    assert band <= 2 * BAND_SAMPLES or height <= 6 * halo + 16

    def computed(geometry: Geometry) -> int:
        w, h = tile_size(padded, geometry)
        return len(cut(padded[0], w, halo)) * min(w, padded[0]) * len(cut(padded[1], h, halo)) * min(h, padded[1])

    assert computed(fitted) <= computed(squares)


@pytest.mark.parametrize(
    ("size", "tile", "wasted"),
    [((1920, 1080), 724, 0.15), ((1280, 720), 724, 0.06), ((1920, 1080), 570, 0.25), ((4000, 3000), 724, 0.28)],
)
def test_how_much_is_computed_twice(size: Size, tile: int, wasted: float) -> None:
    w, h = tile_size(size, Geometry("RRDBNet", 4, tile, 32, fitted=True))
    assert tiles_along(size[0], w, 32) * w * tiles_along(size[1], h, 32) * h <= size[0] * size[1] * (1 + wasted)


@pytest.mark.parametrize(
    ("size", "steps"), [((1920, 1080), 45), ((1, 1), 1), ((256, 256), 1), ((256, 257), 2), ((50_000, 25), 3)]
)
def test_a_row_pass_is_planned_in_steps_of_some_rows(size: Size, steps: int) -> None:
    geometry = replace(FIDELITY, row_pass_width=50_000)
    assert planned(size, Params(scale=4), geometry).passes[0].tiles == steps
    wider = planned((50_001, size[1]), Params(scale=4), geometry)
    assert wider == planned((50_001, size[1]), Params(scale=4), FIDELITY)


@given(SIZES)
def test_a_step_can_be_taken_by_the_kernels_and_is_short(size: Size) -> None:
    step = step_rows(size)
    assert step % 6 == 0 or step == size[1]
    assert step * size[0] <= max(1 << 16, 12 * size[0])
