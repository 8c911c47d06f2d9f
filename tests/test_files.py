"""Partial files are removed, however the process ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.files import atomic_file, partial_files_removed_on_signals, scratch_file
from tests.paths import ROOT

_BUSY = """
import hashlib, sys, time
from pathlib import Path
from server.files import partial_files_removed_on_signals, atomic_file
with partial_files_removed_on_signals(), atomic_file(Path(sys.argv[1])) as partial:
    partial.write_bytes(b"half")
    print("begun", flush=True)
    if sys.argv[2] == "library":
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)  # as long as this runs, no handler of Python does
    time.sleep(600)
"""


@contextmanager
def begun(path: Path, how: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", _BUSY, str(path), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "begun\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("how", ["python", "library"])
def test_nothing_half_written_is_left_by_a_signal(tmp_path: Path, number: signal.Signals, how: str) -> None:
    with begun(tmp_path / "new" / "folder" / "a.png", how) as process:
        assert list((tmp_path / "new" / "folder").iterdir())
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert not list(tmp_path.iterdir())


def test_a_scratch_file_is_removed_however_its_block_ends(tmp_path: Path) -> None:
    with scratch_file(tmp_path) as path:
        path.write_bytes(b"half")
    with pytest.raises(ValueError), scratch_file(tmp_path) as path:
        path.write_bytes(b"half")
        raise ValueError
    assert not list(tmp_path.iterdir())


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with begun(tmp_path / "a.png", "python") as process:
            process.send_signal(signal.SIGHUP)
            time.sleep(0.5)
            assert process.poll() is None
            process.terminate()
            assert process.wait(30) == 128 + signal.SIGTERM and not list(tmp_path.iterdir())
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_failure_leaves_neither_file_nor_folder_but_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "there" / "new" / "a.png"
    target.parent.parent.mkdir()
    with pytest.raises(ZeroDivisionError), atomic_file(target) as partial:
        partial.write_bytes(b"half")
        _ = 1 / 0
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
    with atomic_file(target) as partial:
        partial.write_bytes(b"whole")
    assert target.read_bytes() == b"whole" and len(list(target.parent.iterdir())) == 1


def test_the_temporary_name_is_short_and_no_other_run_has_it(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 255)
    with atomic_file(target) as one, atomic_file(target) as other:
        assert one != other and len(os.fsencode(one.name)) < 40 and one.parent == tmp_path
        one.touch()
        other.touch()
    with pytest.raises(OSError, match="too long"), atomic_file(tmp_path / ("n" * 256)):
        raise AssertionError
    with pytest.raises(IsADirectoryError), atomic_file(tmp_path):
        raise AssertionError


def test_a_pipe_and_a_device_stay_what_they_are(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    (tmp_path / "link.png").symlink_to("/dev/null")
    for target in (pipe, tmp_path / "link.png"):
        with pytest.raises(OSError, match="a device or a pipe"), atomic_file(target):
            raise AssertionError
    assert pipe.is_fifo() and len(list(tmp_path.iterdir())) == 2


def test_handlers_are_as_they_were_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with partial_files_removed_on_signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
