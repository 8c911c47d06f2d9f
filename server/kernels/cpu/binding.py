"""The library's functions for Python, and how samples are passed to it."""

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[Any]
"""H × W × C of uint8, uint16 or float32, with any strides."""


@dataclass(frozen=True)
class Kernel:
    """The library, loaded."""

    target: str
    """Instruction set."""
    origin: str
    """When it was compiled: see `build.Library`."""
    library: ctypes.CDLL

    def release(self) -> None:
        """Free the memory that is kept for the next run."""
        self.library.winograd_release()


class View(ctypes.Structure):
    """picture.h's View."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int),
        ("channels", ctypes.c_int),
        ("row", ctypes.c_long),
        ("pixel", ctypes.c_long),
        ("channel", ctypes.c_long),
    )


_TYPES = {np.dtype(np.uint8): 0, np.dtype(np.uint16): 1, np.dtype(np.float32): 2}


def view(samples: Samples) -> View:
    steps = [each // samples.itemsize for each in samples.strides]
    return View(samples.ctypes.data, _TYPES[samples.dtype], samples.shape[2], *steps)


def open_library(path: Path) -> ctypes.CDLL:
    """Raises OSError."""
    found = ctypes.CDLL(str(path))
    pointer, number, picture = ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(View)
    found.winograd_open.argtypes = [number] * 9 + [ctypes.POINTER(pointer)]
    found.winograd_open.restype = pointer
    found.winograd_weights.argtypes = [pointer]
    found.winograd_weights.restype = ctypes.c_size_t
    found.winograd_close.argtypes = [pointer]
    found.winograd_close.restype = None
    found.winograd_begin.argtypes = [pointer, picture, *[number] * 4]
    found.winograd_begin.restype = pointer
    found.winograd_strip.argtypes = [pointer]
    found.winograd_rows.argtypes = [pointer, number, picture, *[number] * 5]
    found.winograd_slice.argtypes = [pointer, ctypes.c_double, picture, *[number] * 5]
    found.winograd_slice.restype = ctypes.c_double
    found.winograd_end.argtypes = [pointer]
    found.winograd_end.restype = None
    found.winograd_bytes.argtypes = [pointer, number, number, number]
    found.winograd_bytes.restype = ctypes.c_size_t
    found.colour_reduce.argtypes = (picture, number, number, number, pointer, number)
    found.colour_correct.argtypes = (picture, picture, *[number] * 3, pointer, number)
    found.winograd_release.argtypes = []
    found.winograd_release.restype = None
    axis = (pointer, pointer, number)
    found.lanczos_rows.argtypes = (picture, number, picture, *[number] * 4, *axis, *axis, picture, *[number] * 3)
    return found
