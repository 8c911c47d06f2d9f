"""Faces restored from the source, and pasted into the enlarged picture's rows as they come."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from server.faces import Outcome, Paste
from server.picture import Samples
from server.pipeline.base import Context


def run(ctx: Context) -> None:
    wanted = ctx.params.faces
    if wanted is None:
        return
    ctx.faces = ctx.load_faces()(ctx.samples, wanted, ctx.check)
    ctx.stream = _pasted(ctx, ctx.faces, wanted.strength)


def _pasted(ctx: Context, faces: Sequence[Outcome], strength: float) -> Stream:
    assert ctx.stream is not None  # the upscale step came before
    restored = [face.restored for face in faces if face.restored is not None]
    if not restored or not strength:
        return ctx.stream
    h, w = ctx.samples.shape[:2]
    paste = Paste(restored, (w, h), (ctx.stream.width, ctx.stream.height), strength)
    bands = ctx.stream.bands
    return replace(ctx.stream, bands=ctx.timed("faces", _each(paste, bands)))
