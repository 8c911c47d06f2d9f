"""What a command has left: its streams, its exit code, its files."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from typer.testing import Result

from server.malloc import MALLOC_ENV
from tests.conftest import FAST
from tests.paths import ROOT

Run = Callable[..., Result]


def complaint(outcome: Result, code: int = 1) -> str:
    """The one line of standard error, of a command that ended with `code`."""
    assert outcome.exit_code == code, outcome.output
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("error: ") and outcome.stderr.count("\n") == 1, outcome.stderr
    return outcome.stderr.removeprefix("error: ").removesuffix("\n")


def size_of(path: Path) -> tuple[str | None, tuple[int, int]]:
    with Image.open(path) as image:
        return image.format, image.size


def lines(outcome: Result) -> list[dict[str, Any]]:
    """Its standard output, which must be JSON lines only."""
    return [json.loads(line) for line in outcome.stdout.splitlines()]


def started(*arguments: object, **options: Any) -> "subprocess.Popen[bytes]":
    """The command line in a process of its own, on the CPU and with the small network, whose streams are pipes."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("UPSCALE_")}
    env |= FAST | MALLOC_ENV | {"UPSCALE_DEVICE": "cpu", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "server", *(str(each) for each in arguments)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    # What was started in the background ignores Ctrl-C, and so would its children.
    return subprocess.Popen(command, env=env | options.pop("env", {}), preexec_fn=_takes_interrupts, **pipes, **options)


def _takes_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def imported(*arguments: object, folder: Path) -> set[str]:
    """The modules that a command imports, and their packages."""
    code = (
        "import sys\nfrom server.cli import main\ntry:\n    main()\nfinally:\n"
        "    names = {part for name in sys.modules for part in (name, name.split('.')[0])}\n"
        "    print('|'.join(names), file=sys.stderr)"
    )
    env = os.environ | MALLOC_ENV | {"UPSCALE_DATA_DIR": str(folder / "data"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *(str(each) for each in arguments)]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
    return set(done.stderr.splitlines()[-1].split("|"))
