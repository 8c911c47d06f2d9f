"""JPEG compression in torch: libjpeg's lossy steps, without a file.

ITU-T T.81 (1992), annexes A and K, as libjpeg-turbo takes them: quality scales the example tables, chroma is averaged
by 2×2 and enlarged with a triangle filter. The discrete cosine transform uses floats, libjpeg's uses integers, so
results differ by a fraction of a level on average.
"""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

# fmt: off
_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *(99,) * 32,
)
# fmt: on


def jpeg(image: Tensor, quality: Tensor, *, halve_chroma: bool) -> Tensor:
    """N×3×H×W RGB, 0 … 255, any size → the same after JPEG with each picture's quality (N, 1 … 100); whole levels.

    `halve_chroma` is 4:2:0, else 4:4:4.
    """
    h, w = image.shape[2:]
    side = 16 if halve_chroma else 8
    padded = functional.pad(image.clamp(0, 255).round(), (0, -w % side, 0, -h % side), "replicate")
    luma, blue, red = _to_ycc(padded).round().unbind(1)
    quality = quality.to(image.device)
    luma = _through_blocks(luma, _table(_LUMA, quality))
    chroma = torch.stack([blue, red], 1)
    if halve_chroma:
        chroma = functional.avg_pool2d(chroma, 2).round()
    coarse = _table(_CHROMA, quality)
    chroma = torch.stack([_through_blocks(plane, coarse) for plane in chroma.unbind(1)], 1)
    if halve_chroma:
        chroma = functional.interpolate(chroma, scale_factor=2, mode="bilinear").round()
    blue, red = chroma.unbind(1)
    return _to_rgb(luma, blue, red)[..., :h, :w].round().clamp(0, 255)


def _to_ycc(image: Tensor) -> Tensor:
    """As JFIF has it: full range, chroma around 128."""
    red, green, blue = image.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.stack([luma, 128 + (blue - luma) / 1.772, 128 + (red - luma) / 1.402], 1)


def _to_rgb(luma: Tensor, blue: Tensor, red: Tensor) -> Tensor:
    blue, red = blue - 128, red - 128
    green = luma - (0.114 * 1.772 * blue + 0.299 * 1.402 * red) / 0.587
    return torch.stack([luma + 1.402 * red, green, luma + 1.772 * blue], 1)


def _table(base: tuple[int, ...], quality: Tensor) -> Tensor:
    """N×1×1×8×8 quantisation steps."""
    quality = quality.clamp(1, 100)
    scale = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)[:, None]
    steps = ((torch.tensor(base, device=quality.device) * scale + 50) // 100).clamp(1, 255)
    return steps.reshape(-1, 1, 1, 8, 8).float()


def _through_blocks(plane: Tensor, table: Tensor) -> Tensor:
    """N×H×W, sides multiples of 8, through transform, quantisation and back."""
    n, h, w = plane.shape
    cosines = _cosines().to(plane.device)
    blocks = plane.reshape(n, h // 8, 8, w // 8, 8).transpose(2, 3) - 128
    quantised = (cosines @ blocks @ cosines.T / table).round() * table
    blocks = cosines.T @ quantised @ cosines + 128
    return blocks.transpose(2, 3).reshape(n, h, w).round().clamp(0, 255)


@cache
def _cosines() -> Tensor:
    """8×8, orthonormal."""
    k = torch.arange(8.0)
    rows = (math.pi / 8 * k[:, None] * (k + 0.5)).cos() / 2
    rows[0] /= math.sqrt(2)
    return rows
