"""Resizes the rows to exactly the requested size and to the depth that the encoder needs."""

from dataclasses import replace

import numpy as np

from server.pipeline.base import Context
from server.rows.resample import resized


def run(ctx: Context) -> None:
    assert ctx.plan is not None and ctx.stream is not None  # those steps came before
    stream = resized(ctx.stream, ctx.plan.result, np.uint16 if ctx.rows_are_deep else np.uint8, ctx.engine.kernel)
    if stream is not ctx.stream:
        ctx.stream = replace(stream, bands=ctx.timed("resize", stream.bands))
