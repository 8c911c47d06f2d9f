"""Upscales many files, one after the other. A file that fails does not stop the others."""

import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.cli.base import complain, plain, stderr, stdout
from server.cli.pages import Kind, Limits, kind_of
from server.cli.progress import Display
from server.cli.sources import STANDARD, Failure, Task, is_there
from server.errors import SourceTooLarge, SourceUnreadable, UpscaleError
from server.files import atomic_file, scratch_file
from server.job.formats import FORMATS, FormatName
from server.job.job import Params

if TYPE_CHECKING:
    from server.config import Config
    from server.pipeline import Context
    from server.worker.upscaler import Upscaler

Show = Callable[[float, str], None]
"""Takes the share of the work that is done, 0 … 1, and what is being done."""


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

    def last_words(self) -> str:
        """For Ctrl-C."""
        said = f"interrupted: {self.done} of {self.total} done"
        said += "".join(
            f", {count} {word}" for count, word in ((self.skipped, "skipped"), (len(self.failed), "failed")) if count
        )
        return said + ("; --skip-existing goes on with the rest" if self.total > 1 else "")


def load(config: "Config", params: Params) -> "Upscaler":
    """With the networks loaded, so that a wrong name is one error, not one for each file. Raises UpscaleError."""
    from server.logs import configure_logs
    from server.weights.catalog import Catalog
    from server.worker.upscaler import Upscaler

    configure_logs(logging.WARNING)  # the default is standard output
    upscaler = Upscaler(config, Catalog.of(config), allow_paths=True)
    upscaler.load(params)
    if params.faces is not None:
        upscaler.load_faces()
    return upscaler


class Batch:
    def __init__(
        self, config: "Config", params: Params, tally: Tally, *, own_format: bool, overwrite: bool, as_json: bool
    ) -> None:
        """Loads the networks. `own_format`: pages keep their format; else they get that of `params`. Raises
        UpscaleError."""
        self._own_format = own_format
        self._config = config
        self._params = params
        self._tally = tally
        self._overwrite = overwrite
        self._as_json = as_json
        self._upscaler = load(config, params)

    def run(self, tasks: Sequence[Task]) -> None:
        sizes = [task.size for task in tasks]
        with Display(sizes, shown=not self._as_json and stderr.is_terminal) as display:
            for task in tasks:
                self.take(task, display)

    def take(self, task: Task, display: Display) -> bool:
        """Upscale one file and report it. Returns whether that has succeeded."""
        display.begin(plain(task.source.name))
        started = time.perf_counter()
        try:
            facts = self._make(task, display.show)
        except Exception as error:  # unexpected errors too: the other files are done nevertheless
            reason = reason_of(error)
            self._tally.failed.append((task.source, reason))
            with display.paused():
                report_failure(task.source, reason, as_json=self._as_json)
            return False
        self._tally.done += 1
        facts["seconds"] = round(time.perf_counter() - started, 3)
        with display.paused():
            self._report(task, facts, display.place())
        return True

    def _make(self, task: Task, show: Show) -> dict[str, Any]:
        """Write the result. Returns what `--json` prints about it."""
        kind = pages_of(task.source, self._params, own_format=self._own_format)
        if kind is not None:
            with self._result(task.result) as partial:
                return self._make_pages(kind, task.source, partial, show)
        data = self._read(task.source)
        with self._result(task.result) as partial:
            return upscale_picture(self._upscaler, self._params, data, partial, show)

    def _make_pages(self, kind: Kind, source: Path, result: Path, show: Show) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        notes: list[str] = []

        def upscale_page(
            data: bytes, target: Path, number: int, total: int, own: FormatName | None = None
        ) -> FormatName:
            format_ = own if own is not None and self._own_format else self._params.format
            name = f"page {number} of {total}"
            try:
                made = upscale_picture(
                    self._upscaler,
                    replace(self._params, format=format_),
                    data,
                    target,
                    lambda share, stage: show((number - 1 + share) / total, f"{name}  {stage}"),
                )
            except Exception as error:
                raise SourceUnreadable(f"{name}: {reason_of(error)}") from error
            facts.setdefault("model", made["model"])
            notes.extend(f"{name}: {note}" for note in made.get("notes", ()))
            return format_

        config = self._config
        limits = Limits(page_bytes=config.max_source_bytes, page_pixels=config.max_source_pixels)
        count = kind.convert(source, result, limits, upscale_page)
        return {"pages": count, "seconds": 0.0, **facts, **({"notes": notes} if notes else {})}

    def _read(self, source: Path) -> bytes:
        if source != STANDARD:
            return source.read_bytes()
        most = self._config.max_source_bytes
        data = sys.stdin.buffer.read(most + 1)
        if len(data) > most:
            raise SourceTooLarge(f"standard input has more than {most} bytes, the most that is taken")
        return data

    @contextmanager
    def _result(self, path: Path) -> Iterator[Path]:
        """A file to write to, which becomes the result when the block ends well."""
        if path == STANDARD:
            with scratch_file(Path(tempfile.gettempdir())) as partial:
                yield partial
                with partial.open("rb") as file:
                    shutil.copyfileobj(file, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            return
        with atomic_file(path) as partial:
            yield partial
            if not self._overwrite and is_there(path):  # someone else has made it in the meantime
                raise FileExistsError(17, "the result exists already", str(path))

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


def pages_of(source: Path, params: Params, *, own_format: bool) -> Kind | None:
    """The kind of a file that is taken page by page. Of a TIFF only the first page is taken for another format."""
    if source == STANDARD or (kind := kind_of(source)) is None:
        return None
    return kind if kind.NAME not in FORMATS or own_format or params.format == kind.NAME else None


def result_ending(source: Path, params: Params, *, own_format: bool) -> str:
    """The file name ending of a source's result."""
    kind = pages_of(source, params, own_format=own_format)
    return FORMATS[params.format].suffix if kind is None else kind.ENDINGS[0]


def upscale_picture(upscaler: "Upscaler", params: Params, data: bytes, target: Path, show: Show) -> dict[str, Any]:
    """Upscale one encoded picture into the file `target`. Returns what `--json` prints about the result.

    Raises UpscaleError, OSError and pyvips.Error."""
    ctx = upscaler.prepare(params, data, target)
    upscaler.run(ctx, lambda: show(ctx.progress, ctx.stage or ""))
    return _facts(ctx)


def _facts(ctx: "Context") -> dict[str, Any]:
    assert ctx.plan is not None  # the run has ended well
    w, h = ctx.plan.result
    facts: dict[str, Any] = {"width": w, "height": h}
    if ctx.animation is not None:
        facts |= {"frames": ctx.plan.frames, "duration_s": ctx.animation.timing.duration_s}
    facts |= {"model": ctx.loaded.name if ctx.loaded else "none", "seconds": 0.0, "steps": ctx.seconds}
    if ctx.loaded is not None:
        facts |= {"model_sha256": ctx.loaded.sha256, "model_form": ctx.loaded.form}
    if ctx.notes:
        facts |= {"notes": ctx.notes}
    if ctx.refinement is not None:
        facts |= {"refinement": ctx.refinement.to_dict()}
    if ctx.faces is not None:
        facts |= {"faces": [face.to_dict() for face in ctx.faces]}
    return facts


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
