"""Reducing an enlarged picture and correcting its colours, in colour.cpp: for server/rows/colour_lock.py."""

import ctypes

import numpy as np
import torch
from numpy.typing import NDArray

from server.kernels.cpu.binding import Kernel, Samples, view

_ROWS_PER_THREAD = 4
"""Source rows, at least: fewer do not justify a thread."""


def reduced(kernel: Kernel, samples: Samples, scale: int) -> NDArray[np.float32]:
    """The mean of each `scale` × `scale` samples, 0…1, of contiguous 8 or 16 bits. Raises torch.OutOfMemoryError."""
    h, w, channels = samples.shape
    rows, width = h // scale, w // scale
    means = np.empty((rows, width, channels), np.float32)
    failed = kernel.library.colour_reduce(
        ctypes.byref(view(samples)), rows, width, scale, means.ctypes.data, _threads(rows)
    )
    _raise_if(failed)
    return means


def corrected(
    kernel: Kernel, samples: Samples, scale: int, lost: NDArray[np.float32], depth: type[np.uint8] | type[np.uint16]
) -> Samples:
    """`samples` (contiguous, 8 or 16 bits) plus `lost` in the same place, in `depth`. `lost`: rows × width ×
    channels at the size of the source, with one more row before the first and after the last. Raises
    torch.OutOfMemoryError."""
    h, w, channels = samples.shape
    rows, width = h // scale, w // scale
    lost = np.ascontiguousarray(lost, np.float32)
    assert lost.shape == (rows + 2, width, channels)
    result = np.empty(samples.shape, depth)
    failed = kernel.library.colour_correct(
        ctypes.byref(view(samples)), ctypes.byref(view(result)), rows, width, scale, lost.ctypes.data, _threads(rows)
    )
    _raise_if(failed)
    return result


def _threads(rows: int) -> int:
    return max(1, min(torch.get_num_threads(), rows // _ROWS_PER_THREAD))


def _raise_if(failed: int) -> None:
    if failed:
        raise torch.OutOfMemoryError("no memory for a few rows of a picture")
