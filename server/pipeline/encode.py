"""Encodes the rows into a file of the requested format, while the network computes the next ones."""

import math
from dataclasses import replace

import numpy as np
import pyvips

from server.images.metadata.fields import GAIN_MAP, GAIN_MAP_ANNOUNCED, GAIN_MAP_IN_XMP, with_field
from server.images.metadata.metadata import attach_metadata
from server.images.read.alpha_bleeding import RESAMPLED, bleed_alpha
from server.images.read.open import Samples
from server.images.write import gain_map
from server.images.write.save import save
from server.pipeline.base import Context
from server.rows.resample import gather, resized
from server.rows.stream import Stream, encode_stream

_REACH = 4
"""Of the filter that resamples, in pixels of the coarser picture, and one more."""


def run(ctx: Context) -> None:
    assert ctx.stream is not None  # the upscale step came before
    # The rows may be deeper than the result.
    params = ctx.params if ctx.result_is_deep else replace(ctx.params, depth=8)
    beside = _gain_map(ctx)
    stream = ctx.stream
    if params.format == "avif" and not params.lossless and stream.channels in (2, 4):
        # Resizing makes transparent pixels black, and the encoder would blur that into visible ones. libwebp replaces
        # their colours by itself.
        stream = Stream.of(bleed_alpha(gather(stream), RESAMPLED))

    def with_metadata(image: pyvips.Image) -> pyvips.Image:
        image = attach_metadata(image, ctx.metadata, params.metadata, ctx.origin)
        if ctx.gain_map is not None:
            image = with_field(image, GAIN_MAP, beside)
            image = with_field(image, GAIN_MAP_ANNOUNCED, ctx.gain_map.announced or None)
            image = with_field(image, GAIN_MAP_IN_XMP, b"1" if ctx.gain_map.in_xmp else None)
        return image

    if ctx.encoder is not None:
        ctx.encoder.add(encode_stream(ctx.stream, lambda image: with_metadata(image).copy_memory()))
    else:
        encode_stream(stream, lambda image: save(with_metadata(image), ctx.target, params))


def _gain_map(ctx: Context) -> bytes | None:
    """The source's gain map, enlarged as the picture is, so that the light stays what the source shows. A network would
    sharpen it: nearer to the scene, but further from the source (benchmarks/hdr.py)."""
    found = ctx.gain_map
    if found is None or ctx.gain is None:
        return None
    assert ctx.plan is not None
    (h, w), (width, height), result = ctx.gain.shape[:2], ctx.plan.source, ctx.plan.result
    size = max(1, round(w * result[0] / width)), max(1, round(h * result[1] / height))
    # Where the picture repeats, so does its gain map.
    x, y = (
        math.ceil(_REACH * max(1.0, before / after)) if name in ctx.params.wrap else 0
        for name, before, after in zip("xy", (w, h), size, strict=True)
    )
    padded: Samples = np.pad(ctx.gain, ((y, y), (x, x), (0, 0)), "wrap")  # type: ignore[assignment]
    stream = replace(Stream.of(padded), border=(x, y))
    stream = resized(stream, size, np.uint8, ctx.engine.kernel)
    return encode_stream(stream, lambda image: gain_map.encoded(image, found))
