"""`upscale`: upscale picture files without a server."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from server.cli import options, sources
from server.cli.base import AsJson, DataDir, Device, fail, plain_errors, with_malloc_settings
from server.cli.dry_run import explain
from server.cli.here import Here, result_ending
from server.cli.pages import ENDINGS
from server.cli.run import Run, Tally, report_failure, say
from server.cli.sources import STANDARD, Source, Task
from server.files import partial_files_removed_on_signals


@options.with_result_options
def upscale(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Pictures and folders of pictures; - is standard input.")
    ] = None,
    input_: Annotated[list[Path] | None, typer.Option("-i", "--input", help="The same as FILES.")] = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="A file, a folder, with a slash at the end, or - for standard output."),
    ] = None,
    suffix: options.Suffix = "",
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out pictures whose results exist already.")
    ] = False,
    overwrite: options.Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done: results, sizes, problems.")
    ] = False,
    *,
    result: options.ResultOptions,
    device: Device = None,
    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="Write a sheet: 512 pixels of the result at each creativity, -2 to 2."),
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Upscale pictures and folders of pictures, without a server.

    A folder is taken with its sub-folders, and its tree is kept in the output folder. Results that exist already are
    not replaced unless --overwrite says so.
    """
    with_malloc_settings()
    from server.config import load_config

    with plain_errors():
        config = load_config(device=device, data_dir=data_dir)
        given = [*(files or ()), *(input_ or ())]
        named = _check_places(given, output, suffix, skip_existing, overwrite, as_json)
        params = result.params(named or "png", sweep=sweep)
        mask = result.mask_picture(config)
        if params.certificate and (output == "-" or (output is None and STANDARD in given)):
            fail("a certificate is written beside the result: give a file with -o", code=2)
        if named is not None and named != params.format:
            fail(f"{output} is {named} by its name, but --format is {params.format}", code=2)
        found, failures = _find(given, output, suffix)
        own_format = result.format_ is None and named is None
        tasks = _place(found, given, output, suffix, lambda path: result_ending(path, params, own_format=own_format))
        tally = Tally(len(tasks) + len(failures), failed=failures)
        there = sources.existing(tasks)
        if skip_existing:
            tally.skipped = len(there)
            tasks = [task for task in tasks if task not in there]
        elif there and not overwrite and not dry_run:
            _refuse_existing(there, len(tasks))
        for path, reason in failures:
            report_failure(path, reason, as_json=as_json)
        if dry_run:
            explain(config, params, tasks, tally, own_format=own_format, as_json=as_json)
            if there and not overwrite and not skip_existing:
                _refuse_existing(there, len(tasks))
        elif tasks:
            with partial_files_removed_on_signals(tally.last_words):
                here = Here(config, params, mask, own_format=own_format, overwrite=overwrite)
                Run(tally, here.make, as_json=as_json).all(tasks)
        if not as_json:
            say(tally.lines())
    if tally.failed:
        raise typer.Exit(1)


def _check_places(
    given: list[Path], output: str | None, suffix: str, skip_existing: bool, overwrite: bool, as_json: bool
) -> str | None:
    """The format by the name of the output, or None. Exits with code 2 for places that make no sense together."""
    if not given:
        fail("name the pictures or folders to upscale; - is standard input", code=2)
    if skip_existing and overwrite:
        fail("--skip-existing and --overwrite exclude each other", code=2)
    options.check_suffix(suffix)
    if output is None:
        if STANDARD in given:
            output = "-"
        elif not suffix:
            fail(
                "say where results go: -o with a file or folder, or --suffix to write them beside the pictures", code=2
            )
        else:
            return None
    if output == "-":
        if len(given) > 1 or os.path.isdir(given[0]):
            fail("standard output takes the result of one picture", code=2)
        if as_json:
            fail("--json and the result can't both go to standard output", code=2)
        if sys.stdout.isatty():
            fail("standard output is a terminal: redirect it, or give a file with -o", code=2)
        return None
    if os.path.exists(output) and not (os.path.isdir(output) or os.path.isfile(output)):
        fail(f"{output} is a device or a pipe; -o - writes to standard output", code=2)
    if not _is_folder(given, output):
        if suffix:
            fail("--suffix has no effect if -o names the result", code=2)
        return _format_of(given[0], output)
    if os.path.isfile(output):
        fail(f"{output} is a file; several pictures need a folder", code=2)
    if not sources.says_folder(output) and Path(output).suffix.lower().lstrip(".") in options.ALIASES:
        fail(f"{output} is the name of one picture; several need a folder, such as {Path(output).stem}/", code=2)
    return None


def _is_folder(given: list[Path], output: str) -> bool:
    many = len(given) > 1 or os.path.isdir(given[0])
    return many or sources.says_folder(output) or not Path(output).suffix


def _format_of(source: Path, output: str) -> str | None:
    """None for files whose pages keep their formats."""
    suffix = Path(output).suffix
    packed = source.suffix.lower() in ENDINGS and source.suffix.lower().lstrip(".") not in options.ALIASES
    if packed and suffix.lower() != source.suffix.lower():
        fail(
            f"the result of {source} has pages too: name it {Path(output).stem}{source.suffix}, or give a folder",
            code=2,
        )
    if packed:
        return None
    named = options.ALIASES.get(suffix.lower().lstrip("."))
    if named is None:
        written = sources.endings_written()
        fail(f"a result can't be written as {suffix}: use {written}; a folder of that name ends with /", code=2)
    return named


def _find(given: list[Path], output: str | None, suffix: str) -> tuple[list[Source], list[sources.Failure]]:
    """Beside the pictures, what ends with the suffix is the result of an earlier run, and left out."""
    found, failures = sources.find(
        given, sources.PICTURES | ENDINGS, leave_out=None if output is None else Path(output)
    )
    if output is None:
        found = [each for each in found if not (each.walked and each.path.stem.endswith(suffix))]
    return found, failures


def _place(
    found: list[Source], given: list[Path], output: str | None, suffix: str, ending: Callable[[Path], str]
) -> list[Task]:
    if output is None:
        output = "-" if STANDARD in given else None
    one_file = output is not None and (output == "-" or not _is_folder(given, output))
    where = None if output is None else Path(output)
    return sources.place(found, where, one_file=one_file, suffix=suffix, ending=ending)


def _refuse_existing(there: list[Task], total: int) -> None:
    what = f"{there[0].result} exists already"
    if total > 1:
        what = f"{len(there)} of {total} results exist already, the first is {there[0].result}; nothing was done"
    fail(f"{what}: --overwrite replaces, --skip-existing keeps what exists", code=2)
