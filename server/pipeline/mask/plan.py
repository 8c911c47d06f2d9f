"""What a mask keeps, and a second run of the pipeline for it: the same job at creativity −2.

Where the mask covers nothing, or everything, or both results would be equal, only one is made.
"""

import copy
from dataclasses import replace

from server.job.mask import KEPT_CREATIVITY, KEPT_STEP
from server.job.plan import with_kept
from server.pipeline import plan
from server.pipeline.base import Context, Kept
from server.pipeline.mask.shares import ALL, shares, softened
from server.weights.catalog import masked_of


def run(ctx: Context) -> None:
    mask = ctx.params.mask
    if mask is None:
        return
    h, w = ctx.samples.shape[:2]
    kept = shares(mask, ctx.mask, (w, h), ctx.max_source_pixels)
    if not kept.any():
        ctx.notes.append("the mask keeps no part of the picture")
        return
    strict = _strict(ctx)
    if (kept == ALL).all():
        ctx.notes.append("the mask keeps the whole picture")
        ctx.params, ctx.loaded, ctx.plan, ctx.creativity = strict.params, strict.loaded, strict.plan, strict.creativity
        return
    enlarged = ctx.loaded is not None and ctx.creativity != KEPT_CREATIVITY
    if not enlarged and ctx.params.faces is None:
        return
    ctx.kept = Kept(strict, softened(kept, ctx.params.wrap))
    if ctx.loaded is not None and strict.loaded is not None and ctx.plan is not None and strict.plan is not None:
        asked, other = ctx.loaded, strict.loaded
        name, sha256 = masked_of((asked.name, asked.sha256), (other.name, other.sha256))
        ctx.loaded = replace(asked, name=name, sha256=sha256, form=None)
        ctx.plan = with_kept(ctx.plan, strict.plan, name)


def _strict(ctx: Context) -> Context:
    """The same job at −2, without restored faces. It shares clocks and `check`, and nothing that a step fills in."""
    strict = copy.copy(ctx)
    strict.params = ctx.params.kept
    strict.loaded, strict.work, strict.notes = None, {}, []
    plan.run(strict)
    strict.before_steps = KEPT_STEP
    return strict
