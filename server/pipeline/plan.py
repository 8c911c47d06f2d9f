"""Sizes → what will be done, and with which networks."""

from server.job.plan import check_border, checked_sizes, make_plan, resampling_only
from server.pipeline.base import Context
from server.pipeline.content import kind
from server.weights.catalog import AUTO, Content
from server.weights.choice import REAL_ESRGAN


def run(ctx: Context) -> None:
    h, w = ctx.samples.shape[:2]
    frames = ctx.animation.timing.frames if ctx.animation else 1
    limits = ctx.max_source_pixels, ctx.max_result_pixels
    sizes = checked_sizes(
        (w, h), ctx.params, frames, max_source_pixels=limits[0], max_result_pixels=limits[1], hdr=ctx.hdr
    )
    loaded = None
    if sizes.enlargement > 1 or ctx.params.model not in (AUTO, REAL_ESRGAN):
        content = _content(ctx)
        with ctx.clock("load"):
            loaded = ctx.load(ctx.params, sizes, planes=ctx.planes, content=content)
    if loaded is None:
        ctx.plan = resampling_only(sizes)
        check_border(ctx.plan, max_source_pixels=limits[0], max_result_pixels=limits[1])
        return
    geometry = ctx.engine.geometry(loaded.model, ctx.tile)
    beside = None if loaded.fidelity is None else ctx.engine.geometry(loaded.fidelity, ctx.tile)
    before = [ctx.engine.geometry(each, ctx.tile) for each in loaded.before]
    ctx.plan = make_plan(
        sizes, geometry, beside=beside, before=before, name=loaded.name, creativity=loaded.choice.creativity
    )
    check_border(ctx.plan, max_source_pixels=limits[0], max_result_pixels=limits[1])
    if not ctx.plan.passes:
        return
    ctx.loaded = loaded
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
