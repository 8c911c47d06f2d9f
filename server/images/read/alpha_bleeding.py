"""Alpha bleeding: transparent pixels, whose colours are arbitrary in most files, take the colours of visible ones
nearby.

Otherwise the network sees an edge where the picture has none, and its result has a halo there. The method is pull-push
(Gortler et al., The Lumigraph, 1996, section 3.4): means of the visible pixels at half the size, a quarter and so on.
A transparent pixel takes its colour from the finest level that has one there.
"""

import numpy as np
from numpy.typing import NDArray

from server.images.read.open import Samples

_ROWS = 256
"""Rows of the full picture that are converted to floats at a time, to save memory."""

RESAMPLED = 4 / 255
"""A filter with negative lobes makes colours where alpha is nearly 0 the quotient of two small differences."""

_SMALLEST = np.float32(1e-9)

_Floats = NDArray[np.float32]


def bleed_alpha(samples: Samples, most: float = 0.0) -> Samples:
    """`samples`: H × W × channels, alpha last. Returns the same array if no pixel is transparent or all are, else a
    copy with new colours in the transparent pixels: those whose alpha, 0 … 1, is at most `most`. After a resampling
    that is `RESAMPLED`."""
    limit = int(most * np.iinfo(samples.dtype).max)
    visible = samples[..., -1] > limit
    if visible.all() or not visible.any():
        return samples
    parts = range(0, len(samples), _ROWS)
    half = np.concatenate([_half(_weighted(samples[top : top + _ROWS], limit)) for top in parts])
    filled = _filled(half)
    result = samples.copy()
    for top in range(0, len(samples), _ROWS):
        rows = result[top : top + _ROWS]
        hidden = rows[..., -1] <= limit
        source = np.repeat(np.repeat(filled[top // 2 : top // 2 + _ROWS // 2], 2, axis=0), 2, axis=1)
        source = source[: len(rows), : rows.shape[1]]
        rows[..., :-1][hidden] = np.rint(source[hidden]).astype(samples.dtype)
    return result


def _weighted(samples: Samples, limit: int) -> _Floats:
    """Colours times alpha, and alpha in [0, 1]; 0 up to `limit`."""
    floats = samples.astype(np.float32)
    floats[..., -1] *= samples[..., -1] > limit
    floats[..., -1] /= np.iinfo(samples.dtype).max
    floats[..., :-1] *= floats[..., -1:]
    return floats


def _half(weighted: _Floats) -> _Floats:
    """Sums over 2 × 2 pixels."""
    h, w, _ = weighted.shape
    even = np.pad(weighted, ((0, h % 2), (0, w % 2), (0, 0)))
    return even[0::2, 0::2] + even[1::2, 0::2] + even[0::2, 1::2] + even[1::2, 1::2]


def _filled(weighted: _Floats) -> _Floats:
    """Colours for all pixels, each from the finest level that has one there."""
    h, w, _ = weighted.shape
    weight = weighted[..., -1:]
    known = weight[..., 0] > 0
    colours: _Floats = np.divide(weighted[..., :-1], np.maximum(weight, _SMALLEST))
    if not known.all():
        coarse = np.repeat(np.repeat(_filled(_half(weighted)), 2, axis=0), 2, axis=1)[:h, :w]
        colours[~known] = coarse[~known]
    return colours
