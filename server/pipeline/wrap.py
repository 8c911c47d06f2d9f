"""Surrounds a picture that wraps with what is at its other side: see server/job/wrap.py."""

import numpy as np

from server.job.wrap import NO_BORDER
from server.pipeline.base import Context


def run(ctx: Context) -> None:
    if ctx.plan is None or ctx.plan.border == NO_BORDER:
        return
    h, w = ctx.samples.shape[:2]
    x, y = ctx.plan.border
    # A border that is wider than the picture repeats it.
    rows = ctx.samples.take(np.arange(-y, h + y), axis=0, mode="wrap")
    ctx.samples = rows.take(np.arange(-x, w + x), axis=1, mode="wrap")
