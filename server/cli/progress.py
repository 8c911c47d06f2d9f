"""The progress of many files as one line of a terminal; elsewhere each result is a plain line of its own."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from server.cli.base import stderr

if TYPE_CHECKING:
    from rich.progress import Progress


class Display:
    """`sizes`: of all files, in bytes. A file's share of the whole is its share of the bytes. Use as a context manager,
    if `shown`: on a terminal."""

    def __init__(self, sizes: Sequence[int], *, shown: bool) -> None:
        self._sizes = [max(1, size) for size in sizes]
        self._started = time.perf_counter()
        self._number = 0
        self._name = ""
        self._bars = _bars(alone=len(sizes) == 1) if shown else None
        self._bar = self._bars.add_task("loading", total=sum(self._sizes), left="") if self._bars else None

    def __enter__(self) -> "Display":
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def begin(self, name: str) -> None:
        """The next file."""
        self._number += 1
        self._name = name if len(self._sizes) == 1 else f"{self._number} of {len(self._sizes)}  {name}"
        self.show(0, "loading")

    def show(self, share: float, stage: str, left_s: float | None = None) -> None:
        """How far the file is, 0 … 1, what is being done, and about how long it still takes. That is shown if it is the
        only one; else the time of all is."""
        if self._bars and self._bar is not None:
            done = sum(self._sizes[: self._number - 1]) + share * self._sizes[self._number - 1]
            self._bars.update(self._bar, completed=done, description=f"{self._name}  {stage}")
            if len(self._sizes) == 1:
                left = "" if left_s is None else f"about {timedelta(seconds=math.ceil(left_s))} left"
                self._bars.update(self._bar, left=left)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While lines are printed: the progress line is taken away."""
        if self._bars:
            self._bars.stop()
        try:
            yield
        finally:
            if self._bars:
                self._bars.start()

    def place(self) -> str:
        """How far all files are, for a plain line: "3 of 40, about 0:12:30 left". Empty for one file, and where the
        progress line shows it."""
        if self._bars or len(self._sizes) == 1:
            return ""
        counted = f"{self._number} of {len(self._sizes)}"
        done = sum(self._sizes[: self._number])
        rest = sum(self._sizes) - done
        seconds = (time.perf_counter() - self._started) * rest / done
        return f"{counted}, about {timedelta(seconds=round(seconds))} left" if rest else counted


def _bars(*, alone: bool) -> "Progress":
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    left = TextColumn("{task.fields[left]}", markup=False) if alone else TimeRemainingColumn()
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), left
    return Progress(*columns, console=stderr, transient=True)
