"""Threads of the API process that work in a loop: fetching, webhooks, cleanup and counting."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import structlog

from server.errors.transient import RETRY_S

log = structlog.get_logger()
_T = TypeVar("_T")

_IDLE_S = 0.2
_STOP_S = 2.0


class Background:
    """The threads of one process: `add` them, then let them run."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def add(self, name: str, work: Callable[[], object], idle_s: float) -> None:
        """A thread that repeats `work`, see `repeat`."""
        thread = threading.Thread(target=repeat, args=(self._stop, work, idle_s), name=name, daemon=True)
        self._threads.append(thread)

    def add_pool(self, name: str, threads: int, claim: Callable[[], _T | None], work: Callable[[_T], object]) -> None:
        """So many threads that call `work` with what `claim` returns; None: there is no work."""
        pool = _Pool(self._stop, claim, work)
        for number in range(threads):
            self.add(f"{name}-{number}", pool.once, _IDLE_S)

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            deadline = time.monotonic() + _STOP_S
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))


class _Pool(Generic[_T]):
    """Threads that do the same work. One of the free threads asks for work, the others wait until it has found some: if
    all asked, they would keep the database busy."""

    def __init__(self, stop: threading.Event, claim: Callable[[], _T | None], work: Callable[[_T], object]) -> None:
        self._stop = stop
        self._claim = claim
        self._work = work
        self._asking = threading.Lock()

    def once(self) -> bool:
        """Wait for work and do it. False: the process stops."""
        found: _T | None = None
        with self._asking:
            try:
                while not self._stop.is_set() and (found := self._claim()) is None:
                    self._stop.wait(_IDLE_S)
            except Exception:
                self._stop.wait(RETRY_S)  # before the next thread asks
                raise
        if found is not None:
            self._work(found)
        return found is not None


def repeat(stop: threading.Event, work: Callable[[], object], idle_s: float) -> None:
    """Call `work` until `stop` is set: again at once while it returns True, else after `idle_s`. An error is logged and
    the work tried again: the thread is never restarted."""
    while not stop.is_set():
        try:
            busy = work()
        except Exception:
            log.exception("background work broke", thread=threading.current_thread().name)
            busy = False
        if not busy:
            stop.wait(idle_s)
