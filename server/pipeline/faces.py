"""Restores faces of the source and pastes them into the rows of the enlarged picture."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from server.images.read.open import Samples
from server.pipeline.base import Context
from server.rows.stream import Stream

if TYPE_CHECKING:
    from server.faces import Outcome, Paste


def run(ctx: Context) -> None:
    wanted = ctx.params.faces
    if wanted is None:
        return
    with ctx.clock("load"):
        restore = ctx.load_faces()
    ctx.faces = restore(ctx.samples, wanted, ctx.check, ctx.engine.call)
    assert ctx.stream is not None  # the upscale step came before
    ctx.stream = _pasted(ctx, ctx.stream, ctx.faces, wanted.strength)


def _pasted(ctx: Context, stream: Stream, faces: "Sequence[Outcome]", strength: float) -> Stream:
    restored = [face.restored for face in faces if face.restored is not None]
    if not restored:
        return stream
    from server.faces import Paste

    h, w = ctx.samples.shape[:2]
    paste = Paste(restored, (w, h), (stream.width, stream.height), strength)
    return replace(stream, bands=ctx.timed("faces", _each(stream.bands, paste)))


def _each(bands: Iterator[Samples], paste: "Paste") -> Iterator[Samples]:
    y = 0
    for band in bands:
        band = np.require(band, requirements="W")
        paste.into(band, y)
        y += len(band)
        yield band
