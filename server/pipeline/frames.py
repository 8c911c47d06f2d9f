"""The pictures of a source, one after the other: of a still the one, of an animation those that have to be made."""

from collections.abc import Generator

import numpy as np

from server.images.read.open import Samples
from server.images.write.animation import Film
from server.pipeline.base import Context


def frames(ctx: Context) -> Generator[None, None, None]:
    """Each time, the steps that follow have a picture in `ctx.samples` to work on. A frame that is the same as the one
    before is not made again."""
    if ctx.animation is None:
        yield
        return
    last: Samples | None = None
    with Film(ctx.target, ctx.params, ctx.animation.timing) as ctx.film:
        for number, samples in enumerate(ctx.timed("decode", ctx.animation.frames)):
            ctx.check()
            ctx.frame = number
            if last is not None and np.array_equal(samples, last):
                ctx.film.repeat()
                continue
            ctx.samples = last = samples
            ctx.frames_made += 1
            yield
        ctx.frame = ctx.animation.timing.frames
        ctx.work.clear()
