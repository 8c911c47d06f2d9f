"""What happens to a picture, read top to bottom."""

import time
from typing import cast

from server.pipeline import decode, encode, plan, resize, upscale
from server.pipeline.base import Context, Step

STEPS: tuple[tuple[str, Step], ...] = (
    ("decode", cast(Step, decode)),
    ("plan", cast(Step, plan)),
    ("upscale", cast(Step, upscale)),
    ("resize", cast(Step, resize)),
    ("encode", cast(Step, encode)),
)

__all__ = ["STEPS", "Context", "run"]


def run(ctx: Context) -> None:
    """Make `ctx.result` from `ctx.data`. Raises UpscaleError for what the caller did, and what `ctx.check` raises."""
    for name, step in STEPS:
        ctx.check()
        started = time.perf_counter()
        step.run(ctx)
        ctx.seconds[name] = round(time.perf_counter() - started, 4)
