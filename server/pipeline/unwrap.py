"""Cuts the border off a result that wraps, and blends its end into what precedes its beginning.

What precedes the first pixel of the result is the border before it. There it is followed by that first pixel in one
picture, so the two sides fit together whatever the networks have made of them.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from server.engine.tile import raised_cosine
from server.images.read.open import Samples
from server.images.samples import Depth, Floats, to_8_bits
from server.job.plan import Plan
from server.job.wrap import JOIN, NO_BORDER
from server.pipeline.base import Context
from server.rows.stream import Stream

_MOST_ROWS = 64
"""Of a part that is made at a time."""


def run(ctx: Context) -> None:
    assert ctx.plan is not None and ctx.stream is not None  # those steps came before
    if ctx.plan.result_border == NO_BORDER:
        return
    depth = np.uint16 if ctx.rows_are_deep else np.uint8
    bands = ctx.timed("unwrap", _joined(ctx.stream, ctx.plan, depth))
    w, h = ctx.plan.result
    ctx.stream = replace(ctx.stream, width=w, height=h, dtype=depth, border=NO_BORDER, bands=bands)


def _joined(stream: Stream, plan: Plan, depth: Depth) -> Iterator[Samples]:
    """`stream`: 16 bits."""
    (w, h), (left, above) = plan.result, plan.result_border
    across, down = _shares(left, w), _shares(above, h)
    before: Samples = np.empty((0, w, stream.channels), np.uint16)
    """The rows that precede the result's first one."""
    y = -above
    for band in stream.bands:
        for top in range(0, len(band), _MOST_ROWS):
            part = band[top : top + _MOST_ROWS]
            rows = np.arange(y, y + len(part))
            y += len(part)
            shown = part[:, left : left + w].copy()
            _blend(shown[:, w - len(across) :], part[:, left - len(across) : left], across[None, :, None])
            before = np.concatenate((before, shown[(rows >= -len(down)) & (rows < 0)]))  # type: ignore[assignment]
            into = rows - (h - len(down))
            mixed = (into >= 0) & (rows < h)
            if mixed.any():
                ours = shown[mixed]
                _blend(ours, before[into[mixed]], down[into[mixed], None, None])
                shown[mixed] = ours
            shown = shown[(rows >= 0) & (rows < h)]
            if len(shown):
                yield shown if depth is np.uint16 else to_8_bits(shown)
        del band, part  # or the next one would be in memory at the same time


def _shares(border: int, length: int) -> Floats:
    """Of the border in each of the last pixels of the result, along one side."""
    count = min(JOIN, border, length // 2)
    return raised_cosine((np.arange(count) + 0.5) / max(1, count))


def _blend(ours: Samples, theirs: Samples, share: Floats) -> None:
    """`share` of `theirs` is mixed into `ours`, in place."""
    ours[...] = np.rint(ours + (theirs.astype(np.float32) - ours) * share)
