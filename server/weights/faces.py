"""The weights for face restoration on this machine. Used by both halves; needs no torch."""

from dataclasses import dataclass

from server.errors import ModelNotFound
from server.weights.catalog import Catalog, Weights
from server.weights.manifest import Kind

_RESTORER, _DETECTOR = "GFPGANv1.4", "retinaface-resnet50"
"""The weights that an error names if none are installed."""


@dataclass(frozen=True)
class FaceWeights:
    restorer: Weights
    detector: Weights
    parser: Weights | None
    """None: faces are pasted with a soft square mask instead of their outline."""


def face_weights(catalog: Catalog) -> FaceWeights:
    """The first installed weights of each kind, in the manifest's order. Raises ModelNotFound, with the command that
    installs them."""
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
