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

_MUCH_LARGER = 4
"""A network of more than so many times the size of another is not dropped for it."""


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
        self._dropped: dict[Hashable, tuple[Callable[[], Any], int]] = {}
        """Dropped networks that a job may still hold: then they need not be loaded again."""
        self._lock = threading.RLock()
        """Never held while something loads."""
        self._loading: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, load: Callable[[], _T], size: Callable[[_T], int]) -> _T:
        """What is kept under this key, or what `load` returns; it is loaded once, also when several threads ask.
        Threads that ask for something else do not wait. `size`: its bytes on the device."""
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            wanted: _T | None = self._found(key)
            if wanted is None:
                wanted = load()
                self._keep(key, wanted, size(wanted))
            return wanted

    def tidy(self) -> int:
        """Drop what was not used for `keep_s`, and the least recently used while all are over the budget, except the
        last one. Returns how many."""
        with self._lock:
            return self._tidy(None)

    def drop_all(self) -> int:
        """Memory has run out. What jobs hold stays with them, and is found again by those that ask for it meanwhile;
        the rest is freed. Returns how many."""
        with self._lock:
            keys = list(self._kept)
            for key in keys:
                self._drop(key)
            return len(keys)

    def _found(self, key: Hashable) -> Any:
        """What is kept, or was dropped and is still held by a job."""
        with self._lock:
            entry = self._kept.get(key)
            if entry is None:
                left, size = self._dropped.pop(key, (lambda: None, 0))
                thing = left()
                if thing is not None:
                    self._keep(key, thing, size)
                return thing
            self._keep(key, entry.thing, entry.size)
            return entry.thing

    def _keep(self, key: Hashable, thing: Any, size: int) -> None:
        with self._lock:
            self._kept[key] = _Entry(thing, size, time.monotonic())
            self._kept.move_to_end(key)
            self._tidy(key)

    def _tidy(self, asked: Hashable | None) -> int:
        before = len(self._kept)
        for key, entry in list(self._kept.items()):
            old = time.monotonic() - entry.wanted_at > self._keep_s
            over = self.size > self._budget and len(self._kept) > 1
            # A large network takes minutes to load, and dropping it is no use to a small one, which needs little room.
            small = asked is not None and self._kept[asked].size * _MUCH_LARGER < entry.size
            if key != asked and (old or (over and not small)):
                self._drop(key)
        return before - len(self._kept)

    def _drop(self, key: Hashable) -> None:
        entry = self._kept.pop(key)
        self._dropped = {other: left for other, left in self._dropped.items() if left[0]() is not None}
        with contextlib.suppress(TypeError):  # without a weak reference it will be loaded again
            self._dropped[key] = weakref.ref(entry.thing), entry.size
        self._on_drop(entry.thing)

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return sum(each.size for each in list(self._kept.values()))

    def __len__(self) -> int:
        return len(self._kept)


def budget_of(device: torch.device) -> int:
    """Half of a GPU's memory, which SDXL and the upscalers fit into on 16 GB; a quarter of the host's. Tiles need the
    rest. Not of the free memory, which changes and means little on a host."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 2
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
