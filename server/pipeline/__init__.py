"""What happens to a picture, read top to bottom."""

from contextlib import closing
from typing import cast

from server.pipeline import decode, encode, faces, plan, refine, resize, upscale
from server.pipeline.base import Context, Step
from server.pipeline.frames import frames

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

__all__ = ["STEPS", "Context", "run"]


def run(ctx: Context) -> None:
    """Make the file `ctx.target` from `ctx.data`. Raises UpscaleError for what the caller did, and what `ctx.check`
    raises."""
    _take(ctx, STEPS[:_ONCE])
    with closing(frames(ctx)) as pictures:
        for _ in pictures:
            _take(ctx, STEPS[_ONCE:])


def _take(ctx: Context, steps: tuple[tuple[str, Step], ...]) -> None:
    for name, step in steps:
        ctx.check()
        with ctx.clock(name):
            step.run(ctx)
