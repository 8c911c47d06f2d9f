"""Encodes the rows into a file of the requested format, while the network computes the next ones."""

from dataclasses import replace

import pyvips

from server.images.metadata.metadata import dress
from server.images.write.save import save
from server.pipeline.base import Context
from server.rows.stream import encode_stream


def run(ctx: Context) -> None:
    assert ctx.stream is not None  # the upscale step came before
    # The rows may be deeper than the result.
    params = ctx.params if ctx.result_is_deep else replace(ctx.params, depth=8)

    def dressed(image: pyvips.Image) -> pyvips.Image:
        return dress(image, ctx.metadata, params.metadata)

    if ctx.film is not None:
        ctx.film.add(encode_stream(ctx.stream, lambda image: dressed(image).copy_memory()))
    else:
        encode_stream(ctx.stream, lambda image: save(dressed(image), ctx.target, params))
