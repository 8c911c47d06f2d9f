"""Threads of the API process that work in a loop: fetching, webhooks, deadlines, cleanup and counting."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import structlog

from server.db.notify import POLL_S, Subscription
from server.errors.transient import RETRY_S

log = structlog.get_logger()
_T = TypeVar("_T")

_STOP_S = 2.0
_SHORTEST_S = 0.01
"""Pause before a time that may have passed already."""
NextDue = Callable[[], float | None]
"""Seconds until there is something to do for which no process wakes this one; None: there is nothing."""


class Background:
    """The threads of one process: `add` them, then let them run."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._wakes: list[Subscription] = []

    def add(self, name: str, work: Callable[[], object], pause: Callable[[], object]) -> None:
        """A thread that repeats `work`, see `repeat`."""
        thread = threading.Thread(target=repeat, args=(self._stop, work, pause), name=name, daemon=True)
        self._threads.append(thread)

    def add_regular(self, name: str, work: Callable[[], object], every_s: float) -> None:
        self.add(name, work, lambda: self._stop.wait(every_s))

    def add_waiting(self, name: str, work: Callable[[], object], wake: Subscription, next_s: NextDue) -> None:
        """A thread that repeats `work` when it is woken, and when something is due."""
        self._wakes.append(wake)

        def look() -> bool:
            pause_s = _until(next_s)  # before the work, or what becomes due during it would be late
            found = bool(work())
            if not found and not self._stop.is_set():
                wake.wait(pause_s)
            return found

        self.add(name, look, lambda: None)

    def add_pool(
        self,
        name: str,
        threads: int,
        claim: Callable[[], _T | None],
        work: Callable[[_T], object],
        wake: Subscription,
        next_s: NextDue = lambda: None,
    ) -> None:
        """So many threads that call `work` with what `claim` returns. None: there is no work; the next claim is made
        when the pool is woken, or when something is due."""
        self._wakes.append(wake)
        pool = _Pool(self._stop, claim, work, wake, next_s)
        for number in range(threads):
            self.add(f"{name}-{number}", pool.once, lambda: self._stop.wait(RETRY_S))

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for wake in self._wakes:
                wake.set()
            deadline = time.monotonic() + _STOP_S
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))


class _Pool(Generic[_T]):
    """Threads that do the same work. One of the free threads asks for work, the others wait until it has found some: if
    all asked, they would keep the database busy."""

    def __init__(
        self,
        stop: threading.Event,
        claim: Callable[[], _T | None],
        work: Callable[[_T], object],
        wake: Subscription,
        next_s: NextDue,
    ) -> None:
        self._stop = stop
        self._claim = claim
        self._work = work
        self._wake = wake
        self._next_s = next_s
        self._asking = threading.Lock()

    def once(self) -> bool:
        """Wait for work and do it. False: the process stops."""
        found: _T | None = None
        with self._asking:
            try:
                while not self._stop.is_set():
                    pause_s = _until(self._next_s)  # before the claim, or what becomes due during it would be late
                    if (found := self._claim()) is not None:
                        break
                    self._wake.wait(pause_s)
            except Exception:
                self._stop.wait(RETRY_S)  # before the next thread asks
                raise
        if found is not None:
            try:
                self._work(found)
            finally:
                self._wake.set()  # a place of its owner and its host is free
        return found is not None


def _until(next_s: NextDue) -> float:
    due_s = next_s()
    return POLL_S if due_s is None else min(POLL_S, max(_SHORTEST_S, due_s))


def repeat(stop: threading.Event, work: Callable[[], object], pause: Callable[[], object]) -> None:
    """Call `work` until `stop` is set: again at once while it returns True, else after `pause`. An error is logged and
    the work tried again: the thread is never restarted."""
    while not stop.is_set():
        try:
            if not work() and not stop.is_set():
                pause()
        except Exception:
            log.exception("background work broke", thread=threading.current_thread().name)
            stop.wait(RETRY_S)
