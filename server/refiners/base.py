"""What a refiner is: a diffusion model that the tiled sampler (`server/pipeline/refine/sampler.py`) can run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from server.weights.refiner import RefinerWeights


@dataclass(frozen=True)
class Grid:
    """How a refiner wants a picture cut into tiles. All in pixels of the result."""

    tile: int
    """Side of a tile, halo included."""
    halo: int
    """Neighbouring tiles share at least twice this; they are blended over it."""
    multiple: int
    """The sides and positions of tiles must be multiples of this, and so must the picture's sides."""


class Refiner(Protocol):
    """A loaded refiner.

    `latent` tensors are N × channels × H / downscale × W / downscale. All tensors are float32 on the refiner's device,
    whatever precision it computes in. `settings` are what its own `settings` returns.
    """

    name: str
    sha256: str | None
    grid: Grid
    channels: int
    """Of a latent."""
    downscale: int
    """Pixels along the side of one sample of a latent."""
    work: float
    """Multiplications for one pixel of the result in one step, about."""

    def settings(self, creativity: float) -> Any:
        """What a creativity, more than 0 and at most 2, means for this refiner."""

    def scheduler(self, settings: Any) -> tuple[Any, Tensor]:
        """A new scheduler, as those of `diffusers`, and the steps of it to run, from the noisiest to the cleanest: as
        many as the settings say, the first at their strength of noise. Each run needs its own, because they keep
        state."""

    def encode(self, picture: Tensor) -> Tensor:
        """1 × 3 × H × W in [0, 1] → the clean latent that a run starts from."""

    def denoise(self, noisy: Tensor, picture: Tensor, step: Tensor, settings: Any) -> Tensor:
        """What the scheduler's `step` needs, for a batch of tiles: `noisy` latents, scaled as the scheduler scales its
        inputs, and the upscaled picture in the same place, N × 3 × H × W in [0, 1]. `step` is one number."""

    def decode(self, latent: Tensor, picture: Tensor) -> Tensor:
        """The refined picture, 1 × 3 × H × W in about [0, 1]. `picture` is what `encode` was given."""


class Package(Protocol):
    """A package of this folder: one kind of refiner."""

    PREFIX: str
    """Before the names of its settings, where those of all refiners are listed together."""

    def settings(self, creativity: float) -> Any:
        """Its table: a dataclass of numbers for a creativity in -2 … 2."""

    def takes(self, weights: RefinerWeights) -> bool:
        """Whether these are weights of this kind."""

    def load(self, weights: RefinerWeights, device: torch.device, dtype: torch.dtype, cache: Path) -> Refiner:
        """Raises ModelNotFound, and Unavailable where a package is missing."""
