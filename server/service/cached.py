"""What takes long to find out, remembered for as long as that is worth.

A count over a small table is made anew nearly every time. One that takes 10 ms is good for half a second: however often
it is asked for, finding it out takes a fiftieth of the time.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")
_TIMES = 50


class Remembered(Generic[_T]):
    """For any thread."""

    def __init__(self, find: Callable[[], _T]) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._found: _T | None = None
        self._good_until = 0.0

    def get(self) -> _T:
        with self._lock:
            if self._found is None or time.monotonic() >= self._good_until:
                started = time.monotonic()
                self._found = self._find()
                ended = time.monotonic()
                self._good_until = ended + _TIMES * (ended - started)
            return self._found
