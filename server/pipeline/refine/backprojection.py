"""Corrects a result until it reduces to its source: the difference is enlarged and added (Irani and Peleg 1991).

It works on any rectangle of the result, so that a large result need not exist as a whole.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from server.job.tiling import Size

_ROUNDS = 3


@dataclass(frozen=True)
class BackProjection:
    source: Tensor
    """1 × 3 × h × w in 0…1: what the result must reduce to."""
    result: Size
    """(width, height) of the whole result; neither side smaller than the source's."""
    border: Size = (0, 0)
    """Pixels of the source left and right, and above and below, beyond what is the same in both."""
    result_border: Size = (0, 0)
    """Likewise of the result, which shows no more than the source."""
    most: float = math.inf
    """No sample of the result is above it. Where equal steps of the signal are many times the light, as in PQ, a small
    excess would be a spark."""

    def __call__(self, region: Tensor, top: int, left: int, share: float) -> Tensor:
        """The rectangle of the result whose corner is (`top`, `left`), 1 × 3 × H × W, corrected. `share` is how much of
        the error is corrected, 0…1. Within two source pixels of the rectangle's inner borders it is less exact."""
        h, w = region.shape[2:]
        rows, columns = (
            _Axis.of(
                (self.source.shape[3 - side], self.border[side]),
                (self.result[side], self.result_border[side]),
                part,
                region.device,
            )
            for side, part in ((1, (top, top + h)), (0, (left, left + w)))
        )
        wanted = self.source[..., rows.first : rows.last, columns.first : columns.last].to(region.device)
        for _ in range(_ROUNDS):
            error = wanted - rows.reduce @ region @ columns.reduce.T
            region = torch.add(region, rows.enlarge @ error @ columns.enlarge.T, alpha=share)
            region = region.clamp(max=self.most) if math.isfinite(self.most) else region
        return region


@dataclass(frozen=True)
class _Axis:
    """Source pixels from `first` to before `last`: those that are for the larger part in the rectangle, along one
    side."""

    first: int
    last: int
    reduce: Tensor
    """(source pixels) × (result pixels): antialiased bicubic reduction."""
    enlarge: Tensor
    """(result pixels) × (source pixels): bicubic enlargement."""

    @classmethod
    def of(
        cls, source: tuple[int, int], result: tuple[int, int], part: tuple[int, int], device: torch.device
    ) -> "_Axis":
        """`source` and `result`: length and border."""
        (length, border), (result_length, result_border) = source, result
        scale = (result_length - 2 * result_border) / (length - 2 * border)
        begin = result_border - border * scale  # where the source begins, in pixels of the result
        first = min(max(0, math.ceil((part[0] - begin) / scale - 0.5)), length - 1)
        last = max(first + 1, min(length, math.floor((part[1] - begin) / scale + 0.5)))
        small = begin + (torch.arange(first, last, device=device) + 0.5) * scale
        large = torch.arange(part[0], part[1], device=device) + 0.5
        weights = _cubic((large - small[:, None]) / scale)
        return cls(first, last, _normalised(weights), _normalised(weights.T))


def _cubic(distance: Tensor) -> Tensor:
    """Keys' kernel with a = −1/2, as Pillow and torch use it for antialiased reduction."""
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _normalised(weights: Tensor) -> Tensor:
    total: Tensor = weights.sum(dim=1, keepdim=True)
    return weights / total
