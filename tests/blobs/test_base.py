"""What every store of blobs does: a folder, a bucket of a real S3 server, and a bucket in memory."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from server.blobs import open_blobs
from server.blobs.base import Blobs, new_key
from server.blobs.bucket import BucketBlobs
from server.blobs.folder import FolderBlobs
from server.config import Config
from server.errors import NotFound

ABSENT = "0" * 32
MIB = 1 << 20


def in_memory(tmp_path: Path, _: pytest.FixtureRequest) -> Blobs:
    return BucketBlobs(MemoryStore(), tmp_path / "blobs")


def in_folder(tmp_path: Path, _: pytest.FixtureRequest) -> Blobs:
    return FolderBlobs(tmp_path / "blobs")


def in_seaweedfs(tmp_path: Path, request: pytest.FixtureRequest) -> Blobs:
    server = request.getfixturevalue("seaweedfs")
    return open_blobs(Config(data_dir=tmp_path, blob_url=server.new_url(), blob_endpoint=server.endpoint))


@pytest.fixture(params=[in_folder, in_memory, pytest.param(in_seaweedfs, marks=pytest.mark.slow)])
def blobs(tmp_path: Path, request: pytest.FixtureRequest) -> Blobs:
    opened: Callable[[Path, pytest.FixtureRequest], Blobs] = request.param
    return opened(tmp_path, request)


@pytest.mark.parametrize(
    "data", [b"", b"\0\xff", bytes(range(250)) * (20 * MIB // 250)], ids=["empty", "short", "in parts"]
)
def test_what_was_put_can_be_got(blobs: Blobs, data: bytes) -> None:
    key = new_key(".jpeg")
    blobs.put(key, data)
    assert blobs.get(key) == data
    with closing(blobs.open(key)) as reader:
        assert reader.size == len(data) and abs(reader.modified_at - time.time()) < 60
        assert reader.read(0, len(data) + 1) == data


def test_any_part_of_a_blob_can_be_read(blobs: Blobs) -> None:
    data = bytes(range(250)) * (3 * MIB // 250)
    key = new_key()
    blobs.put(key, data)
    with closing(blobs.open(key)) as reader:
        for start, length in (
            (0, 10),
            (MIB - 5, 10),
            (2 * MIB, MIB),
            (5, 2 * MIB),
            (len(data) - 3, 10),
            (len(data), 1),
        ):
            assert reader.read(start, length) == data[start : start + length], (start, length)
        pieces = [reader.read(start, 100_000) for start in range(0, len(data), 100_000)]
    assert b"".join(pieces) == data


def test_a_later_put_replaces_an_earlier_one(blobs: Blobs) -> None:
    """One whose answer was lost is repeated."""
    key = new_key()
    blobs.put(key, b"one")
    blobs.put(key, b"two")
    assert blobs.get(key) == b"two"


def test_a_staged_file_becomes_a_blob_and_leaves_nothing(blobs: Blobs) -> None:
    staged, key = blobs.stage(), new_key(".png")
    staged.write_bytes(bytes(17 * MIB))
    blobs.adopt(key, staged)
    assert blobs.get(key) == bytes(17 * MIB)
    assert not list(staged.parent.iterdir())


def test_arriving_bytes_are_kept_in_a_file_without_a_name(blobs: Blobs) -> None:
    with blobs.scratch() as file:
        file.write(b"one ")
        file.write(b"two")
        assert file.read() == b"one two"
    assert not [found for page in blobs.list() for found in page]


def test_what_is_kept_is_known_by_size_and_age(blobs: Blobs) -> None:
    key = new_key(".png")
    blobs.put(key, b"12345")
    (staged := blobs.stage()).write_bytes(b"part")
    kept = {key: found for page in blobs.list() for key, found in page.items()}
    assert set(kept) == {key} and kept[key].size == 5 and abs(kept[key].stored_at - time.time()) < 60
    assert blobs.stat(key) == kept[key] and blobs.has(key)
    assert staged.exists() and blobs.free_bytes() > 0


def test_many_are_listed_and_deleted_at_once(blobs: Blobs) -> None:
    keys = [new_key() for _ in range(30)]
    for key in keys:
        blobs.put(key, b"x")
    blobs.delete(*keys[:-1], ABSENT)
    assert [key for page in blobs.list() for key in page] == keys[-1:]


def test_a_reader_never_sees_a_part(blobs: Blobs) -> None:
    key, versions = new_key(), (b"a" * 2_000_000, b"b" * 1_000_000)
    blobs.put(key, versions[0])
    done = threading.Event()

    def write() -> None:
        for turn in range(20):
            blobs.put(key, versions[turn % 2])
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        assert blobs.get(key) in versions
    thread.join()


def test_what_is_not_there_is_not_found(blobs: Blobs) -> None:
    assert blobs.stat(ABSENT) is None and not blobs.has(ABSENT)
    with pytest.raises(NotFound):
        blobs.get(ABSENT)
    with pytest.raises(NotFound):
        blobs.open(ABSENT)


def test_deleting_twice_is_no_error(blobs: Blobs) -> None:
    key = new_key()
    blobs.put(key, b"gone soon")
    blobs.delete(key)
    blobs.delete(key)
    blobs.delete()
    with pytest.raises(NotFound):
        blobs.get(key)


@pytest.mark.parametrize("key", ["", "a", "../" + ABSENT, f"{ABSENT}/x", f"{ABSENT}.PNG", "first"])
def test_what_is_no_key_is_not_found(blobs: Blobs, key: str) -> None:
    for use in (blobs.get, blobs.open, blobs.delete, lambda bad: blobs.put(bad, b"")):
        with pytest.raises(NotFound):
            use(key)
    assert not blobs.has(key)
