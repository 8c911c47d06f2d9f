"""What the perceptual network is taught to say of a pair.

A network trained with L1 says the median of what might be there, which is soft. `realesr-general-x4v3` (BSD-3-Clause)
learned with a GAN, in days on GPUs, to say something sharp. That follows from the low-resolution picture alone, so no
discriminator is needed to learn it. The mean of what the two say of a damaged picture is nearer to the truth than
either, and a little sharpened nearly as natural as the teacher (benchmarks/LOG.md). On milder pairs, which the teacher
only smooths, the truth takes its place.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.network import Compact

RADIUS, SIGMA = 6, 2.0
"""Of the unsharp mask, in high-resolution pixels: half a source pixel."""


@dataclass(frozen=True)
class Aim:
    start: Compact
    """The fidelity network."""
    teacher: Compact | None
    share: float
    """Of the teacher, 0 … 1; the rest is what the fidelity network says."""
    sharpen: float
    """Times what a blur would take away."""

    @torch.no_grad()
    def __call__(self, lr: Tensor, hr: Tensor, damaged: bool) -> Tensor:
        """N×3×h×w and N×3×4h×4w in [0, 1] → what `lr` is to become, in [0, 1]. `damaged`: it is a second-order pair."""
        guide = self.teacher(lr).clamp(0, 1) if self.teacher is not None and damaged else hr
        mixed = guide if self.share == 1 else torch.lerp(self.start(lr).clamp(0, 1), guide, self.share)
        sharp: Tensor = mixed + self.sharpen * (mixed - blurred(mixed))
        return sharp.clamp(0, 1)


def blurred(image: Tensor) -> Tensor:
    """By a Gaussian of SIGMA; borders are mirrored."""
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (offsets / SIGMA).square())
    kernel = (kernel / kernel.sum()).repeat(image.shape[1], 1, 1, 1)
    padded = functional.pad(image, (RADIUS,) * 4, "reflect")
    rows = functional.conv2d(padded, kernel, groups=image.shape[1])
    return functional.conv2d(rows, kernel.transpose(2, 3), groups=image.shape[1])
