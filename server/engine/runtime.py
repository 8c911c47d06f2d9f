"""What the engine and its backends share: the device's thread, counters, and what they learnt about its memory."""

import os
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
import torch

from server.engine.memory import Memory
from server.engine.scheduler import Scheduler
from server.models.base import Model

log = structlog.get_logger()

_T = TypeVar("_T")

_NO_LIMIT = 1 << 62
_FORGET_S = 300.0
"""How long a limit is kept that was found when memory ran out: others may have needed that memory only for a while."""
_LONGEST_TURN_S = 120.0
"""A time slice of a GPU takes seconds at most. One that takes longer than this hangs, which nothing but the end of the
process can stop."""
_WATCH_S = 5.0
_UNDER_WAY = 2
"""Batches that are launched on a GPU at a time: one that runs and one that follows without a gap. More would only delay
the next job."""


@dataclass(frozen=True)
class Batchable:
    """An item that can run together with others of the same key."""

    content: Any
    run: Callable[[Sequence[Any]], Sequence[Any]]
    """Takes the contents of one batch and returns one result for each."""


class Limits:
    """Sizes, by name, that may fit into memory, by experience. Each is forgotten after some minutes."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._found: dict[str, tuple[int, float]] = {}

    def get(self, name: str, default: int = _NO_LIMIT) -> int:
        size, at = self._found.get(name, (default, self._now()))
        return size if self._now() - at < _FORGET_S else default

    def lower(self, name: str, size: int) -> bool:
        """Larger ones do not fit. Whether that is new."""
        if size >= self.get(name):
            return False
        self._found[name] = size, self._now()
        return True


class Runtime:
    """For any thread."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.clock = Clock(device)
        on_cuda = device.type == "cuda"
        # On CUDA a new thread would build new plans of cuDNN, and those of the old one are never freed.
        self._scheduler: Scheduler[Batchable | Callable[[], Any], Any] = Scheduler(self._run, forever=on_cuda)
        self.reliefs: list[Callable[[], Any]] = []
        """What frees memory that is not needed now. Called in the device's thread, in this order."""
        self._tiles = Limits()
        self.memory = Memory(device)
        if on_cuda:
            watch(self.clock)
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
        return self._tiles.get(model.name)

    def limit_tiles(self, model: Model, pixels: int) -> bool:
        """Larger tiles of this model do not fit. Whether that is new."""
        return self._tiles.lower(model.name, pixels)

    def relieve(self) -> None:
        """Free all memory that is not needed now. In the device's thread."""
        for each in self.reliefs:
            each()

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
        self._under_way: deque[tuple[torch.cuda.Event, torch.cuda.Event, float]] = deque()
        """The events around each batch that is launched on a GPU, and when."""
        self._turn: float | None = None
        """When the device's thread began what it does now, on a GPU."""
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
            with self._lock:
                self._turn = time.monotonic()
            while len(self._under_way) >= _UNDER_WAY:
                begun, ended, _ = self._under_way[0]
                ended.synchronize()
                with self._lock:
                    self._under_way.popleft()
                    self._busy_s += begun.elapsed_time(ended) / 1000
            begun, ended = (torch.cuda.Event(enable_timing=True, blocking=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begun.record()
            try:
                yield
            finally:
                with self._lock:
                    launched, self._turn = self._turn or time.monotonic(), None
            ended.record()
            with self._lock:
                self._under_way.append((begun, ended, launched))

    def waited_s(self, now: float) -> float:
        """On a GPU: seconds since the oldest work began that has not ended, at the time `now` of `time.monotonic`."""
        with self._lock:
            since = [] if self._turn is None else [self._turn]
            since += [at for _, ended, at in self._under_way if not _reached(ended)]
        return now - min(since, default=now)


def _reached(event: torch.cuda.Event) -> bool:
    try:
        return bool(event.query())  # type: ignore[no-untyped-call]
    except RuntimeError:
        return True  # a broken device does not hang: whoever waits for it gets this error


def watch(clock: Clock, end: Callable[[], Any] = lambda: os._exit(1), every_s: float = _WATCH_S) -> None:
    """Call `end` when a time slice takes longer than _LONGEST_TURN_S, from a new thread that lives as long as the clock
    does. Nothing else would notice: heartbeats come from another thread, and keep the lease of a job that hangs."""
    found, pause = weakref.ref(clock), threading.Event()

    def look() -> None:
        while not pause.wait(every_s) and (clock := found()) is not None:
            waited_s = clock.waited_s(time.monotonic())
            if waited_s > _LONGEST_TURN_S:
                log.critical("the device hangs: the process ends, and a new one runs its jobs", waited_s=waited_s)
                end()
                return
            del clock

    threading.Thread(target=look, name="watchdog", daemon=True).start()
