"""Takes the rows of the kept result where the mask says so.

Both results are made side by side, band by band, as for a creativity of −1; neither exists as a whole in memory.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from server.images.read.open import Samples
from server.images.samples import Floats
from server.job.mask import KEPT_STEP
from server.job.tiling import Size
from server.pipeline import resize, unwrap, upscale, wrap
from server.pipeline.base import Context
from server.pipeline.mask.shares import Shares, rows
from server.pipeline.refine import step as refine
from server.rows.colour_lock import aligned

_PART_PIXELS = 1 << 20
"""Of the result, in floats at a time."""


def expect(ctx: Context) -> None:
    """Load the networks of the second run, and announce its work on this picture."""
    if ctx.kept is None:
        return
    strict = ctx.kept.run
    strict.samples, strict.work = ctx.samples, {}
    upscale.expect(strict)
    refine.expect(strict)
    ctx.work |= {f"{KEPT_STEP}{name}": part for name, part in strict.work.items()}


def run(ctx: Context) -> None:
    if ctx.kept is None:
        return
    strict = ctx.kept.run
    for each in (wrap, upscale, refine, resize, unwrap):
        each.run(strict)
    assert ctx.stream is not None and strict.stream is not None
    assert ctx.stream.dtype is strict.stream.dtype
    size = ctx.stream.width, ctx.stream.height
    bands = _mixed(ctx.stream.bands, strict.stream.bands, ctx.kept.shares, size)
    ctx.stream = replace(ctx.stream, bands=ctx.timed("mask", bands))


def _mixed(asked: Iterator[Samples], kept: Iterator[Samples], shares: Shares, size: Size) -> Iterator[Samples]:
    most = max(1, _PART_PIXELS // size[0])
    y = 0
    for ours, theirs in aligned(asked, kept):
        for top in range(0, len(ours), most):
            share = rows(shares, size, y, y + len(ours[top : top + most]))
            yield _mix(ours[top : top + most], theirs[top : top + most], share)
            y += len(share)
        del ours, theirs  # or the next ones would be in memory at the same time


def _mix(ours: Samples, theirs: Samples, share: Floats) -> Samples:
    """At a share of 0 or 1 exactly the one or the other: floats hold samples of 16 bits without error."""
    mixed = ours.astype(np.float32)
    mixed += share * (theirs - mixed)
    rounded: Samples = np.rint(mixed, out=mixed).astype(ours.dtype)  # type: ignore[assignment]
    return rounded
