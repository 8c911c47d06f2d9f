"""What happens to a picture, read top to bottom."""

from typing import cast

from server.pipeline import decode, encode, faces, plan, resize, upscale
from server.pipeline.base import Context, Step

STEPS: tuple[tuple[str, Step], ...] = (
    ("decode", cast(Step, decode)),
    ("plan", cast(Step, plan)),
    ("upscale", cast(Step, upscale)),
    ("faces", cast(Step, faces)),
    ("resize", cast(Step, resize)),
    ("encode", cast(Step, encode)),
)

__all__ = ["STEPS", "Context", "run"]


def run(ctx: Context) -> None:
    """Make the file `ctx.target` from `ctx.data`. Raises UpscaleError for what the caller did, and what `ctx.check`
    raises."""
    for name, step in STEPS:
        ctx.check()
        with ctx.clock(name):
            step.run(ctx)
