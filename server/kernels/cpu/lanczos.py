"""Resizing by a separable filter in lanczos.cpp; `server/rows/resample.py` has the filter."""

import ctypes
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from server.kernels.cpu.binding import Kernel, Samples, view

_ROWS_PER_THREAD = 16
"""At least, because neighbouring threads compute some of the same rows."""


@dataclass(frozen=True)
class Taps:
    """Along one side: result sample i is the sum of `weights[i]` times the source samples from `starts[i]` on."""

    starts: NDArray[np.int32]
    weights: NDArray[np.float32]
    """Result samples × taps."""

    @property
    def count(self) -> int:
        return int(self.weights.shape[1])


class Filter:
    """Makes rows of a result, see `__call__`."""

    def __init__(
        self, kernel: Kernel, across: Taps, down: Taps, alpha: bool, depth: type[np.uint8] | type[np.uint16]
    ) -> None:
        """`alpha`: the last channel weighs the others. `depth`: of the result."""
        self._kernel, self._across, self._down, self._alpha, self._depth = kernel, across, down, alpha, depth

    def __call__(self, kept: Samples, band: Samples, first: int, rows: range) -> Samples:
        """These `rows` of the result, rows × width × channels. `band`: the source rows from row `first` on, `kept`
        those before it; 8 or 16 bits, contiguous, one to four channels. Raises torch.OutOfMemoryError."""
        channels = band.shape[2]
        assert 1 <= channels <= 4
        result = np.empty((len(rows), len(self._across.starts), channels), self._depth)
        threads = max(1, min(torch.get_num_threads(), len(rows) // _ROWS_PER_THREAD))
        failed = self._kernel.library.lanczos_rows(
            ctypes.byref(view(kept)),
            len(kept),
            ctypes.byref(view(band)),
            first,
            band.shape[1],
            len(self._across.starts),
            self._alpha,
            *_pointers(self._across),
            *_pointers(self._down),
            ctypes.byref(view(result)),
            rows.start,
            len(rows),
            threads,
        )
        if failed:
            raise torch.OutOfMemoryError("no memory for a few rows of a picture")
        return result


def _pointers(axis: Taps) -> tuple[int, int, int]:
    return axis.starts.ctypes.data, axis.weights.ctypes.data, axis.count
