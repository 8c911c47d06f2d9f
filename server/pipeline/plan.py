"""Sizes → what will be done, and with which model."""

from server.pipeline.base import Context
from server.plan import check_animation, check_result, enlargement, make_plan, result_size


def run(ctx: Context) -> None:
    h, w = ctx.samples.shape[:2]
    frames = ctx.animation.timing.frames if ctx.animation else 1
    result = result_size((w, h), ctx.params)
    check_result(result, ctx.params, ctx.max_result_pixels)
    check_animation(frames, (w, h), result, ctx.params, ctx.max_source_pixels, ctx.max_result_pixels)
    model = ctx.load(ctx.params, enlargement((w, h), result))
    ctx.plan = make_plan((w, h), ctx.params, ctx.engine.shape(model, ctx.tile), frames)
    ctx.model = model if ctx.plan.passes else None
