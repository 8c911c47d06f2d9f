"""What a refiner is: a diffusion model that the tiled sampler (`server/pipeline/refine/step.py`) can run."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from server.job.creativity import Recipe


@dataclass(frozen=True)
class Grid:
    """How a refiner wants its canvas cut. All in pixels of the result."""

    tile: int
    """Side of a tile, halo included."""
    halo: int
    """What neighbouring tiles share at least, on each side; they are mixed over it."""
    multiple: int
    """Sides of tiles and their places must be multiples of it, and so must the canvas's."""


class Refiner(Protocol):
    """One backend: a module of this folder has a class of this shape and a `load` that makes it.

    The canvas it works on is its own: `latent` tensors are N × channels × H / downscale × W / downscale. All tensors
    are float32 on `device` outside of a refiner, whatever it computes in.
    """

    name: str
    sha256: str | None
    grid: Grid
    channels: int
    """Of a latent."""
    downscale: int
    """Pixels along a side of what one sample of a latent stands for."""
    work: float
    """Multiplications for a pixel of the result in one step, about."""

    def scheduler(self, recipe: Recipe) -> tuple[Any, Tensor]:
        """A fresh scheduler of `diffusers`, and the steps to run of it, from the noisiest to the cleanest:
        as many as the recipe says, the first at its strength of the noise. Each run has its own: they keep state."""

    def encode(self, picture: Tensor) -> Tensor:
        """1 × 3 × H × W in 0…1 → the clean latent that a run starts from."""

    def denoise(self, noisy: Tensor, picture: Tensor, step: Tensor, recipe: Recipe) -> Tensor:
        """What the scheduler's `step` wants, for a batch of tiles: `noisy` latents, scaled as the scheduler scales its
        inputs, and what the upscaled picture has in the same place, N × 3 × H × W in 0…1. `step` is one number."""

    def decode(self, latent: Tensor, picture: Tensor) -> Tensor:
        """The refined picture, 1 × 3 × H × W in about 0…1. `picture` is what `encode` was given."""
