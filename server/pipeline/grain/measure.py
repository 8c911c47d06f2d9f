"""The grain of a picture, measured where there is little else.

Of small blocks, second differences along both sides at once are taken: these are near 0 for smooth surfaces and for
straight edges, but not for grain. Among blocks of about the same brightness, those with grain alone are found by their
variance: it varies little from block to block, so all that have at most twice the variance of the lowest decile are
taken, and the rest has detail. How much larger differences of pixels further apart are says how coarse the grain is.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.images.read.open import Samples
from server.images.samples import Floats, full_scale, to_floats

_SIDE, _STEP = 12, 8
"""Of a block, in pixels, and from one to the next."""
_MOST_BLOCKS = 16384
_TONES = 16
_FEWEST = 6
"""Blocks of about the same brightness; of fewer nothing is known."""
_DECILE, _FLAT = 10, 2.0
_LEAST = 0.2
"""Share of the blocks of a brightness that must be so; where fewer are, all have detail."""
_SPREAD = 16.0
"""Variances of real grain differ by no more than this between dark and bright parts; more is detail."""
_CLIPPED = 0.02
"""Of the samples of a block: with more at the ends of the range its variance is too small."""
_BLURS = np.linspace(0, 1, 101)
"""What is blurred more is taken for detail."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601."""


@dataclass(frozen=True)
class Grain:
    """White noise becomes such grain if it is blurred, scaled back to a variance of 1, and mixed by brightness."""

    tones: Floats
    """Brightnesses, 0…1, rising."""
    mixes: Floats
    """For each of them colours × colours, lower triangular: the grain of all colours from independent noise."""
    blur: float
    """Standard deviation of a Gaussian in pixels; 0 for grain of single pixels."""


def measure(samples: Samples) -> Grain | None:
    """Of H × W × 1…4 samples, alpha last. None where there is no grain, or too little of the picture to tell."""
    blocks = _blocks(samples)
    if blocks is None:
        return None
    near, far = _variances(_bent(blocks, 1)), _variances(_bent(blocks, 2))
    rounding = _WHITE * np.eye(blocks.shape[3], dtype=np.float32) / 12 / full_scale(samples.dtype) ** 2
    rough = np.trace(near, axis1=1, axis2=2)
    groups = _groups(brightness(blocks.mean(axis=(1, 2))))
    flat = [each for group in groups if len(each := _flattest(group, rough)) >= _LEAST * len(group)]
    if not flat:
        return None
    everywhere = np.concatenate(flat)
    blur = _blur(*(float(np.trace(each[everywhere].mean(axis=0) - rounding)) for each in (near, far)))
    most = _SPREAD * float(np.percentile(rough[everywhere], 25))
    tones, mixes = [], []
    for group in flat:
        found = near[group].mean(axis=0)
        found *= min(1.0, most / max(float(np.trace(found)), 1e-12))
        found -= rounding
        tones.append(float(brightness(blocks[group].mean(axis=(1, 2))).mean()))
        mixes.append(_root(found / _gain(blur, 1)))
    if not np.any(mixes):
        return None
    return Grain(np.array(tones, np.float32), np.array(mixes, np.float32), blur)


def brightness(values: Floats) -> Floats:
    """The last axis, colours, becomes one value."""
    if values.shape[-1] == 1:
        return values[..., 0]
    # Not a matrix product, whose rounding may depend on how many pixels there are.
    luma: Floats = values[..., 0] * _LUMA[0] + values[..., 1] * _LUMA[1] + values[..., 2] * _LUMA[2]
    return luma


def _blocks(samples: Samples) -> Floats | None:
    """count × side × side × colours in 0…1: those that are opaque and not clipped. None of too small a picture."""
    h, w, channels = samples.shape
    if min(h, w) < _SIDE:
        return None
    step = _STEP * max(1, math.ceil(math.sqrt(h * w / _STEP**2 / _MOST_BLOCKS)))
    windows = np.lib.stride_tricks.sliding_window_view(samples, (_SIDE, _SIDE), axis=(0, 1))
    cut = np.moveaxis(windows[::step, ::step], 2, 4).reshape(-1, _SIDE, _SIDE, channels)
    colours, top = cut[..., : 3 if channels >= 3 else 1], full_scale(samples.dtype)
    wanted = ((colours == 0) | (colours == top)).mean(axis=(1, 2, 3)) <= _CLIPPED
    if channels in (2, 4):
        wanted &= (cut[..., -1] == top).all(axis=(1, 2))
    return to_floats(colours[wanted]) if wanted.any() else None


_WHITE = 36
"""The variance of the differences below, for white noise with a variance of 1."""


def _bent(blocks: Floats, distance: int) -> Floats:
    """Second differences along both sides, of pixels so far apart."""
    rows = blocks[:, : -2 * distance] - 2 * blocks[:, distance:-distance] + blocks[:, 2 * distance :]
    both: Floats = rows[:, :, : -2 * distance] - 2 * rows[:, :, distance:-distance] + rows[:, :, 2 * distance :]
    return both


def _variances(values: Floats) -> Floats:
    """count × colours × colours."""
    found: Floats = np.einsum("nijc,nijd->ncd", values, values, optimize=True) / (values.shape[1] * values.shape[2])
    return found


def _gain(blur: Any, distance: int) -> Any:
    """The variance of these differences, for white noise that was blurred and has a variance of 1: its correlation is
    exp(−d² / 4σ²)."""
    near, far = (np.exp(-((distance * each) ** 2) / (4 * np.maximum(blur, 1e-3) ** 2)) for each in (1, 2))
    return (6 - 8 * near + 2 * far) ** 2


def _blur(near: float, far: float) -> float:
    """From the variances at both distances."""
    if near <= 0 or far <= near:
        return 0.0
    return float(np.interp(far / near, _gain(_BLURS, 2) / _gain(_BLURS, 1), _BLURS))


_Numbers = NDArray[np.int64]


def _groups(tones: Floats) -> list[_Numbers]:
    """Numbers of the blocks of each brightness; neighbours with few are joined."""
    order = np.argsort(tones, kind="stable")
    bins = np.minimum((tones[order] * _TONES).astype(int), _TONES - 1)
    found: list[_Numbers] = []
    waiting = order[:0]
    for number in range(_TONES):
        waiting = np.concatenate((waiting, order[bins == number]))
        if len(waiting) >= _FEWEST:
            found.append(waiting)
            waiting = order[:0]
    return found


def _flattest(group: _Numbers, variances: Floats) -> _Numbers:
    own = variances[group]
    flattest: _Numbers = group[own <= _FLAT * np.percentile(own, _DECILE)]
    return flattest


def _root(covariance: Floats) -> Floats:
    """Lower triangular, times its transpose the covariance, without what is below 0."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    lower = np.linalg.qr(root.T)[1].T
    return lower * np.where(np.diag(lower) < 0, -1, 1)
