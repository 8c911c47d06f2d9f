"""What will be done to a picture: sizes, passes and tiles. A pure function of sizes; no picture is touched.

A pass runs the network once. One pass serves up to `scale · ONE_PASS_STRETCH`, the rest being resampling: a second
pass costs (outscale / scale)² times the first and can't add what a stretch of a quarter would miss. Beyond that a
second pass follows; its input is reduced so that it lands on the result's size, and no third is ever made. Down-scaling
never runs a network.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from server.errors import ResultImpossible, SourceTooLarge
from server.job.formats import FORMATS, check_fits, check_frames
from server.job.job import TARGET_LONG_EDGE, Params

ONE_PASS_STRETCH = 1.25
_BAND_SAMPLES = 64 * 1024 * 1024
"""Samples in a band of the result's rows, about: what a host holds of a result, see engine/engine.py and stream.py."""

_STEP_PIXELS = 1 << 16
"""Source pixels in a step of a sweep, about: half a second of two cores, so that others need not wait for long."""

_TILE_STEP = 16
"""Any network's tiles may have sides that are multiples of it."""

_BYTES_PER_PIXEL = {"jpeg": 0.6, "png": 1.7, "webp": 0.25, "avif": 0.2, "tiff": 2.0, "gif": 0.6}
"""Of enlarged photographs in RGB at default quality, measured on a few; others take half or twice as much."""

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True)
class Shape:
    """The facts about a model that a plan needs."""

    name: str
    scale: int
    tile: int
    """Side of a tile in source pixels, halo included; of as large a square, where tiles are fitted."""
    halo: int
    """Pixels at each inner side of a tile that are computed and thrown away, or blended."""
    multiple: int = 1
    """Pictures are padded until their sides are multiples of it."""
    fitted: bool = False
    """Tiles are not squares: as large, but so shaped that least is computed twice."""
    widest: int = 0
    """Pictures of at most this width are not cut, but swept from top to bottom: nothing is computed twice."""


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
    """Of each frame. Empty: the picture is only resampled."""
    frames: int = 1
    """Of which each is the source's size, and the result's."""
    networks: tuple[str, ...] = ()
    """Names of all that run over it."""
    notes: tuple[str, ...] = ()
    """What the caller may not expect, in sentences."""

    @property
    def tiles(self) -> int:
        """Of all frames."""
        return self.frames * sum(each.tiles for each in self.passes)

    @property
    def network_pixels(self) -> int:
        """What the network is fed, halos not counted: the time a job takes goes by it."""
        return self.frames * sum(each.source[0] * each.source[1] for each in self.passes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"tiles": self.tiles}


@dataclass(frozen=True)
class Estimate:
    """What a plan will take, for a picture of three channels and 8 bits."""

    seconds: float | None
    """In the networks, or None when nothing is known of their speed here."""
    memory_bytes: int
    """Of the host, for the picture: what comes to the process's own, to the network's tiles and to the encoder's."""
    result_bytes: int
    """Of the file, about."""


def estimate(plan: Plan, params: Params, seconds: float | None) -> Estimate:
    """`seconds`: in the networks."""
    sources = [3 * w * h * (1 if number == 0 else 2) for number, (w, h) in enumerate(p.source for p in plan.passes)]
    w, h = plan.result
    bands = 2 * min(3 * w * h, _BAND_SAMPLES)  # one being made, one being read
    # Their encoders want the whole picture; of animations it is compared with the one before.
    held = 4 * w * h if FORMATS[params.format].whole_in_memory or plan.frames > 1 else 0
    memory = (sum(sources) or 3 * plan.source[0] * plan.source[1]) + bands + held
    if not plan.passes:
        seconds = 0.0
    return Estimate(
        None if seconds is None else round(seconds, 1),
        memory,
        round(_BYTES_PER_PIXEL[params.format] * w * h * plan.frames),
    )


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
    check_fits(size, FORMATS[params.format], lossless=params.lossless, progressive=params.progressive)
    if w * h > max_pixels:
        raise ResultImpossible(f"a result of {w}×{h} pixels is over this server's limit of {max_pixels} pixels")


def check_animation(
    frames: int, source: Size, result: Size, params: Params, max_source_pixels: int, max_result_pixels: int
) -> None:
    """The limits are for all frames together. Raises SourceTooLarge and ResultImpossible, in words that say what would
    work."""
    if frames == 1:
        return
    check_frames(frames, result, FORMATS[params.format])
    otherwise = "or ask for the first frame alone: animation first"
    if params.faces is not None:
        raise ResultImpossible(f"faces are restored in still pictures only; {otherwise}", field="faces")
    for (w, h), limit, what, error in (
        (source, max_source_pixels, "this server takes at most {}", SourceTooLarge),
        (result, max_result_pixels, "enlarged, it may have at most {} here", ResultImpossible),
    ):
        if frames * w * h > limit:
            raise error(f"an animation of {frames} frames of {w}×{h} pixels: {what.format(limit)} in all; {otherwise}")


def enlargement(source: Size, result: Size) -> float:
    """How much larger the result is, along the side that grows more."""
    return max(result[0] / source[0], result[1] / source[1])


def make_plan(
    source: Size, params: Params, shape: Shape, frames: int = 1, *, beside: Shape | None = None, name: str = ""
) -> Plan:
    """Decide how to get from `source` to the size that `params` asks for. `beside`: a network whose result is mixed in,
    at each pass; `name`: of the two, where it is not `shape`'s."""
    result = result_size(source, params)
    ratio = enlargement(source, result)
    if ratio <= 1:
        return Plan(source, result, "none", (), frames)
    sizes = [source]
    if ratio > shape.scale * ONE_PASS_STRETCH:
        sizes.append((_between(source[0], result[0], shape.scale), _between(source[1], result[1], shape.scale)))
    networks = [shape] if beside is None else [shape, beside]
    passes = tuple(
        Pass(each, _times(each, shape.scale), sum(tile_count(each, one) for one in networks)) for each in sizes
    )
    return Plan(source, result, name or shape.name, passes, frames, tuple(one.name for one in networks))


def _between(source: int, result: int, scale: int) -> int:
    """A side of what the second pass is fed: just what it needs, but neither enlarged, which would only blur before it,
    nor less than the source had, of a side that hardly grows beside one that does."""
    return min(source * scale, max(math.ceil(result / scale), min(source, result)))


def spans(length: int, tile: int, halo: int) -> int:
    """How many tiles cover `length` pixels along one side."""
    return 1 if length <= tile else math.ceil((length - 2 * halo) / (tile - 2 * halo))


def tile_size(size: Size, shape: Shape) -> Size:
    """(width, height) of the tiles that a picture of that size, padded, is cut into: squares of `shape.tile`, or as
    large. A row of tiles is a band of the result, so those of very wide pictures are flatter, and wider for it."""
    rows = _BAND_SAMPLES // (3 * size[0] * shape.scale**2)
    height = max(rows + 2 * shape.halo, 6 * shape.halo) // _TILE_STEP * _TILE_STEP
    plain = (shape.tile, shape.tile)
    if height < shape.tile:
        plain = (shape.tile**2 // height // _TILE_STEP * _TILE_STEP, height)
    return _fitted(size, shape, plain, height) if shape.fitted else plain


def _fitted(size: Size, shape: Shape, plain: Size, most_rows: int) -> Size:
    """The sides, within that area and height, with which the tiles of all columns and rows have the fewest pixels."""
    area, best = shape.tile**2, plain
    fewest = _computed(size, shape, plain)
    for columns in range(1, 1 + spans(size[0], 6 * shape.halo, shape.halo)):
        width = _side(size[0], columns, shape.halo)
        most = max(min(most_rows, area // min(width, size[0])), 6 * shape.halo)
        if most < size[1]:
            most = most // _TILE_STEP * _TILE_STEP  # the sides of what is cut are rounded up to these
        height = _side(size[1], spans(size[1], most, shape.halo), shape.halo)
        pixels = _computed(size, shape, (width, height))
        if min(width, size[0]) * min(height, size[1]) <= area and pixels < fewest:
            fewest, best = pixels, (width, height)
    return best


def _computed(size: Size, shape: Shape, tile: Size) -> int:
    """Pixels of all tiles together."""
    count = spans(size[0], tile[0], shape.halo) * spans(size[1], tile[1], shape.halo)
    return count * min(tile[0], size[0]) * min(tile[1], size[1])


def _side(length: int, count: int, halo: int) -> int:
    """Of as few pixels as may be when `count` tiles cover the length."""
    side = max(math.ceil((length + (count - 1) * 2 * halo) / count), 6 * halo if count > 1 else 1)
    return _up(side, _TILE_STEP)


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def sweep_step(size: Size) -> int:
    """Source rows: all at once, as high as some of the kernels' blocks or, in wide pictures, as a part of one."""
    rows = _STEP_PIXELS // size[0]
    if rows >= size[1]:
        return size[1]
    return rows // 48 * 48 if rows >= 48 else max(12, rows // 12 * 12)


def tile_count(size: Size, shape: Shape) -> int:
    """Tiles that a picture of that size is cut into; steps, where it is swept."""
    if size[0] <= shape.widest:
        return -(-size[1] // sweep_step(size))
    size = _up(size[0], shape.multiple), _up(size[1], shape.multiple)
    width, height = tile_size(size, shape)
    return spans(size[0], width, shape.halo) * spans(size[1], height, shape.halo)


def _times(size: Size, scale: int) -> Size:
    return size[0] * scale, size[1] * scale
