"""What will be done to a picture: sizes and passes. A pure function of sizes; no picture is touched.

A pass runs the network once. One pass serves up to `scale · ONE_PASS_STRETCH`, the rest being resampling: a second
pass costs (outscale / scale)² times the first and can't add what a stretch of a quarter would miss. Beyond that a
second pass follows; its input is reduced so that it lands on the result's size, and no third is ever made. Down-scaling
runs no network, but for those of ×1: they enhance without enlarging, run once, and the rest is resampling. Others of ×1
may run before the network that enlarges.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from server.errors import ResultImpossible, SourceTooLarge
from server.job.creativity import recipe
from server.job.formats import FORMATS, Hdr, check_fits, check_frames, check_hdr
from server.job.job import TARGET_LONG_EDGE, Params, Wrap
from server.job.tiling import BAND_SAMPLES, Geometry, Size, tile_count
from server.job.wrap import NO_BORDER, Stage, borders, grown

ONE_PASS_STRETCH = 1.25
_BYTES_PER_PIXEL = {"jpeg": 0.6, "png": 1.7, "webp": 0.25, "avif": 0.2, "tiff": 2.0, "gif": 0.6}
"""Of enlarged photographs in RGB at default quality, measured on a few; others take half or twice as much."""


@dataclass(frozen=True)
class Sizes:
    """What goes in and what shall come out."""

    source: Size
    result: Size
    frames: int = 1
    """Of which each has these sizes."""
    wrap: Wrap = "none"

    @property
    def enlargement(self) -> float:
        """How much larger the result is, along the side that grows more."""
        return max(self.result[0] / self.source[0], self.result[1] / self.source[1])


@dataclass(frozen=True)
class Pass:
    source: Size
    """What the network is fed, with its border; the picture is resampled to it first where it differs from what came
    before."""
    result: Size
    tiles: int
    border: Size = NO_BORDER
    """Of `source`: pixels left and right, and above and below, that show the opposite side of a picture that wraps."""


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
    border: Size = NO_BORDER
    """What is put around `source`, as in a pass."""
    result_border: Size = NO_BORDER
    """What is cut off around `result` at the end."""

    @property
    def canvas(self) -> Size:
        """The result's size with its border."""
        return grown(self.result, self.result_border)

    @property
    def tiles(self) -> int:
        """Of all frames."""
        return self.frames * sum(each.tiles for each in self.passes)

    @property
    def network_pixels(self) -> int:
        """What the network is fed, with borders but without halos: the time a job takes goes by it."""
        return self.frames * sum(each.source[0] * each.source[1] for each in self.passes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"tiles": self.tiles}


@dataclass(frozen=True)
class Estimate:
    """What a plan will take, for a picture of three channels and 8 bits."""

    seconds: float | None
    """On a machine of its own; or None when nothing is known of the networks' speed here."""
    memory_bytes: int
    """Of the host, for the picture: what comes to the process's own, to the network's tiles and to the encoder's."""
    result_bytes: int
    """Of the file, about."""


def estimate(plan: Plan, params: Params, seconds: float | None) -> Estimate:
    """`seconds`: as `Estimate.seconds`."""
    sources = [3 * w * h * (1 if number == 0 else 2) for number, (w, h) in enumerate(p.source for p in plan.passes)]
    w, h = plan.canvas
    whole = grown(plan.source, plan.border)
    bands = 2 * min(3 * w * h, BAND_SAMPLES)  # one being made, one being read
    # Their encoders want the whole picture; of animations it is compared with the one before.
    held = 4 * w * h if FORMATS[params.format].whole_in_memory or plan.frames > 1 else 0
    memory = (sum(sources) or 3 * whole[0] * whole[1]) + bands + held
    if seconds is None and not plan.passes:
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
    if params.megapixels is not None:
        scale = math.sqrt(params.megapixels * 1e6 / (w * h))
    else:
        assert params.scale is not None  # Params makes sure of one of the four
        scale = params.scale
    return max(1, round(w * scale)), max(1, round(h * scale))


def checked_sizes(
    source: Size,
    params: Params,
    frames: int,
    *,
    max_source_pixels: int,
    max_result_pixels: int,
    hdr: Hdr | None = None,
) -> Sizes:
    """The sizes of a job; `frames` and `hdr`: of the source. Raises ResultImpossible and, of animations,
    SourceTooLarge, in words that say what would work."""
    if hdr is not None and keeps_hdr(params):
        _check_hdr(hdr, params)
    sizes = Sizes(source, result_size(source, params), frames if params.animation == "keep" else 1, params.wrap)
    w, h = sizes.result
    check_fits(sizes.result, FORMATS[params.format], lossless=params.lossless, progressive=params.progressive)
    if w * h > max_result_pixels:
        raise ResultImpossible(
            f"a result of {w}×{h} pixels is over this server's limit of {max_result_pixels} pixels; for this picture, "
            f"use {_most(source, params, max_result_pixels)}, or raise UPSCALE_MAX_RESULT_PIXELS"
        )
    if sizes.frames > 1:
        _check_animation(sizes, params, max_source_pixels, max_result_pixels)
    return sizes


def keeps_hdr(params: Params) -> bool:
    """Whether the HDR of a source is kept; a sheet of previews is in the standard range."""
    return params.hdr == "keep" and not params.sweep


def _check_hdr(hdr: Hdr, params: Params) -> None:
    check_hdr(hdr, FORMATS[params.format])
    if params.colour == "srgb":
        raise ResultImpossible(
            f"the source is HDR ({hdr}), and sRGB has the standard range only; keep the colours, or ask for hdr "
            "tone-map",
            field="colour",
        )
    if params.depth == 8 and hdr != "gain map":
        raise ResultImpossible(
            f"the source is HDR ({hdr}), which would show steps in 8 bits; leave depth out, or ask for hdr tone-map",
            field="depth",
        )


def _most(source: Size, params: Params, max_result_pixels: int) -> str:
    """What the caller may ask for instead, in the same terms."""
    if params.megapixels is None:
        return f"a scale of at most {math.floor(math.sqrt(max_result_pixels / (source[0] * source[1])) * 100) / 100:g}"
    w, h = result_size(source, replace(params, megapixels=max_result_pixels / 1e6))
    most = math.floor((max_result_pixels - (w + h) / 2) / 1e4) / 100  # both sides may be rounded up
    return f"at most {most:g} megapixels" if most > 0 else "fewer megapixels"


def _check_animation(sizes: Sizes, params: Params, max_source_pixels: int, max_result_pixels: int) -> None:
    """The limits are for all frames together."""
    frames = sizes.frames
    check_frames(frames, sizes.result, FORMATS[params.format])
    otherwise = "or ask for the first frame alone: animation first"
    if params.faces is not None:
        raise ResultImpossible(f"faces are restored in still pictures only; {otherwise}", field="faces")
    for (w, h), limit, what, error in (
        (sizes.source, max_source_pixels, "this server takes at most {}", SourceTooLarge),
        (sizes.result, max_result_pixels, "enlarged, it may have at most {} here", ResultImpossible),
    ):
        if frames * w * h > limit:
            raise error(f"an animation of {frames} frames of {w}×{h} pixels: {what.format(limit)} in all; {otherwise}")


def needs(sizes: Sizes, geometry: Geometry) -> bool:
    """Whether this network runs to get from the one size to the other."""
    return sizes.enlargement > 1 or geometry.scale == 1


def make_plan(
    sizes: Sizes,
    geometry: Geometry,
    *,
    beside: Geometry | None = None,
    before: Sequence[Geometry] = (),
    name: str = "",
    creativity: float = 0.0,
) -> Plan:
    """Decide how to get from the source's size to the result's. `beside`: a network whose result is mixed in, at each
    pass of `geometry`'s; `before`: networks of ×1 that run over the source first; `name`: of all, where it is not
    `geometry`'s. `creativity`: what the networks were chosen for."""
    source, result = sizes.source, sizes.result
    if not needs(sizes, geometry):
        return resampling_only(sizes)
    inputs = [source]
    if geometry.scale > 1 and sizes.enlargement > geometry.scale * ONE_PASS_STRETCH:
        inputs.append((_between(source[0], result[0], geometry.scale), _between(source[1], result[1], geometry.scale)))
    networks = [geometry] if beside is None else [geometry, beside]
    halo, halo_before = max(one.halo for one in networks), sum(one.halo for one in before)
    stages = [Stage(each, geometry.scale, halo + (0 if number else halo_before)) for number, each in enumerate(inputs)]
    diffuses = recipe(creativity).diffuses
    first, *rest = borders(sizes.wrap, stages, result, networks=True, diffuses=diffuses)
    passes = (
        *(_pass(source, [one], first) for one in before),
        *(_pass(each, networks, border) for each, border in zip(inputs, [first, *rest], strict=False)),
    )
    names = tuple(one.name for one in (*before, *networks))
    return Plan(
        source,
        result,
        name or geometry.name,
        passes,
        sizes.frames,
        names,
        border=first,
        result_border=rest[-1],
    )


def with_kept(plan: Plan, kept: Plan, name: str) -> Plan:
    """The same plan, where a mask asks for a second result too, which `kept` makes. `name`: of all networks."""
    if not plan.passes:
        return plan
    first, *rest = plan.passes
    passes = (replace(first, tiles=first.tiles + sum(each.tiles for each in kept.passes)), *rest)
    return replace(plan, passes=passes, model=name, networks=plan.networks + kept.networks)


def resampling_only(sizes: Sizes) -> Plan:
    """No network runs."""
    border = borders(sizes.wrap, [Stage(sizes.source)], sizes.result, networks=False, diffuses=False)[0]
    return Plan(sizes.source, sizes.result, "none", (), sizes.frames, border=border)


def check_border(plan: Plan, *, max_source_pixels: int, max_result_pixels: int) -> None:
    """The limits are for a picture with its border. Raises ResultImpossible."""
    for what, size, border, limit in (
        ("source", plan.source, plan.border, max_source_pixels),
        ("result", plan.result, plan.result_border, max_result_pixels),
    ):
        w, h = grown(size, border)
        if border != NO_BORDER and w * h > limit:
            raise ResultImpossible(
                f"with wrap the {what} gets a border of {border[0]} pixels left and right and {border[1]} above and "
                f"below; its {w}×{h} pixels are over this server's limit of {limit}; use wrap none",
                field="wrap",
            )


def _pass(source: Size, networks: Sequence[Geometry], border: Size) -> Pass:
    """The networks run over the same; the first one's result is that of the pass."""
    fed = grown(source, border)
    return Pass(fed, _times(fed, networks[0].scale), sum(tile_count(fed, one) for one in networks), border)


def _between(source: int, result: int, scale: int) -> int:
    """A side of what the second pass is fed: just what it needs, but neither enlarged, which would only blur before it,
    nor less than the source had, of a side that hardly grows beside one that does."""
    return min(source * scale, max(math.ceil(result / scale), min(source, result)))


def _times(size: Size, scale: int) -> Size:
    return size[0] * scale, size[1] * scale
