"""The training data: pairs of low and high resolution, and the shares of the kinds of pairs.

All modules that make or use pairs import this one, on a GPU machine too: it needs only numpy and torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

SCALE = 4
HR_SIZE = 256
LR_SIZE = HR_SIZE // SCALE

Pixels = NDArray[np.uint8]
"""H×W×3 RGB."""


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of degradation; the rest is second-order. A network that is trained on second-order
    degradation alone smooths good pictures; the clean share keeps it sharp."""

    clean: float
    light: float
    recompressed: float = 0.0
    screenshot: float = 0.0
    synthetic: float = 0.0
    """Share of synthetic high-resolution pictures (`synthetic.py`)."""
    plain: float = 0.0
    """Share of pairs of flat colours and ramps (`plain.py`)."""
    grey: float = 0.0
    """Share of the others that are converted to grey."""

    def __post_init__(self) -> None:
        shares = (self.clean, self.light, self.recompressed, self.screenshot)
        others = (self.synthetic, self.plain, self.grey)
        if min(*shares, *others) < 0 or sum(shares) > 1 or max(others) > 1:
            raise SystemExit(f"{self}: shares must not be negative, and their sum must not be more than 1")


Teacher = Callable[[torch.Tensor, torch.Tensor, bool], torch.Tensor]
"""N×3×h×w and the ground truth N×3×4h×4w in [0, 1], whether the degradation is second-order → distillation target."""


class Batch(NamedTuple):
    """float32 NCHW in [0, 1], RGB; `hr` and `target` have four times the size of `lr`.

    `target`: the teacher's distillation target; `hr` without a teacher.
    """

    lr: torch.Tensor
    hr: torch.Tensor
    target: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device, memory_format=torch.channels_last) for tensor in self))


def to_tensor(pixels: Pixels) -> torch.Tensor:
    """N×H×W×3 uint8 → float NCHW (channels-last in memory) in [0, 1]."""
    return torch.tensor(pixels).permute(0, 3, 1, 2).float().div_(255)


def to_pixels(image: torch.Tensor) -> Pixels:
    """The inverse: NCHW in about [0, 1] → N×H×W×3 uint8, rounded."""
    levels = image.detach().clamp(0, 1).mul(255).round().byte()
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).cpu().numpy())
