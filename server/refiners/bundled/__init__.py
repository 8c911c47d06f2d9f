"""The refiner that comes with the server."""

from pathlib import Path

import torch

from server.refiners.base import Refiner
from server.refiners.bundled import refiner
from server.refiners.bundled.settings import settings
from server.weights.catalog import verify
from server.weights.refiner import RefinerWeights

PREFIX = ""

__all__ = ["PREFIX", "load", "settings", "takes"]


def takes(weights: RefinerWeights) -> bool:
    return weights.control is None


def load(weights: RefinerWeights, device: torch.device, dtype: torch.dtype, cache: Path) -> Refiner:
    base = weights.base
    return refiner.load(base.path, name=base.name, sha256=verify(base), device=device, dtype=dtype)
