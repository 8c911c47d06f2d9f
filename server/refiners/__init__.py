"""The diffusion pass's networks: each adds detail to an upscaled picture, and is run by the same sampler."""

import hashlib
from importlib import import_module
from pathlib import Path

import torch

from server.refiners.base import Grid, Refiner
from server.refiners.bundled import refiner as bundled
from server.refiners.sdxl import refiner as sdxl
from server.weights.catalog import verify
from server.weights.refiner import RefinerWeights

__all__ = ["Grid", "Refiner", "load"]


def load(weights: RefinerWeights, device: torch.device, dtype: torch.dtype, cache: Path) -> Refiner:
    """The backend of these weights, verified, on a device. `cache`: a folder for what is slow to compute again. Raises
    ModelNotFound, and Unavailable when SDXL lacks a package."""
    base, control = weights.base, weights.control
    if control is None:
        return bundled.load(base.path, name=base.name, sha256=verify(base), device=device, dtype=dtype)
    # NOTE: here, where one thread loads and others wait for it. While it is imported `diffusers` puts another module in
    # its own place; a thread that imports it meanwhile is left with the first, which is empty.
    import_module("diffusers")
    listing = "".join(f"{verify(each)}  {each.name}\n" for each in (base, control))
    return sdxl.load(
        base.path,
        control.path,
        name=f"{base.name} + {control.name}",
        sha256=hashlib.sha256(listing.encode()).hexdigest(),
        device=device,
        dtype=dtype,
        cache=cache,
    )
