"""Runs networks over pictures in tiles: the loop that everything else is there to feed.

One engine per device, for the threads of all jobs. A picture goes in as HWC samples and comes out as finished bands of
rows, top to bottom, so that neither the device's memory nor the host's grows with it. Each job cuts its tiles and joins
them in its own thread; between the two the device's thread (`scheduler.py`) runs those of all jobs in turn. A job is a
few tiles ahead of what it waits for, so that the device need not wait, and no more, so that it holds little.

On our own convolutions (`kernels/network.py`) a chain needs no tiles: it is swept over the picture in steps of some
rows, each a turn like a tile's. Tiles of other networks are large there and take many turns, one after the other.

What can go wrong on a device is handled here and nowhere else: out of memory halves the batch, then the tile, and
remembers; a result that is not finite, or black where the source is not, is computed again in fp32.

The same job gives the same bytes whatever else runs: how a network rounds depends on the batch, so a tile's shape alone
says how large that is, and what is missing is filled up. Only running out of memory changes it.
"""

import functools
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.engine.backends.graphs import Graphs
from server.engine.backends.transfer import Landing, Transfer
from server.engine.device import is_out_of_memory, release_memory
from server.engine.scheduler import Scheduler
from server.engine.tile import Span, cut, weights
from server.errors import OutOfMemory
from server.images.read.open import Samples
from server.job.tiling import Shape, Size, step_rows, tile_count, tile_size
from server.kernels.cpu.network import Network, Sweep
from server.models.base import Model

log = structlog.get_logger()

_T = TypeVar("_T")

_CUDA_BATCH_PIXELS = 1 << 17
"""Source pixels that fill a GPU, about: more in a batch gain nothing. On the CPU a single tile does."""
_MOST_IN_BATCH = 16
_AHEAD = 2
"""Batches that a job has queued up or unread: one that runs while the last one is joined, and one to follow it."""
_TILE_BYTES = {"cpu": 256 * 1024 * 1024, "cuda": 3400 * 1024 * 1024}
"""Memory that a tile may take. The larger, the less is computed twice, and the longer others wait for their turn."""
_OWN_TILE_BYTES = {"srvgg": 256 * 1024 * 1024, "rrdbnet": 224 * 1024 * 1024}
"""The same on our own convolutions, where a tile takes many turns, so that others need not wait for it."""
_TURN_WORK = 80e9
"""Multiplications in a turn of such a tile, about: what a step of a sweep has, see plan.py."""
_LARGE = 1 << 17
"""Source pixels of a tile beyond which there is only one at a time: others would hold as much memory again."""
_SWEEP_BYTES = 192 * 1024 * 1024
"""Of each picture in hand, and once more for its alpha. For SRVGG-32 and two threads that is 11,300 columns."""
_ANY = 1 << 62
_LOOK_S = 0.5
"""How often a job that waits with a large tile looks whether it shall stop."""
_SMALLEST_KEPT = 32
"""Pixels that a tile must be long beyond its halos and blends; smaller ones are nearly all halo."""
_BLACK = 1 / 512
_RATED = (96, 96)
"""Height and width of the picture that a network's speed is measured with: large enough for its usual speed."""


@dataclass(frozen=True)
class _Tile:
    """A piece of a picture, and what is wanted of its result."""

    model: Model
    samples: Samples
    rows: slice
    columns: slice
    """Which of the result's rows and columns are kept."""
    dtype: np.dtype[Any]
    exact: bool = False

    @property
    def pixels(self) -> int:
        return int(self.samples.shape[0] * self.samples.shape[1])


@dataclass(frozen=True)
class _Staged:
    """A tile on its way to the device."""

    tile: _Tile
    samples: Tensor


@dataclass(frozen=True)
class _Done:
    kept: Landing
    overflowed: Landing | None


class Engine:
    def __init__(self, device: torch.device, *, batch_pixels: int | None = None) -> None:
        """`batch_pixels`: source pixels to which batches are filled up, or 0 for one tile at a time; None for what
        suits the device."""
        self.device = device
        self._batch_pixels = (
            (_CUDA_BATCH_PIXELS if device.type == "cuda" else 0) if batch_pixels is None else batch_pixels
        )
        self._transfer = Transfer(device)
        self._graphs = Graphs(device)
        self._scheduler: Scheduler[_Staged | Callable[[], Any], Any] = Scheduler(self._run)
        self._sweep_bytes = _SWEEP_BYTES
        """Memory that a sweep may take."""
        self._tiles: dict[str, int] = {}
        """Source pixels of the largest tile that may fit, by model, once one did not."""
        self._pixels: dict[str, int] = {}
        """Source pixels of the largest batch that may fit, by model, once one did not."""
        self._large = threading.Lock()
        """For whoever computes a large tile on our own convolutions."""
        self._counted: Counter[str] = Counter()
        self._counting = threading.Lock()

    # --- for jobs, in their own threads -----------------------------------------------------------------------------

    def upscale(
        self,
        model: Model,
        samples: Samples,
        *,
        dtype: type[np.generic] = np.float32,
        tile: int = 0,
        on_tile: Callable[[], None] | None = None,
        on_turn: Callable[[float], None] | None = None,
    ) -> Iterator[NDArray[Any]]:
        """Finished rows of the result, from top to bottom: H_band × W·scale × channels of `dtype`.

        `samples`: H × W × 3 RGB, or H × W × 1 grey, which goes through the network as three equal channels and comes
        back as their mean. `dtype`: uint8 or uint16, rounded and clamped, or float32 in about [0, 1]. `tile`: side in
        source pixels; 0 leaves it to us whether tiles are cut and how large they are. `on_tile` is called after each
        tile, or step of a sweep, in the thread that takes the bands; it may raise, which ends the run. So may
        `on_turn`, which is told the share of a tile, or of a piece of one, that has ended, where they take several
        turns. Raises OutOfMemory.
        """
        facts, shape = model.facts, self.shape(model, tile)
        padded = _pad(samples, facts.multiple)
        h, w = padded.shape[:2]
        if w <= shape.widest and (sweep := self._sweep(model, padded)) is not None:
            return self._swept(sweep, padded.shape, facts.scale, np.dtype(dtype), on_tile)
        width, height = tile_size((w, h), shape)
        rows = cut(h, height, facts.halo, facts.blend, facts.multiple)
        columns = cut(w, width, facts.halo, facts.blend, facts.multiple)
        result = samples.shape[0] * facts.scale, samples.shape[1] * facts.scale
        return self._bands(model, padded, rows, columns, result, np.dtype(dtype), on_tile, on_turn)

    def shape(self, model: Model, tile: int = 0) -> Shape:
        """What a plan has to know: with the side of the tiles that `upscale` will cut, which is what was asked for,
        within what fits and what makes sense; else as large as memory allows, and fitted to the picture."""
        facts, own = model.facts, model.own
        if own is not None:
            most = own.pixels_within(_OWN_TILE_BYTES[own.kind])
        else:
            most = _TILE_BYTES[self.device.type] // max(1, facts.pixel_bytes * model.dtype.itemsize // 4)
        side = tile or max(facts.tile, math.isqrt(most))
        side = min(side, math.isqrt(self._tiles.get(model.name, _ANY)))
        side = max(side, _smallest_side(model)) // facts.multiple * facts.multiple
        widest = own.columns_within(self._sweep_bytes) if own is not None and not tile else 0
        return Shape(model.name, facts.scale, side, facts.halo, multiple=facts.multiple, fitted=not tile, widest=widest)

    def tiles(self, model: Model, size: Size, tile: int = 0) -> int:
        """How often `upscale` will call `on_tile` for a picture of `size` (width, height), unless memory runs out."""
        return tile_count(size, self.shape(model, tile))

    def rate(self, model: Model) -> float:
        """Source pixels that the network takes in a second here, alone: the better of two runs over a small picture. On
        a CPU by the time that its cores worked, so that other programs do not change the answer."""
        h, w = _RATED
        samples = np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)
        seconds = []
        for _ in range(2):
            started = self.worked_s()
            for _ in self.upscale(model, samples, dtype=np.uint8):
                pass
            seconds.append(self.worked_s() - started)
        return h * w / min(seconds)

    def worked_s(self) -> float:
        """A clock: seconds that this process has had all its threads at work; on a GPU, seconds."""
        return time.process_time() / torch.get_num_threads() if self.device.type == "cpu" else time.perf_counter()

    def call(self, function: Callable[[], _T]) -> _T:
        """`function()` in the device's thread, when it is this job's turn; what it raises is raised here.

        The door for all that uses the device but is no upscaling network. A job's turn should be short: others wait
        for it. On CUDA what was launched goes on after it has returned, in order with whatever this thread launches
        next on its current stream, which must be the default one.
        """
        if self._scheduler.is_mine():
            return function()
        result: _T = self._scheduler.submit(function).result()
        return result

    def run(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """`function(*tensors)` as `call` does it, in smaller batches if it must be.

        `tensors`: each N × …, on this engine's device; `function` gives N × … for any N, row by row. Run out of
        memory, it is called again with halves, and halves of those; raises OutOfMemory when a single row does not fit.
        Batches are not shared between jobs, so that the same call gives the same bytes.
        """
        count = len(tensors[0])
        try:
            return self.call(functools.partial(function, *tensors))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Out of the except block: the exception holds the frames, and the frames hold the memory.
        self.call(self._release)
        if count == 1:
            raise OutOfMemory(f"not even one piece of {tuple(tensors[0].shape[1:])} fits on {self.device}")
        self._count("batch_retries")
        parts = zip(*(torch.split(each, math.ceil(count / 2)) for each in tensors), strict=True)
        return torch.cat([self.run(function, *part) for part in parts])

    def forget(self, model: Model) -> None:
        """The model is no longer kept: let go of what was made for it, soon."""
        self._scheduler.submit(lambda: self._graphs.forget(id(model)))

    def counters(self) -> Mapping[str, float]:
        """Since the start: `tiles` and the `batches` they went in, or turns they took, `batch_retries` and
        `tile_retries` (out of memory), `precision_retries`, `busy_seconds` of the device. Now: `graphs`, and on CUDA
        `device_memory_bytes` and `device_memory_peak_bytes`."""
        with self._counting:
            counted: dict[str, float] = dict(self._counted)
        names = ("tiles", "batches", "batch_retries", "tile_retries", "precision_retries")
        counted = {name: counted.get(name, 0) for name in names}
        counted |= {"busy_seconds": round(self._transfer.busy_s, 3), "graphs": len(self._graphs)}
        if self.device.type == "cuda":
            counted["device_memory_bytes"] = torch.cuda.memory_reserved(self.device)
            counted["device_memory_peak_bytes"] = torch.cuda.max_memory_reserved(self.device)
        return counted

    def _sweep(self, model: Model, samples: Samples) -> Sweep | None:
        """None when there is no memory for it, and from then on."""
        assert model.own is not None
        try:
            h, w, _ = samples.shape
            return Sweep(model.own, samples, step_rows((w, h)))
        except torch.OutOfMemoryError:
            self._sweep_bytes = 0
            log.warning("out of memory: cutting pictures into tiles", model=model.name)
            return None

    def _swept(
        self,
        sweep: Sweep,
        shape: tuple[int, ...],
        scale: int,
        dtype: np.dtype[Any],
        on_tile: Callable[[], None] | None,
    ) -> Iterator[NDArray[Any]]:
        h, w, channels = shape
        step = step_rows((w, h))

        def rows(top: int) -> NDArray[Any]:
            bottom = min(top + step, h)
            band = np.empty(((bottom - top) * scale, w * scale, channels), dtype)
            sweep.rows(bottom, band)
            self._count("batches")
            self._count("tiles")
            return band

        waiting: deque[Future[NDArray[Any]]] = deque()
        try:
            for top in range(0, h, step):
                waiting.append(self._scheduler.submit(functools.partial(rows, top)))
                if len(waiting) > 1:  # one runs while what the last one gave is used
                    yield _taken(waiting, on_tile)
            yield _taken(waiting, on_tile)
        finally:
            # No waiting for a step that runs: the collector may have brought us here, in the device's own thread. That
            # step holds the sweep, which ends with it.
            ended = [future.cancel() or future.done() for future in waiting]
            if all(ended):
                sweep.close()

    def _bands(
        self,
        model: Model,
        samples: Samples,
        rows: list[Span],
        columns: list[Span],
        result: tuple[int, int],
        dtype: np.dtype[Any],
        on_tile: Callable[[], None] | None,
        on_turn: Callable[[float], None] | None,
    ) -> Iterator[NDArray[Any]]:
        scale, blend = model.facts.scale, model.facts.blend
        # Only where neighbours are mixed must samples be floats, which are four times the memory.
        kind = np.dtype(np.float32) if blend else dtype
        width, channels = samples.shape[1] * scale, samples.shape[2]
        with closing(self._results(_tiles(model, samples, rows, columns, kind), on_turn)) as results:
            finished: Iterator[NDArray[Any]]
            if not blend:
                finished = (
                    _row(results, columns, scale, np.empty((_height(row, scale), width, channels), dtype), on_tile)
                    for row in rows
                )
            else:
                finished = _mixed(results, rows, columns, scale, blend, (width, channels), dtype, on_tile)
            for row in rows:
                yield next(finished)[: result[0] - row.keep_start * scale, : result[1]]

    def _results(
        self, tiles: Iterator[_Tile], on_turn: Callable[[float], None] | None
    ) -> Generator[NDArray[Any], None, None]:
        """What is kept of each tile's result, in order; on torch with the next ones under way."""
        waiting: deque[tuple[_Tile, Future[_Done] | None]] = deque()
        try:
            for tile in tiles:
                if tile.model.own is not None:
                    yield self._through(tile, tile.model.own, on_turn)
                    continue
                waiting.append((tile, self._submit(tile)))
                if len(waiting) > _AHEAD * self._batch(tile):
                    yield self._collect(*waiting.popleft())
            while waiting:
                yield self._collect(*waiting.popleft())
        finally:
            for _, future in waiting:
                if future is not None:
                    future.cancel()

    def _submit(self, tile: _Tile) -> "Future[_Done] | None":
        """None for a tile that is known not to fit."""
        if tile.pixels > self._tiles.get(tile.model.name, _ANY):
            return None
        staged = _Staged(tile, self._transfer.stage(tile.samples))
        key = id(tile.model), tile.exact, staged.samples.shape, staged.samples.dtype
        return self._scheduler.submit(staged, key=key, most=self._batch(tile))

    def _collect(self, tile: _Tile, future: "Future[_Done] | None") -> NDArray[Any]:
        """The result that is waited for, in smaller pieces if it must be, in fp32 if it must be."""
        try:
            done = future.result() if future is not None else None
        except OutOfMemory:
            done = None
        if done is None:
            return self._in_pieces(tile, None)
        kept = done.kept.take()
        if done.overflowed is None or not done.overflowed.take():
            return _unsigned(kept)
        del done, kept
        log.warning("a tile overflowed: computing it again in fp32", model=tile.model.name)
        self._count("precision_retries")
        exact = replace(tile, exact=True)
        return self._collect(exact, self._submit(exact))

    def _through(self, tile: _Tile, network: Network, on_turn: Callable[[float], None] | None) -> NDArray[Any]:
        """The result of a tile on our own convolutions, turn by turn; in smaller pieces if it must be."""
        with self._alone(on_turn) if tile.pixels > _LARGE else nullcontext():
            fits = tile.pixels <= self._tiles.get(tile.model.name, _ANY)
            result = self._turns(tile, network, on_turn) if fits else None
        return self._in_pieces(tile, on_turn) if result is None else result

    @contextmanager
    def _alone(self, on_turn: Callable[[float], None] | None) -> Iterator[None]:
        """While no other job has a large tile in work."""
        while not self._large.acquire(timeout=_LOOK_S):
            if on_turn is not None:
                on_turn(0.0)
        try:
            yield
        finally:
            self._large.release()

    def _turns(self, tile: _Tile, network: Network, on_turn: Callable[[float], None] | None) -> NDArray[Any] | None:
        """None: there is no memory for it."""
        h, w, channels = tile.samples.shape
        top, left = tile.rows.start, tile.columns.start
        try:
            result = np.empty((tile.rows.stop - top, tile.columns.stop - left, channels), tile.dtype)
            sweep = Sweep(network, tile.samples, h)
            ended = 0.0
            while ended < 1:
                ended = self.call(functools.partial(sweep.turn, _TURN_WORK, result, top, left))
                self._count("batches")
                if on_turn is not None and ended < 1:
                    self._tell(on_turn, ended, sweep)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        sweep.close()
        self._count("tiles")
        return result

    def _tell(self, on_turn: Callable[[float], None], share: float, sweep: Sweep) -> None:
        """Ended between turns, a tile gives its memory back at once. Interrupted during one, that holds it until its
        end."""
        try:
            on_turn(share)
        except BaseException:
            sweep.close()
            raise

    def _in_pieces(self, tile: _Tile, on_turn: Callable[[float], None] | None) -> NDArray[Any]:
        """One tile that did not fit, as smaller tiles, whose seams are not blended."""
        facts, scale = tile.model.facts, tile.model.facts.scale
        h, w = tile.samples.shape[:2]
        side = max(h, w) // 2 // facts.multiple * facts.multiple
        if side < _smallest_side(tile.model):
            raise OutOfMemory(f"not even a tile of {w}×{h} pixels fits on {self.device}")
        self._count("tile_retries")
        pixels = min(h, side) * min(w, side)
        if pixels < self._tiles.get(tile.model.name, _ANY):
            self._tiles[tile.model.name] = pixels
            log.warning("out of memory: halving the tile", model=tile.model.name, tile=side)
        rows = cut(h, side, facts.halo, multiple=facts.multiple)
        columns = cut(w, side, facts.halo, multiple=facts.multiple)
        pieces = _tiles(tile.model, tile.samples, rows, columns, tile.dtype, exact=tile.exact)
        band = np.empty((h * scale, w * scale, tile.samples.shape[2]), tile.dtype)
        with closing(self._results(pieces, on_turn)) as results:
            for row in rows:
                _row(results, columns, scale, band[row.keep_start * scale : row.keep_stop * scale], None)
        return band[tile.rows, tile.columns]

    # --- in the device's thread -------------------------------------------------------------------------------------

    def _run(self, items: "Sequence[_Staged | Callable[[], Any]]") -> Sequence[Any]:
        with self._transfer.turn():
            tiles = [each for each in items if isinstance(each, _Staged)]
            return self._run_tiles(tiles) if tiles else [each() for each in items if not isinstance(each, _Staged)]

    def _run_tiles(self, staged: Sequence[_Staged]) -> list[_Done]:
        """Equal tiles, in smaller batches if they must be. Raises OutOfMemory where one alone does not fit."""
        tile, batch = staged[0].tile, self._batch(staged[0].tile)
        if len(staged) > batch:  # it has become smaller since they were queued
            return self._run_tiles(staged[:batch]) + self._run_tiles(staged[batch:])
        try:
            done = self._run_batch(staged, batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            self._count("batches")
            self._count("tiles", len(staged))
            return done
        # Out of the except block, for the same reason as above.
        self._release()
        if batch == 1:
            self._pixels[tile.model.name] = tile.pixels // 4  # of what it will be cut into
            h, w = tile.samples.shape[:2]
            raise OutOfMemory(f"a tile of {w}×{h} pixels does not fit on {self.device}")
        self._pixels[tile.model.name] = batch // 2 * tile.pixels
        log.warning("out of memory: halving the batch", model=tile.model.name, batch=batch // 2)
        self._count("batch_retries")
        return self._run_tiles(staged)

    @torch.inference_mode()  # else what the network gives can't be changed in place
    def _run_batch(self, staged: Sequence[_Staged], batch: int) -> list[_Done]:
        model, exact = staged[0].tile.model, staged[0].tile.exact
        image = _to_image(self._transfer.up([each.samples for each in staged], batch))
        result = model(image, exact=True) if exact else self._graphs.run(id(model), model, image)
        overflowed: list[Landing] | None = None
        if not exact and model.dtype is not torch.float32:
            overflowed = [self._transfer.down(each) for each in _overflowed(image, result)]
        return [
            _Done(self._transfer.down(_to_samples(result[i], each.tile)), overflowed[i] if overflowed else None)
            for i, each in enumerate(staged)
        ]

    def _batch(self, tile: _Tile) -> int:
        """How many tiles of this shape are computed at a time."""
        fits = self._pixels.get(tile.model.name, self._batch_pixels)
        return max(1, min(min(fits, self._batch_pixels) // tile.pixels, _MOST_IN_BATCH))

    def _release(self) -> None:
        self._graphs.clear()
        release_memory(self.device)

    def _count(self, name: str, number: int = 1) -> None:
        with self._counting:
            self._counted[name] += number


def _tiles(
    model: Model,
    samples: Samples,
    rows: list[Span],
    columns: list[Span],
    dtype: np.dtype[Any],
    *,
    exact: bool = False,
) -> Iterator[_Tile]:
    """From top to bottom, each row from left to right."""
    for row in rows:
        for column in columns:
            part = samples[row.start : row.stop, column.start : column.stop]
            yield _Tile(model, part, _kept(row, model.facts.scale), _kept(column, model.facts.scale), dtype, exact)


def _height(row: Span, scale: int) -> int:
    return (row.keep_stop - row.keep_start) * scale


def _row(
    results: Iterator[NDArray[Any]],
    columns: list[Span],
    scale: int,
    band: NDArray[Any],
    on_tile: Callable[[], None] | None,
) -> NDArray[Any]:
    """One row of tiles, side by side in `band`."""
    for column in columns:
        band[:, column.keep_start * scale : column.keep_stop * scale] = next(results)
        if on_tile is not None:
            on_tile()
    return band


def _mixed(
    results: Iterator[NDArray[Any]],
    rows: list[Span],
    columns: list[Span],
    scale: int,
    blend: int,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    on_tile: Callable[[], None] | None,
) -> Iterator[NDArray[Any]]:
    """Rows that are final, of tiles in floats whose borders are mixed with those of their neighbours. Floats are kept
    of these borders alone: the rest of a band has its own type from the start. `shape`: width and channels."""
    shared = 2 * blend * scale
    carry: NDArray[Any] | None = None  # the lowest rows of the last band, which the next one adds to
    for index, row in enumerate(rows):
        height, down = _height(row, scale), weights(rows, index, scale, blend)[:, None, None]
        top, bottom = (shared if index else 0), height - (shared if index < len(rows) - 1 else 0)
        band = np.empty((bottom, *shape), dtype)
        upper, lower = (np.zeros((count, *shape), np.float32) for count in (top, height - bottom))
        seam = np.empty(0, np.float32)  # the last columns of the tile before
        for number, column in enumerate(columns):
            left, right = column.keep_start * scale, column.keep_stop * scale
            across = weights(columns, number, scale, blend)[None, :, None]
            pixels = next(results)
            upper[:, left:right] += pixels[:top] * across
            lower[:, left:right] += pixels[bottom:] * across
            begin, end = (shared if number else 0), right - left - (shared if number < len(columns) - 1 else 0)
            middle, target = pixels[top:bottom], band[top:bottom, left:right]
            if number:
                seam += middle[:, :begin] * across[:, :begin]
                target[:, :begin] = _rounded(seam, dtype)
            for part in range(0, bottom - top, shared):  # a few rows at a time: there is a copy of them
                target[part : part + shared, begin:end] = _rounded(
                    middle[part : part + shared, begin:end].copy(), dtype
                )
            seam = middle[:, end:] * across[:, end:]
            del pixels, middle  # or the next one would come beside it
            if on_tile is not None:
                on_tile()
        if carry is not None:
            upper *= down[:top]
            upper += carry
            band[:top] = _rounded(upper, dtype)
        lower *= down[bottom:]
        carry = lower
        yield band
        del band


def _taken(waiting: "deque[Future[NDArray[Any]]]", on_tile: Callable[[], None] | None) -> NDArray[Any]:
    try:
        band = waiting[0].result()  # it stays in there meanwhile: interrupted, its step may be running
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory("not even a few rows of the result fit into memory") from error
    waiting.popleft()
    if on_tile is not None:
        on_tile()
    return band


def _overflowed(image: Tensor, result: Tensor) -> Tensor:
    """N × bool. Half precision can overflow to NaN, or to black where the source is not."""
    black = (result.amax((1, 2, 3)) < _BLACK) & (image.amax((1, 2, 3)) > 8 * _BLACK)
    return black | ~torch.isfinite(result).flatten(1).all(1)


def _smallest_side(model: Model) -> int:
    return 2 * model.facts.halo + 6 * model.facts.blend + _SMALLEST_KEPT


def _kept(span: Span, scale: int) -> slice:
    return slice((span.keep_start - span.start) * scale, (span.keep_stop - span.start) * scale)


def _pad(samples: Samples, multiple: int) -> Samples:
    """Mirror the last rows and columns, as RealESRGANer does, until both sides are multiples."""
    bottom, right = -samples.shape[0] % multiple, -samples.shape[1] % multiple
    if not bottom and not right:
        return samples
    mirrored = min(samples.shape[:2]) > max(bottom, right)  # there is enough to mirror
    padded: Samples = np.pad(samples, ((0, bottom), (0, right), (0, 0)), "reflect" if mirrored else "edge")  # type: ignore[assignment]
    return padded


def _unsigned(samples: NDArray[Any]) -> NDArray[Any]:
    """16 bits are int16 in tensors."""
    return samples.view(np.uint16) if samples.dtype == np.int16 else samples


def _to_image(samples: Tensor) -> Tensor:
    """N × H × W × C as `Transfer.stage` gives them, of one or three channels → (N, 3, H, W) float32 in [0, 1]."""
    top = 255
    if samples.dtype == torch.int16:
        samples, top = samples.int().bitwise_and_(65535), 65535
    return samples.permute(0, 3, 1, 2).float().div_(top).expand(-1, 3, -1, -1)


def _to_samples(image: Tensor, tile: _Tile) -> Tensor:
    """(3, H, W) float32 → what the tile wants of it, H × W × C; `image` is not needed after it. Integers are made on
    the device: a fourth of the bytes to copy. uint16 comes as int16 of the same bits."""
    image = image[:, tile.rows, tile.columns]
    if tile.samples.shape[2] == 1:
        image = image.mean(dim=0, keepdim=True)
    image = image.permute(1, 2, 0)
    if tile.dtype == np.uint8:
        return image.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
    if tile.dtype == np.uint16:
        return image.mul_(65535).round_().clamp_(0, 65535).int().to(torch.int16)
    return image


def _rounded(band: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Floats in the type that was asked for; `band` is not needed after it."""
    if band.dtype == dtype:
        return band
    top = np.iinfo(dtype).max
    np.multiply(band, top, out=band)
    np.rint(band, out=band)
    np.clip(band, 0, top, out=band)
    return band.astype(dtype)
