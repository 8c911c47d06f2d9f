"""Encoded bytes → samples: upright, grey or RGB, in the space of their own profile, with colours also where they are
transparent."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyvips

from server.images.metadata import colour, metadata
from server.images.metadata.not_kept import not_kept
from server.images.read.alpha_bleeding import bleed_alpha
from server.images.read.animation import Animation, open_animation
from server.images.read.open import Samples, open_picture, why
from server.pipeline.base import Context


def run(ctx: Context) -> None:
    try:
        image = open_picture(ctx.data, ctx.max_source_pixels)
        found = metadata.read(image, ctx.data)
        image = colour.to_rgb(image)
        ctx.metadata = replace(found, icc=colour.profile(image))
        samples: Samples = image.numpy().reshape(image.height, image.width, image.bands)
        if ctx.params.animation == "keep":
            ctx.animation = _prepared(open_animation(ctx.data, image, ctx.max_source_pixels), found.orientation)
    except pyvips.Error as error:
        raise why(error) from error
    ctx.notes.extend(not_kept(ctx.data, found, ctx.params, ctx.animation.timing.frames if ctx.animation else 1))
    ctx.deep = samples.dtype == np.uint16
    ctx.samples = _ready(samples, found.orientation)


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
