"""Sizes → what will be done, and with which model."""

from server.pipeline.base import Context
from server.plan import Shape, check_plan, check_result, make_plan, result_size


def run(ctx: Context) -> None:
    h, w = ctx.samples.shape[:2]
    check_result(result_size((w, h), ctx.params), ctx.params, ctx.max_result_pixels)
    model = ctx.load(ctx.params.model)
    shape = Shape(model.name, model.facts.scale, ctx.engine.side(model, ctx.tile), model.facts.halo)
    ctx.plan = make_plan((w, h), ctx.params, shape)
    check_plan(ctx.plan, ctx.max_result_pixels)
    ctx.model = model if ctx.plan.passes else None
