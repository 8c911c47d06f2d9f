"""Resizing by a separable filter, as lanczos.cpp does it; `server/resample.py` says by which."""

import ctypes
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from server.kernels.binding import Kernel, Samples, view

_ROWS_PER_THREAD = 16
"""At least: each computes some rows of its own that its neighbour computes too."""


@dataclass(frozen=True)
class Taps:
    """Along one side: result sample i is the sum of `weights[i]` times the source samples from `starts[i]` on."""

    starts: NDArray[np.int32]
    weights: NDArray[np.float32]
    """Result samples × taps."""

    @property
    def count(self) -> int:
        return int(self.weights.shape[1])


def filtered(
    kernel: Kernel,
    kept: Samples,
    band: Samples,
    first: int,
    across: Taps,
    down: Taps,
    rows: range,
    depth: type[np.uint8] | type[np.uint16],
) -> Samples:
    """These `rows` of the result, rows × width × channels of `depth`. `band`: the source rows from row `first` on,
    `kept` those before it; 8 or 16 bits, contiguous, alpha last where there are two or four channels. Raises
    torch.OutOfMemoryError."""
    channels = band.shape[2]
    result = np.empty((len(rows), len(across.starts), channels), depth)
    threads = max(1, min(torch.get_num_threads(), len(rows) // _ROWS_PER_THREAD))
    failed = kernel.library.lanczos_rows(
        ctypes.byref(view(kept)),
        len(kept),
        ctypes.byref(view(band)),
        first,
        band.shape[1],
        len(across.starts),
        channels in (2, 4),
        across.starts.ctypes.data,
        across.weights.ctypes.data,
        across.count,
        down.starts.ctypes.data,
        down.weights.ctypes.data,
        down.count,
        ctypes.byref(view(result)),
        rows.start,
        len(rows),
        threads,
    )
    if failed:
        raise torch.OutOfMemoryError("no memory for a few rows of a picture")
    return result
