"""The command line, called in this process."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.malloc import MALLOC_ENV
from tests.cli.outcome import Run
from tests.conftest import FAST, draw, plain_logs


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Commands send the logs of the whole process to their own standard error."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    plain_logs()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`run("upscale", path, …)`, on the CPU, in a folder and with a data folder of its own."""
    for name in [name for name in os.environ if name.startswith("UPSCALE_") and name not in FAST]:
        monkeypatch.delenv(name)
    for name, value in MALLOC_ENV.items():
        monkeypatch.setenv(name, value)  # otherwise the command starts over, in a new process
    monkeypatch.setenv("UPSCALE_DEVICE", "cpu")
    monkeypatch.setenv("UPSCALE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(draw(16, 12))
    return path
