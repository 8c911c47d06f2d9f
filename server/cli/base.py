"""Shared by all commands: output, errors, and options of the same name."""

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from server import own_command
from server.errors import UpscaleError
from server.malloc import MALLOC_ENV

if TYPE_CHECKING:
    from sqlalchemy import Engine

DataDir = Annotated[Path | None, typer.Option(help="Folder of the jobs, pictures and installed weights.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

stdout = Console(emoji=False)
stderr = Console(stderr=True, emoji=False)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Expected errors become one line and exit code 1, without a traceback."""
    try:
        yield
    except typer.Exit:
        raise
    except UpscaleError as error:
        fail(str(error))
    except Exception as error:
        from server.config import BadConfig

        if isinstance(error, BadConfig):
            fail(str(error))
        from server.errors.transient import transient_error

        outage = transient_error(error)
        if outage is not None:
            fail(outage.message)
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            fail(f"{os.fsdecode(error.filename)}: {error.strerror}")
        raise


def show(table: Table) -> None:
    """Print a table without truncated cells: on a terminal cells are wrapped, elsewhere lines are as long as needed."""
    for column in table.columns:
        column.overflow = "fold"
    if stdout.is_terminal:
        stdout.print(table)
    else:
        widest = stdout.options.update(width=1_000_000)
        width = max(stdout.width, Measurement.get(stdout, widest, table).maximum)
        Console(emoji=False, width=width).print(table)


def fail(message: str, code: int = 1) -> NoReturn:
    complain(message)
    raise typer.Exit(code)


def complain(message: str) -> None:
    stderr.print(f"[bold red]error:[/] {escape(plain(message))}", highlight=False, soft_wrap=True)


def plain(text: object) -> str:
    """The text as one printable line: file names can contain any bytes, also line ends and control codes."""
    return "".join(each if each.isprintable() else _escaped(each) for each in str(text))


def _escaped(letter: str) -> str:
    code = ord(letter)
    # Bytes that are not UTF-8 are decoded to such characters (PEP 383).
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else letter.encode("unicode_escape").decode()


def until_the_end(engine: "Engine") -> "Engine":
    """The database's engine, closed when the program ends: SQLite then moves its log into the file."""
    atexit.register(engine.dispose)
    return engine


def with_malloc_settings() -> None:
    """Restart this process with glibc's settings for networks, which are read before Python starts."""
    if os.name == "posix" and not all(name in os.environ for name in MALLOC_ENV):
        os.execve(sys.executable, own_command(*sys.argv[1:]), os.environ | MALLOC_ENV)
