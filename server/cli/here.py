"""Upscales files in this process, without a server."""

import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from server.cli.pages import Kind, Limits, kind_of
from server.cli.run import Show, reason_of
from server.cli.sources import CERTIFICATE_NAME, STANDARD, Task, is_there, read
from server.errors import InvalidRequest, SourceUnreadable
from server.files import atomic_file, scratch_file
from server.job.formats import FORMATS, FormatName
from server.job.job import Params

if TYPE_CHECKING:
    from server.config import Config
    from server.pipeline import Context
    from server.pipeline.certificate import Certificate
    from server.worker.upscaler import Upscaler


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


class Where(Protocol):
    """Where sources and results are."""

    def source(self, path: Path) -> AbstractContextManager[Path]:
        """A file with the source's content, or standard input, within the block."""

    def result(self, path: Path) -> AbstractContextManager[Path]:
        """A file to write to, which becomes the result when the block ends well."""


class Disk:
    """Files of this machine, and the standard streams."""

    def __init__(self, *, overwrite: bool) -> None:
        self._overwrite = overwrite

    @contextmanager
    def source(self, path: Path) -> Iterator[Path]:
        yield path

    @contextmanager
    def result(self, path: Path) -> Iterator[Path]:
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


class Here:
    """Upscales in this process. `make` is a `run.Make`."""

    def __init__(
        self,
        config: "Config",
        params: Params,
        mask: bytes,
        *,
        own_format: bool,
        overwrite: bool,
        where: Where | None = None,
    ) -> None:
        """Loads the networks. `mask`: the file of the mask's picture, if `params` has one. `own_format`: pages keep
        their format; else they get that of `params`. Raises UpscaleError."""
        self._own_format = own_format
        self._config = config
        self._params = params
        self._mask = mask
        self._where = where or Disk(overwrite=overwrite)
        self._upscaler = load(config, params)

    def make(self, task: Task, show: Show) -> dict[str, Any]:
        with self._where.source(task.source) as source:
            kind = pages_of(source, self._params, own_format=self._own_format)
            if kind is not None and self._params.certificate:
                raise InvalidRequest("certificates are for files of one picture, and this one has pages")
            # A file of a bucket gets its result's name before its pages can be counted.
            if kind is not None and task.result.suffix.lower() in kind.ENDINGS:
                with self._where.result(task.result) as partial:
                    return self._make_pages(kind, source, partial, show)
            data = read(source, self._config.max_source_bytes)
        with self._where.result(task.result) as partial:
            facts, certificate = upscale_picture(self._upscaler, self._params, data, partial, show, self._mask)
            if certificate is not None:
                write_certificate(self._where, task.result, certificate.facts, certificate.heat_map)
            return facts

    def _make_pages(self, kind: Kind, source: Path, result: Path, show: Show) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        notes: list[str] = []

        def upscale_page(
            data: bytes, target: Path, number: int, total: int, own: FormatName | None = None
        ) -> FormatName:
            format_ = own if own is not None and self._own_format else self._params.format
            name = f"page {number} of {total}"
            try:
                made, _ = upscale_picture(
                    self._upscaler,
                    replace(self._params, format=format_),
                    data,
                    target,
                    lambda share, stage, _=None: show((number - 1 + share) / total, f"{name}  {stage}"),
                    self._mask,
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


def pages_of(source: Path, params: Params, *, own_format: bool) -> Kind | None:
    """The kind of a file that is taken page by page. Of a TIFF only the first page is taken for another format."""
    if source == STANDARD or (kind := kind_of(source)) is None:
        return None
    return kind if kind.NAME not in FORMATS or own_format or params.format == kind.NAME else None


def result_ending(source: Path, params: Params, *, own_format: bool) -> str:
    """The file name ending of a source's result."""
    kind = pages_of(source, params, own_format=own_format)
    return FORMATS[params.format].suffix if kind is None else kind.ENDINGS[0]


def write_certificate(where: Where, result: Path, facts: dict[str, Any], heat_map: bytes) -> None:
    """Beside the result. Raises OSError."""
    for ending, data in ((".json", f"{json.dumps(facts, indent=1)}\n".encode()), (".png", heat_map)):
        with where.result(result.with_suffix(CERTIFICATE_NAME + ending)) as partial:
            partial.write_bytes(data)


def upscale_picture(
    upscaler: "Upscaler", params: Params, data: bytes, target: Path, show: Show, mask: bytes = b""
) -> tuple[dict[str, Any], "Certificate | None"]:
    """Upscale one encoded picture into the file `target`. Returns what `--json` prints about the result, and its
    certificate if one is wanted.

    Raises UpscaleError, OSError and pyvips.Error."""
    from server.worker.timing import SharedClock, Timing

    ctx = upscaler.prepare(params, data, target, mask)
    timing, succeeded = Timing(SharedClock(), upscaler.durations, None, signed=upscaler.signs), False
    try:
        upscaler.run(ctx, lambda: show(ctx.progress, ctx.stage or "", timing.left(ctx)))
        succeeded = True
    finally:
        timing.end(ctx, succeeded=succeeded)
    return _facts(ctx), ctx.certificate


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
    if ctx.certificate is not None:
        facts |= {"certificate": ctx.certificate.facts}
    return facts
