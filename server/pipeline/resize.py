"""Resizes the rows to exactly the requested size and to the depth that the encoder needs."""

from dataclasses import replace

import numpy as np

from server.job.wrap import NO_BORDER
from server.pipeline.base import Context
from server.rows.resample import resized


def run(ctx: Context) -> None:
    assert ctx.plan is not None and ctx.stream is not None  # those steps came before
    plan = ctx.plan
    deep = ctx.rows_are_deep or plan.result_border != NO_BORDER  # those are blended and rounded after this
    depth = np.uint16 if deep else np.uint8
    stream = resized(ctx.stream, plan.canvas, depth, ctx.engine.kernel, plan.result_border)
    if stream is not ctx.stream:
        ctx.stream = replace(stream, bands=ctx.timed("resize", stream.bands))
