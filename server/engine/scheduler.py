"""Decides which tile is next: the queues of a device, and the one thread that runs them.

Each job has its own queue, and the jobs take turns with one batch each. A batch holds the item whose turn it is and
equal items of other jobs. So a thumbnail waits for the batch that runs and for one batch of every other job, also when
one of them is a picture of a thousand tiles; no job can starve another. Backends limit how much a job queues.

A job is a thread: the items of one thread run in the order in which they were submitted.
"""

import atexit
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_IDLE_S = 10.0
"""A thread without work ends after this time, and the next item starts another. So a scheduler need not be closed."""
_CLOSE_S = 5.0

_SCHEDULERS: "weakref.WeakSet[Scheduler[Any, Any]]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Python kills the process with SIGABRT when it exits while a daemon thread is inside torch."""
    for scheduler in list(_SCHEDULERS):
        scheduler.close()


@dataclass
class _Waiting(Generic[_Item, _Result]):
    item: _Item
    key: Hashable
    most: int
    future: "Future[_Result]" = field(default_factory=Future)


class Scheduler(Generic[_Item, _Result]):
    """For any thread. `run` is called in a thread of its own, never twice at a time, with a batch of items; it returns
    a result for each."""

    def __init__(self, run: Callable[[Sequence[_Item]], Sequence[_Result]], *, forever: bool = False) -> None:
        """`forever`: the thread stays when it has no work, until `close`."""
        self._run = run
        self._idle_s = None if forever else _IDLE_S
        self._changed = threading.Condition()
        self._queues: OrderedDict[int, deque[_Waiting[_Item, _Result]]] = OrderedDict()
        """By job, the next one first. None is empty."""
        self._running: int | None = None
        """The job whose turn it is."""
        self._thread: threading.Thread | None = None
        self._closed = False
        _SCHEDULERS.add(self)

    def submit(self, item: _Item, *, key: Hashable = None, most: int = 1) -> "Future[_Result]":
        """Queue an item for the calling thread's job. Items with the same `key` may share a batch of at most `most`;
        items with the key None run alone. Only an item's own future raises what `run` raises for it: a batch that fails
        is run again item by item. A future that is cancelled before its turn costs nothing."""
        waiting = _Waiting[_Item, _Result](item, key, most)
        with self._changed:
            self._queues.setdefault(threading.get_ident(), deque()).append(waiting)
            if self._running is not None and self._running in self._queues:
                self._queues.move_to_end(self._running)  # a job that is new during its turn comes before its next one
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="device", daemon=True)
                self._thread.start()
            self._changed.notify()
        return waiting.future

    def is_mine(self) -> bool:
        """Whether the calling thread is the device's own, which must not wait for itself."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Run nothing more. Pending futures never end; the running batch gets some seconds to end."""
        with self._changed:
            self._closed, thread = True, self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_S)

    def _work(self) -> None:
        while True:
            with self._changed:
                some = self._changed.wait_for(lambda: bool(self._queues) or self._closed, self._idle_s)
                if not some or self._closed:
                    self._thread = None
                    return
                batch = self._take()
            self._step([each for each in batch if each.future.set_running_or_notify_cancel()])
            self._running = None
            del batch  # otherwise its results would stay in memory until the next batch

    def _take(self) -> list[_Waiting[_Item, _Result]]:
        """The next batch. Its job becomes the last in the order."""
        job, queue = next(iter(self._queues.items()))
        self._queues.move_to_end(job)
        self._running = job
        first = queue.popleft()
        batch = [first]
        for _ in range(first.most - 1 if first.key is not None else 0):
            equal = [each for each in self._queues.values() if each and each[0].key == first.key]
            if not equal:
                break
            batch.append(max(equal, key=len).popleft())
        for job in [job for job, each in self._queues.items() if not each]:
            del self._queues[job]
        return batch

    def _step(self, batch: list[_Waiting[_Item, _Result]]) -> None:
        if not batch:
            return
        try:
            results = self._run([each.item for each in batch])
        except BaseException as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                del batch  # otherwise a reference cycle (error, frame, future) would keep its tensors in memory
                return
        else:
            for each, result in zip(batch, results, strict=True):
                each.future.set_result(result)
            return
        for each in batch:
            self._step([each])
