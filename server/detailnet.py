"""The network of the refiner that comes with the server: a small conditional denoiser of the detail that an upscaled
picture lacks.

It needs torch alone, because `training/` uses it on machines that have nothing else.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

UNSHUFFLE = 4
CHANNELS = (64, 128, 256)
BLOCKS = (2, 2, 4)
EMBEDDING = 256
STRIDE = UNSHUFFLE * 2 ** (len(CHANNELS) - 1)
"""Width and height must be multiples of it."""
RESIDUAL_SCALE = 10.0
"""Factor for the difference between the true and the upscaled picture, which makes it about as large as the noise."""
TRAIN_STEPS = 1000


class DetailNet(nn.Module):
    """Predicts the detail from the upscaled picture, a noisy detail and the amount of its noise.

    A U-Net at a quarter of the resolution. It is purely convolutional: normalisation is over the channels of each pixel
    (no group statistics, no attention), so that a tile gives the same as the whole picture, except within the receptive
    radius of the convolutions.
    """

    def __init__(
        self, channels: tuple[int, ...] = CHANNELS, blocks: tuple[int, ...] = BLOCKS, embedding: int = EMBEDDING
    ) -> None:
        super().__init__()
        self.architecture: dict[str, Any] = {
            "class": "DetailNet",
            "channels": list(channels),
            "blocks": list(blocks),
            "embedding": embedding,
        }
        pixels = 3 * UNSHUFFLE**2
        self.embed = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.enter = nn.Conv2d(2 * pixels, channels[0], 3, padding=1)
        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        self.grow = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, (here, below) in enumerate(zip(channels, channels[1:], strict=False)):
            self.down.append(_blocks(blocks[level], here, embedding))
            self.shrink.append(nn.Conv2d(here, below, 2, stride=2))
            self.grow.append(nn.Conv2d(below, 4 * here, 1))
            self.up.append(_blocks(blocks[level], here, embedding))
        self.middle = _blocks(blocks[-1], channels[-1], embedding)
        self.leave = nn.Conv2d(channels[0], pixels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(self, noisy: Tensor, picture: Tensor, step: Tensor) -> Tensor:
        """The detail without its noise.

        `noisy`: N×3×H×W, the residual × RESIDUAL_SCALE with noise as `signal_and_noise` says; `picture`: N×3×H×W in
        [0, 1]; `step`: N in [0, TRAIN_STEPS). H and W are multiples of STRIDE. Returns N×3×H×W, scaled like `noisy`.
        """
        time = self.embed(_sinusoids(step, self.architecture["embedding"]).to(noisy.dtype))
        time = functional.silu(time)
        both = torch.cat([noisy, picture * 2 - 1], dim=1)
        features = self.enter(functional.pixel_unshuffle(both, UNSHUFFLE))
        skips = []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            features = _run(blocks, features, time)
            skips.append(features)
            features = shrink(features)
        features = _run(self.middle, features, time)
        for blocks, grow, skip in zip(reversed(self.up), reversed(self.grow), reversed(skips), strict=True):
            features = functional.pixel_shuffle(grow(features), 2) + skip
            features = _run(blocks, features, time)
        detail: Tensor = functional.pixel_shuffle(self.leave(features), UNSHUFFLE)
        return detail


class Block(nn.Module):
    """Two convolutions with a skip; the amount of noise sets scale and shift between them (arXiv:1709.07871)."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.film(time)[:, :, None, None].chunk(2, dim=1)
        # Over the channels of each pixel, which are the last dimension in channels-last memory.
        normal = self.norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        inner = torch.addcmul(shift, self.first(normal), 1 + scale)
        outer: Tensor = self.second(functional.silu(inner))
        return features + outer


def signal_and_noise(step: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of detail and of noise at a step, squares adding up to one: the cosine schedule (arXiv:2102.09672) as
    `diffusers` has it under "squaredcos_cap_v2" with TRAIN_STEPS steps."""
    at = torch.arange(TRAIN_STEPS + 1, dtype=torch.float64) / TRAIN_STEPS
    bar = torch.cos((at + 0.008) / 1.008 * math.pi / 2) ** 2
    kept = (1 - (1 - bar[1:] / bar[:-1]).clamp(max=0.999)).cumprod(0)[step.cpu().long()]
    shares = kept.sqrt().float(), (1 - kept).sqrt().float()
    return shares[0].to(step.device), shares[1].to(step.device)


def _blocks(count: int, channels: int, embedding: int) -> nn.ModuleList:
    return nn.ModuleList(Block(channels, embedding) for _ in range(count))


def _run(blocks: nn.Module, features: Tensor, time: Tensor) -> Tensor:
    assert isinstance(blocks, nn.ModuleList)
    for block in blocks:
        features = block(features, time)
    return features


def _sinusoids(step: Tensor, width: int) -> Tensor:
    """N → N×width, sines and cosines of periods from 2π to 2π·10,000 steps (arXiv:1706.03762)."""
    rates = torch.exp(torch.arange(width // 2, device=step.device) * (-math.log(10_000) / (width // 2)))
    angles = step.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
