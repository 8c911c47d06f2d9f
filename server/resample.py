"""Resizing and rounding to an exact size and depth: Lanczos-3, antialiased in both directions, edges aligned.

A result sample is a weighted mean of the source samples under a window, whose weights are the same for a whole column
or row: `taps` has them. Sums are in floats and rounded once. Pictures come and go in bands, of which only the rows are
kept that later ones need. Our own kernels do it where they were built, torch elsewhere; both give the same but for
rounding.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.files.picture import Samples
from server.kernels import Kernel
from server.kernels.lanczos import Taps, filtered
from server.plan import Size
from server.stream import Stream

Depth = type[np.uint8] | type[np.uint16]

_LOBES = 3
_PART_BYTES = 8 * 1024 * 1024
"""Of the result that is made at a time, about."""
_BLOCK = 32
"""Columns that torch makes by one matrix product."""


def resample(samples: Samples, size: Size, kernel: Kernel | None = None) -> Samples:
    """`samples`: H × W × channels (1…4; 2 and 4 have alpha last) → the same kind at `size` (width, height), exactly."""
    return gather(resized(Stream.of(samples), size, samples.dtype.type, kernel))


def gather(stream: Stream) -> Samples:
    """All of it, in memory."""
    samples: Samples = np.empty((stream.height, stream.width, stream.channels), stream.dtype)  # type: ignore[assignment]
    row = 0
    for band in stream.bands:
        samples[row : row + len(band)] = band
        row += len(band)
    assert row == stream.height, f"{row} rows of {stream.height} came"
    return samples


def resized(stream: Stream, size: Size, depth: Depth, kernel: Kernel | None = None) -> Stream:
    """The same picture at `size` (width, height), exactly, and in `depth`. `kernel`: who does it, instead of torch."""
    if (stream.width, stream.height) == size and stream.dtype is depth:
        return stream
    return Stream(*size, stream.channels, depth, _bands(stream, size, depth, kernel))


def taps(source: int, result: int) -> Taps:
    """Lanczos-3 for a side of `source` samples that shall have `result`. The window is stretched where the picture
    shrinks; at the borders what lies beyond them is left out of it, as Pillow does."""
    if source == result:
        return Taps(np.arange(source, dtype=np.int32), np.ones((source, 1), np.float32))
    stretch = max(1.0, source / result)
    count = min(source, math.ceil(2 * _LOBES * stretch))
    centres = (np.arange(result) + 0.5) * (source / result) - 0.5
    starts = np.clip(np.floor(centres - _LOBES * stretch).astype(np.int32) + 1, 0, source - count)
    distances = (starts[:, None] + np.arange(count) - centres[:, None]) / stretch
    weights = np.where(abs(distances) < _LOBES, np.sinc(distances) * np.sinc(distances / _LOBES), 0)
    return Taps(starts, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))


def _bands(stream: Stream, size: Size, depth: Depth, kernel: Kernel | None) -> Iterator[Samples]:
    across, down = taps(stream.width, size[0]), taps(stream.height, size[1])
    result_row = size[0] * stream.channels * np.dtype(depth).itemsize
    # Rows that several parts need are resized along their length for each.
    most = max(_PART_BYTES * stream.height // (result_row * size[1]), 4 * down.count)
    make = _by_torch if kernel is None else functools.partial(filtered, kernel)
    kept: NDArray[Any] = np.empty((0, stream.width, stream.channels), stream.dtype)
    come = done = 0  # rows of the source, of the result
    for band in stream.bands:
        for top in range(0, len(band), most):
            part = np.ascontiguousarray(band[top : top + most])
            first, come = come, come + len(part)
            ready = int(np.searchsorted(down.starts + down.count, come, side="right"))
            if ready > done:
                yield make(kept, part, first, across, down, range(done, ready), depth)
            done = ready
            needed = down.starts[done] if done < size[1] else come
            kept = np.concatenate((kept[max(0, needed - first + len(kept)) :], part[max(0, needed - first) :]))
        del band, part  # or the next band would come beside it


def _by_torch(
    kept: NDArray[Any], band: NDArray[Any], first: int, across: Taps, down: Taps, rows: range, depth: Depth
) -> NDArray[Any]:
    """What `filtered` of our kernels gives."""
    begin, end = int(down.starts[rows.start]), int(down.starts[rows.stop - 1]) + down.count
    source = np.concatenate((kept, band))[begin - first + len(kept) : end - first + len(kept)]
    image = torch.from_numpy(source.astype(np.float32)).permute(0, 2, 1)  # rows, channels, columns
    image = image / float(np.iinfo(source.dtype).max)
    alpha = source.shape[2] in (2, 4)
    if alpha:
        image[:, :-1] *= image[:, -1:]
    blocks = [range(x, min(x + _BLOCK, len(across.starts))) for x in range(0, len(across.starts), _BLOCK)]
    parts = [_matrix(across, block) for block in blocks]
    image = torch.cat([image[..., start : start + len(part)] @ part for start, part in parts], dim=2)
    start, part = _matrix(down, rows)
    image = torch.tensordot(part.T, image[start - begin :][: len(part)], 1).permute(0, 2, 1)
    if alpha:
        image[..., :-1] *= torch.where(image[..., -1:] > 0, 1 / image[..., -1:], 0)
    top = np.iinfo(depth).max
    result: NDArray[Any] = image.mul_(top).round_().clamp_(0, top).numpy().astype(depth)
    return result


def _matrix(axis: Taps, results: range) -> tuple[int, Tensor]:
    """The first source sample that these results are made of, and source × result samples from there on."""
    starts = axis.starts[results.start : results.stop]
    first = int(starts[0])
    matrix = np.zeros((int(starts[-1]) + axis.count - first, len(results)), np.float32)
    places = starts[:, None] - first + np.arange(axis.count)
    matrix[places, np.arange(len(results))[:, None]] = axis.weights[results.start : results.stop]
    return first, torch.from_numpy(matrix)
