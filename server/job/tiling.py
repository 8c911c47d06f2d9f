"""How large the tiles of a picture are, and how many cover it. Pure arithmetic for the planner, the engine and the
diffusion pass.

Tiles along a side have the same length; two neighbours overlap by twice the halo. So `count` tiles of `tile` pixels
cover count · (tile − 2·halo) + 2·halo pixels.
"""

import math
from dataclasses import dataclass

BAND_SAMPLES = 64 * 1024 * 1024
"""Samples in a band of rows of the result, about: the part of a result that is in memory at a time."""

_STEP_PIXELS = 1 << 16
"""Source pixels in one step of a row pass, about: half a second on two cores, so that other jobs do not wait long."""

TILE_STEP = 16
"""Tiles may have sides that are multiples of this with every network."""

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True)
class Geometry:
    """The facts about a model that a plan needs."""

    name: str
    scale: int
    tile: int
    """Side of a square tile in source pixels, halo included; fitted tiles have at most the area of this square."""
    halo: int
    """Pixels at each inner side of a tile that are computed and then thrown away or blended."""
    multiple: int = 1
    """Pictures are padded until their sides are multiples of this."""
    fitted: bool = False
    """Tiles need not be squares: within the same area, the sides are those with the least overlap in total."""
    step: int = TILE_STEP
    """Fitted tiles have sides that are multiples of this, where they are shorter than the picture."""
    row_pass_width: int = 0
    """Pictures of at most this width are not cut into tiles, but computed from top to bottom in one row pass, without
    overlap."""


def tiles_along(length: int, tile: int, halo: int) -> int:
    """How many tiles cover `length` pixels along one side."""
    return 1 if length <= tile else math.ceil((length - 2 * halo) / (tile - 2 * halo))


def shortest_tile(length: int, count: int, halo: int) -> int:
    """The smallest side with which `count` tiles cover `length` pixels."""
    return math.ceil((length + (count - 1) * 2 * halo) / count)


def round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def tile_count(size: Size, geometry: Geometry) -> int:
    """Tiles that a picture of this size is cut into; steps, where it is computed in a row pass."""
    if size[0] <= geometry.row_pass_width:
        return math.ceil(size[1] / step_rows(size))
    size = round_up(size[0], geometry.multiple), round_up(size[1], geometry.multiple)
    return _tiles(size, tile_size(size, geometry), geometry.halo)


def step_rows(size: Size) -> int:
    """Source rows in one step of a row pass: all rows if they are few; else a multiple of 48, or of 12 in wide
    pictures, which is how the kernels divide rows into blocks."""
    rows = _STEP_PIXELS // size[0]
    if rows >= size[1]:
        return size[1]
    return rows // 48 * 48 if rows >= 48 else max(12, rows // 12 * 12)


def tile_size(size: Size, geometry: Geometry) -> Size:
    """(width, height) of the tiles for a padded picture of this size: squares of `geometry.tile`, or of the same
    area. A row of tiles is a band of the result, so tiles of very wide pictures are lower, and wider instead."""
    rows = BAND_SAMPLES // (3 * size[0] * geometry.scale**2)
    height = max(rows + 2 * geometry.halo, 6 * geometry.halo) // geometry.step * geometry.step
    plain = (geometry.tile, geometry.tile)
    if height < geometry.tile:
        plain = (geometry.tile**2 // height // geometry.step * geometry.step, height)
    return _fitted(size, geometry, plain, height) if geometry.fitted else plain


def _fitted(size: Size, geometry: Geometry, plain: Size, most_rows: int) -> Size:
    """The sides, within the area of `plain` and `most_rows`, for which all tiles together have the fewest pixels."""
    area, best = geometry.tile**2, plain
    fewest = _computed(size, geometry, plain)
    for columns in range(1, 1 + tiles_along(size[0], 6 * geometry.halo, geometry.halo)):
        width = _side(size[0], columns, geometry)
        most = max(min(most_rows, area // min(width, size[0])), 6 * geometry.halo)
        if most < size[1]:
            most = most // geometry.step * geometry.step  # `_side` rounds up to these
        height = _side(size[1], tiles_along(size[1], most, geometry.halo), geometry)
        pixels = _computed(size, geometry, (width, height))
        if min(width, size[0]) * min(height, size[1]) <= area and pixels < fewest:
            fewest, best = pixels, (width, height)
    return best


def _computed(size: Size, geometry: Geometry, tile: Size) -> int:
    """Pixels of all tiles together."""
    return _tiles(size, tile, geometry.halo) * min(tile[0], size[0]) * min(tile[1], size[1])


def _tiles(size: Size, tile: Size, halo: int) -> int:
    return tiles_along(size[0], tile[0], halo) * tiles_along(size[1], tile[1], halo)


def _side(length: int, count: int, geometry: Geometry) -> int:
    """The smallest usable side with which `count` tiles cover the length."""
    side = max(shortest_tile(length, count, geometry.halo), 6 * geometry.halo if count > 1 else 1)
    return round_up(side, geometry.step)
