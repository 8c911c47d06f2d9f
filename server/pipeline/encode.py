"""Samples → bytes in the asked format. Settings are the measured compromise of speed and size for large results."""

import numpy as np
import pyvips

from server.errors import ResultImpossible
from server.formats import FORMATS, Format
from server.pipeline.base import Context

_FULL_CHROMA_FROM = 90
"""JPEG quality from which colour is not subsampled."""


def run(ctx: Context) -> None:
    form = FORMATS[ctx.params.format]
    quality = ctx.params.quality or form.default_quality
    image = _to_vips(ctx)
    if image.hasalpha() and not form.alpha:
        image = image.flatten(background=[255])
    try:
        ctx.result = _save(image, form, quality)
    except pyvips.Error as error:
        raise ResultImpossible(
            f"{form.name} can't hold this picture at {image.width}×{image.height}; use png", field="format"
        ) from error


def _to_vips(ctx: Context) -> pyvips.Image:
    grey, deep = ctx.samples.shape[2] < 3, ctx.samples.dtype == np.uint16
    space = ("grey16" if deep else "b-w") if grey else ("rgb16" if deep else "srgb")
    image = pyvips.Image.new_from_array(ctx.samples, interpretation=space)
    if ctx.icc is not None:
        image = image.copy()
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", ctx.icc)
    return image


def _save(image: pyvips.Image, form: Format, quality: int | None) -> bytes:
    if form.name == "jpeg":
        chroma = "off" if quality is not None and quality >= _FULL_CHROMA_FROM else "on"
        return bytes(image.jpegsave_buffer(Q=quality, subsample_mode=chroma))
    if form.name == "png":
        # Level 3 with the Up filter: a quarter of the default's time for a tenth more bytes.
        return bytes(image.pngsave_buffer(compression=3, filter="up"))
    # NOTE: effort 0 and 1 fail on large lossy pictures ("partition 0 overflow"), and the limit depends on the content.
    try:
        return bytes(image.webpsave_buffer(Q=quality, effort=2))
    except pyvips.Error:
        return bytes(image.webpsave_buffer(Q=quality, effort=4))
