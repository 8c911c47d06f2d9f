"""Loaded networks, kept while they are wanted: until nobody has asked for a while, or others need the room."""

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
    """For any thread. Who holds a network may use it on after it was let go of; its memory is free when that ends."""

    def __init__(
        self, budget_bytes: int, *, keep_s: float = 900.0, let_go: Callable[[Any], None] = lambda _: None
    ) -> None:
        """`budget_bytes`: of all kept networks together; one alone may be larger. `let_go` is told which leave."""
        self._budget = budget_bytes
        self._keep_s = keep_s
        self._let_go = let_go
        self._kept: OrderedDict[Hashable, _Entry] = OrderedDict()
        """The one that was asked for last is the last."""
        self._left: dict[Hashable, weakref.ref[Any]] = {}
        """Those that a job may still hold: it need not be loaded a second time beside that."""
        self._lock = threading.RLock()

    def get(self, key: Hashable, load: Callable[[], _T], size: Callable[[_T], int]) -> _T:
        """What is kept under this key, or else loaded: once, however many ask. `size` tells its bytes on the device."""
        with self._lock:
            entry = self._kept.get(key)
            if entry is None:
                left = self._left.pop(key, None)
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
        """Let go of what nobody has asked for in `keep_s`, and of the oldest while all are over the budget, but not of
        the last one for that. How many they were. Waits for nobody: heartbeats call it, and somebody's load may take
        minutes."""
        if not self._lock.acquire(blocking=False):
            return 0  # who loads tidies afterwards
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
                self._let_go(entry.thing)
        return before - len(self._kept)

    def _remember(self, key: Hashable, thing: Any) -> None:
        self._left = {other: left for other, left in self._left.items() if left() is not None}
        with contextlib.suppress(TypeError):  # what can't be referred to so is loaded again
            self._left[key] = weakref.ref(thing)

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(each.size for each in list(self._kept.values()))

    def __len__(self) -> int:
        return len(self._kept)


def budget_of(device: torch.device) -> int:
    """A quarter of the device's memory: tiles want the rest. Not of what is free, which on a host changes and means
    little."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 4
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
