"""The super-resolution network over the picture, once or twice; alpha goes through the same network."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.files.picture import Samples
from server.pipeline.base import Context
from server.resample import gather, resample, resized
from server.stream import Stream


def run(ctx: Context) -> None:
    if ctx.plan is None or not ctx.plan.passes:
        ctx.stream = Stream.of(ctx.samples)
        return
    passes = ctx.plan.passes
    planes = 1 + _has_real_alpha(ctx.samples)
    ctx.tiles, ctx.tiles_done = planes * sum(each.tiles for each in passes), 0
    stream = Stream.of(ctx.samples)
    for number, each in enumerate(passes):
        if number == 0:
            samples = resample(ctx.samples, each.source, ctx.kernel)
        else:  # the first pass's result, reduced as it comes
            samples = gather(resized(stream, each.source, np.uint16, ctx.kernel))
        last = number == len(passes) - 1
        # 8 bits are enough only where they are the final rounding.
        deep = ctx.rows_are_deep or not last or each.result != ctx.plan.result or ctx.more_follows
        stream = _upscaled(ctx, samples, np.uint16 if deep else np.uint8)
    ctx.stream = stream


def _upscaled(ctx: Context, samples: Samples, dtype: type[np.uint8] | type[np.uint16]) -> Stream:
    assert ctx.model is not None  # the plan has passes
    h, w, channels = samples.shape
    scale = ctx.model.facts.scale
    colours = channels - _has_alpha(samples)
    bands = _through_network(ctx, samples[..., :colours], dtype)
    if colours < channels:
        alpha = samples[..., colours:]
        opaque = _through_network(ctx, alpha, dtype) if _has_real_alpha(samples) else None
        bands = _with_alpha(bands, opaque)
    return Stream(w * scale, h * scale, channels, dtype, ctx.timed("upscale", bands))


def _through_network(ctx: Context, samples: Samples, dtype: type[np.generic]) -> Iterator[NDArray[Any]]:
    assert ctx.model is not None

    def on_tile() -> None:
        ctx.tiles_done, ctx.tile_share = ctx.tiles_done + 1, 0.0
        ctx.check()

    def on_turn(share: float) -> None:
        ctx.tile_share = share
        ctx.check()

    return ctx.engine.upscale(ctx.model, samples, dtype=dtype, tile=ctx.tile, on_tile=on_tile, on_turn=on_turn)


def _with_alpha(colours: Iterator[NDArray[Any]], alpha: Iterator[NDArray[Any]] | None) -> Iterator[NDArray[Any]]:
    """Band by band; without `alpha`, opaque."""
    left: NDArray[Any] | None = None
    for band in colours:
        parts, missing = [], len(band)
        while missing:  # the two may come in bands of different heights
            if alpha is None:
                left = np.full_like(band[..., :1], np.iinfo(band.dtype).max)
            elif left is None or not len(left):
                left = next(alpha)
            part, left = left[:missing], left[missing:]
            parts.append(part)
            missing -= len(part)
        yield np.concatenate((band, parts[0] if len(parts) == 1 else np.concatenate(parts)), axis=2)


def _has_alpha(samples: Samples) -> bool:
    return samples.shape[2] in (2, 4)


def _has_real_alpha(samples: Samples) -> bool:
    """Most files with alpha are opaque everywhere; those need no second plane."""
    return _has_alpha(samples) and bool((samples[..., -1] != np.iinfo(samples.dtype).max).any())
