"""Samples of 8 or 16 bits ↔ floats in [0, 1], and from one depth to another."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Floats = NDArray[np.float32]
Depth = type[np.uint8] | type[np.uint16]


def full_scale(dtype: DTypeLike) -> int:
    """The sample that stands for 1."""
    return int(np.iinfo(np.dtype(dtype)).max)


def to_floats(samples: NDArray[Any]) -> Floats:
    values = samples.astype(np.float32)
    values /= full_scale(samples.dtype)
    return values


def from_floats(values: Floats, dtype: DTypeLike) -> NDArray[Any]:
    """Rounded to the nearest sample, halves to even, and clamped. `values` may be changed. Floats are returned as they
    are."""
    if values.dtype == dtype:
        return values
    top = full_scale(dtype)
    np.multiply(values, top, out=values)
    np.rint(values, out=values)
    np.clip(values, 0, top, out=values)
    return values.astype(dtype)


def to_8_bits(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """16 bits rounded to 8; 8 bits as they are."""
    if samples.dtype == np.uint8:
        return samples
    return np.rint(samples / np.float32(257)).astype(np.uint8)
