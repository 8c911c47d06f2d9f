"""Resizing and rounding to an exact size and depth: Lanczos-3, antialiased in both directions, edges aligned.

A result sample is a weighted mean of the source samples under a window, whose weights are the same for a whole column
or row: `taps` returns them. Sums are in floats and rounded once. Pictures are read and made in bands; only the rows
that later ones need are kept. Our own kernels do it where they are available, torch elsewhere; both give the same
except for rounding.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.engine.device import unless_out_of_memory
from server.errors import OutOfMemory
from server.images.read.open import Samples
from server.images.samples import Depth, full_scale, to_floats
from server.job.tiling import Size
from server.kernels.cpu import Kernel
from server.kernels.cpu.lanczos import Filter, Taps
from server.rows.stream import Stream

_LOBES = 3
_PART_BYTES = 8 * 1024 * 1024
"""Of the part of the result that is made at a time, about."""
_MOST_ROWS = 512
"""Of that part, in a narrow picture."""
_MOST_STRETCH = 16
"""Source rows for one row of the result."""
_BLOCK = 32
"""Columns that torch computes with one matrix product."""


def resample(samples: Samples, size: Size, kernel: Kernel | None = None) -> Samples:
    """`samples`: H × W × channels (1…4; 2 and 4 have alpha last) → the same kind at `size` (width, height), exactly.
    Raises OutOfMemory."""
    stream = Stream.of(samples)
    return samples if (stream.width, stream.height) == size else gather(resized(stream, size, stream.dtype, kernel))


def gather(stream: Stream) -> Samples:
    """All of it, in memory."""
    samples: Samples = np.empty((stream.height, stream.width, stream.channels), stream.dtype)  # type: ignore[assignment]
    row = 0
    for band in stream.bands:
        samples[row : row + len(band)] = band
        row += len(band)
    assert row == stream.height, f"{row} rows of {stream.height} came"
    return samples


def resized(
    stream: Stream,
    size: Size,
    depth: Depth,
    kernel: Kernel | None = None,
    border: tuple[float, float] = (0, 0),
) -> Stream:
    """The same picture at `size` (width, height), exactly, and in `depth`. `kernel`: who does it, instead of torch.
    `border`: how much of `size` is border; what lies within the borders of both is the same. Its bands raise
    OutOfMemory."""
    if (stream.width, stream.height) == size and stream.dtype is depth and stream.border == border:
        return stream
    if stream.height > _MOST_STRETCH * size[1]:
        # So many rows would go into one of the result that they can't be held: in steps, then, of which the last has
        # enough left to choose from.
        between = size[0], max(math.ceil(stream.height / _MOST_STRETCH), 4 * size[1])
        kept = border[0], stream.border[1] * between[1] / stream.height
        return resized(resized(stream, between, np.uint16, kernel, kept), size, depth, kernel, border)
    return Stream(*size, stream.channels, depth, _bands(stream, size, depth, kernel, border), border)


def taps(source: int, result: int, border: float = 0, result_border: float = 0) -> Taps:
    """Lanczos-3 from `source` samples along a side to `result`. The window is stretched where the picture shrinks; at
    the borders it is cut off, as in Pillow. `border` samples of the source, and `result_border` of the result, are at
    both ends beyond what is the same in both."""
    ratio = (source - 2 * border) / (result - 2 * result_border)
    first = border - result_border * ratio
    if ratio == 1 and first == int(first):
        return Taps(np.arange(first, first + result, dtype=np.int32), np.ones((result, 1), np.float32))
    stretch = max(1.0, ratio)
    count = min(source, math.ceil(2 * _LOBES * stretch))
    centres = first + (np.arange(result) + 0.5) * ratio - 0.5
    starts = np.clip(np.floor(centres - _LOBES * stretch).astype(np.int32) + 1, 0, source - count)
    distances = (starts[:, None] + np.arange(count) - centres[:, None]) / stretch
    weights = np.where(abs(distances) < _LOBES, np.sinc(distances) * np.sinc(distances / _LOBES), 0)
    return Taps(starts, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))


def _bands(
    stream: Stream, size: Size, depth: Depth, kernel: Kernel | None, border: tuple[float, float]
) -> Iterator[Samples]:
    across = taps(stream.width, size[0], stream.border[0], border[0])
    down = taps(stream.height, size[1], stream.border[1], border[1])
    # When only the depth changes, colours stay as they are also where they are transparent.
    alpha = stream.channels in (2, 4) and max(across.count, down.count) > 1
    make = _Torch(across, down, alpha, depth) if kernel is None else Filter(kernel, across, down, alpha, depth)
    result_row = size[0] * stream.channels * np.dtype(depth).itemsize
    most = min(max(_PART_BYTES // result_row, 16), _MOST_ROWS)
    # Rows that several parts need are resized horizontally for each of them.
    step = max(most * stream.height // size[1], 4 * down.count)
    kept: NDArray[Any] = np.empty((0, stream.width, stream.channels), stream.dtype)
    come = done = 0  # rows of the source, of the result
    for band in stream.bands:
        for top in range(0, len(band), step):
            part = np.ascontiguousarray(band[top : top + step])
            first, come = come, come + len(part)
            ready = int(np.searchsorted(down.starts + down.count, come, side="right"))
            for row in range(done, ready, most):
                rows = range(row, min(row + most, ready))
                made = unless_out_of_memory(partial(make, kept, part, first, rows))
                if made is None:
                    raise OutOfMemory("not even a few rows of the resized picture fit into memory")
                yield made
                del made
            done = ready
            needed = down.starts[done] if done < size[1] else come
            kept = np.concatenate((kept[max(0, needed - first + len(kept)) :], part[max(0, needed - first) :]))
        del band, part  # or the next band would be in memory at the same time


class _Torch:
    """The same as `Filter`, in torch, by products with matrices that are nearly all zero."""

    def __init__(self, across: Taps, down: Taps, alpha: bool, depth: Depth) -> None:
        width = len(across.starts)
        self._columns = [_matrix(across, range(x, min(x + _BLOCK, width))) for x in range(0, width, _BLOCK)]
        self._down = down
        self._alpha = alpha
        self._depth = depth

    def __call__(self, kept: NDArray[Any], band: NDArray[Any], first: int, rows: range) -> NDArray[Any]:
        begin, matrix = _matrix(self._down, rows)
        end = begin + len(matrix)
        source = np.concatenate((kept, band[: end - first]))[begin - first + len(kept) :]
        image = torch.from_numpy(to_floats(source)).permute(0, 2, 1)  # rows, channels, columns
        if self._alpha:
            image[:, :-1] *= image[:, -1:]
        image = torch.cat([image[..., start : start + len(part)] @ part for start, part in self._columns], dim=2)
        image = torch.tensordot(matrix.T, image, 1).permute(0, 2, 1)
        if self._alpha:
            image[..., :-1] *= torch.where(image[..., -1:] > 0, 1 / image[..., -1:], 0)
        top = full_scale(self._depth)
        result: NDArray[Any] = image.mul_(top).round_().clamp_(0, top).numpy().astype(self._depth)
        return result


def _matrix(axis: Taps, results: range) -> tuple[int, Tensor]:
    """The first source sample of these results, and the weights of source × result samples from there on."""
    starts = axis.starts[results.start : results.stop]
    first = int(starts[0])
    matrix = np.zeros((int(starts[-1]) + axis.count - first, len(results)), np.float32)
    places = starts[:, None] - first + np.arange(axis.count)
    matrix[places, np.arange(len(results))[:, None]] = axis.weights[results.start : results.stop]
    return first, torch.from_numpy(matrix)
