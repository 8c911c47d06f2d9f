"""The measures of a result: similarity to the ground truth, the visible mesh of source pixels, colour drift, detail,
and naturalness. Pictures are H × W × 3 of uint8; colours are JPEG's YCbCr.
"""

import warnings
from contextlib import suppress

import cv2
import numpy as np
import piq  # type: ignore[import-untyped]
from numpy.typing import NDArray

import server.models.basicsr_shim  # noqa: F401 - before basicsr
from training.dataset import SCALE, Pixels, to_tensor

from basicsr.metrics.niqe import calculate_niqe  # isort: skip

BORDER = 4
"""Pixels at each side that are left out of comparisons with the ground truth, as in papers."""
DRIFT_SIGMA = 8.0
"""Result pixels: wider structures are colour, not detail."""
MOST_DB = 100.0
NIQE_LEAST = 384
"""Four of its blocks of 96 in each direction: fewer give random statistics."""

Floats = NDArray[np.float64]
CHANNELS = ("y", "cb", "cr")
_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def ycc(pixels: Pixels) -> Floats:
    """Y, Cb, Cr in levels, 0 … 255, not rounded; Cb and Cr are 0 for grey."""
    return np.asarray(pixels.astype(np.float64) @ _YCC.T)


def psnr(pixels: Pixels, truth: Pixels) -> dict[str, float]:
    """In dB: `psnr_y`, `psnr_cb`, `psnr_cr` and `psnr_rgb`, without the border; at most 100."""
    inner = slice(BORDER, -BORDER)
    squares = (ycc(pixels) - ycc(truth))[inner, inner] ** 2
    found = {f"psnr_{name}": _db(float(squares[..., k].mean())) for k, name in enumerate(CHANNELS)}
    error = (pixels.astype(np.float64) - truth)[inner, inner]
    return found | {"psnr_rgb": _db(float(np.mean(error**2)))}


def _db(squared: float) -> float:
    return min(MOST_DB, float(10 * np.log10(255**2 / max(squared, 1e-9))))


def mesh(pixels: Pixels, scale: int = SCALE) -> dict[str, float | None]:
    """`mesh_y`, `mesh_cb`, `mesh_cr`: the mean step between neighbours at the borders of source pixels by that of all
    other steps, the mean of both directions. A smooth enlargement has about 1, repeated pixels much more. None of a
    channel that has next to no steps."""
    found: dict[str, float | None] = {}
    planes = ycc(pixels)
    for k, name in enumerate(CHANNELS):
        ratios = []
        for plane in (planes[..., k], planes[..., k].T):
            steps = np.abs(np.diff(plane, axis=1)).mean(axis=0)
            at_border = np.arange(1, len(steps) + 1) % scale == 0
            others = float(steps[~at_border].mean())
            if others > 0.02:
                ratios.append(float(steps[at_border].mean()) / others)
            elif steps[at_border].mean() > 0.02:
                ratios.append(float(steps[at_border].mean()) / 0.02)
        found[f"mesh_{name}"] = float(np.mean(ratios)) if ratios else None
    return found


def drift(pixels: Pixels, enlarged: Pixels) -> dict[str, float]:
    """Against the source enlarged by a resampler, in levels of 255. `drift`: by how much the mean of a channel moved,
    the mean over red, green and blue. `drift_local`: the 99th percentile of what is left of the difference after a
    Gaussian of DRIFT_SIGMA, over all pixels and channels: blotches."""
    difference = pixels.astype(np.float32) - enlarged
    wide = cv2.GaussianBlur(difference, (0, 0), DRIFT_SIGMA, borderType=cv2.BORDER_REFLECT)
    mean = np.abs(difference.mean(axis=(0, 1), dtype=np.float64)).mean()
    return {"drift": float(mean), "drift_local": float(np.percentile(np.abs(wide), 99))}


def fine(detail: NDArray[np.floating] | Pixels, scale: int = SCALE) -> float:
    """RMS of the detail finer than the source's pixels, in levels."""
    h, w = (side - side % scale for side in detail.shape[:2])
    whole = detail[:h, :w].astype(np.float64)
    coarse = whole.reshape(h // scale, scale, w // scale, scale, -1).mean(axis=(1, 3))
    return rms(whole, coarse.repeat(scale, axis=0).repeat(scale, axis=1))


def rms(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """RMS of their difference, in levels."""
    return float(np.sqrt(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)))


def haarpsi(pixels: Pixels, truth: Pixels) -> float | None:
    """HaarPSI, 0 … 1, closer to human judgement than PSNR; None for pictures that are too small."""
    if min(pixels.shape[:2]) < 16:
        return None
    return float(piq.haarpsi(to_tensor(np.ascontiguousarray(pixels)[None]), to_tensor(truth[None])))


def niqe(pixels: Pixels) -> float | None:
    """NIQE: lower is more natural; needs no ground truth. None for pictures that are too small or too flat."""
    if min(pixels.shape[:2]) < NIQE_LEAST:
        return None
    with warnings.catch_warnings(), suppress(np.linalg.LinAlgError):
        warnings.simplefilter("ignore", RuntimeWarning)
        found = float(calculate_niqe(np.ascontiguousarray(pixels[..., ::-1]), 0))  # it needs BGR
        return found if np.isfinite(found) else None
    return None


def monotone_share(rows: list[list[float]]) -> float:
    """Share of the lists whose every value is more than the one before."""
    if not rows:
        return 0.0
    return float(np.mean([all(b > a for a, b in zip(row, row[1:], strict=False)) for row in rows]))
