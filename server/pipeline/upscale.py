"""Runs the super-resolution network over the picture, once or twice; alpha goes through the same network.

The result gets the source's colours (server/rows/colour_lock.py). Below a creativity of 0 fidelity-x4 runs beside the
network, and the bands of both are mixed.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.images.read.open import Samples
from server.images.samples import Depth, full_scale
from server.models.base import Model
from server.pipeline.base import Context, has_alpha, has_real_alpha
from server.rows.colour_lock import aligned, locked, mixed
from server.rows.resample import gather, resized
from server.rows.stream import Stream
from server.weights.choice import FIDELITY


def expect(ctx: Context) -> None:
    """Announce the work of all passes, planes and networks."""
    pixels = 0 if ctx.plan is None else sum(w * h for w, h in (each.source for each in ctx.plan.passes))
    models = _models(ctx)
    # Alpha goes through the first network only.
    each = sum(model.work for model in models) + (ctx.planes - 1) * sum(model.work for model in models[:1])
    ctx.expect("upscale", pixels * each)


def run(ctx: Context) -> None:
    if ctx.plan is None or not ctx.plan.passes:
        ctx.stream = Stream.of(ctx.samples)
        return
    passes = ctx.plan.passes
    stream = Stream.of(ctx.samples)
    for number, each in enumerate(passes):
        samples = ctx.samples  # the first pass gets the picture as it is
        if number:
            samples = gather(resized(stream, each.source, np.uint16, ctx.engine.kernel))
        last = number == len(passes) - 1
        # 8 bits are enough only where they are the final rounding.
        deep = ctx.rows_are_deep or not last or each.result != ctx.plan.result or ctx.more_follows
        stream = _upscaled(ctx, samples, np.uint16 if deep else np.uint8)
    ctx.stream = stream


def _models(ctx: Context) -> list[Model]:
    if ctx.loaded is None:
        return []
    return [ctx.loaded.model] if ctx.loaded.fidelity is None else [ctx.loaded.model, ctx.loaded.fidelity]


def _upscaled(ctx: Context, samples: Samples, depth: Depth) -> Stream:
    assert ctx.loaded is not None  # the plan has passes
    h, w, channels = samples.shape
    scale = ctx.loaded.model.facts.scale
    colours = channels - has_alpha(samples)
    bands = _colours(ctx, samples[..., :colours], depth)
    if colours < channels:
        opaque = None
        if has_real_alpha(samples):
            opaque = _network(ctx, ctx.loaded.model, samples[..., colours:], depth)
        bands = _with_alpha(bands, opaque)
    return Stream(w * scale, h * scale, channels, depth, ctx.timed("upscale", bands))


def _colours(ctx: Context, samples: Samples, depth: Depth) -> Iterator[Samples]:
    """H × W × 1 or 3 → its rows, enlarged."""
    assert ctx.loaded is not None
    model, fidelity = ctx.loaded.model, ctx.loaded.fidelity
    if fidelity is None:
        return _coloured(ctx, model, samples, depth)
    ours = _coloured(ctx, model, samples, np.uint16)
    theirs = _coloured(ctx, fidelity, samples, np.uint16)
    h, w, channels = samples.shape
    if fidelity.facts.scale != model.facts.scale:
        stream = Stream(w * fidelity.facts.scale, h * fidelity.facts.scale, channels, np.uint16, theirs)
        size = w * model.facts.scale, h * model.facts.scale
        theirs = resized(stream, size, np.uint16, ctx.engine.kernel).bands
    return mixed(theirs, ours, ctx.loaded.choice.fidelity, depth)


def _coloured(ctx: Context, model: Model, samples: Samples, depth: Depth) -> Iterator[Samples]:
    """One network's result, in the source's colours."""
    if model.name == FIDELITY:  # it keeps colours by itself
        return _network(ctx, model, samples, depth)
    bands = _network(ctx, model, samples, np.uint16)
    return locked(bands, samples, model.facts.scale, depth, ctx.engine.kernel)


def _network(ctx: Context, model: Model, samples: Samples, dtype: Depth) -> Iterator[NDArray[Any]]:
    h, w = samples.shape[:2]
    work = h * w * model.work
    each = work / ctx.engine.tiles(model, (w, h), ctx.tile)

    def on_tile() -> None:
        ctx.advance("upscale", each)

    def on_slice(share: float) -> None:
        ctx.advance("upscale", 0.0, share * each)

    return ctx.engine.upscale(
        model, samples, dtype=dtype, tile=ctx.tile, on_tile=on_tile, on_slice=on_slice, helpers=ctx.helpers
    )


def _with_alpha(colours: Iterator[NDArray[Any]], alpha: Iterator[NDArray[Any]] | None) -> Iterator[NDArray[Any]]:
    """Band by band; without `alpha`, opaque."""
    if alpha is None:
        for band in colours:
            yield np.concatenate((band, np.full_like(band[..., :1], full_scale(band.dtype))), axis=2)
            del band  # or the next one would be in memory at the same time
        return
    for ours, theirs in aligned(colours, alpha):
        yield np.concatenate((ours, theirs), axis=2)
