"""What happens to a picture, read top to bottom."""

from contextlib import closing
from typing import cast

from server.pipeline import decode, encode, faces, plan, resize, upscale
from server.pipeline.base import Context, Loaded, Step
from server.pipeline.frames import frames
from server.pipeline.refine import step as refine

STEPS: tuple[tuple[str, Step], ...] = (
    ("decode", cast(Step, decode)),
    ("plan", cast(Step, plan)),
    ("upscale", cast(Step, upscale)),
    ("faces", cast(Step, faces)),
    ("refine", cast(Step, refine)),
    ("resize", cast(Step, resize)),
    ("encode", cast(Step, encode)),
)
_ONCE = 2
"""Steps that look at the source as a whole. Those after them see each frame of an animation."""

__all__ = ["STEPS", "Context", "Loaded", "expect", "run"]


def run(ctx: Context) -> None:
    """Make the file `ctx.target` from `ctx.data`. Raises UpscaleError for what the caller did, and what `ctx.check`
    raises."""
    _take(ctx, STEPS[:_ONCE])
    with closing(frames(ctx)) as pictures:
        for _ in pictures:
            expect(ctx)
            _take(ctx, STEPS[_ONCE:])


def expect(ctx: Context) -> None:
    """Load the networks of all steps and announce their work on the picture at hand, before the first step begins."""
    upscale.expect(ctx)
    refine.expect(ctx)


def _take(ctx: Context, steps: tuple[tuple[str, Step], ...]) -> None:
    for name, step in steps:
        ctx.check()
        with ctx.clock(name):
            step.run(ctx)
