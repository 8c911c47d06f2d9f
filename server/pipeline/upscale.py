"""The super-resolution network over tiles, once or twice; alpha goes through the same network."""

import numpy as np
from numpy.typing import NDArray

from server.picture import Samples
from server.pipeline.base import Context
from server.resample import resample


def run(ctx: Context) -> None:
    if ctx.plan is None or not ctx.plan.passes:
        return
    passes = ctx.plan.passes
    planes = 1 + _has_real_alpha(ctx.samples)
    ctx.tiles, ctx.tiles_done = planes * ctx.plan.tiles, 0
    for number, each in enumerate(passes):
        ctx.samples = resample(ctx.samples, each.source)
        last = number == len(passes) - 1
        # 8 bits are enough only where they are the final rounding.
        deep = ctx.deep or not last or each.result != ctx.plan.result
        ctx.samples = _upscale(ctx, np.uint16 if deep else np.uint8)


def _upscale(ctx: Context, dtype: type[np.uint8] | type[np.uint16]) -> Samples:
    samples = ctx.samples
    h, w, channels = samples.shape
    assert ctx.model is not None  # the plan has passes
    scale = ctx.model.facts.scale
    canvas = np.empty((h * scale, w * scale, channels), dtype)
    colours = channels - _has_alpha(samples)
    _through_network(ctx, samples[..., :colours], canvas[..., :colours])
    if colours < channels:
        alpha = samples[..., colours:]
        if _has_real_alpha(samples):
            _through_network(ctx, alpha, canvas[..., colours:])
        else:
            canvas[..., colours:] = _top(dtype)
    return canvas


def _through_network(ctx: Context, samples: Samples, canvas: Samples) -> None:
    """Fill `canvas` from `samples`, both with one or three channels. The network wants three: grey becomes three equal
    ones, and their mean becomes grey again."""
    assert ctx.model is not None
    grey = samples.shape[2] == 1
    source = np.ascontiguousarray(np.broadcast_to(samples, (*samples.shape[:2], 3)))

    def on_tile() -> None:
        ctx.tiles_done += 1
        ctx.check()

    for y, band in ctx.engine.upscale(ctx.model, source, tile=ctx.tile, on_tile=on_tile):
        _round_into(canvas[y : y + len(band)], band.mean(axis=2, keepdims=True) if grey else band)


def _round_into(canvas: Samples, band: NDArray[np.float32]) -> None:
    top = _top(canvas.dtype.type)
    np.multiply(band, top, out=band)
    np.rint(band, out=band)
    np.clip(band, 0, top, out=band)
    canvas[:] = band


def _has_alpha(samples: Samples) -> bool:
    return samples.shape[2] in (2, 4)


def _has_real_alpha(samples: Samples) -> bool:
    """Most files with alpha are opaque everywhere; those need no second plane."""
    return _has_alpha(samples) and bool((samples[..., -1] != _top(samples.dtype.type)).any())


def _top(dtype: type[np.generic]) -> int:
    return 255 if dtype is np.uint8 else 65535
