"""What a backend offers: one way to run networks over tiles on a device."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from server.images.read.open import Samples
from server.models.base import Model

OnTile = Callable[[], None] | None
"""Called after each tile, or step of a row pass. May raise, which ends the run."""
OnSlice = Callable[[float | None], None] | None
"""Called between the time slices of a tile, with the share of the tile that is done, or with None while the job waits
until tiles of others have ended. May raise, which ends the run."""


@dataclass(frozen=True)
class Tile:
    """A piece of a picture, and which part of its result is kept."""

    model: Model
    samples: Samples
    rows: slice
    """The kept rows of the result."""
    columns: slice
    """The kept columns of the result."""
    dtype: np.dtype[Any]
    """Of the result."""
    exact: bool = False
    """Compute in fp32, whatever the model's own precision."""

    @property
    def pixels(self) -> int:
        return int(self.samples.shape[0] * self.samples.shape[1])


class Backend(Protocol):
    """One module of this folder has a class of this shape, made with the engine's `Runtime`. For any thread."""

    def runs(self, model: Model) -> bool:
        """Whether this backend runs the model, which depends on how it was loaded."""

    def tile_pixels(self, model: Model) -> int:
        """Source pixels of the largest tile for which memory is set aside."""

    def row_pass_width(self, model: Model) -> int:
        """Source pixels of the widest picture that can be computed without tiles; 0 for none."""

    def row_pass(
        self, model: Model, samples: Samples, dtype: np.dtype[Any], on_tile: OnTile
    ) -> Iterator[NDArray[Any]] | None:
        """All rows of the result from top to bottom, without tiles; None where memory for that is lacking. The sides of
        `samples` are multiples of what the model needs. The iterator raises OutOfMemory."""

    def results(
        self, tiles: Iterator[Tile], on_slice: OnSlice
    ) -> Generator[tuple[Tile, NDArray[Any] | None], None, None]:
        """Each tile with the kept part of its result, in order; None for a tile that does not fit into memory. The tile
        that is returned with None may be `exact` where the given one is not."""

    def forget(self, model: Model) -> None:
        """The model is no longer kept: drop what was made for it. Called in the device's thread."""

    def release(self) -> None:
        """Give back all memory that is only kept to be used again. Called in the device's thread."""

    def counters(self) -> dict[str, float]:
        """Numbers for `Engine.counters`."""
