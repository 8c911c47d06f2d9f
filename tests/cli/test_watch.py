"""`watch`: which files are complete, what is done already, and one real run."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from server.cli.sources import Task
from server.cli.watch import Seen, wanted
from tests.cli.outcome import Run, complaint, size_of, started
from tests.conftest import draw


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (tmp_path / "a.png").write_bytes(b"1234")
    return Task(tmp_path / "a.png", tmp_path / "out/a.png", 4)


def test_a_file_is_complete_when_it_has_stopped_growing(task: Task) -> None:
    seen = Seen(2)
    assert seen.complete([task], 10) == []
    assert seen.complete([task], 11.9) == []
    task.source.write_bytes(b"12345678")
    assert seen.complete([task], 12.5) == [], "it has grown"
    assert seen.complete([task], 14.4) == []
    assert seen.complete([task], 14.5) == [task]


def test_an_empty_file_is_still_to_come(task: Task) -> None:
    seen = Seen(0)
    task.source.write_bytes(b"")
    assert seen.complete([task], 10) == seen.complete([task], 99) == []


def test_a_file_that_was_taken_is_not_taken_again_until_it_changes(task: Task) -> None:
    seen = Seen(0)
    assert seen.complete([task], 10) == [task]
    seen.took(task)
    assert seen.complete([task], 20) == []
    task.source.write_bytes(b"12345678")
    assert seen.complete([task], 30) == [task]


def test_a_file_that_has_gone_is_forgotten(task: Task) -> None:
    seen = Seen(5)
    seen.complete([task], 10)
    task.source.unlink()
    assert seen.complete([task], 20) == []
    task.source.write_bytes(b"1234")
    assert seen.complete([task], 21) == [], "it counts from now"


def test_what_has_a_result_is_done_and_may_be_made_again_when_it_is_newer(task: Task) -> None:
    assert wanted(task, overwrite=False)
    task.result.parent.mkdir()
    task.result.write_bytes(b"done")
    os.utime(task.source, (1000, 1000))
    assert not wanted(task, overwrite=False) and not wanted(task, overwrite=True)
    os.utime(task.result, (900, 900))
    assert not wanted(task, overwrite=False) and wanted(task, overwrite=True)


def test_folders_that_make_no_sense(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "file").write_text("")
    assert complaint(run("watch", "missing", "out"), code=2) == "there is no folder missing"
    assert complaint(run("watch", "in", "file"), code=2) == "file is a file; results need a folder"
    words = complaint(run("watch", "in", "in"), code=2)
    assert words == "results need another folder, or they would be upscaled too"


def watching(folder: Path) -> "subprocess.Popen[bytes]":
    options = ("-s", "1", "--settle", "0.1", "--interval", "0.05", "--data-dir", folder / "data")
    return started("watch", folder / "in", folder / "out", *options, cwd=folder)


def appears(path: Path, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(1000):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError(f"{path} has not appeared")


def test_the_tree_is_mirrored_and_a_restart_goes_on(tmp_path: Path) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/deep/a.png").write_bytes(draw(16, 12))
    (tmp_path / "in/bad.png").write_text("no picture")
    with watching(tmp_path) as process:
        appears(tmp_path / "out/deep/a.png", process)
        (tmp_path / "in/b.jpg").write_bytes(draw(8, 8, "RGB", "jpeg"))
        appears(tmp_path / "out/b.png", process)
        process.send_signal(signal.SIGINT)
        out, told = process.communicate(timeout=60)
    assert process.returncode == 130 and told.endswith(b"stopped: 2 done, 1 failed\n"), told
    assert told.count(b"bad.png: the file is not a picture") == 1, "it is not tried again and again"
    assert size_of(tmp_path / "out/deep/a.png") == ("PNG", (16, 12))
    before = (tmp_path / "out/deep/a.png").stat().st_mtime_ns
    (tmp_path / "in/c.png").write_bytes(draw(8, 8))
    with watching(tmp_path) as process:
        appears(tmp_path / "out/c.png", process)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert out.count(b"\n") == 1 and b"c.png" in out, "the others are done"
    assert (tmp_path / "out/deep/a.png").stat().st_mtime_ns == before
