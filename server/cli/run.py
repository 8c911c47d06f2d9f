"""Goes through many files, one after the other. A file that fails does not stop the others; a bucket or a database that
does not answer does."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from server.cli.base import complain, plain, stderr, stdout
from server.cli.progress import Display
from server.cli.sources import STANDARD, Failure, Task
from server.errors import UpscaleError


class Show(Protocol):
    """Called with how far a file is, 0 … 1, what is being done, and about how many seconds are left, if known."""

    def __call__(self, share: float, stage: str, left_s: float | None = None, /) -> None: ...


Make = Callable[[Task, Show], dict[str, Any]]
"""Writes one result. Returns what `--json` prints about it. May raise anything: the file has failed then."""


@dataclass
class Tally:
    """What has become of all files."""

    total: int
    done: int = 0
    skipped: int = 0
    failed: list[Failure] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The summary at the end. Empty for one file, and where all went well."""
        if self.skipped:
            yield f"{self.skipped} of {self.total} skipped: their results exist already"
        if self.failed and self.total > 1:
            yield f"{len(self.failed)} of {self.total} failed:"
            yield from (plain(f"  {path}: {reason}") for path, reason in self.failed)

    def last_words(self, remedy: str = "--skip-existing goes on with the rest") -> str:
        """For Ctrl-C."""
        said = f"interrupted: {self.done} of {self.total} done"
        said += "".join(
            f", {count} {word}" for count, word in ((self.skipped, "skipped"), (len(self.failed), "failed")) if count
        )
        return said + (f"; {remedy}" if self.total > 1 else "")


class Run:
    def __init__(
        self,
        tally: Tally,
        make: Make,
        *,
        as_json: bool,
        on_end: Callable[[Task, dict[str, Any]], None] = lambda task, facts: None,
    ) -> None:
        """`on_end` takes what is known of each result, or `error` with the reason."""
        self._tally = tally
        self._make = make
        self._as_json = as_json
        self._on_end = on_end

    def all(self, tasks: Sequence[Task]) -> None:
        """Raises StoreFailure and SQLAlchemyError."""
        sizes = [task.size for task in tasks]
        with Display(sizes, shown=not self._as_json and stderr.is_terminal) as display:
            for task in tasks:
                self._one(task, display)

    def _one(self, task: Task, display: Display) -> None:
        display.begin(plain(task.source.name))
        started = time.perf_counter()
        try:
            facts = self._make(task, display.show)
        except Exception as error:  # unexpected errors too: the other files are done nevertheless
            if _ends_all(error):
                raise
            reason = reason_of(error)
            self._tally.failed.append((task.source, reason))
            self._on_end(task, {"error": reason})
            with display.paused():
                report_failure(task.source, reason, as_json=self._as_json)
            return
        self._tally.done += 1
        facts["seconds"] = round(time.perf_counter() - started, 3)
        self._on_end(task, facts)
        with display.paused():
            self._report(task, facts, display.place())

    def _report(self, task: Task, facts: dict[str, Any], place: str) -> None:
        if self._as_json:
            print(json.dumps({"source": str(task.source), "result": str(task.result), **facts}), flush=True)
            return
        console = stderr if task.result == STANDARD else stdout
        name = "standard output" if task.result == STANDARD else plain(task.result)
        line = f"{name}  {describe(facts)}{f'  {place}' if place else ''}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        for note in facts.get("notes", ()):
            stderr.print(plain(f"note: {task.source}: {note}"), markup=False, highlight=False, soft_wrap=True)


def describe(facts: dict[str, Any]) -> str:
    """A result's facts as words: "64×48  0.2 s  fidelity-x4"."""
    parts = [f"{facts['width']}×{facts['height']}"] if "width" in facts else []
    parts += [f"{facts[name]} {name}" for name in ("frames", "pages") if name in facts]
    parts.append(f"{facts['seconds']:.1f} s")
    if facts["model"] != "none":
        parts.append(facts["model"])
    if "faces" in facts:
        restored = sum(face["restored"] is not None for face in facts["faces"])
        parts.append(f"{restored} of {len(facts['faces'])} faces restored")
    return "  ".join(parts)


def _ends_all(error: Exception) -> bool:
    """Whether the other files would fail too: a bucket or the database can't be used."""
    from sqlalchemy.exc import SQLAlchemyError

    from server.errors.transient import StoreFailure

    return isinstance(error, StoreFailure | SQLAlchemyError)


def report_failure(source: Path, reason: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"source": str(source), "error": reason}), flush=True)
    else:
        complain(f"{source}: {reason}")


def say(lines: Iterable[str]) -> None:
    """On standard error."""
    for line in lines:
        stderr.print(line, markup=False, highlight=False, soft_wrap=True)


def reason_of(error: Exception) -> str:
    """Why a file failed, as one line."""
    import pyvips

    if isinstance(error, UpscaleError):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = (str(error).strip().splitlines() or [""])[-1]
    return said if isinstance(error, OSError | pyvips.Error) and said else f"{type(error).__name__}: {said}"
