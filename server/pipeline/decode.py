"""Encoded bytes → samples: upright, grey or RGB, in the space of their own profile, with colours also where they are
transparent. HDR is kept, or tone-mapped here, before any network sees it."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyvips

from server.errors import SourceUnreadable
from server.images import tone_map
from server.images.metadata import colour, metadata
from server.images.metadata.cicp import CodePoints
from server.images.metadata.not_kept import not_kept
from server.images.read.alpha_bleeding import bleed_alpha
from server.images.read.animation import Animation, open_animation
from server.images.read.gain_map import GainMap
from server.images.read.open import Samples, find_gain_map, open_picture, why
from server.images.read.sniff import sniff
from server.job.plan import keeps_hdr
from server.pipeline.base import Context


def run(ctx: Context) -> None:
    keep_hdr = keeps_hdr(ctx.params)
    try:
        image = open_picture(ctx.data, ctx.max_source_pixels)
        found = metadata.read(image, ctx.data)
        beside = _gain_map(ctx, (image.width, image.height), found.orientation, keep=keep_hdr)
        image = colour.to_rgb(image, keep_hdr=keep_hdr)
        codes = found.code_points
        ctx.metadata = replace(found, icc=colour.profile(image), code_points=codes if keep_hdr else None)
        samples: Samples = image.numpy().reshape(image.height, image.width, image.bands)
        if ctx.params.animation == "keep":
            animation = open_animation(ctx.data, image, ctx.max_source_pixels)
            if codes is not None and animation is not None:
                animation = replace(animation, frames=_each_mapped(animation.frames, codes, keep=keep_hdr))
            ctx.animation = _prepared(animation, found.orientation)
    except pyvips.Error as error:
        raise why(error) from error
    ctx.hdr = codes.kind if codes else "gain map" if beside else None
    frames = ctx.animation.timing.frames if ctx.animation else 1
    ctx.notes.extend(not_kept(ctx.data, found, ctx.params, frames, beside, kept=ctx.gain_map is not None))
    if codes is not None and not keep_hdr:
        ctx.notes.append(_tone_mapped(codes))
    ctx.deep = samples.dtype == np.uint16
    ctx.samples = _ready(samples, found.orientation)


def _gain_map(ctx: Context, size: tuple[int, int], orientation: int, *, keep: bool) -> GainMap | None:
    """The source's, which is decoded if it is kept; None also if its pixels are damaged."""
    beside = find_gain_map(ctx.data, sniff(ctx.data) or "", size)
    if beside is None or not keep:
        return beside
    try:
        image = beside.open()
        samples: Samples = image.numpy().reshape(image.height, image.width, image.bands)
    except (pyvips.Error, SourceUnreadable):
        return None
    ctx.gain_map, ctx.gain = beside, upright(samples, orientation)
    return beside


def _tone_mapped(codes: CodePoints) -> str:
    return f"the source is HDR ({codes.kind}) and was tone-mapped to sRGB; hdr keep keeps it, in avif or png"


def _each_mapped(frames: Iterator[Samples], codes: CodePoints, *, keep: bool) -> Iterator[Samples]:
    for samples in frames:
        image = pyvips.Image.new_from_array(samples)
        image = tone_map.coded(image) if keep else tone_map.tone_mapped(image, codes)
        yield image.numpy().reshape(image.height, image.width, image.bands)


def _prepared(animation: Animation | None, orientation: int) -> Animation | None:
    return animation and replace(animation, frames=_each_ready(animation.frames, orientation))


def _each_ready(frames: Iterator[Samples], orientation: int) -> Iterator[Samples]:
    try:
        for samples in frames:
            yield _ready(samples, orientation)
    except pyvips.Error as error:
        raise why(error) from error


def _ready(samples: Samples, orientation: int) -> Samples:
    samples = upright(samples, orientation)
    return bleed_alpha(samples) if samples.shape[2] in (2, 4) else samples


def upright(samples: Samples, orientation: int) -> Samples:
    """Turned and mirrored by the orientation (1 … 8, EXIF 2.32, figure 6)."""
    if orientation in (2, 4, 5, 7):  # mirrored: 5 and 7 along a diagonal, which is a mirror and a quarter turn
        samples = samples[:, ::-1]
    quarter_turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.ascontiguousarray(np.rot90(samples, quarter_turns))  # type: ignore[return-value]
