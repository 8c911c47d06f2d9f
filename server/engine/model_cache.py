"""Loaded networks, kept until they are unused for a while or others need the memory."""

import contextlib
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

_T = TypeVar("_T")


@dataclass
class _Entry:
    thing: Any
    size: int
    wanted_at: float


class ModelCache:
    """For any thread. A job may still use a network after it was dropped here; its memory is freed when the job
    ends."""

    def __init__(
        self, budget_bytes: int, *, keep_s: float = 900.0, on_drop: Callable[[Any], None] = lambda _: None
    ) -> None:
        """`budget_bytes`: of all kept networks together; a single one may be larger. `on_drop` is called with each that
        is dropped."""
        self._budget = budget_bytes
        self._keep_s = keep_s
        self._on_drop = on_drop
        self._kept: OrderedDict[Hashable, _Entry] = OrderedDict()
        """The most recently used entry is the last."""
        self._dropped: dict[Hashable, weakref.ref[Any]] = {}
        """Dropped networks that a job may still hold: then they need not be loaded again."""
        self._lock = threading.RLock()

    def get(self, key: Hashable, load: Callable[[], _T], size: Callable[[_T], int]) -> _T:
        """What is kept under this key, or what `load` returns; it is loaded once, also when several threads ask.
        `size`: its bytes on the device."""
        with self._lock:
            entry = self._kept.get(key)
            if entry is None:
                left = self._dropped.pop(key, None)
                thing = left() if left is not None else None
                if thing is None:
                    thing = load()
                entry = self._kept[key] = _Entry(thing, size(thing), 0.0)
            entry.wanted_at = time.monotonic()
            self._kept.move_to_end(key)
            self._tidy(key)
            wanted: _T = entry.thing
            return wanted

    def tidy(self) -> int:
        """Drop what was not used for `keep_s`, and the least recently used while all are over the budget, except the
        last one. Returns how many. It does not wait for a lock, because heartbeats call it, and a load may take
        minutes."""
        if not self._lock.acquire(blocking=False):
            return 0  # the thread that loads tidies afterwards
        try:
            return self._tidy(None)
        finally:
            self._lock.release()

    def _tidy(self, asked: Hashable | None) -> int:
        before = len(self._kept)
        for key, entry in list(self._kept.items()):
            old = time.monotonic() - entry.wanted_at > self._keep_s
            if key != asked and (old or (self.size > self._budget and len(self._kept) > 1)):
                del self._kept[key]
                self._remember(key, entry.thing)
                self._on_drop(entry.thing)
        return before - len(self._kept)

    def _remember(self, key: Hashable, thing: Any) -> None:
        self._dropped = {other: left for other, left in self._dropped.items() if left() is not None}
        with contextlib.suppress(TypeError):  # without a weak reference it will be loaded again
            self._dropped[key] = weakref.ref(thing)

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return sum(each.size for each in list(self._kept.values()))

    def __len__(self) -> int:
        return len(self._kept)


def budget_of(device: torch.device) -> int:
    """A quarter of the device's memory: tiles need the rest. Not of the free memory, which changes on a host and means
    little."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 4
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
