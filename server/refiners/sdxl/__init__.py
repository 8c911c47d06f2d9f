"""Stable Diffusion XL with a tile ControlNet."""

import hashlib
from importlib import import_module
from pathlib import Path

import torch

from server.errors import Unavailable
from server.refiners.base import Refiner
from server.refiners.sdxl import refiner
from server.refiners.sdxl.settings import settings
from server.weights.catalog import verify
from server.weights.refiner import RefinerWeights

PREFIX = "sdxl_"

__all__ = ["PREFIX", "load", "settings", "takes"]


def takes(weights: RefinerWeights) -> bool:
    return weights.control is not None


def load(weights: RefinerWeights, device: torch.device, dtype: torch.dtype, cache: Path) -> Refiner:
    base, control = weights.base, weights.control
    assert control is not None
    # NOTE: import it here, where one thread loads and others wait. During its import `diffusers` replaces itself in
    # sys.modules; a thread that imports it meanwhile keeps the first module, which is empty.
    try:
        import_module("diffusers")
    except ModuleNotFoundError as error:
        raise Unavailable("SDXL needs the package diffusers: pip install 'upscale-server[sdxl]'") from error
    listing = "".join(f"{verify(each)}  {each.name}\n" for each in (base, control))
    return refiner.load(
        base.path,
        control.path,
        name=f"{base.name} + {control.name}",
        sha256=hashlib.sha256(listing.encode()).hexdigest(),
        device=device,
        dtype=dtype,
        cache=cache,
    )
