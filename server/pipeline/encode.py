"""Encodes the rows into a file of the requested format, while the network computes the next ones."""

from dataclasses import replace

import pyvips

from server.images.metadata.metadata import attach_metadata
from server.images.write.save import save
from server.pipeline.base import Context
from server.rows.stream import encode_stream


def run(ctx: Context) -> None:
    assert ctx.stream is not None  # the upscale step came before
    # The rows may be deeper than the result.
    params = ctx.params if ctx.result_is_deep else replace(ctx.params, depth=8)

    def with_metadata(image: pyvips.Image) -> pyvips.Image:
        return attach_metadata(image, ctx.metadata, params.metadata, ctx.origin)

    if ctx.encoder is not None:
        ctx.encoder.add(encode_stream(ctx.stream, lambda image: with_metadata(image).copy_memory()))
    else:
        encode_stream(ctx.stream, lambda image: save(with_metadata(image), ctx.target, params))
