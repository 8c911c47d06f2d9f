"""What the engine and its backends share: the device's thread, counters, and what they learnt about its memory."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from server.engine.scheduler import Scheduler
from server.models.base import Model

_T = TypeVar("_T")

_NO_LIMIT = 1 << 62
_UNDER_WAY = 2
"""Batches that are launched on a GPU at a time: one that runs and one that follows without a gap. More would only delay
the next job."""


@dataclass(frozen=True)
class Batchable:
    """An item that can run together with others of the same key."""

    content: Any
    run: Callable[[Sequence[Any]], Sequence[Any]]
    """Takes the contents of one batch and returns one result for each."""


class Runtime:
    """For any thread."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.clock = Clock(device)
        self._scheduler: Scheduler[Batchable | Callable[[], Any], Any] = Scheduler(self._run)
        self._tiles: dict[str, int] = {}
        self._counted: Counter[str] = Counter()
        self._lock = threading.Lock()

    def submit(self, function: Callable[[], _T]) -> "Future[_T]":
        """Queue a call for the device's thread. Calls of the same thread run in their order."""
        return self._scheduler.submit(function)

    def submit_batchable(self, item: Batchable, key: Hashable, most: int) -> "Future[Any]":
        """Queue an item that may run in a batch of at most `most` items with equal keys, also of other jobs."""
        return self._scheduler.submit(item, key=key, most=most)

    def call(self, function: Callable[[], _T]) -> _T:
        """The result of `function`, run in the device's thread when it is this job's turn. Raises what it raises."""
        if self._scheduler.is_mine():
            return function()
        return self.submit(function).result()

    def largest_tile(self, model: Model) -> int:
        """Source pixels of the largest tile that may fit into memory, by experience."""
        return self._tiles.get(model.name, _NO_LIMIT)

    def limit_tiles(self, model: Model, pixels: int) -> bool:
        """Larger tiles of this model do not fit. Whether that is new."""
        if pixels >= self.largest_tile(model):
            return False
        self._tiles[model.name] = pixels
        return True

    def count(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._counted[name] += number

    def counted(self, name: str) -> float:
        with self._lock:
            return self._counted[name]

    def _run(self, items: Sequence[Batchable | Callable[[], Any]]) -> Sequence[Any]:
        with self.clock.measure():
            first = items[0]
            if isinstance(first, Batchable):
                return first.run([each.content for each in items if isinstance(each, Batchable)])
            return [each() for each in items if not isinstance(each, Batchable)]


class Clock:
    """Measures how long the device has work, and keeps a GPU's queue short."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._under_way: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._busy_s = 0.0
        self._since: float | None = None
        self._lock = threading.Lock()

    @property
    def busy_s(self) -> float:
        """Seconds in which the device had work. On CUDA by the GPU's clock, and a batch or two late."""
        with self._lock:
            return self._busy_s + (time.perf_counter() - self._since if self._since is not None else 0.0)

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Around everything that the device's thread does for a batch. On CUDA it first waits until fewer than
        _UNDER_WAY batches are unfinished."""
        if self._device.type != "cuda":
            started = time.perf_counter()
            with self._lock:
                self._since = started
            try:
                yield
            finally:
                with self._lock:
                    self._busy_s += time.perf_counter() - started
                    self._since = None
            return
        with torch.cuda.device(self._device):  # the default of a new thread is cuda:0
            while len(self._under_way) >= _UNDER_WAY:
                begun, ended = self._under_way.popleft()
                ended.synchronize()
                with self._lock:
                    self._busy_s += begun.elapsed_time(ended) / 1000
            begun, ended = (torch.cuda.Event(enable_timing=True, blocking=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begun.record()
            yield
            ended.record()
            self._under_way.append((begun, ended))
