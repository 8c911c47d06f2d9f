"""What a step reads and writes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from server.engine import Engine
from server.job import Params
from server.models.base import Model
from server.picture import Samples
from server.plan import Plan


def _nothing() -> None:
    pass


@dataclass
class Context:
    """One run of the pipeline: what is wanted, what is at hand, and the picture on its way."""

    params: Params
    data: bytes
    """The encoded source."""
    engine: Engine
    load: Callable[[str], Model]
    """The model of that name, from the process's cache."""
    max_source_pixels: int
    max_result_pixels: int
    tile: int = 0
    """Tile side in source pixels; 0 is the model's own."""
    check: Callable[[], None] = _nothing
    """Called between steps and after every tile. Raises when the job must stop: cancelled, or no longer ours."""

    samples: Samples = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))
    """The picture, orientation applied, alpha last. Empty before decode. May be 16-bit on the way although the source
    is not, so that nothing is rounded twice; see `deep`."""
    deep: bool = False
    """The source has 16 bits per sample; filled by decode."""
    icc: bytes | None = None
    """The source's colour profile, if its colours are still in it; filled by decode."""
    model: Model | None = None
    """Filled by plan when a network runs, else None."""
    plan: Plan | None = None
    """Filled by plan."""
    tiles_done: int = 0
    tiles: int = 0
    """Tiles done and tiles in all, over all passes and planes: progress. Filled by upscale."""
    result: bytes = b""
    """The encoded result; filled by encode."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by step."""

    @property
    def progress(self) -> float:
        """0 … 1. The network is nearly all of the work; what follows it has no measure."""
        return self.tiles_done / self.tiles if self.tiles else 0.0


class Step(Protocol):
    """One module of this folder. A step with nothing to do returns on its first line."""

    def run(self, ctx: Context) -> None: ...
