"""Which pictures the command line takes, how it reads them, and where each result goes."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from server.cli.base import fail
from server.errors import SourceTooLarge
from server.job.formats import FORMATS

STANDARD = Path("-")
"""Standard input as a source, standard output as a result."""

PICTURES = frozenset(
    [
        ".jpeg",
        ".jpg",
        ".jpe",
        ".jfif",
        ".pjpeg",
        ".pjp",
        ".png",
        ".apng",
        ".webp",
        ".gif",
        ".tif",
        ".tiff",
        ".bmp",
        ".avif",
        ".heic",
        ".heif",
    ]
)
"""File name endings, in lower case, of the pictures that are taken from a folder."""


CERTIFICATE_NAME = ".certificate"
"""At the end of the names of a certificate's files, before .json and .png."""


@dataclass(frozen=True)
class Source:
    path: Path
    inner: Path
    """Its place in the output folder: the path within the folder that was given; of a file its name."""
    size: int
    """Bytes; 0 if it is not known."""
    walked: bool = False
    """Found in a folder, not given by its name."""


@dataclass(frozen=True)
class Task:
    source: Path
    result: Path
    size: int
    """Bytes of the source; 0 if it is not known."""


Failure = tuple[Path, str]
"""A source, and why it is not done."""


def find(
    given: Iterable[Path], endings: Iterable[str], *, leave_out: Path | None
) -> tuple[list[Source], list[Failure]]:
    """All files that were given, and all in the folders that were given whose names have one of `endings`, except those
    within the folder `leave_out`. A file that was given twice is taken once."""
    sources: dict[Path, Source] = {}
    failures: list[Failure] = []
    for path in given:
        if path == STANDARD:
            sources[path] = Source(path, Path("stdin"), 0)
        elif os.path.isdir(path):
            found = list(walk(path, endings, leave_out=leave_out, failures=failures))
            if not found:
                failures.append((path, "there are no pictures in this folder"))
            sources |= {each.path: each for each in found if each.path not in sources}
        else:
            try:
                sources[path] = Source(path, Path(path.name), path.stat().st_size)
            except (OSError, ValueError) as error:
                failures.append((path, getattr(error, "strerror", None) or str(error)))
    return list(sources.values()), failures


def read(path: Path, most: int) -> bytes:
    """The content of a file, a pipe or, for `STANDARD`, standard input. Of what can't be a picture only the start is
    read, and of what has no length at most `most` bytes. Raises OSError and SourceTooLarge."""
    from server.images.read.sniff import SNIFFED_BYTES, sniff

    with nullcontext(sys.stdin.buffer) if path == STANDARD else path.open("rb") as file:
        start = file.read(SNIFFED_BYTES)
        if sniff(start) is None:
            return start
        if path != STANDARD and path.is_file():
            return start + file.read()
        data = start + file.read(max(0, most + 1 - len(start)))
    if len(data) > most:
        name = "standard input" if path == STANDARD else str(path)
        raise SourceTooLarge(f"{name} has more than {most} bytes, the most that is taken")
    return data


def walk(folder: Path, endings: Iterable[str], *, leave_out: Path | None, failures: list[Failure]) -> Iterator[Source]:
    """The pictures in a folder and its sub-folders, sorted by path. Names that begin with a dot and the heat maps of
    certificates are left out, and links to folders are not followed. Folders that can't be read are added to
    `failures`."""
    wanted = frozenset(endings)
    avoided = None if leave_out is None else os.path.realpath(leave_out)

    def note(error: OSError) -> None:
        failures.append((Path(error.filename), error.strerror or str(error)))

    for where, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(where, name)) != avoided
        )
        for name in sorted(names):
            path = Path(where, name)
            if path.suffix.lower() in wanted and is_picture(name) and path.is_file():
                yield Source(path, path.relative_to(folder), path.stat().st_size, walked=True)


def is_picture(name: str) -> bool:
    """Whether a file of that name is taken from a folder, if its ending is one that is."""
    return not name.startswith(".") and not name.lower().endswith(f"{CERTIFICATE_NAME}.png")


def place(
    sources: list[Source], output: Path | None, *, one_file: bool, suffix: str, ending: Callable[[Path], str]
) -> list[Task]:
    """The path of each result: never that of a source or of another result. Exits with code 2 where that can't be.

    `output`: a file or standard output if `one_file`, else a folder; None: each result goes beside its source.
    `ending`: the file name ending of a source's result."""
    if one_file:
        assert output is not None
        tasks = [Task(each.path, output, each.size) for each in sources]
    else:
        tasks = _in_folders(sources, output, suffix, ending)
    _check_distinct(tasks)
    given = {os.path.realpath(each.path) for each in sources if each.path != STANDARD}
    for task in tasks:
        if task.result != STANDARD and os.path.realpath(task.result) in given:
            fail(f"the result of {task.source} would overwrite {task.result}", code=2)
    return tasks


def place_apart(sources: list[Source], *, suffix: str, ending: Callable[[Path], str]) -> list[Task]:
    """The same for results in a place of their own, in which their paths are relative."""
    tasks = _in_folders(sources, Path(), suffix, ending)
    _check_distinct(tasks)
    return tasks


def _check_distinct(tasks: list[Task]) -> None:
    taken: dict[Path, Path] = {}
    for task in tasks:
        first = taken.setdefault(task.result, task.source)
        if first != task.source:
            fail(f"{first} and {task.source} would both be written to {task.result}; nothing was done", code=2)


def _in_folders(sources: list[Source], output: Path | None, suffix: str, ending: Callable[[Path], str]) -> list[Task]:
    """Two files of a folder whose names differ only in their ending keep it: a.jpg.png and a.webp.png."""

    def result(source: Source, name: str) -> Path:
        folder = source.path.parent if output is None else output / source.inner.parent
        return folder / (name + suffix + ending(source.path))

    results = [result(each, each.inner.stem) for each in sources]
    while True:
        users = Counter(results)
        longer = [
            result(each, each.inner.name) if each.walked and users[path] > 1 else path
            for each, path in zip(sources, results, strict=True)
        ]
        if longer == results:
            return [Task(each.path, path, each.size) for each, path in zip(sources, results, strict=True)]
        results = longer


def existing(tasks: Iterable[Task]) -> list[Task]:
    """Those whose results are there already."""
    return [task for task in tasks if task.result != STANDARD and is_there(task.result)]


def is_there(path: Path) -> bool:
    return os.path.lexists(path) and not os.path.isdir(path)


def says_folder(output: str) -> bool:
    # NOTE: not Path.is_dir, which raises for a name that is too long.
    return output.endswith((os.sep, os.altsep or os.sep)) or os.path.isdir(output)


def endings_written() -> str:
    *most, last = (form.suffix for form in FORMATS.values())
    return f"{', '.join(most)} or {last}"
