"""`watch`: upscale every picture that is put into a folder."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from server.cli import options, sources
from server.cli.base import AsJson, DataDir, Device, fail, plain, plain_errors, with_malloc_settings
from server.cli.here import Here, result_ending
from server.cli.pages import ENDINGS
from server.cli.run import Run, Tally, say
from server.cli.sources import Task
from server.files import partial_files_removed_on_signals
from server.job.job import Params

Stamp = tuple[int, int]
"""Size in bytes and time of the last change in nanoseconds."""


@options.with_result_options
def watch(
    folder: Annotated[Path, typer.Argument(help="The folder to watch, with its sub-folders.")],
    dest: Annotated[Path, typer.Argument(help="The folder of the results, with the same tree.")],
    settle: Annotated[
        float, typer.Option(min=0, help="Seconds without a change after which a file counts as complete.")
    ] = 2.0,
    interval: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks at the folder.")] = 1.0,
    suffix: options.Suffix = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Upscale a picture again when it is newer than its result.")
    ] = False,
    *,
    result: options.ResultOptions,
    device: Device = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Upscale every picture that is put into a folder, until Ctrl-C.

    A picture is done when its result exists, so the command goes on where it was when it is started again.
    """
    with_malloc_settings()
    from server.config import load_config

    with plain_errors():
        config = load_config(device=device, data_dir=data_dir)
        _check_folders(folder, dest)
        options.check_suffix(suffix)
        params = result.params()
        mask = result.mask_picture(config)
        tally = Tally(0)
        with partial_files_removed_on_signals(lambda: f"stopped: {tally.done} done, {len(tally.failed)} failed"):
            here = Here(config, params, mask, own_format=result.format_ is None, overwrite=overwrite)
            run = Run(tally, here.make, as_json=as_json)
            say([plain(f"watching {folder}; results go to {dest}; Ctrl-C ends it")])
            seen = Seen(settle)
            looks = _looks(folder, dest, params, own_format=result.format_ is None, suffix=suffix)
            for tasks in looks:
                for task in seen.complete((each for each in tasks if wanted(each, overwrite)), time.monotonic()):
                    tally.total += 1
                    run.all([task])
                    seen.took(task)
                time.sleep(interval)


def _check_folders(folder: Path, dest: Path) -> None:
    if not os.path.isdir(folder):
        fail(f"there is no folder {folder}", code=2)
    if os.path.isfile(dest):
        fail(f"{dest} is a file; results need a folder", code=2)
    if os.path.realpath(folder) == os.path.realpath(dest):
        fail("results need another folder, or they would be upscaled too", code=2)


def _looks(folder: Path, dest: Path, params: Params, *, own_format: bool, suffix: str) -> Iterator[list[Task]]:
    """The pictures in the folder and their results, again and again. What can't be read is told once."""
    told: set[sources.Failure] = set()
    while True:
        failures: list[sources.Failure] = []
        found = list(sources.walk(folder, sources.PICTURES | ENDINGS, leave_out=dest, failures=failures))
        say(plain(f"error: {path}: {reason}") for path, reason in failures if (path, reason) not in told)
        told = set(failures)
        yield sources.place(
            found,
            dest,
            one_file=False,
            suffix=suffix,
            ending=lambda path: result_ending(path, params, own_format=own_format),
        )


def wanted(task: Task, overwrite: bool) -> bool:
    """Whether the picture has no result yet; with `overwrite` also if it is newer than its result."""
    if not sources.is_there(task.result):
        return True
    source = _stamp(task.source)
    return overwrite and source is not None and source[1] > os.stat(task.result).st_mtime_ns


class Seen:
    """Which files have stopped changing. `settle_s`: for so long they must have been the same."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._files: dict[Path, tuple[Stamp, float]] = {}
        self._taken: dict[Path, Stamp] = {}

    def complete(self, tasks: Iterable[Task], now: float) -> list[Task]:
        """Those of the files in the folder that are complete, and were not taken in this state before. `now`: seconds
        of a monotonic clock. An empty file is not complete: its content is still to come."""
        before, self._files = self._files, {}
        complete = []
        for task in tasks:
            stamp = _stamp(task.source)
            if stamp is None:
                continue
            known, since = before.get(task.source, (None, now))
            self._files[task.source] = stamp, since if known == stamp else now
            if (
                stamp[0]
                and now - self._files[task.source][1] >= self._settle_s
                and self._taken.get(task.source) != stamp
            ):
                complete.append(task)
        return complete

    def took(self, task: Task) -> None:
        """It is not taken again until it changes: one that has failed would fail again."""
        if task.source in self._files:
            self._taken[task.source] = self._files[task.source][0]


def _stamp(path: Path) -> Stamp | None:
    """None if the file has gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
