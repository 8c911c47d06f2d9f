"""FolderBlobs: whole or not at all, under names that can't be guessed and can't lead out of the folder."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.blobs.base import KEY, new_key
from server.blobs.folder import FolderBlobs
from server.errors import NotFound

ABSENT = "0" * 32
NO_KEYS = [
    "",
    "a",
    "x" * 32,
    "A" * 32,
    "0" * 31,
    "0" * 33,
    "../" + "0" * 32,
    f"{ABSENT}/x",
    f"{ABSENT}.",
    f"{ABSENT}\n",
]
NO_KEYS += [f"{ABSENT}.PNG", f"{ABSENT}.png.png", f"{ABSENT}./..", f"/{ABSENT}", f"{ABSENT}\0", "..", "/etc/passwd"]


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "new" / "blobs")


def test_a_key_is_random_and_has_the_file_ending_asked_for() -> None:
    keys = {new_key(".png") for _ in range(100)}
    assert len(keys) == 100
    assert all(KEY.fullmatch(key) and key.endswith(".png") for key in keys)
    assert KEY.fullmatch(new_key())


def test_another_process_finds_it(blobs: FolderBlobs, tmp_path: Path) -> None:
    key = new_key()
    blobs.put(key, b"kept")
    assert FolderBlobs(tmp_path / "new" / "blobs").get(key) == b"kept"


def test_putting_leaves_the_blob_and_nothing_else(blobs: FolderBlobs, tmp_path: Path) -> None:
    key = new_key()
    blobs.put(key, b"one")
    blobs.put(key, b"two")
    assert [path.name for path in (tmp_path / "new" / "blobs").iterdir() if path.is_file()] == [key]
    assert blobs.get(key) == b"two"


STAGING = """
import sys, time
from pathlib import Path
from server.blobs.folder import FolderBlobs
staged = FolderBlobs(Path(sys.argv[1])).stage()
staged.write_bytes(b"part")
print(staged, flush=True)
time.sleep(60)
"""


def test_what_a_process_staged_is_removed_as_soon_as_it_has_been_killed(blobs: FolderBlobs, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STAGING, str(tmp_path / "new" / "blobs")]
    own = blobs.stage()
    own.write_bytes(b"mine")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        staged = Path(process.stdout.readline().strip())
        assert blobs.remove_partial() == [] and staged.exists(), "it lives"
        process.kill()
        process.wait()
    assert blobs.remove_partial() == [4]
    assert own.exists() and not staged.parent.exists()
    assert len(list(own.parent.parent.glob("*.lock"))) == 1, "its own, and nothing left of the other"


def test_parts_without_a_lock_are_removed_a_day_later(blobs: FolderBlobs, tmp_path: Path) -> None:
    """A put that was cut off, of this version and of earlier ones, and what these staged."""
    folder, key = tmp_path / "new" / "blobs", new_key()
    blobs.put(key, b"whole")
    parts = [folder / f"{key}#", folder / f"{key}#1", folder / ".staging" / new_key()]
    for path in (*parts, folder / key):
        path.write_bytes(b"part")
    assert blobs.remove_partial() == []
    for path in (*parts, folder / key):
        os.utime(path, (time.time() - 90_000,) * 2)
    assert blobs.remove_partial() == [4, 4, 4]
    assert (folder / key).exists()


def test_a_put_that_fails_leaves_no_part(blobs: FolderBlobs, tmp_path: Path) -> None:
    folder, key = tmp_path / "new" / "blobs", new_key()
    (folder / key).mkdir()
    before = sorted(folder.iterdir())
    with pytest.raises(OSError):
        blobs.put(key, b"whole")
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("key", NO_KEYS)
def test_what_is_no_key_is_not_found_whatever_lies_there(blobs: FolderBlobs, tmp_path: Path, key: str) -> None:
    (tmp_path / "new" / ABSENT).write_bytes(b"outside")
    for use in (blobs.get, blobs.open, blobs.delete, lambda bad: blobs.put(bad, b"")):
        with pytest.raises(NotFound):
            use(key)
    assert (tmp_path / "new" / ABSENT).read_bytes() == b"outside"


def test_files_are_for_their_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        blobs = FolderBlobs(tmp_path / "data" / "blobs")
        blobs.put(new_key(".png"), b"sent")
        staged = blobs.stage()
        staged.write_bytes(b"made")
        blobs.adopt(new_key(".png"), staged)
    finally:
        os.umask(before)
    for path in [tmp_path / "data" / "blobs", *(tmp_path / "data" / "blobs").rglob("*")]:
        if path.name != "sweeping":  # a lock, empty
            assert path.stat().st_mode & 0o077 == 0, path
