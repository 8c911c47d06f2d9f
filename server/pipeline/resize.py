"""To exactly the size asked for and the depth that the encoder wants, while the rows are on their way to it."""

import numpy as np

from server.pipeline.base import Context
from server.resample import resampled


def run(ctx: Context) -> None:
    assert ctx.plan is not None  # the plan step came before
    size, depth = ctx.plan.result, np.uint16 if ctx.rows_are_deep else np.uint8
    ctx.finish = lambda image: resampled(image, size, depth)
