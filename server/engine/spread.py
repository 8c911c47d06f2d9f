"""The tiles of one picture on several devices: this engine's, and those of helpers in other processes.

This process never waits for a helper. When no tile is left to begin, it computes the next one that is missing, also if
a helper has begun it; the first result counts, and both are the same bytes. So a helper that dies, hangs or is slow
costs nothing but its help. Results that come before their turn are kept in temporary files.
"""

import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

if TYPE_CHECKING:  # a process that only passes tiles on does not need torch
    from server.engine.backends.base import Tile
    from server.models.base import Model

log = structlog.get_logger()

_AHEAD = 4
"""How many tiles for each process may be begun or done before the next one of the result is."""

Results = Generator[tuple["Tile", NDArray[Any] | None], None, None]


class HelperLost(Exception):
    """It does not help any more, for whatever reason."""


class Helper(Protocol):
    """The engine of another process. It gives the same bytes as this one, or it is none."""

    def compute(self, number: int, tile: "Tile") -> NDArray[Any]:
        """The kept part of the tile's result. `number`: of the tile in its picture. Raises HelperLost."""

    def close(self) -> None:
        """From any thread: a `compute` that runs then raises HelperLost."""


class Helpers(Protocol):
    """Who helps with one job."""

    folder: Path
    """For the temporary files."""

    def find(self, model: "Model", tiles: int) -> Sequence[Helper]:
        """Those for a picture of so many tiles; the caller closes them."""


@dataclass(frozen=True)
class _Kept:
    """A result in a file without a name, which the system removes when the process ends."""

    file: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, result: NDArray[Any], folder: Path) -> "_Kept":
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed by those who have it)
        try:
            file.write(np.ascontiguousarray(result).reshape(-1).view(np.uint8).data)
        except BaseException:
            file.close()
            raise
        return cls(file, result.shape, result.dtype)

    def take(self) -> NDArray[Any]:
        with self.file as file:
            file.seek(0)
            return np.fromfile(file, self.dtype).reshape(self.shape)


def spread(
    tiles: "Iterator[Tile]", local: "Callable[[Iterator[Tile]], Results]", helpers: Sequence[Helper], folder: Path
) -> Results:
    """As `Backend.results`. `local`: that of this engine's backend."""
    work = _Work(tiles, _AHEAD * (1 + len(helpers)), folder)
    for helper in helpers:
        threading.Thread(target=_help, args=[work, helper], name="helper", daemon=True).start()
    try:
        while not work.ended:
            with closing(local(work.own())) as results:
                for tile, result in results:
                    work.done(work.number_of(tile), result)
                    del result  # or the next one would be in memory at the same time
                    yield from work.ready()
            yield from work.ready()
    finally:
        work.stop()
        for helper in helpers:
            helper.close()
        # Here, because those who know how many tiles there are take no more than these.
        log.info("tiles were computed by several workers", helpers=len(helpers), tiles=work.count, helped=work.helped)


def _help(work: "_Work", helper: Helper) -> None:
    try:
        while (found := work.wait_for_one()) is not None:
            number, tile = found
            try:
                result = helper.compute(number, tile)
            except BaseException:
                work.give_back(number)
                raise
            work.done(number, result, helped=True)
            del result
    except HelperLost as reason:
        if not work.ended:
            log.warning("a worker no longer helps", reason=str(reason))
    except Exception:
        log.exception("helping broke")
    finally:
        helper.close()


class _Work:
    """The tiles of one picture by their numbers. For any thread."""

    def __init__(self, tiles: "Iterator[Tile]", window: int, folder: Path) -> None:
        self._tiles = tiles
        self._window = window
        self._folder = folder
        self._changed = threading.Condition()
        self._open: dict[int, Tile] = {}
        """Begun, and not yet part of the result."""
        self._own: set[int] = set()
        """Of these, those that this process has begun itself."""
        self._returned: set[int] = set()
        """Of these, those whose helper was lost."""
        self._done: dict[int, _Kept | NDArray[Any] | None] = {}
        self._next = 0
        self._all_begun = self._stopped = False
        self.count = self.helped = 0
        """Tiles that were begun; and those whose result came from a helper."""

    @property
    def ended(self) -> bool:
        with self._changed:
            return self._stopped or (self._all_begun and self._next == self.count)

    def own(self) -> "Iterator[Tile]":
        """What this process computes, until it should look at what is ready."""
        while (found := self._take(own=True)) is not None:
            yield found[1]
            del found

    def wait_for_one(self) -> "tuple[int, Tile] | None":
        """The next tile for a helper; None when there will be no more."""
        with self._changed:
            while not self._stopped:
                if (found := self._take()) is not None:
                    return found
                if self._all_begun:
                    return None
                self._changed.wait()
        return None

    def number_of(self, tile: "Tile") -> int:
        with self._changed:
            return next(number for number, each in self._open.items() if each is tile)

    def done(self, number: int, result: NDArray[Any] | None, *, helped: bool = False) -> None:
        """The tile has this result, unless it came too late. None: it does not fit into memory."""
        with self._changed:
            if self._stopped or number < self._next or number in self._done:
                return
            soon = number == self._next
        kept = result if soon or result is None else _Kept.of(result, self._folder)
        with self._changed:
            if not self._stopped and number >= self._next and number not in self._done:
                self._done[number] = kept
                self.helped += helped
                return
        if isinstance(kept, _Kept):
            kept.file.close()

    def ready(self) -> "Iterator[tuple[Tile, NDArray[Any] | None]]":
        """What comes next in the result, in order."""
        while True:
            with self._changed:
                if self._next not in self._done:
                    return
                kept = self._done.pop(self._next)
                tile = self._open.pop(self._next)
                self._own.discard(self._next)
                self._returned.discard(self._next)
                self._next += 1
                self._changed.notify_all()
            yield tile, kept.take() if isinstance(kept, _Kept) else kept
            del kept

    def give_back(self, number: int) -> None:
        with self._changed:
            if number in self._open and number not in self._done and number not in self._own:
                self._returned.add(number)
                self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            for kept in self._done.values():
                if isinstance(kept, _Kept):
                    kept.file.close()

    def _take(self, *, own: bool = False) -> "tuple[int, Tile] | None":
        with self._changed:
            number = None
            if self._returned:
                number = min(self._returned)
                self._returned.discard(number)
            elif not self._all_begun and self.count < self._next + self._window:
                tile = next(self._tiles, None)
                if tile is None:
                    self._all_begun = True
                    self._changed.notify_all()
                else:
                    number = self.count
                    self._open[number] = tile
                    self.count += 1
            if number is None and own and self._next in self._open and not {self._next} & (self._own | set(self._done)):
                number = self._next  # a helper has it, and may never answer
            if number is None:
                return None
            if own:
                self._own.add(number)
            return number, self._open[number]
