"""Pictures that move from the folder to a bucket and back."""

from pathlib import Path

import pytest
from obstore.store import MemoryStore

from server.blobs import open_blobs
from server.blobs.base import Blobs, new_key
from server.blobs.bucket import BucketBlobs
from server.blobs.copy import Copier, open_place
from server.blobs.folder import FolderBlobs
from server.config import BadConfig, Config
from tests.cli.conftest import run as run
from tests.cli.outcome import Run, complaint
from tests.seaweedfs import SeaweedFS


@pytest.fixture
def source(tmp_path: Path) -> Blobs:
    """With an empty picture and one of several parts."""
    blobs = FolderBlobs(tmp_path / "data" / "blobs")
    for data in (b"one", b"", bytes(20 << 20), b"four"):
        blobs.put(new_key(".png"), data)
    return blobs


def content(blobs: Blobs) -> dict[str, bytes]:
    return {key: blobs.get(key) for page in blobs.list() for key in page}


def copied(source: Blobs, target: Blobs, *, verify: bool = False) -> tuple[int, int, list[str]]:
    copier = Copier(source, target, verify=verify)
    failures = list(copier.run(lambda done, total: None))
    assert len(failures) == copier.failed
    return copier.copied, copier.present, failures


def test_all_is_copied_once_and_then_only_what_is_missing_or_cut(source: Blobs, tmp_path: Path) -> None:
    target = BucketBlobs(MemoryStore(), tmp_path / "staging")
    assert copied(source, target) == (4, 0, [])
    assert content(target) == content(source)
    keys = sorted(content(source))
    target.delete(keys[0])
    target.put(keys[1], b"cut off")
    source.put(new_key(), b"new")
    assert copied(source, target) == (3, 2, [])
    assert content(target) == content(source)
    assert copied(target, FolderBlobs(tmp_path / "back")) == (5, 0, []), "and back"
    assert not list(target.stage().parent.iterdir())


def test_verify_finds_a_copy_of_the_right_size_with_other_bytes(source: Blobs, tmp_path: Path) -> None:
    target = BucketBlobs(MemoryStore(), tmp_path / "staging")
    copied(source, target)
    (key,) = (key for key, data in content(source).items() if data == b"four")
    target.put(key, b"FOUR")
    assert copied(source, target) == (0, 4, [])
    assert copied(source, target, verify=True) == (1, 3, [])
    assert content(target) == content(source)


def test_what_can_not_be_written_is_said_without_its_key_and_the_rest_goes_on(source: Blobs, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    target = FolderBlobs(folder)
    (key,) = (key for key, data in content(source).items() if data == b"one")
    (folder / key).mkdir()  # nothing can be put there
    (folder / key / "x").touch()
    done, present, failures = copied(source, target)
    assert (done, present, len(failures)) == (3, 0, 1)
    assert failures[0].startswith("a picture of 3 bytes was not copied: ") and key[:32] not in failures[0]


def test_a_store_is_not_copied_onto_itself(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, blob_url="s3://pictures/x")
    with pytest.raises(BadConfig):
        open_place("s3://pictures/x/", None, config)
    with pytest.raises(BadConfig):
        open_place(str(tmp_path / "blobs"), None, Config(data_dir=tmp_path))
    with pytest.raises(BadConfig, match="must look like"):
        open_place("ftp://pictures", None, config)


@pytest.mark.slow
def test_the_command_moves_a_folder_into_a_real_bucket(
    run: Run, source: Blobs, seaweedfs: SeaweedFS, tmp_path: Path
) -> None:
    url = seaweedfs.new_url()
    wanted = ("blobs", "copy", "--to", url, "--endpoint", seaweedfs.endpoint)
    outcome = run(*wanted, "--verify")
    assert (outcome.exit_code, outcome.stdout) == (0, "4 copied (21.0 MB), 0 were there already\n"), outcome.output
    bucket = open_blobs(Config(data_dir=tmp_path / "other", blob_url=url, blob_endpoint=seaweedfs.endpoint))
    assert content(bucket) == content(source)
    assert run(*wanted).stdout == "0 copied (0.0 MB), 4 were there already\n"


def test_the_command_says_that_a_bucket_does_not_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    said = complaint(run("blobs", "copy", "--to", "s3://pictures", "--endpoint", "http://127.0.0.1:9"))
    assert said == "the server's store of pictures can't be used now; try again later"
