"""Our own code for networks of 3×3 convolutions: for CPUs in C++ (`cpu/`), for NVIDIA GPUs in Triton (`cuda/`).

NOTE: this file and `cuda/` import nothing but torch and Triton: benchmarks/gpu_first.py runs where nothing else is.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Layer = tuple[Tensor, Tensor, Tensor | None]
"""Weight (out, in, 3, 3), bias, and slopes for negative results (PReLU), of a convolution; no slopes, no activation."""


@dataclass(frozen=True)
class Layers:
    """A network, in the form that our own code takes."""

    kind: Literal["srvgg", "rrdbnet"]
    convolutions: list[Layer]
    """In the order in which they run."""
    scale: int
    growth: int = 0
    """Channels that each convolution of a dense block adds."""
    unshuffle: int = 1
    """Of an RRDBNet: by what its source is unshuffled."""
    ups: int = 2
    """Of an RRDBNet: how many up-convolutions follow its blocks. One alone may triple the size: `scale` 3."""
    opaque: bool = False
    """Its last input is alpha, 1 everywhere."""

    @property
    def usual(self) -> bool:
        """As Real-ESRGAN's own networks, which is what the kernels for GPUs know."""
        return not self.opaque and (self.kind == "srvgg" or (self.ups, self.scale * self.unshuffle) == (2, 4))
