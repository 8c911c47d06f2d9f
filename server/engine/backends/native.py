"""Networks on our own CPU kernels (`server/kernels/cpu/network.py`), which need no batches.

A network that is a chain of convolutions needs no tiles either: one row pass computes a picture from top to bottom,
in steps of some rows. Tiles of other networks are large and take many time slices. Between steps and slices the
device's thread serves other jobs.
"""

import functools
import math
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from server.engine.backends.base import OnSlice, OnTile, Tile
from server.engine.device import unless_out_of_memory
from server.engine.runtime import Runtime
from server.errors import OutOfMemory
from server.images.read.open import Samples
from server.job.tiling import Geometry, Size, step_rows, tile_size
from server.kernels.cpu.network import Network, RowPass
from server.models.base import Model

log = structlog.get_logger()

_TILE_BYTES = {"srvgg": 256 * 1024 * 1024, "rrdbnet": 224 * 1024 * 1024}
"""Memory that a tile may take. The larger it is, the less is computed twice. Others need not wait for a large one."""
_SLICE_WORK = 80e9
"""Multiplications in a time slice, about as many as in a step of a row pass."""
_LARGE = 1 << 17
"""Source pixels. Of tiles that are larger, one is computed at a time: others would take as much memory again. The jobs
take turns, tile by tile."""
_ROW_PASS_BYTES = 192 * 1024 * 1024
"""For each picture at work, and again for its alpha. For SRVGG-32 and two threads it is enough for 11,300 columns."""
_CHECK_S = 0.5
"""How often a job that waits with a large tile checks whether it must stop."""


class NativeBackend:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._row_pass_bytes = _ROW_PASS_BYTES
        self._large: deque[object] = deque()
        """Large tiles in the order in which they came; the first is computed."""
        self._large_changed = threading.Condition()

    def runs(self, model: Model) -> bool:
        return model.native is not None

    def tile_pixels(self, model: Model) -> int:
        network = _network(model)
        return network.pixels_within(_TILE_BYTES[network.kind])

    def row_pass_width(self, model: Model) -> int:
        return _network(model).columns_within(self._row_pass_bytes)

    def row_pass(
        self, model: Model, samples: Samples, dtype: np.dtype[Any], on_tile: OnTile
    ) -> Iterator[NDArray[Any]] | None:
        """After memory for one was lacking, there is never another."""
        h, w, _ = samples.shape
        try:
            row_pass = RowPass(_network(model), samples, step_rows((w, h)))
        except torch.OutOfMemoryError:
            self._row_pass_bytes = 0
            log.warning("out of memory: cutting pictures into tiles", model=model.name)
            return None
        return self._bands(row_pass, samples.shape, model.facts.scale, dtype, on_tile)

    def _bands(
        self, row_pass: RowPass, shape: tuple[int, ...], scale: int, dtype: np.dtype[Any], on_tile: OnTile
    ) -> Iterator[NDArray[Any]]:
        h, w, channels = shape
        step = step_rows((w, h))

        def rows(top: int) -> NDArray[Any]:
            bottom = min(top + step, h)
            band = np.empty(((bottom - top) * scale, w * scale, channels), dtype)
            row_pass.rows(bottom, band)
            self._runtime.count("batches")
            self._runtime.count("tiles")
            return band

        waiting: deque[Future[NDArray[Any]]] = deque()
        try:
            for top in range(0, h, step):
                waiting.append(self._runtime.submit(functools.partial(rows, top)))
                if len(waiting) > 1:  # the next step runs while the last band is used
                    yield _first(waiting, on_tile)
            yield _first(waiting, on_tile)
        finally:
            # Do not wait for a step that runs: garbage collection may have called this in the device's own thread. The
            # step holds the row pass, which is freed when the step ends.
            ended = [future.cancel() or future.done() for future in waiting]
            if all(ended):
                row_pass.close()

    def results(
        self, tiles: Iterator[Tile], on_slice: OnSlice
    ) -> Generator[tuple[Tile, NDArray[Any] | None], None, None]:
        for tile in tiles:
            yield tile, self._result(tile, on_slice)

    def forget(self, model: Model) -> None:
        pass

    def release(self) -> None:
        pass

    def counters(self) -> dict[str, float]:
        return {}

    def _result(self, tile: Tile, on_slice: OnSlice) -> NDArray[Any] | None:
        with self._alone(on_slice) if tile.pixels > _LARGE else nullcontext():
            if tile.pixels > self._runtime.largest_tile(tile.model):
                return None
            return unless_out_of_memory(lambda: self._in_slices(tile, on_slice))

    @contextmanager
    def _alone(self, on_slice: OnSlice) -> Iterator[None]:
        """While no other job computes a large tile."""
        mine, timeout_s = object(), 0.0
        with self._large_changed:
            self._large.append(mine)
        try:
            while not self._first(mine, timeout_s):
                timeout_s = _CHECK_S
                if on_slice is not None:
                    on_slice(None)
            if timeout_s and on_slice is not None:
                on_slice(0.0)
            yield
        finally:
            with self._large_changed:
                self._large.remove(mine)
                self._large_changed.notify_all()

    def _first(self, tile: object, timeout_s: float) -> bool:
        with self._large_changed:
            return self._large_changed.wait_for(lambda: self._large[0] is tile, timeout_s)

    def _in_slices(self, tile: Tile, on_slice: OnSlice) -> NDArray[Any]:
        h, _, channels = tile.samples.shape
        top, left = tile.rows.start, tile.columns.start
        result = np.empty((tile.rows.stop - top, tile.columns.stop - left, channels), tile.dtype)
        row_pass = RowPass(_network(tile.model), tile.samples, h)
        done = 0.0
        while done < 1:
            done = self._runtime.call(functools.partial(row_pass.time_slice, _SLICE_WORK, result, top, left))
            self._runtime.count("batches")
            if on_slice is not None and done < 1:
                _report(on_slice, done, row_pass)
        row_pass.close()
        self._runtime.count("tiles")
        return result


def runs_alone(model: Model, size: Size, geometry: Geometry) -> bool:
    """Whether a picture of this size is cut into tiles so large that, of all jobs, one is computed at a time."""
    tiled = model.native is not None and size[0] > geometry.row_pass_width
    return tiled and math.prod(tile_size(size, geometry)) > _LARGE


def _network(model: Model) -> Network:
    assert model.native is not None, "`runs` has said so"
    return model.native


def _report(on_slice: OnSlice, share: float, row_pass: RowPass) -> None:
    """A run that is stopped between slices frees its memory at once. One that is stopped within a slice frees it when
    the slice ends."""
    assert on_slice is not None
    try:
        on_slice(share)
    except BaseException:
        row_pass.close()
        raise


def _first(waiting: "deque[Future[NDArray[Any]]]", on_tile: OnTile) -> NDArray[Any]:
    # It stays in the queue meanwhile: when this thread is interrupted here, the step may be running.
    band = unless_out_of_memory(waiting[0].result)
    if band is None:
        raise OutOfMemory("not even a few rows of the result fit into memory")
    waiting.popleft()
    if on_tile is not None:
        on_tile()
    return band
