"""The networks of the diffusion pass: each adds detail to an upscaled picture, and the same sampler runs them.

To add one: a package that has what `base.Package` describes, and its line in REFINERS.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from server.job.creativity import recipe
from server.refiners import bundled, sdxl
from server.refiners.base import Grid, Package, Refiner
from server.weights.refiner import RefinerWeights

REFINERS: tuple[Package, ...] = (bundled, sdxl)

__all__ = ["REFINERS", "Grid", "Package", "Refiner", "load", "whole_recipe"]


def load(weights: RefinerWeights, device: torch.device, dtype: torch.dtype, cache: Path) -> Refiner:
    """The refiner of these weights, verified, on a device. `cache`: a folder for what is slow to compute again. Raises
    ModelNotFound, and Unavailable when SDXL lacks a package."""
    package = next(each for each in REFINERS if each.takes(weights))
    return package.load(weights, device, dtype, cache)


def whole_recipe(creativity: float) -> dict[str, Any]:
    """What a creativity means, for all refiners, as the results of jobs list it."""
    values = recipe(creativity).to_dict()
    for package in REFINERS:
        values |= {f"{package.PREFIX}{name}": value for name, value in asdict(package.settings(creativity)).items()}
    return values
