"""What the trainers learn from: low- and high-resolution partners, and how they are mixed.

Everything that makes or meets pairs imports this file, the GPU's half of the training too, so it needs only torch.
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
    """Shares of the kinds of damage, the rest being second-order; and how many targets are drawn instead of taken from
    pictures. A network that only ever saw second-order damage smooths good pictures; the clean share keeps it sharp."""

    clean: float
    light: float
    recompressed: float = 0.0
    screenshot: float = 0.0
    drawn: float = 0.0
    plain: float = 0.0
    """Share of pairs with next to nothing in them: flat colours and ramps (`plain.py`)."""
    grey: float = 0.0
    """Share of the others that lose their colour."""

    def __post_init__(self) -> None:
        shares = (self.clean, self.light, self.recompressed, self.screenshot)
        others = (self.drawn, self.plain, self.grey)
        if min(*shares, *others) < 0 or sum(shares) > 1 or max(others) > 1:
            raise SystemExit(f"{self}: shares must not be negative, nor be more than 1 together")


Teacher = Callable[[torch.Tensor, torch.Tensor, bool], torch.Tensor]
"""N×3×h×w and the truth N×3×4h×4w in [0, 1], whether the damage is of the second-order kind → what it shall become."""


class Batch(NamedTuple):
    """float32 NCHW in [0, 1], RGB; `hr` and `taught` four times the size of `lr`.

    `taught` is what a teacher makes of the pair, `hr` where there is none.
    """

    lr: torch.Tensor
    hr: torch.Tensor
    taught: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device, memory_format=torch.channels_last) for tensor in self))


def to_tensor(pixels: Pixels) -> torch.Tensor:
    """N×H×W×3 uint8 → float NCHW (channels-last in memory) in [0, 1]."""
    return torch.tensor(pixels).permute(0, 3, 1, 2).float().div_(255)


def to_pixels(image: torch.Tensor) -> Pixels:
    """The way back: NCHW in about [0, 1] → N×H×W×3 uint8, rounded."""
    levels = image.detach().clamp(0, 1).mul(255).round().byte()
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).cpu().numpy())
