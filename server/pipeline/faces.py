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
    assert ctx.stream is not None and ctx.plan is not None  # those steps came before
    (x, y), (h, w) = ctx.plan.border, ctx.samples.shape[:2]
    picture: Samples = np.ascontiguousarray(ctx.samples[y : h - y, x : w - x])  # type: ignore[assignment]
    with ctx.clock("load"):
        restore = ctx.load_faces()
    ctx.faces = restore(picture, wanted, ctx.check)
    ctx.stream = _pasted(ctx, ctx.stream, ctx.faces, wanted.strength)


def _pasted(ctx: Context, stream: Stream, faces: "Sequence[Outcome]", strength: float) -> Stream:
    restored = [face.restored for face in faces if face.restored is not None]
    if not restored:
        return stream
    from server.faces import Paste

    assert ctx.plan is not None
    # The border that a wrapped picture has stays as it is.
    left, above = (int(each) for each in stream.border)
    inside = stream.width - 2 * left, stream.height - 2 * above
    paste = Paste(restored, ctx.plan.source, inside, strength)
    return replace(stream, bands=ctx.timed("faces", _each(stream.bands, paste, left, above)))


def _each(bands: Iterator[Samples], paste: "Paste", left: int, above: int) -> Iterator[Samples]:
    y = -above
    for band in bands:
        band = np.require(band, requirements="W")
        paste.into(band[:, left : band.shape[1] - left], y)
        y += len(band)
        yield band
