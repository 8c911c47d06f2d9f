"""Loaded networks, kept while they are wanted: until nobody has asked for a while, or others need the room."""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

_T = TypeVar("_T")


@dataclass
class _Resident:
    thing: Any
    size: int
    wanted_at: float


class Residents:
    """For any thread. Who holds a network may use it on after it was let go of; its memory is free when that ends."""

    def __init__(
        self, budget_bytes: int, *, keep_s: float = 900.0, let_go: Callable[[Any], None] = lambda _: None
    ) -> None:
        """`budget_bytes`: of all kept networks together; one alone may be larger. `let_go` is told which leave."""
        self._budget = budget_bytes
        self._keep_s = keep_s
        self._let_go = let_go
        self._kept: OrderedDict[Hashable, _Resident] = OrderedDict()
        """The one that was asked for last is the last."""
        self._lock = threading.RLock()

    def get(self, key: Hashable, load: Callable[[], _T], size: Callable[[_T], int]) -> _T:
        """What is kept under this key, or else loaded: once, however many ask. `size` tells its bytes on the device."""
        with self._lock:
            resident = self._kept.get(key)
            if resident is None:
                thing = load()
                resident = self._kept[key] = _Resident(thing, size(thing), 0.0)
            resident.wanted_at = time.monotonic()
            self._kept.move_to_end(key)
            self.tidy()
            wanted: _T = resident.thing
            return wanted

    def tidy(self) -> None:
        """Let go of what nobody has asked for in `keep_s`, and of the oldest while all are over the budget; never of
        the one that was asked for last. Waits for nobody: heartbeats call it, and somebody's load may take minutes."""
        if not self._lock.acquire(blocking=False):
            return  # who loads tidies afterwards
        try:
            for key, resident in list(self._kept.items())[:-1]:
                old = time.monotonic() - resident.wanted_at > self._keep_s
                if old or self.size > self._budget:
                    del self._kept[key]
                    self._let_go(resident.thing)
        finally:
            self._lock.release()

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
