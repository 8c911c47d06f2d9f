"""The picture's rows, as they come, into a file of the asked format; the network goes on meanwhile."""

from server.files.metadata import dress
from server.files.save import save
from server.pipeline.base import Context
from server.stream import pour


def run(ctx: Context) -> None:
    assert ctx.stream is not None  # the upscale step came before
    found, params = ctx.metadata, ctx.params
    pour(ctx.stream, lambda image: save(dress(ctx.finish(image), found, params.metadata), ctx.target, params))
