"""What the commands share: where they print, how they end with an error, options of the same name."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from server.config import BadConfig
from server.errors import UpscaleError

DataDir = Annotated[Path | None, typer.Option(help="Jobs, pictures and installed weights.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

stdout = Console(emoji=False)
stderr = Console(stderr=True, emoji=False)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors that a person can act on are one line and exit code 1, never a traceback."""
    try:
        yield
    except (UpscaleError, BadConfig) as error:
        fail(str(error))
    except Exception as error:
        from server.transient import transient_error

        outage = transient_error(error)
        if outage is None:
            raise
        fail(outage.message)


def show(table: Table) -> None:
    """Every cell whole: on a terminal it goes on in the next line where there is no room, elsewhere lines become as
    long as they have to be."""
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
    """As one line that any terminal can show: names of files may hold any bytes, line ends and control codes too."""
    return "".join(each if each.isprintable() else _escaped(each) for each in str(text))


def _escaped(letter: str) -> str:
    code = ord(letter)
    # Bytes that are no UTF-8 are such letters (PEP 383).
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else letter.encode("unicode_escape").decode()


def with_malloc_settings() -> None:
    """Start over with glibc's settings for networks: they are read before the first line of Python runs."""
    from server.launch import MALLOC_ENV

    if os.name == "posix" and not all(name in os.environ for name in MALLOC_ENV):
        os.execve(sys.executable, [sys.executable, "-m", "server", *sys.argv[1:]], os.environ | MALLOC_ENV)
