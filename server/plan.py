"""What will be done to a picture: sizes, passes and tiles. A pure function of sizes; no picture is touched.

A pass runs the network once. One pass serves up to `scale · ONE_PASS_STRETCH`, the rest being resampling: a second
pass costs (outscale / scale)² times the first and can't add what a stretch of a quarter would miss. Beyond that a
second pass follows; its input is reduced so that it lands on the result's size, and no third is ever made. Down-scaling
never runs a network.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from server.errors import ResultImpossible
from server.formats import FORMATS
from server.job import TARGET_LONG_EDGE, Params

ONE_PASS_STRETCH = 1.25

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True)
class Shape:
    """The facts about a model that a plan needs."""

    name: str
    scale: int
    tile: int
    """Side of a tile in source pixels, halo included."""
    halo: int
    """Pixels at each inner side of a tile that are computed and thrown away, or blended."""


@dataclass(frozen=True)
class Pass:
    source: Size
    """What the network is fed; the picture is resampled to it first where it differs from what came before."""
    result: Size
    tiles: int


@dataclass(frozen=True)
class Plan:
    source: Size
    result: Size
    model: str
    passes: tuple[Pass, ...]
    """Empty: the picture is only resampled."""

    @property
    def tiles(self) -> int:
        return sum(each.tiles for each in self.passes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"tiles": self.tiles}


def result_size(source: Size, params: Params) -> Size:
    """The exact size of the result; see Params for the rules. Halves are rounded to even, as Python's round does."""
    w, h = source
    if params.size is not None:
        return params.size
    if params.target is not None:
        edge = TARGET_LONG_EDGE[params.target]
        return (edge, max(1, round(h * edge / w))) if w >= h else (max(1, round(w * edge / h)), edge)
    assert params.scale is not None  # Params makes sure of one of the three
    return max(1, round(w * params.scale)), max(1, round(h * params.scale))


def check_result(size: Size, params: Params, max_pixels: int) -> None:
    """Raises ResultImpossible, in words that say what would work."""
    w, h = size
    limit = FORMATS[params.format].max_side
    if max(size) > limit:
        others = [f.name for f in FORMATS.values() if f.max_side >= max(size)]
        advice = f"; use {' or '.join(others)}" if others else ""
        raise ResultImpossible(
            f"{params.format} can't hold {w}×{h}: its longest side is {limit} pixels{advice}", field="format"
        )
    if w * h > max_pixels:
        raise ResultImpossible(f"a result of {w}×{h} pixels is over this server's limit of {max_pixels} pixels")


def check_plan(plan: Plan, max_pixels: int) -> None:
    """Raises ResultImpossible when a network's result, which is held whole, would be too large although the picture
    that is made from it is not."""
    for each in plan.passes:
        w, h = each.result
        if w * h > max_pixels:
            most = max_pixels * each.source[0] * each.source[1] // (w * h)
            raise ResultImpossible(
                f"enlarging takes a picture of {w}×{h} pixels on the way, over this server's limit of {max_pixels} "
                f"pixels; a source of at most {most} pixels would do"
            )


def make_plan(source: Size, params: Params, shape: Shape) -> Plan:
    """Decide how to get from `source` to the size that `params` asks for."""
    result = result_size(source, params)
    ratio = max(result[0] / source[0], result[1] / source[1])
    if ratio <= 1:
        return Plan(source, result, "none", ())
    first = Pass(source, _times(source, shape.scale), _tiles(source, shape))
    if ratio <= shape.scale * ONE_PASS_STRETCH:
        return Plan(source, result, shape.name, (first,))
    second = _between(source[0], result[0], shape.scale), _between(source[1], result[1], shape.scale)
    return Plan(source, result, shape.name, (first, Pass(second, _times(second, shape.scale), _tiles(second, shape))))


def _between(source: int, result: int, scale: int) -> int:
    """A side of what the second pass is fed: just what it needs, but neither enlarged, which would only blur before it,
    nor less than the source had, of a side that hardly grows beside one that does."""
    return min(source * scale, max(math.ceil(result / scale), min(source, result)))


def spans(length: int, tile: int, halo: int) -> int:
    """How many tiles cover `length` pixels along one side."""
    return 1 if length <= tile else math.ceil((length - 2 * halo) / (tile - 2 * halo))


def _tiles(size: Size, shape: Shape) -> int:
    return spans(size[0], shape.tile, shape.halo) * spans(size[1], shape.tile, shape.halo)


def _times(size: Size, scale: int) -> Size:
    return size[0] * scale, size[1] * scale
