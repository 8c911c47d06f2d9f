"""`batch`: upscale all pictures of a folder or a bucket into another."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from server import __version__
from server.cli import options, sources
from server.cli.base import AsJson, DataDir, Device, fail, plain_errors, with_malloc_settings
from server.cli.here import Here, result_ending
from server.cli.pages import ENDINGS
from server.cli.places import Picture, Place, is_bucket, open_place, within
from server.cli.queued import Queued
from server.cli.run import Run, Tally, report_failure, say
from server.cli.sources import Failure, Task
from server.files import partial_files_removed_on_signals

_SAVE_S = 30.0
"""How often the record is stored again while the command runs."""


@options.with_result_options
def batch(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A folder, or a bucket such as s3://bucket/prefix.")],
    dest: Annotated[str, typer.Argument(metavar="DST", help="A folder or bucket of the results, with the same tree.")],
    queue: Annotated[
        bool,
        typer.Option("--queue", help="Let the server's workers do it, on all machines: each picture is a job."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Upscale a picture again when it is newer than its result.")
    ] = False,
    endpoint: Annotated[
        str | None, typer.Option(help="URL of the server of the buckets. Default: UPSCALE_BLOB_ENDPOINT.")
    ] = None,
    suffix: options.Suffix = "",
    *,
    result: options.ResultOptions,
    device: Device = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Upscale all pictures of a folder or a bucket into another, and record what was done.

    A picture is done when its result exists: run the same command again to go on after an interruption, or to try again
    what has failed. Each run writes a record, batch-TIME.jsonl, beside the results.
    """
    with_malloc_settings()
    from server.config import load_config
    from server.logs import configure_logs

    with plain_errors(), _store_failures():
        config = load_config(device=device, data_dir=data_dir)
        configure_logs(logging.WARNING)
        _check_places(source, dest)
        options.check_suffix(suffix)
        params = result.params()
        mask = result.mask_picture(config)
        own_format = result.format_ is None and not queue
        at = endpoint or config.blob_endpoint
        where = Between(open_place(source, at), open_place(dest, at))
        endings = sources.PICTURES if queue else sources.PICTURES | ENDINGS
        failures: list[Failure] = []
        pictures = {each.source.path: each for each in where.src.pictures(endings, dest, failures)}
        if not pictures and not failures:
            fail(f"there are no pictures in {source}")
        tasks = sources.place_apart(
            [each.source for each in pictures.values()],
            suffix=suffix,
            ending=lambda path: result_ending(path, params, own_format=own_format),
        )
        tally = Tally(len(tasks) + len(failures), failed=failures)
        wanted = [task for task in tasks if where.lacks(task, pictures[task.source], overwrite)]
        tally.skipped = len(tasks) - len(wanted)
        for path, reason in failures:
            report_failure(path, reason, as_json=as_json)
        if wanted:
            record = Record(where.dst, {"source": source, "destination": dest, "params": params.to_dict()})

            def last_words() -> str:
                with suppress(OSError):
                    record.save()
                return tally.last_words("run the same command again to go on")

            with partial_files_removed_on_signals(last_words), ExitStack() as stack:
                stack.callback(record.save)
                if queue:
                    queued = Queued(
                        config, params, mask, wanted, {path: each.state for path, each in pictures.items()}, where
                    )
                    stack.callback(queued.close)
                    make = queued.make
                else:
                    make = Here(config, params, mask, own_format=own_format, overwrite=overwrite, where=where).make
                Run(tally, make, as_json=as_json, on_end=record.add).all(wanted)
        if not as_json:
            say(tally.lines())
    if tally.failed:
        raise typer.Exit(1)


@contextmanager
def _store_failures() -> Iterator[None]:
    """The reason is the operator's to know."""
    try:
        yield
    except OSError as error:
        from server.errors.transient import StoreFailure

        if not isinstance(error, StoreFailure):
            raise
        fail(f"a bucket can't be used; run the same command again to go on: {error}")


class Between:
    """A `here.Where`: sources in one place, results in another."""

    def __init__(self, src: Place, dst: Place) -> None:
        self.src, self.dst = src, dst
        self.source, self.result = src.read, dst.write

    def lacks(self, task: Task, picture: Picture, overwrite: bool) -> bool:
        """Whether the picture has no result yet; with `overwrite` also if it is newer than its result."""
        written = self.dst.written_at(task.result)
        return written is None or (overwrite and picture.modified_at > written)


class Record:
    """What a run has done, as JSON lines beside its results: what was wanted, then a line for each picture."""

    def __init__(self, place: Place, wanted: dict[str, Any]) -> None:
        now = time.gmtime()
        self._place = place
        self._name = Path(time.strftime("batch-%Y%m%dT%H%M%SZ.jsonl", now))
        self._lines = [wanted | {"started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", now), "version": __version__}]
        self._saved = 0
        self._save_at = time.monotonic() + _SAVE_S

    def add(self, task: Task, facts: dict[str, Any]) -> None:
        self._lines.append({"source": task.source.as_posix(), "result": task.result.as_posix(), **facts})
        if time.monotonic() >= self._save_at:
            self.save()

    def save(self) -> None:
        self._save_at = time.monotonic() + _SAVE_S
        lines = self._lines[:]
        if len(lines) > self._saved:
            with self._place.write(self._name) as file:
                file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
            self._saved = len(lines)


def _check_places(source: str, dest: str) -> None:
    if not is_bucket(source) and not Path(source).is_dir():
        fail(f"there is no folder {source}", code=2)
    if not is_bucket(dest) and Path(dest).exists() and not Path(dest).is_dir():
        fail(f"{dest} is a file; results need a folder", code=2)
    if within(source, dest) and within(dest, source):
        fail("results need another place, or they would be upscaled too", code=2)
