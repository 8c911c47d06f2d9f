"""What a face restorer is, and what a module of this folder must have."""

from typing import Protocol

import torch

from server.engine.engine import Engine
from server.images.read.open import Samples
from server.images.samples import Floats
from server.models.base import StateDict


class Restorer(Protocol):
    """A loaded network, for any thread."""

    @property
    def batch(self) -> int:
        """How many faces to pass at once."""

    def __call__(self, crops: list[Samples]) -> list[Floats]:
        """Aligned faces, SIDE × SIDE × 3 of 8 or 16 bits, → the same faces restored, RGB in [0, 1]. Raises
        OutOfMemory."""


class Kind(Protocol):
    """One module of this folder."""

    NAME: str

    def detect(self, state: StateDict) -> bool:
        """Whether this state dict is of this kind, also in a form that `load` refuses."""

    def load(self, state: StateDict, name: str, engine: Engine, dtype: torch.dtype) -> Restorer:
        """`name`: of the checkpoint, for errors. `engine`: runs the network. `dtype`: the precision to multiply in.
        Raises ModelNotFound."""
