"""Corrects the colours of an enlarged picture to those of its source, band by band.

Networks that add detail also shift colours, by 4 levels on average and differently from place to place. The difference
at low frequencies is added back: lowpass(source − reduced result), enlarged. It depends on the picture and not on the
tiles, so it has no seams; and it is computed at the size of the source, so it costs little.
"""

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from server.images.read.open import Samples
from server.images.samples import Depth, Floats, full_scale, to_floats
from server.kernels.cpu import Kernel, colour

_SIGMA = 2.0
"""Of the lowpass, a Gaussian, in source pixels: 8 pixels of a result of four times the size."""
_RADIUS = math.ceil(3 * _SIGMA)
_MOST_ROWS = 64
"""Source rows that are processed at a time, so that a whole band never exists in floats."""


def locked(
    bands: Iterator[Samples], source: Samples, scale: int, depth: Depth, kernel: Kernel | None = None
) -> Iterator[Samples]:
    """The same rows with the source's colours, in `depth`. `kernel`: our own code, which does the work instead of
    numpy.

    `bands`: rows × (width · scale) × channels of the result, from top to bottom, each a multiple of `scale` rows high;
    `source`: height × width × channels. Neither has alpha. Both are of any unsigned depth.
    """
    lock = _Lock(source, scale, depth, kernel)
    for band in bands:
        for top in range(0, len(band), _MOST_ROWS * scale):
            yield from lock.take(band[top : top + _MOST_ROWS * scale])
        del band  # or the next one would be in memory at the same time


class _Lock:
    def __init__(self, source: Samples, scale: int, depth: Depth, kernel: Kernel | None) -> None:
        self._source, self._scale, self._depth, self._kernel = source, scale, depth, kernel
        self._height, width, self._channels = source.shape
        distances = np.arange(-_RADIUS, _RADIUS + 1)
        taps = np.exp(-0.5 * (distances / _SIGMA) ** 2)
        self._taps = (taps / taps.sum()).astype(np.float32)
        self._waiting: list[Samples] = []
        """Rows of the result that were read and cannot be finished yet, in pieces."""
        self._come = self._gone = 0
        """Number of source rows whose result was read, and whose result is finished."""
        self._lost: Floats = np.empty((0, width, self._channels), np.float32)
        """The difference, lowpassed along the rows; the first is source row `self._first`."""
        self._first = 0

    def take(self, part: Samples) -> Iterator[Samples]:
        """Read some more rows; yields those that are finished now."""
        rows = len(part) // self._scale
        source = self._source[self._come : self._come + rows]
        part = np.ascontiguousarray(part)  # type: ignore[assignment]
        lost = to_floats(source) - self._reduced(part)
        self._lost = np.concatenate((self._lost, _along_rows(lost, self._taps)))
        self._come += rows
        self._waiting.append(part)
        # The correction of a row needs that of the next row, whose lowpass needs _RADIUS further rows.
        ready = self._height if self._come == self._height else self._come - _RADIUS - 1
        if ready > self._gone:
            yield self._finished(ready)

    def _reduced(self, part: Samples) -> Floats:
        if self._kernel is None:
            return _reduced(part, self._scale)
        return colour.reduced(self._kernel, part, self._scale)

    def _finished(self, ready: int) -> Samples:
        first, self._gone = self._gone, ready
        # With one more row at each side, for the interpolation.
        lost = self._along_columns(np.arange(first - 1, ready + 1))
        came = self._pop((ready - first) * self._scale)
        if self._kernel is None:
            result = _corrected(came, self._scale, _enlarged_along_rows(lost, self._scale), self._depth)
        else:
            result = cast(Samples, colour.corrected(self._kernel, came, self._scale, lost, self._depth))
        keep = max(0, ready - 1 - _RADIUS)  # the first row that later ones need
        self._lost, self._first = self._lost[keep - self._first :], keep
        return result

    def _along_columns(self, rows: NDArray[np.int_]) -> Floats:
        """The lowpass of these source rows; beyond the borders the last rows are repeated."""
        total = np.zeros((len(rows), *self._lost.shape[1:]), np.float32)
        for tap, distance in zip(self._taps, range(-_RADIUS, _RADIUS + 1), strict=True):
            places = np.clip(np.clip(rows, 0, self._height - 1) + distance, 0, self._height - 1)
            total += self._lost[places - self._first] * tap
        return total

    def _pop(self, rows: int) -> Samples:
        """The first `rows` of the waiting rows."""
        parts, missing = [], rows
        while missing:
            part = self._waiting.pop(0)
            if len(part) > missing:
                self._waiting.insert(0, part[missing:])
                part = part[:missing]
            parts.append(part)
            missing -= len(part)
        whole: Samples = parts[0] if len(parts) == 1 else np.concatenate(parts)  # type: ignore[assignment]
        return whole


def mixed(first: Iterator[Samples], second: Iterator[Samples], share: float, depth: Depth) -> Iterator[Samples]:
    """`share` of the first and the rest of the second, sample by sample, in `depth`; in bands of any heights."""
    for ours, theirs in aligned(first, second):
        rows = to_floats(ours)
        rows *= share
        rows += to_floats(theirs) * np.float32(1 - share)
        yield to_depth(rows, depth)


def aligned(first: Iterator[Samples], second: Iterator[Samples]) -> Iterator[tuple[Samples, Samples]]:
    """The rows of both, in pieces of equal height."""
    left = right = None
    while True:
        left = left if left is not None and len(left) else next(first, None)
        right = right if right is not None and len(right) else next(second, None)
        if left is None or right is None:
            assert left is None and right is None, "one of the two pictures has fewer rows"
            return
        rows = min(len(left), len(right))
        yield left[:rows], right[:rows]
        left, right = left[rows:], right[rows:]


def to_depth(values: Floats, depth: Depth) -> Samples:
    """About [0, 1] → samples of that depth, halves rounded up, unlike `from_floats`. `values` may be changed."""
    top = full_scale(depth)
    values *= top
    values += 0.5
    np.clip(values, 0, top, out=values)
    rounded: Samples = values.astype(depth)  # type: ignore[assignment]
    return rounded


def _reduced(part: Samples, scale: int) -> Floats:
    """The mean of each scale × scale pixels, 0…1."""
    rows, width, channels = len(part) // scale, part.shape[1] // scale, part.shape[2]
    summed = part.reshape(rows, scale, -1).sum(axis=1, dtype=np.uint32).reshape(rows, width, scale, channels)
    total: Floats = summed[:, :, 0].astype(np.float32)
    for column in range(1, scale):
        total += summed[:, :, column]
    total /= scale * scale * full_scale(part.dtype)
    return total


def _corrected(samples: Samples, scale: int, wide: Floats, depth: Depth) -> Samples:
    """The same as `corrected` of server/kernels/cpu/colour.py."""
    rows = len(samples) // scale
    came = samples.reshape(rows, scale, -1)
    result = np.empty(came.shape, depth)
    unit = np.float32(1 / full_scale(samples.dtype))
    for phase in range(scale):
        offset = (phase + 0.5) / scale - 0.5
        share = np.float32(abs(offset))
        values = wide[1:-1] * (1 - share)
        values += (wide[2:] if offset > 0 else wide[:-2]) * share
        values += came[:, phase] * unit
        result[:, phase] = to_depth(values, depth)
    finished: Any = result.reshape(samples.shape)
    return cast(Samples, finished)


def _along_rows(rows: Floats, taps: Floats) -> Floats:
    width = rows.shape[1]
    padded = np.pad(rows, ((0, 0), (_RADIUS, _RADIUS), (0, 0)), "edge")
    total: Floats = padded[:, :width] * taps[0]
    for number in range(1, len(taps)):
        total += padded[:, number : number + width] * taps[number]
    return total


def _enlarged_along_rows(lost: Floats, scale: int) -> Floats:
    """Rows × (width · scale · channels), interpolated linearly."""
    rows, width, _ = lost.shape
    places = (np.arange(width * scale) + 0.5) / scale - 0.5
    left = np.floor(places)
    share = (places - left).astype(np.float32)[:, None]
    first, second = np.clip(np.stack((left, left + 1)), 0, width - 1).astype(np.int_)
    wide: Floats = lost[:, first] * (1 - share) + lost[:, second] * share
    return wide.reshape(rows, -1)
