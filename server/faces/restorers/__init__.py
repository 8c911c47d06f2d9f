"""The networks that restore aligned faces. To add one: a module as `base.Kind` describes it, and its entry here."""

from typing import cast

import torch

from server.engine.engine import Engine
from server.errors import ModelNotFound
from server.faces.restorers import gfpgan
from server.faces.restorers.base import Kind, Restorer
from server.models.base import StateDict

RESTORERS: tuple[Kind, ...] = (cast(Kind, gfpgan),)

__all__ = ["RESTORERS", "Kind", "Restorer", "load"]


def load(state: StateDict, name: str, engine: Engine, dtype: torch.dtype) -> Restorer:
    """See `Kind.load`. Raises ModelNotFound, also for a checkpoint of no known kind."""
    for kind in RESTORERS:
        if kind.detect(state):
            return kind.load(state, name, engine, dtype)
    known = " or ".join(kind.NAME for kind in RESTORERS)
    raise ModelNotFound(f"{name} is no {known}; {gfpgan.PULL}")
