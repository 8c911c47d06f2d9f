"""To exactly the size asked for, and down to the depth of the result."""

import numpy as np

from server.formats import FORMATS
from server.pipeline.base import Context
from server.resample import resample


def run(ctx: Context) -> None:
    assert ctx.plan is not None  # the plan step came before
    ctx.samples = resample(ctx.samples, ctx.plan.result)
    if ctx.samples.dtype == np.uint16 and not (ctx.deep and FORMATS[ctx.params.format].deep):
        # 65535 = 257 · 255. By rows, so that the wider integers never exist for the whole picture.
        narrow = np.empty(ctx.samples.shape, np.uint8)
        for target, row in zip(narrow, ctx.samples, strict=True):
            target[:] = (row.astype(np.uint32) + 128) // 257
        ctx.samples = narrow
