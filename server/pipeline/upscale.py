"""Runs the network over the picture, once or twice; alpha goes through the same network. Others of ×1 may run first.

The result gets the source's colours (server/rows/colour_lock.py), but not from networks of ×1: some of them are there
to change colours. Below a creativity of 0 fidelity-x4 runs beside the network, and the bands of both are mixed.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from server.engine.backends.native import runs_alone
from server.images.read.alpha_bleeding import RESAMPLED, bleed_alpha
from server.images.read.open import Samples
from server.images.samples import Depth, full_scale
from server.models.base import Model
from server.pipeline.base import Context, Networks, has_alpha, has_real_alpha
from server.rows.colour_lock import aligned, locked, mixed
from server.rows.resample import gather, resized
from server.rows.stream import Stream
from server.weights.choice import FIDELITY

_ROWS = 64


def expect(ctx: Context) -> None:
    """Announce the work of all passes, planes and networks."""
    work = 0.0
    for each, (model, fidelity) in zip(ctx.plan.passes if ctx.plan else (), ctx.networks(), strict=False):
        # Alpha goes through the first network only.
        work += each.source[0] * each.source[1] * (ctx.planes * model.work + (fidelity.work if fidelity else 0.0))
    ctx.expect("upscale", work)
    ctx.work["upscale"].alone = max(_alone(ctx), default=0.0)


def _alone(ctx: Context) -> Iterator[float]:
    """The work of one tile of each network that computes its tiles alone."""
    for each, (model, _) in zip(ctx.plan.passes if ctx.plan else (), ctx.networks(), strict=False):
        if runs_alone(model, each.source, ctx.engine.geometry(model, ctx.tile)):
            tiles = ctx.engine.tiles(model, each.source, ctx.tile)
            yield each.source[0] * each.source[1] * model.work / tiles


def run(ctx: Context) -> None:
    stream = Stream.of(ctx.samples)
    if ctx.plan is None or not ctx.plan.passes:
        ctx.stream = stream if ctx.plan is None else replace(stream, border=ctx.plan.border)
        return
    passes = ctx.plan.passes
    for number, (each, networks) in enumerate(zip(passes, ctx.networks(), strict=False)):
        samples = ctx.samples  # the first pass gets the picture as it is
        if number:
            samples = gather(resized(stream, each.source, np.uint16, ctx.engine.kernel, each.border))
            if has_alpha(samples):  # resizing makes transparent pixels black, which the next network would draw in
                samples = bleed_alpha(samples, RESAMPLED)
        last = number == len(passes) - 1
        # 8 bits are enough only where they are the final rounding.
        deep = ctx.rows_are_deep or not last or each.result != ctx.plan.result or ctx.more_follows
        scale = networks[0].facts.scale
        border = each.border[0] * scale, each.border[1] * scale
        stream = replace(_upscaled(ctx, networks, samples, np.uint16 if deep else np.uint8), border=border)
    ctx.stream = stream


def _upscaled(ctx: Context, networks: Networks, samples: Samples, depth: Depth) -> Stream:
    h, w, channels = samples.shape
    model, _ = networks
    scale = model.facts.scale
    colours = channels - has_alpha(samples)
    bands = _colours(ctx, networks, samples[..., :colours], depth)
    if colours < channels:
        opaque = None
        if has_real_alpha(samples):
            opaque = _network(ctx, model, samples[..., colours:], depth)
        bands = _with_alpha(bands, opaque)
    return Stream(w * scale, h * scale, channels, depth, ctx.timed("upscale", bands))


def _colours(ctx: Context, networks: Networks, samples: Samples, depth: Depth) -> Iterator[Samples]:
    """H × W × 1 or 3 → its rows, enlarged."""
    model, fidelity = networks
    if fidelity is None:
        return _coloured(ctx, model, samples, depth)
    ours = _coloured(ctx, model, samples, np.uint16)
    theirs = _coloured(ctx, fidelity, samples, np.uint16)
    h, w, channels = samples.shape
    if fidelity.facts.scale != model.facts.scale:
        stream = Stream(w * fidelity.facts.scale, h * fidelity.facts.scale, channels, np.uint16, theirs)
        size = w * model.facts.scale, h * model.facts.scale
        theirs = resized(stream, size, np.uint16, ctx.engine.kernel).bands
    assert ctx.loaded is not None  # the plan has passes
    return mixed(theirs, ours, ctx.loaded.choice.fidelity, depth)


def _coloured(ctx: Context, model: Model, samples: Samples, depth: Depth) -> Iterator[Samples]:
    """One network's result, in the source's colours. A grey picture stays grey, also one that is stored as RGB."""
    if model.facts.scale > 1 and _is_grey_rgb(samples):
        grey = _coloured(ctx, model, samples[..., :1], depth)
        return cast(Iterator[Samples], (band.repeat(3, axis=2) for band in grey))
    if model.name == FIDELITY or model.facts.scale == 1:  # the one keeps colours by itself
        return _network(ctx, model, samples, depth)
    bands = _network(ctx, model, samples, np.uint16)
    return locked(bands, samples, model.facts.scale, depth, ctx.engine.kernel)


def _is_grey_rgb(samples: Samples) -> bool:
    """Three channels, all equal. Ends at the first rows where they differ."""
    parts = (samples[top : top + _ROWS] for top in range(0, len(samples), _ROWS))
    return samples.shape[2] == 3 and all((part[..., :1] == part[..., 1:]).all() for part in parts)


def _network(ctx: Context, model: Model, samples: Samples, dtype: Depth) -> Iterator[NDArray[Any]]:
    h, w = samples.shape[:2]
    work = h * w * model.work
    each = work / ctx.engine.tiles(model, (w, h), ctx.tile)

    def on_tile() -> None:
        ctx.advance("upscale", each)

    def on_slice(share: float | None) -> None:
        ctx.waits(share is None)
        if share is None:
            ctx.check()
            return
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
