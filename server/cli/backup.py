"""`backup`: a copy of the data folder, made while the server runs."""

import os
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.base import DataDir, fail, plain_errors, stderr
from server.files import atomic_file, fsync, make_private_folder, set_private_umask

if TYPE_CHECKING:
    from server.config import Config

_DATABASE = "jobs.sqlite3"


def backup(
    to: Annotated[Path, typer.Argument(help="A new folder, or an earlier backup, which is brought up to date.")],
    data_dir: DataDir = None,
) -> None:
    """Copy jobs, keys, pictures, weights and the secret while the server runs. The copy is a data folder."""
    from server.config import load_config

    with plain_errors():
        config = load_config(data_dir=data_dir)
        try:
            copied, size = _backup(config, to)
        except OSError as error:
            fail(f"{error.filename or to}: {error.strerror or error}")
    stderr.print(f"{copied} new files copied, {size / 1e6:,.1f} MB", highlight=False)
    if not (to / _DATABASE).exists():
        stderr.print("The database is not in it: copy PostgreSQL with pg_dump before each backup.")
    if config.secret is not None:
        stderr.print("The secret is not in it: keep UPSCALE_SECRET with your other settings.")


def _backup(config: "Config", to: Path) -> tuple[int, int]:
    """How many files were copied besides the database, and their size in bytes. Raises OSError.

    The database comes first: pictures are stored before their jobs and never changed, so all that it names are there
    afterwards, unless their job was deleted meanwhile.
    """
    from server.blobs.base import KEY
    from server.db.database import sqlite_file

    if to.resolve().is_relative_to(config.data_dir.resolve()):
        fail("the backup must not be in the data folder")
    if to.exists() and not (to.is_dir() and ((to / "blobs").is_dir() or not any(to.iterdir()))):
        fail(f"{to} is neither empty nor a backup")
    database = sqlite_file(config.database)
    if database is not None and not database.exists():
        fail(f"there are no jobs in {config.data_dir}: no server has run there")
    set_private_umask()
    make_private_folder(to)
    make_private_folder(to / "blobs")
    if database is not None:
        _copy_database(database, to / _DATABASE)
    files = {to / "secret": config.data_dir / "secret"}
    files |= {to / "blobs" / path.name: path for path in config.blobs_dir.glob("*") if KEY.fullmatch(path.name)}
    if config.weights_dir is None:
        weights = (path for path in config.weights_path.rglob("*") if path.is_file())
        files |= {to / path.relative_to(config.data_dir): path for path in weights}
    for path in (to / "blobs").iterdir():
        if path not in files:
            path.unlink()
    sizes = [size for target, source in files.items() if (size := _copy(source, target)) is not None]
    return len(sizes), sum(sizes)


def _copy_database(source: Path, target: Path) -> None:
    """As of one moment; it waits for no writer, and no writer waits for it."""
    try:
        with atomic_file(target) as partial:
            with (
                closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as original,
                closing(sqlite3.connect(partial)) as copy,
            ):
                original.backup(copy)
            fsync(partial)
    except sqlite3.Error as error:
        fail(f"{source}: {error}")


def _copy(source: Path, target: Path) -> int | None:
    """Its size in bytes; None if it was copied before, or has been deleted meanwhile. Raises OSError."""
    with suppress(FileNotFoundError), source.open("rb") as original:
        facts = os.fstat(original.fileno())
        if target.exists() and (target.stat().st_size, target.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns):
            return None
        with atomic_file(target) as partial:
            with partial.open("wb") as copy:
                shutil.copyfileobj(original, copy, 1 << 20)
            os.utime(partial, ns=(facts.st_atime_ns, facts.st_mtime_ns))
            fsync(partial)
        return facts.st_size
    return None
