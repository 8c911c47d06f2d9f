"""Sizes → what will be done, and with which networks."""

from server.job.plan import Plan, check_animation, check_result, enlargement, make_plan, result_size
from server.pipeline.base import Context, Loaded
from server.pipeline.content import kind
from server.weights.catalog import AUTO, Content


def run(ctx: Context) -> None:
    h, w = ctx.samples.shape[:2]
    frames = ctx.animation.timing.frames if ctx.animation else 1
    result = result_size((w, h), ctx.params)
    check_result(result, ctx.params, ctx.max_result_pixels)
    check_animation(frames, (w, h), result, ctx.params, ctx.max_source_pixels, ctx.max_result_pixels)
    if enlargement((w, h), result) <= 1:
        ctx.plan = Plan((w, h), result, "none", (), frames)
        return
    ctx.loaded = loaded = ctx.load(ctx.params, (w, h), frames=frames, planes=ctx.planes, content=_content(ctx))
    ctx.plan = _plan(ctx, loaded, (w, h), frames)
    ctx.creativity = loaded.choice.creativity
    if loaded.choice.note is not None:
        ctx.notes.append(loaded.choice.note)


def _content(ctx: Context) -> Content:
    """What the picture shows, where that decides what runs."""
    if ctx.params.content != "auto":
        return ctx.params.content
    if ctx.params.model != AUTO or ctx.params.creativity is not None:
        return "photo"
    return kind(ctx.samples)


def _plan(ctx: Context, loaded: Loaded, size: tuple[int, int], frames: int) -> Plan:
    shape = ctx.engine.shape(loaded.model, ctx.tile)
    beside = None if loaded.fidelity is None else ctx.engine.shape(loaded.fidelity, ctx.tile)
    return make_plan(size, ctx.params, shape, frames, beside=beside, name=loaded.name)
