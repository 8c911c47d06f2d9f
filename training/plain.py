"""Pairs of flat colours and soft ramps, in which every wrong level is visible.

A network that is trained on pictures alone sharpens a wide ramp to an edge, and changes flat white by a level near the
borders. The ramps are triangle waves, sines, and single soft steps, of any period, direction, contrast and colour.
"""

import numpy as np
from numpy.typing import NDArray

from training.dataset import HR_SIZE, LR_SIZE, SCALE, Pixels

LUMA = (0.299, 0.587, 0.114)
Floats = NDArray[np.floating]


def pair(rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """(lr, hr)"""
    if rng.random() < 0.4:
        colour = _flat_colour(rng)
        return tuple(_levels(np.broadcast_to(colour, (side, side, 3))) for side in (LR_SIZE, HR_SIZE))  # type: ignore[return-value]
    return ramp(rng)


def ramp(rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """A ramp between two colours; the low-resolution picture is the mean over each of its pixels."""
    angle = rng.integers(4) * np.pi / 2 if rng.random() < 0.5 else rng.uniform(0, 2 * np.pi)
    period = np.exp(rng.uniform(np.log(6), np.log(160))) * SCALE
    phase = rng.uniform(0, 1)
    along = (np.arange(HR_SIZE, dtype=np.float32) + 0.5) / period
    at = along * np.cos(angle) + along[:, None] * np.sin(angle) + phase
    kind = rng.random()
    if kind < 0.6:
        share = np.abs(at % 1 * 2 - 1)
    elif kind < 0.8:
        share = 0.5 - 0.5 * np.cos(2 * np.pi * at)
    else:
        share = np.clip(at - at.mean() + 0.5, 0, 1)  # one step of that width
    a, b = (_end(rng) for _ in range(2))
    if rng.random() < 0.6:  # grey
        a, b = (np.full(3, end[0]) for end in (a, b))
    hr = a + (b - a) * share[..., None]
    return _levels(_reduced(hr)), _levels(hr)


def without_colour(picture: Pixels) -> Pixels:
    """Grey, stored as RGB."""
    luma = np.rint(picture @ np.array(LUMA)).astype(np.uint8)
    return np.repeat(luma[..., None], 3, axis=2)


def _flat_colour(rng: np.random.Generator) -> Floats:
    draw = rng.random()
    if draw < 0.25:
        return np.full(3, 255.0)
    if draw < 0.35:
        return np.zeros(3)
    if draw < 0.55:
        return np.full(3, float(rng.integers(256)))
    if draw < 0.75:
        return rng.integers(2, size=3) * 255.0
    return rng.integers(256, size=3).astype(float)


def _end(rng: np.random.Generator) -> Floats:
    """Black and white are more frequent than other colours."""
    return np.full(3, rng.integers(2) * 255.0) if rng.random() < 0.3 else rng.integers(256, size=3).astype(float)


def _reduced(image: Floats) -> Floats:
    side = len(image) // SCALE
    return np.asarray(image.reshape(side, SCALE, side, SCALE, 3).mean(axis=(1, 3)))


def _levels(image: Floats) -> Pixels:
    return np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)
