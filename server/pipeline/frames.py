"""The pictures of a source, one after the other: of a still the only one, of an animation the frames."""

from collections.abc import Generator

import numpy as np

from server.images.read.open import Samples
from server.images.write.animation import AnimationEncoder
from server.pipeline.base import Context


def frames(ctx: Context) -> Generator[None, None, None]:
    """At each item, `ctx.samples` is the picture for the next steps. A frame equal to the one before is repeated
    without processing."""
    if ctx.animation is None:
        yield
        return
    last: Samples | None = None
    with AnimationEncoder(ctx.target, ctx.params, ctx.animation.timing) as ctx.encoder:
        for number, samples in enumerate(ctx.timed("decode", ctx.animation.frames)):
            ctx.check()
            ctx.frame = number
            if last is not None and np.array_equal(samples, last):
                ctx.encoder.repeat()
                continue
            ctx.samples = last = samples
            ctx.frames_made += 1
            yield
        ctx.frame = ctx.animation.timing.frames
        ctx.work.clear()
