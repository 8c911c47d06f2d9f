"""Networks in batches of equal tiles, on any device: in torch (`eager.py`) or on our own kernels (`fused.py`).

Tiles of all jobs share batches. A job is a few tiles ahead of what it waits for, so that the device need not wait, and
no more, so that it holds little memory. When memory runs out, the batch is halved; when a single tile does not fit, the
result is None. A result that is not finite, or black where the source is not, is computed again in fp32.

How torch rounds depends on the size of the batch. There the shape of a tile alone decides the size of its batch, and
incomplete batches are filled up; only running out of memory changes it.
"""

from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.engine.backends.base import OnSlice, OnTile, Tile
from server.engine.backends.graphs import Graphs
from server.engine.backends.transfer import Landing, Transfer
from server.engine.device import unless_out_of_memory
from server.engine.runtime import Batchable, Limits, Runtime
from server.errors import OutOfMemory
from server.images.read.open import Samples
from server.models.base import Model

log = structlog.get_logger()

_CUDA_BATCH_PIXELS = 1 << 17
"""Source pixels that keep a GPU busy, about: larger batches are not faster. A CPU is busy with a single tile."""
_AHEAD = 2
"""Batches that a job has queued or unread: one that runs while the last result is joined, and one to follow it."""
_ALWAYS = 8
"""After so many overflows in a row a model runs in fp32: on some GPUs (GTX 16xx) it overflows with every tile, which
would then be computed twice."""


class Way(Protocol):
    """How a batch is computed. For the device's thread."""

    filled: bool
    """Whether the same tile gives the same bytes only in batches of the same size."""
    most: int
    """Tiles in a batch."""

    def runs(self, model: Model) -> bool:
        """Whether it computes this model."""

    def compute(self, tiles: Sequence[Tile], samples: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """The kept part of each tile's result, of the tile's type, uint16 as int16; and a byte for each, not 0 where it
        overflowed: it was not finite, or black where the source is not. None where that can't be. `samples`: of equal
        tiles, as `Transfer.up` returns them; there may be more than tiles."""


@dataclass(frozen=True)
class _Staged:
    """A tile on its way to the device."""

    tile: Tile
    samples: Tensor


@dataclass(frozen=True)
class _Done:
    kept: Landing
    overflowed: Landing | None
    """Of the whole batch: a byte for each tile, not 0 where it overflowed."""
    index: int = 0
    """The tile's number in the batch."""


class BatchedBackend:
    def __init__(self, runtime: Runtime, way: Way, graphs: Graphs, batch_pixels: int | None = None) -> None:
        """`graphs`: those of `way`. `batch_pixels`: source pixels up to which batches are filled; 0 for one tile at a
        time; None for what suits the device."""
        self._runtime, self._way = runtime, way
        on_cuda = runtime.device.type == "cuda"
        self._batch_pixels = (_CUDA_BATCH_PIXELS if on_cuda else 0) if batch_pixels is None else batch_pixels
        self._transfer = Transfer(runtime.device)
        self._graphs = graphs
        self._pixels = Limits()
        """Source pixels of the largest batch that may fit, by model; set once a batch did not fit."""
        self._in_a_row: Counter[str] = Counter()
        """By model, how many tiles have overflowed since the last one that did not."""

    def runs(self, model: Model) -> bool:
        return self._way.runs(model)

    def tile_pixels(self, model: Model) -> int:
        return self._runtime.memory.tile_pixels(model)

    def row_pass_width(self, model: Model) -> int:
        return 0

    def row_pass(
        self, model: Model, samples: Samples, dtype: np.dtype[Any], on_tile: OnTile
    ) -> Iterator[NDArray[Any]] | None:
        return None

    def results(
        self, tiles: Iterator[Tile], on_slice: OnSlice
    ) -> Generator[tuple[Tile, NDArray[Any] | None], None, None]:
        waiting: deque[tuple[Tile, Future[_Done] | None]] = deque()
        try:
            for tile in tiles:
                waiting.append((tile, self._submit(tile)))
                if len(waiting) > _AHEAD * self._batch(tile):
                    yield self._collect(*waiting.popleft())
            while waiting:
                yield self._collect(*waiting.popleft())
        finally:
            for _, future in waiting:
                if future is not None:
                    future.cancel()

    def forget(self, model: Model) -> None:
        self._graphs.forget(id(model))

    def release(self) -> None:
        self._graphs.clear()

    def counters(self) -> dict[str, float]:
        return {"graphs": len(self._graphs)} | self._graphs.peaks()

    def _submit(self, tile: Tile) -> "Future[_Done] | None":
        """None for a tile that is known not to fit."""
        if tile.pixels > self._runtime.largest_tile(tile.model):
            return None
        if self._in_a_row[tile.model.name] >= _ALWAYS:
            tile = replace(tile, exact=True)
        staged = _Staged(tile, self._transfer.stage(tile.samples))
        key = id(tile.model), tile.exact, staged.samples.shape, staged.samples.dtype
        return self._runtime.submit_batchable(Batchable(staged, self._run), key, self._batch(tile))

    def _collect(self, tile: Tile, future: "Future[_Done] | None") -> tuple[Tile, NDArray[Any] | None]:
        """Wait for the result; None when it does not fit. Computed again in fp32 when it overflowed."""
        try:
            done = future.result() if future is not None else None
        except OutOfMemory:
            done = None
        if done is None:
            return tile, None
        kept = done.kept.take()
        if done.overflowed is None:
            return tile, _unsigned(kept)
        if not done.overflowed.take()[done.index]:
            self._in_a_row[tile.model.name] = 0
            return tile, _unsigned(kept)
        del done, kept
        log.warning("a tile overflowed: computing it again in fp32", model=tile.model.name)
        self._runtime.count("precision_retries")
        self._in_a_row[tile.model.name] += 1
        if self._in_a_row[tile.model.name] == _ALWAYS:
            log.warning("this model now runs in fp32: it overflows with every tile", model=tile.model.name)
        exact = replace(tile, exact=True)
        return self._collect(exact, self._submit(exact))

    def _batch(self, tile: Tile) -> int:
        """How many tiles of this shape are computed at a time."""
        fits = self._pixels.get(tile.model.name)
        return max(1, min(min(fits, self._batch_pixels) // tile.pixels, self._way.most))

    # --- in the device's thread -------------------------------------------------------------------------------------

    def _run(self, staged: Sequence[_Staged]) -> list[_Done]:
        """Equal tiles, in smaller batches if memory runs out. Raises OutOfMemory when a single tile does not fit."""
        tile, batch = staged[0].tile, self._batch(staged[0].tile)
        if len(staged) > batch:  # the batch was halved after these were queued
            return self._run(staged[:batch]) + self._run(staged[batch:])
        done = unless_out_of_memory(lambda: self._run_batch(staged, batch))
        if done is None:
            self._runtime.relieve()
            done = unless_out_of_memory(lambda: self._run_batch(staged, batch))
        if done is not None:
            self._runtime.count("batches")
            self._runtime.count("tiles", len(staged))
            return done
        self._runtime.relieve()
        if batch == 1:
            self._pixels.lower(tile.model.name, tile.pixels // 4)  # of the tiles that it will be cut into
            h, w = tile.samples.shape[:2]
            raise OutOfMemory(f"a tile of {w}×{h} pixels does not fit on {self._runtime.device}")
        self._pixels.lower(tile.model.name, batch // 2 * tile.pixels)
        log.warning("out of memory: halving the batch", model=tile.model.name, batch=batch // 2)
        self._runtime.count("batch_retries")
        return self._run(staged)

    @torch.inference_mode()  # otherwise the network's result could not be changed in place
    def _run_batch(self, staged: Sequence[_Staged], batch: int) -> list[_Done]:
        tiles = [each.tile for each in staged]
        filled = self._way.filled or tiles[0].exact
        samples = self._transfer.up([each.samples for each in staged], batch if filled else len(staged))
        kept, overflows = self._way.compute(tiles, samples)
        if overflows is None:
            return [_Done(each, None) for each in self._transfer.down(kept)]
        *landings, overflowed = self._transfer.down([*kept, overflows])
        return [_Done(each, overflowed, i) for i, each in enumerate(landings)]


def _unsigned(samples: NDArray[Any]) -> NDArray[Any]:
    """uint16 is int16 in tensors."""
    return samples.view(np.uint16) if samples.dtype == np.int16 else samples
