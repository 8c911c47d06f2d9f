"""What happens to a picture, read top to bottom."""

from collections.abc import Iterable
from contextlib import closing
from typing import cast

from server.pipeline import decode, encode, faces, plan, resize, unwrap, upscale, wrap
from server.pipeline.base import Context, Loaded, Step
from server.pipeline.frames import frames
from server.pipeline.grain import step as grain
from server.pipeline.mask import plan as mask_plan
from server.pipeline.mask import step as mask
from server.pipeline.refine import step as refine

Steps = Iterable[tuple[str, Step]]

SOURCE_STEPS = (
    ("decode", cast(Step, decode)),
    ("plan", cast(Step, plan)),
    ("plan", cast(Step, mask_plan)),
)
"""These look at the source as a whole."""

PICTURE_STEPS = (
    ("wrap", cast(Step, wrap)),
    ("upscale", cast(Step, upscale)),
    ("faces", cast(Step, faces)),
    ("refine", cast(Step, refine)),
    ("resize", cast(Step, resize)),
    ("unwrap", cast(Step, unwrap)),
    ("mask", cast(Step, mask)),
    ("grain", cast(Step, grain)),
)
"""These make the result's rows, for each frame of an animation. Then `encode` takes the rows."""

__all__ = ["PICTURE_STEPS", "SOURCE_STEPS", "Context", "Loaded", "expect", "run", "take"]


def run(ctx: Context) -> None:
    """Make the file `ctx.target` from `ctx.data`. Raises UpscaleError for errors of the caller, and what `ctx.check`
    raises."""
    take(ctx, SOURCE_STEPS)
    with closing(frames(ctx)) as pictures:
        for _ in pictures:
            expect(ctx)
            take(ctx, (*PICTURE_STEPS, ("encode", cast(Step, encode))))


def expect(ctx: Context) -> None:
    """Load the networks of all steps and announce their work on this picture, before the first step begins."""
    upscale.expect(ctx)
    refine.expect(ctx)
    mask.expect(ctx)


def take(ctx: Context, steps: Steps) -> None:
    """These steps, one after the other; each is timed, and may be stopped before it begins."""
    for name, step in steps:
        ctx.check()
        with ctx.clock(name):
            step.run(ctx)
