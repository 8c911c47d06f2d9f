"""The weights folder: files are installed atomically, by one process at a time, and keep the hash of their first
download."""

import hashlib
import json
from pathlib import Path, PurePosixPath

import pytest

from server.errors import Conflict, Unavailable
from server.files import write_atomically
from server.weights.manifest import File
from server.weights.store import Store, sha256_of

DIGEST = hashlib.sha256(b"weights").hexdigest()
PLAIN = File(PurePosixPath("net.pth"), "", None, None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "weights")


def put(store: Store, file: File) -> bool:
    store.folder.mkdir(exist_ok=True)
    partial = store.folder / "x.partial"
    partial.write_bytes(b"weights")
    return store.commit(partial, file, DIGEST)


def test_a_file_nobody_vouches_for_is_pinned_by_its_first_coming(store: Store) -> None:
    assert store.expected(PLAIN) is None
    assert put(store, PLAIN)
    assert store.expected(PLAIN) == DIGEST
    assert json.loads((store.folder / "pins.json").read_text()) == {"net.pth": DIGEST}
    assert not put(store, PLAIN), "it is pinned already"


def test_the_manifests_hash_needs_no_pin_and_wins(store: Store) -> None:
    vouched = File(PurePosixPath("folder/net.pth"), "", "0" * 64, 7)
    assert not put(store, vouched)
    assert (store.folder / "folder" / "net.pth").read_bytes() == b"weights"
    assert store.expected(vouched) == "0" * 64
    assert sorted(path.name for path in store.folder.iterdir()) == ["folder"]


def test_one_process_at_a_time_works_in_the_folder(store: Store) -> None:
    with store.locked(), pytest.raises(Conflict, match=f"another process is at work in {store.folder}"):
        Store(store.folder).locked().__enter__()
    with store.locked():
        pass


def test_space_is_counted(store: Store) -> None:
    store.folder.mkdir()
    store.require_space(1000)
    with pytest.raises(Unavailable, match=r"1,000,000,000,000 MB are needed and [\d,]+ MB are free\. Make room, or"):
        store.require_space(10**18)


def test_a_hash_is_taken_again_when_the_file_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(b"weights")
    assert sha256_of(path) == DIGEST
    path.write_bytes(b"heavier weights")
    assert sha256_of(path) == hashlib.sha256(b"heavier weights").hexdigest()


def test_a_small_file_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("one", "two"):
        write_atomically(tmp_path / "a.json", text)
        assert [path.read_text() for path in tmp_path.iterdir()] == [text]
