"""The weights for the diffusion pass on this machine. Used by both halves; needs no torch."""

from dataclasses import dataclass
from typing import Literal

from server.errors import ModelNotFound
from server.weights.catalog import Catalog, DeviceKind, Weights
from server.weights.manifest import Kind

BUNDLED, SDXL, SDXL_CONTROL = "refiner", "sdxl-base", "sdxl-controlnet-tile"

Backend = Literal["bundled", "sdxl"]


@dataclass(frozen=True)
class RefinerWeights:
    base: Weights
    control: Weights | None = None
    """SDXL's ControlNet; None for the bundled network."""


def refiner_weights(catalog: Catalog, wanted: Literal["auto"] | Backend, device: DeviceKind) -> RefinerWeights:
    """`auto`: SDXL on CUDA if both its parts are installed, else the bundled network. Raises ModelNotFound, with the
    command that installs the missing weights."""
    installed = SDXL in catalog.names(Kind.DIFFUSION) and SDXL_CONTROL in catalog.names(Kind.CONTROLNET)
    try:
        if wanted == "sdxl" or (wanted == "auto" and device == "cuda" and installed):
            return RefinerWeights(catalog.find(SDXL), catalog.find(SDXL_CONTROL))
        return RefinerWeights(catalog.find(BUNDLED))
    except ModelNotFound as error:
        raise ModelNotFound(f"pictures can't be refined: {error.message}", field="creativity") from error
