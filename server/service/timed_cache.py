"""A cache for values that take long to find out.

How long a value is used depends on the time that finding it took: a value that took 10 ms is used for half a second, so
that finding it out never takes more than a fiftieth of the time, however often it is asked for.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")
_TIMES = 50
"""A value is used for so many times the time that finding it took."""


class TimedCache(Generic[_T]):
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
