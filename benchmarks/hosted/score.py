"""How good a result is: PSNR and HaarPSI to a reference where there is one, and NIQE, which knows no truth.

Services give different sizes, and every one of these figures depends on the size. Results of a picture are therefore
brought to one: the reference's, or else the smallest result's (Pillow's Lanczos). PSNR is of all of it, RGB, 4 pixels
of border left out; HaarPSI of its middle, at most 2048 × 2048; NIQE of its middle, at most 1024 × 1024. A result whose
shape is not the picture's (by more than one in a hundred) has none.
"""

import statistics
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import server.models.basicsr_shim  # noqa: F401 - before basicsr
from benchmarks.hosted.picture import brought_to, rgb, same_shape
from training.dataset import to_tensor

from basicsr.metrics.niqe import calculate_niqe  # isort: skip
from basicsr.metrics.psnr_ssim import calculate_psnr  # isort: skip

BORDER = 4
HAARPSI_SIDE = 2048
NIQE_SIDE = 1024
NIQE_LEAST = 384
"""Four of its blocks of 96 each way: of fewer its statistics are chance."""


def common_size(results: list[Image.Image], reference: Image.Image | None) -> tuple[int, int]:
    if reference is not None:
        return reference.size
    return min((each.size for each in results), key=lambda size: size[0] * size[1])


def score(result: Image.Image, size: tuple[int, int], reference: Image.Image | None) -> dict[str, float | None]:
    """psnr in dB, haarpsi 0…1, niqe (lower looks more natural); None where there is none. `size` is the common one."""
    figures: dict[str, float | None] = {"psnr": None, "haarpsi": None, "niqe": None}
    if not same_shape(result.size, size):
        return figures
    pixels = np.asarray(brought_to(result, size))
    if reference is not None and min(size) > 2 * BORDER:
        truth = np.asarray(reference)
        figures["psnr"] = float(min(calculate_psnr(pixels, truth, BORDER), 100.0))  # equal pictures: not infinity
        left, right = (to_tensor(_middle(each, HAARPSI_SIDE)[None]) for each in (pixels, truth))
        if min(left.shape[2:]) >= 16:
            import piq  # type: ignore[import-untyped]  # takes seconds: it imports all of torchvision

            figures["haarpsi"] = float(piq.haarpsi(left, right).item())
    if min(size) >= NIQE_LEAST:
        figures["niqe"] = _niqe(_middle(pixels, NIQE_SIDE))
    return figures


def _niqe(pixels: Any) -> float | None:
    """None of what is too flat for its statistics."""
    with warnings.catch_warnings(), suppress(np.linalg.LinAlgError):
        warnings.simplefilter("ignore", RuntimeWarning)
        found = float(calculate_niqe(pixels[..., ::-1], 0))  # it wants BGR
        return found if np.isfinite(found) else None
    return None


def score_files(paths: list[Path], size: tuple[int, int], reference: Image.Image | None) -> dict[str, float | None]:
    """Of several results for the same picture: the medians. What can't be decoded after all counts for nothing."""
    rows = []
    for path in paths:
        with suppress(OSError, ValueError):
            rows.append(score(rgb(path.read_bytes()), size, reference))
    known = {name: [value for row in rows if (value := row[name]) is not None] for name in ("psnr", "haarpsi", "niqe")}
    return {name: statistics.median(values) if values else None for name, values in known.items()}


def _middle(pixels: Any, side: int) -> Any:
    h, w = (min(side, length) for length in pixels.shape[:2])
    top, left = (pixels.shape[0] - h) // 2, (pixels.shape[1] - w) // 2
    return np.ascontiguousarray(pixels[top : top + h, left : left + w])
