"""Which weights restore faces on this machine. Asked by both halves: no torch in here."""

from dataclasses import dataclass

from server.errors import ModelNotFound
from server.weights.catalog import Catalog, Weights
from server.weights.manifest import Kind

_RESTORER, _DETECTOR = "GFPGANv1.4", "retinaface-resnet50"
"""What is asked for where there is none."""


@dataclass(frozen=True)
class FaceWeights:
    restorer: Weights
    detector: Weights
    parser: Weights | None
    """Without it faces are pasted through a soft square instead of along their outlines."""


def face_weights(catalog: Catalog) -> FaceWeights:
    """The first of each kind in the manifest that is here. Raises ModelNotFound, naming what installs them."""
    parsers = catalog.names(Kind.FACE_PARSER)
    try:
        return FaceWeights(
            _first(catalog, Kind.FACE_RESTORER, _RESTORER),
            _first(catalog, Kind.FACE_DETECTOR, _DETECTOR),
            catalog.find(parsers[0]) if parsers else None,
        )
    except ModelNotFound as error:
        raise ModelNotFound(f"faces can't be restored: {error.message}", field="faces") from error


def _first(catalog: Catalog, kind: Kind, otherwise: str) -> Weights:
    present = catalog.names(kind)
    return catalog.find(present[0] if present else otherwise)
