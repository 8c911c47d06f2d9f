"""Runs networks over pictures in tiles.

One engine per device, for the threads of all jobs. A picture goes in as H × W × C samples and comes out as finished
bands of rows, from top to bottom, so that neither the device's memory nor the host's grows with it. Each job cuts its
tiles and joins their results in its own thread. In between, a backend (`backends/`) computes them in the device's
thread (`scheduler.py`), which serves all jobs in turn.

When a tile does not fit into memory, it is cut into smaller ones, and later tiles of that network are no larger. The
same job gives the same bytes whatever else runs; only running out of memory changes them.
"""

import functools
import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.engine import cuda, memory
from server.engine.apply import Apply
from server.engine.backends import Backend, open_backends
from server.engine.backends.base import OnSlice, OnTile, Tile
from server.engine.device import release_memory, unless_out_of_memory
from server.engine.join import blended, height_of, joined
from server.engine.runtime import Runtime
from server.engine.spread import Helpers, Results, spread
from server.engine.tile import Span, cut
from server.errors import OutOfMemory
from server.images.read.open import Samples
from server.job.tiling import TILE_STEP, Geometry, Size, round_up, step_rows, tile_count, tile_size
from server.kernels.cpu import Kernel
from server.models import load_blend
from server.models.base import Channels, Model

log = structlog.get_logger()

_T = TypeVar("_T")

_SMALLEST_KEPT = 32
"""Pixels that a tile must be long beyond its halos and blends; smaller ones are nearly all halo."""
_RATED = (96, 96)
"""Height and width of the picture that a network's speed is measured with: large enough for its usual speed."""
_TICK_S = 1e-9
"""A clock that stands still counts as this."""
_CUDA_STEP = 64
"""Sides of fitted tiles are multiples of this on CUDA, where each new shape of a tile costs new plans of cuDNN."""
_COUNTED = ("tiles", "batches", "batch_retries", "tile_retries", "precision_retries")


class Engine:
    def __init__(
        self,
        device: torch.device,
        *,
        dtype: torch.dtype = torch.float32,
        kernel: Kernel | None = None,
        fused: bool = False,
        batch_pixels: int | None = None,
    ) -> None:
        """`dtype`: the precision that `load` gives networks. `kernel`: our own code for the CPU, where it is available.
        `fused`: load networks on our own code for GPUs. `batch_pixels`: source pixels up to which batches are filled; 0
        for one tile at a time; None for what suits the device."""
        self.device = device
        self.dtype = dtype
        self.kernel = kernel
        self.fused = fused
        self._runtime = Runtime(device)
        self._backends = open_backends(self._runtime, batch_pixels)
        self._runtime.reliefs.append(self.release)
        self.apply = Apply(self._runtime, self._twice)
        if device.type == "cuda":
            cuda.prepare()

    def adopt(self, kernel: Kernel | None, dtype: torch.dtype) -> None:
        """Use these from now on. Networks that are loaded already stay as they are, and can still be used."""
        self.dtype = dtype
        self.kernel = kernel

    def load(
        self, parts: Sequence[tuple[Path, float]], *, name: str, sha256: str | None, scale: int | None = None
    ) -> Model:
        """A network for this engine, from files with the share of each: see `load_blend`. Raises ModelNotFound."""
        model = load_blend(
            parts,
            name=name,
            sha256=sha256,
            device=self.device,
            dtype=self.dtype,
            kernel=self.kernel,
            fused=self.fused,
            scale=scale,
        )
        if model.native is not None:
            release_memory(self.device)  # of the checkpoints and of what was made on the way
        return model

    def upscale(
        self,
        model: Model,
        samples: Samples,
        *,
        dtype: type[np.generic] = np.float32,
        tile: int = 0,
        on_tile: OnTile = None,
        on_slice: OnSlice = None,
        helpers: Helpers | None = None,
    ) -> Iterator[NDArray[Any]]:
        """Finished rows of the result, from top to bottom: H_band × W·scale × channels of `dtype`.

        `samples`: H × W × 3 RGB, or H × W × 1 grey, which goes through the network as three equal channels and comes
        back as their mean; a network for grey takes the three of RGB one after the other. `dtype`: uint8 or uint16,
        rounded and clamped, or float32 in about [0, 1]. `tile`: side of the tiles in source pixels; 0 lets the engine
        decide whether to cut tiles and how large they are. `on_tile` and `on_slice` are called in the thread that takes
        the bands; they may raise, which ends the run. `helpers`: other processes that compute some of the tiles, where
        there are several; the result is the same. Raises OutOfMemory.
        """
        if model.facts.channels is Channels.GREY and samples.shape[2] > 1:
            return self._channels(model, samples, np.dtype(dtype), tile, on_tile, on_slice, helpers)
        facts, geometry = model.facts, self.geometry(model, tile)
        padded = _pad(samples, facts.multiple)
        h, w = padded.shape[:2]
        if w <= geometry.row_pass_width:
            bands = self._backend(model).row_pass(model, padded, np.dtype(dtype), on_tile)
            if bands is not None:
                return bands
        columns, rows = _spans(model, (w, h), geometry)
        result = samples.shape[0] * facts.scale, samples.shape[1] * facts.scale
        return self._bands(model, padded, rows, columns, result, np.dtype(dtype), on_tile, on_slice, helpers)

    def _channels(
        self,
        model: Model,
        samples: Samples,
        dtype: np.dtype[Any],
        tile: int,
        on_tile: OnTile,
        on_slice: OnSlice,
        helpers: Helpers | None,
    ) -> Iterator[NDArray[Any]]:
        """Each channel alone, in step. `on_tile` is called when a tile of all is done."""
        last = samples.shape[2] - 1
        planes = [
            self.upscale(
                model,
                samples[..., c : c + 1],
                dtype=dtype.type,
                tile=tile,
                on_tile=on_tile if c == last else None,
                on_slice=on_slice,
                helpers=helpers,
            )
            for c in range(last + 1)
        ]
        while True:
            bands = [next(plane, None) for plane in planes]
            if bands[0] is None:
                return
            yield np.concatenate(bands, axis=2)  # type: ignore[arg-type]

    def geometry(self, model: Model, tile: int = 0) -> Geometry:
        """The facts that a plan needs, with the side of the tiles that `upscale` will cut. `tile`: the wanted side,
        which is held to what fits and is useful; 0 for tiles as large as memory allows, fitted to the picture."""
        facts, backend = model.facts, self._backend(model)
        side = tile or max(facts.tile, math.isqrt(backend.tile_pixels(model)))
        side = min(side, math.isqrt(self._runtime.largest_tile(model)))
        side = max(side, _smallest_side(model)) // facts.multiple * facts.multiple
        step = _CUDA_STEP if self.device.type == "cuda" and not tile else TILE_STEP
        if step == _CUDA_STEP and side // step * step >= _smallest_side(model):
            side = side // step * step
        step = math.lcm(step, facts.multiple)
        width = 0 if tile else backend.row_pass_width(model)
        return Geometry(
            model.name,
            facts.scale,
            side,
            facts.halo,
            multiple=facts.multiple,
            fitted=not tile,
            row_pass_width=width,
            step=step,
        )

    def tiles(self, model: Model, size: Size, tile: int = 0) -> int:
        """How often `upscale` will call `on_tile` for a picture of `size` (width, height), unless memory runs out."""
        return tile_count(size, self.geometry(model, tile))

    def joints(self, model: Model, size: Size, tile: int = 0) -> tuple[list[int], list[int]]:
        """Where `upscale` joins what it computes apart, unless memory runs out: the source pixels (columns, rows) that
        begin there. Row passes are computed in steps of rows, which should not show either."""
        w, h = (round_up(side, model.facts.multiple) for side in size)
        geometry = self.geometry(model, tile)
        if w <= geometry.row_pass_width:
            return [], list(range(step_rows((w, h)), size[1], step_rows((w, h))))
        columns, rows = _spans(model, (w, h), geometry)
        return [_joint(*each) for each in itertools.pairwise(columns)], [
            _joint(*each) for each in itertools.pairwise(rows)
        ]

    def tile(self, tile: Tile) -> NDArray[Any] | None:
        """The kept part of one tile's result, for another process's picture; None if it does not fit into memory."""
        with closing(self._backend(tile.model).results(iter([tile]), None)) as results:
            return next(results)[1]

    def rate(self, model: Model) -> float:
        """Source pixels that the network takes per second on this device, alone: the better of two runs over a small
        picture. On a CPU by the time that its cores worked, so that other programs do not change the result."""
        h, w = _RATED
        samples = np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)
        seconds = []
        for _ in range(2):
            started = self.worked_s()
            for _ in self.upscale(model, samples, dtype=np.uint8):
                pass
            seconds.append(self.worked_s() - started)
        return h * w / max(min(seconds), _TICK_S)

    def warm(self, model: Model) -> None:
        """On a GPU: run pictures of a few sizes, so that the first job need not wait for what a first run prepares, and
        measure what a tile of this network takes and may take. Raises OutOfMemory."""
        if self.device.type != "cuda":
            return
        for side in memory.WARMED:
            before = self.call(self._start_of_peak)
            samples = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
            for _ in self.upscale(model, samples, dtype=np.uint8, tile=side):
                pass
        self._runtime.memory.note(model, torch.cuda.max_memory_allocated(self.device) - before, side**2)
        self._runtime.memory.look()
        log.info("memory measured", model=model.name, tile=self.geometry(model).tile)

    def _start_of_peak(self) -> int:
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def worked_s(self) -> float:
        """A clock: on a CPU, seconds for which this process has had all its threads at work; on a GPU, seconds."""
        return time.process_time() / torch.get_num_threads() if self.device.type == "cpu" else time.perf_counter()

    def call(self, function: Callable[[], _T]) -> _T:
        """The result of `function`, run in the device's thread when it is this job's turn. Raises what it raises.

        For everything that uses the device but is no upscaling network. It should be short: other jobs wait for it. On
        CUDA, launched work goes on after `function` has returned, in order with what this thread launches next on its
        current stream, which must be the default stream.
        """
        return self._runtime.call(function)

    def run(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """`function(*tensors)` as `call` does it, in smaller batches if memory runs out.

        `tensors`: each N × …, on this engine's device; `function` returns N × … for any N, row by row. When memory runs
        out, it is called again with halves, and halves of those. Raises OutOfMemory when a single row does not fit.
        Batches are not shared between jobs, so that the same call gives the same bytes.
        """
        count = len(tensors[0])
        result = self._twice(lambda: self.call(functools.partial(function, *tensors)))
        if result is not None:
            return result
        if count == 1:
            raise OutOfMemory(f"not even one piece of {tuple(tensors[0].shape[1:])} fits on {self.device}")
        self._runtime.count("batch_retries")
        parts = zip(*(torch.split(each, math.ceil(count / 2)) for each in tensors), strict=True)
        return torch.cat([self.run(function, *part) for part in parts])

    def to_host(self, tensor: Tensor) -> NDArray[Any]:
        """A tensor of this engine's device as an array; this thread sleeps until it has been computed and copied."""
        return self.apply.fetch(tensor)

    def patiently(self, function: Callable[[], _T]) -> _T:
        """The result of `function`, which uses the device's memory and runs in this thread; if memory runs out, again
        after all that is not needed was freed. Raises OutOfMemory."""
        result = self._twice(function)
        if result is None:
            raise OutOfMemory(f"the picture does not fit into the memory of {self.device}")
        return result

    def _twice(self, function: Callable[[], _T]) -> _T | None:
        """None when memory ran out twice."""
        result = unless_out_of_memory(function)
        if result is None:
            self.call(self._runtime.relieve)
            result = unless_out_of_memory(function)
        if result is None:
            self.call(self._runtime.relieve)
        return result

    def relieve_first(self, function: Callable[[], object]) -> None:
        """When memory runs out, call this, in the device's thread, before caches are emptied."""
        self._runtime.reliefs.insert(0, function)

    def forget(self, model: Model) -> None:
        """The model is no longer kept: soon drop what was made for it."""
        self._runtime.submit(lambda: self._backend(model).forget(model))

    def release(self) -> None:
        """Give memory back to the system that is only kept to be used again. In the device's thread."""
        for backend in self._backends:
            backend.release()
        release_memory(self.device)

    def tidy(self) -> None:
        """Networks are no longer kept: soon give their memory back to the system. For any thread."""
        self._runtime.submit(self._tidy)  # after what `forget` submitted, which holds the networks until it ran

    def _tidy(self) -> None:
        if self.kernel is not None:
            self.kernel.release()
        release_memory(self.device)

    def counters(self) -> Mapping[str, float]:
        """Since the start: `tiles`, the `batches` in which they ran or the time slices that they took, `batch_retries`
        and `tile_retries` (out of memory), `precision_retries`, `busy_seconds` of the device. Now: `graphs`, and on
        CUDA `device_memory_bytes` and `device_memory_peak_bytes`."""
        counted = {name: self._runtime.counted(name) for name in _COUNTED}
        counted["busy_seconds"] = round(self._runtime.clock.busy_s, 3)
        for backend in self._backends:
            counted |= backend.counters()
        if self.device.type == "cuda":
            counted["device_memory_bytes"] = torch.cuda.memory_reserved(self.device)
            peak = max(torch.cuda.max_memory_reserved(self.device), counted.get("device_memory_peak_bytes", 0))
            counted["device_memory_peak_bytes"] = peak
        return counted

    def _backend(self, model: Model) -> Backend:
        return next(backend for backend in self._backends if backend.runs(model))

    def _bands(
        self,
        model: Model,
        samples: Samples,
        rows: list[Span],
        columns: list[Span],
        result: tuple[int, int],
        dtype: np.dtype[Any],
        on_tile: OnTile,
        on_slice: OnSlice,
        helpers: Helpers | None,
    ) -> Iterator[NDArray[Any]]:
        scale, blend = model.facts.scale, model.facts.blend
        if len(rows) == len(columns) == 1:
            blend = 0  # there is no neighbour
        # Neighbours are blended as floats, which take four times the memory. From a GPU they come rounded, so that one
        # byte for a sample crosses the bus: a blended sample is then rounded twice.
        kind = np.dtype(np.float32) if blend and self.device.type == "cpu" else dtype
        width, channels = samples.shape[1] * scale, samples.shape[2]
        tiles = _tiles(model, samples, rows, columns, kind)
        found = [] if helpers is None else helpers.find(model, len(rows) * len(columns))
        if helpers is not None and found:
            computed = spread(tiles, lambda some: self._backend(model).results(some, on_slice), found, helpers.folder)
        else:
            computed = self._backend(model).results(tiles, on_slice)
        with closing(self._whole(computed, on_slice)) as results:
            finished: Iterator[NDArray[Any]]
            if not blend:
                finished = (
                    joined(results, columns, scale, np.empty((height_of(row, scale), width, channels), dtype), on_tile)
                    for row in rows
                )
            else:
                finished = blended(results, rows, columns, scale, blend, (width, channels), dtype, on_tile)
            for row in rows:
                yield next(finished)[: result[0] - row.keep_start * scale, : result[1]]

    def _whole(self, computed: Results, on_slice: OnSlice) -> Generator[NDArray[Any], None, None]:
        """The kept part of each tile's result, in order; of those that did not fit, in pieces."""
        with closing(computed):
            for tile, result in computed:
                if result is None:
                    result = self._in_pieces(tile, on_slice)
                yield result
                del result  # or the next one would be in memory at the same time

    def _in_pieces(self, tile: Tile, on_slice: OnSlice) -> NDArray[Any]:
        """One tile that did not fit, as smaller tiles, whose seams are not blended."""
        facts, scale = tile.model.facts, tile.model.facts.scale
        h, w = tile.samples.shape[:2]
        side = max(h, w) // 2 // facts.multiple * facts.multiple
        if side < _smallest_side(tile.model):
            raise OutOfMemory(f"not even a tile of {w}×{h} pixels fits on {self.device}")
        self._runtime.count("tile_retries")
        if self._runtime.limit_tiles(tile.model, min(h, side) * min(w, side)):
            log.warning("out of memory: halving the tile", model=tile.model.name, tile=side)
        rows = cut(h, side, facts.halo, multiple=facts.multiple)
        columns = cut(w, side, facts.halo, multiple=facts.multiple)
        pieces = _tiles(tile.model, tile.samples, rows, columns, tile.dtype, exact=tile.exact)
        band = np.empty((h * scale, w * scale, tile.samples.shape[2]), tile.dtype)
        computed = self._backend(tile.model).results(pieces, on_slice)
        with closing(self._whole(computed, on_slice)) as results:
            for row in rows:
                joined(results, columns, scale, band[row.keep_start * scale : row.keep_stop * scale], None)
        return band[tile.rows, tile.columns]


def _tiles(
    model: Model,
    samples: Samples,
    rows: list[Span],
    columns: list[Span],
    dtype: np.dtype[Any],
    *,
    exact: bool = False,
) -> Iterator[Tile]:
    """From top to bottom, and from left to right within a row."""
    for row in rows:
        for column in columns:
            part = samples[row.start : row.stop, column.start : column.stop]
            yield Tile(model, part, _kept(row, model.facts.scale), _kept(column, model.facts.scale), dtype, exact)


def _spans(model: Model, size: Size, geometry: Geometry) -> tuple[list[Span], list[Span]]:
    """The columns and the rows of tiles, for a padded picture of this size."""
    facts, sides = model.facts, tile_size(size, geometry)
    columns, rows = (
        cut(length, side, facts.halo, facts.blend, facts.multiple) for length, side in zip(size, sides, strict=True)
    )
    return columns, rows


def _joint(before: Span, after: Span) -> int:
    """In the middle of the pixels that both keep."""
    return (before.keep_stop + after.keep_start) // 2


def _smallest_side(model: Model) -> int:
    facts = model.facts
    side = 2 * facts.halo + max(6 * facts.blend + _SMALLEST_KEPT, 4 * facts.blend + 2 * facts.multiple)
    return round_up(side, facts.multiple)


def _kept(span: Span, scale: int) -> slice:
    return slice((span.keep_start - span.start) * scale, (span.keep_stop - span.start) * scale)


def _pad(samples: Samples, multiple: int) -> Samples:
    """Mirror the last rows and columns, as RealESRGANer does, until both sides are multiples."""
    bottom, right = -samples.shape[0] % multiple, -samples.shape[1] % multiple
    if not bottom and not right:
        return samples
    mirrored = min(samples.shape[:2]) > max(bottom, right)  # there are enough pixels to mirror
    padded: Samples = np.pad(samples, ((0, bottom), (0, right), (0, 0)), "reflect" if mirrored else "edge")  # type: ignore[assignment]
    return padded
