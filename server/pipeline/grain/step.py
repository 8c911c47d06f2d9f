"""Adds grain like the source's to the finished rows: the networks take grain away, and without any a result can look
smoother than its source.

The noise of a pixel depends on its place and the seed alone, so bands and tiles do not show. Where a sample is near
black or white there is less of it, so that none is cut off, and black and white stay as they are.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from server.images.read.open import Samples
from server.images.samples import Floats, from_floats, to_floats
from server.pipeline.base import Context
from server.pipeline.grain.measure import Grain, brightness, measure
from server.pipeline.refine.sampler import noise_at

_PART_PIXELS = 1 << 20
"""Of the result, in floats at a time."""
_OWN_KEY = 1 << 64
"""So that the noise is not that of the diffusion pass with the same seed."""
NONE_FOUND = "no grain was added: the source has none"


def run(ctx: Context) -> None:
    if not ctx.params.grain:
        return
    assert ctx.stream is not None  # the upscale step came before
    found = measure(ctx.samples)
    if found is None:
        if NONE_FOUND not in ctx.notes:
            ctx.notes.append(NONE_FOUND)
        return
    found = replace(found, mixes=found.mixes * np.float32(ctx.params.grain))
    key = ctx.seed + _OWN_KEY * (1 + ctx.frame)  # the grain of each frame is another
    ctx.stream = replace(ctx.stream, bands=ctx.timed("grain", _each(ctx.stream.bands, found, key)))


def _each(bands: Iterator[Samples], grain: Grain, key: int) -> Iterator[Samples]:
    y = 0
    for band in bands:
        most = max(1, _PART_PIXELS // band.shape[1])
        for top in range(0, len(band), most):
            part = band[top : top + most]
            yield grained(part, y, grain, key)
            y += len(part)
        del band, part  # or the next one would be in memory at the same time


def grained(part: Samples, y: int, grain: Grain, key: int) -> Samples:
    """The result's rows from `y` on, with grain; alpha stays as it is."""
    colours = 3 if part.shape[2] >= 3 else 1
    values = to_floats(part[..., :colours])
    mixes, rooms = _table(grain)
    tones = (brightness(values) * (_TONES - 1) + 0.5).astype(np.int32)
    noise = _noise(len(part), part.shape[1], colours, y, grain.blur, key)
    room = np.minimum(values, 1 - values)
    for colour in range(colours):
        added = sum(mixes[colour, other].take(tones) * noise[other] for other in range(colour + 1))
        # Two standard deviations have room.
        added *= np.minimum(1, room[..., colour] * rooms[colour].take(tones))
        values[..., colour] += added
    made = from_floats(values, part.dtype)
    joined: Samples = np.concatenate((made, part[..., colours:]), axis=2)
    return joined


_TONES = 1024


def _table(grain: Grain) -> tuple[Floats, Floats]:
    """By brightness, which comes last: the mixes, and one by two standard deviations of each colour."""
    at = np.linspace(0, 1, _TONES)
    places = np.interp(at, grain.tones, np.arange(len(grain.tones)))
    first = np.minimum(places.astype(int), max(0, len(grain.tones) - 2))
    share = (places - first).astype(np.float32)[:, None, None]
    second = np.minimum(first + 1, len(grain.tones) - 1)
    mixes: Floats = grain.mixes[first] * (1 - share) + grain.mixes[second] * share
    rooms: Floats = 1 / np.maximum(2 * np.sqrt((mixes**2).sum(axis=2)), np.float32(1e-6))
    return np.ascontiguousarray(mixes.transpose(1, 2, 0)), np.ascontiguousarray(rooms.T)


def _noise(rows: int, width: int, colours: int, y: int, blur: float, key: int) -> Floats:
    """colours × rows × width with a variance of 1, blurred."""
    taps = _taps(blur)
    more = len(taps) - 1
    wide = width + more
    noise: Floats = noise_at(key, (y, y + rows + more), (0, wide), wide, colours)[0].numpy()
    for axis in (1, 2):
        size = noise.shape[axis] - more
        shifted = [noise[:, at : at + size] if axis == 1 else noise[..., at : at + size] for at in range(more + 1)]
        # Shifted and added one by one: the same sum in the same order for every pixel, whatever the band.
        noise = shifted[0] * taps[0]
        for each, tap in zip(shifted[1:], taps[1:], strict=True):
            noise += each * tap
    return noise


def _taps(blur: float) -> Floats:
    """A Gaussian that leaves the variance of white noise along one side as it is."""
    radius = math.ceil(3 * blur)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(blur, 1e-6)) ** 2)
    normed: Floats = (taps / np.sqrt((taps**2).sum())).astype(np.float32)
    return normed
