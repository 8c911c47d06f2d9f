"""One file over HTTP, from a real server with the habits of bad ones: what is interrupted goes on, what is wrong is not
kept."""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.errors import Unavailable
from server.outbound.resumable_download import ATTEMPTS, Wanted, download, open_client, partial_of
from server.weights import store as stores
from server.weights.store import Store
from tests.outbound.publisher import Publisher, publishing

CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()

Get = Callable[..., str]


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as publisher:
        publisher.files["/net.pth"] = CONTENT
        yield publisher


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.pth"


@pytest.fixture
def get(publisher: Publisher, path: Path) -> Iterator[Get]:
    """`get(sha256=…, size=…)`: the download, without waiting between attempts."""
    with open_client(None) as client:

        def run(name: str = "net.pth", sha256: str | None = DIGEST, size: int | None = len(CONTENT)) -> str:
            wanted = Wanted(f"{publisher.url}/{name}", path, sha256, size)
            return download(client, wanted, Store(path.parent), lambda done, total: None, pause_s=0)

        yield run


def left(path: Path) -> list[str]:
    """The names of the files in the folder."""
    return sorted(each.name for each in path.parent.iterdir())


def test_a_file_comes_whole_under_its_partial_name(get: Get, path: Path) -> None:
    assert get() == DIGEST
    assert partial_of(path).read_bytes() == CONTENT
    assert left(path) == ["net.pth.partial"]


def test_without_a_known_hash_or_size_it_says_what_came(get: Get) -> None:
    assert get(sha256=None, size=None) == DIGEST


def test_an_interrupted_download_goes_on_where_it_stopped(publisher: Publisher, get: Get, path: Path) -> None:
    publisher.cut_after = [300_000, 500_000]
    assert get() == DIGEST
    assert [asked[1] for asked in publisher.asked] == [None, "bytes=300000-", "bytes=800000-"]
    assert {asked[2] for asked in publisher.asked[1:]} == {f'"{hashlib.md5(CONTENT).hexdigest()}"'}


def test_a_later_process_goes_on_too(publisher: Publisher, get: Get, path: Path) -> None:
    publisher.cut_after = [300_000] + [0] * ATTEMPTS
    with pytest.raises(Unavailable, match=r"net\.pth could not be downloaded: "):
        get()
    assert partial_of(path).read_bytes() == CONTENT[:300_000]
    assert get() == DIGEST
    assert publisher.asked[-1][1] == "bytes=300000-"


def test_a_file_that_changed_meanwhile_starts_over(publisher: Publisher, get: Get, path: Path) -> None:
    publisher.cut_after = [300_000] + [0] * ATTEMPTS
    with pytest.raises(Unavailable):
        get()
    changed = CONTENT[::-1]
    publisher.files["/net.pth"] = changed
    assert get(sha256=None) == hashlib.sha256(changed).hexdigest()


def test_a_server_that_ignores_ranges_is_asked_for_all_again(publisher: Publisher, get: Get) -> None:
    publisher.ranges = False
    publisher.cut_after = [300_000]
    assert get() == DIGEST


def test_without_a_validator_nothing_is_resumed(publisher: Publisher, get: Get) -> None:
    publisher.etags = False
    publisher.cut_after = [300_000]
    assert get(sha256=None) == DIGEST
    assert [asked[1] for asked in publisher.asked] == [None, None]


def test_another_part_than_the_one_asked_for_is_not_used(publisher: Publisher, get: Get) -> None:
    publisher.cut_after = [300_000]
    publisher.shift = 7
    assert get(sha256=None) == DIGEST


def test_a_file_that_became_shorter_starts_over(publisher: Publisher, get: Get, path: Path) -> None:
    partial_of(path).write_bytes(CONTENT + b"more")
    partial_of(path).with_suffix(".partial.etag").write_text(f'"{hashlib.md5(CONTENT).hexdigest()}"')
    assert get(size=None) == DIGEST
    assert [asked[1] for asked in publisher.asked] == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_body_of_unknown_length_that_ends_early_is_an_interruption(publisher: Publisher, get: Get) -> None:
    publisher.lengths = False
    publisher.cut_after = [300_000]
    assert get() == DIGEST
    assert len(publisher.asked) == 2


def test_what_was_complete_before_a_crash_is_not_asked_for_again(publisher: Publisher, get: Get, path: Path) -> None:
    partial_of(path).write_bytes(CONTENT)
    assert get() == DIGEST
    assert publisher.asked == []


def test_wrong_bytes_are_refused_and_not_kept(publisher: Publisher, get: Get, path: Path) -> None:
    publisher.files["/net.pth"] = CONTENT[:-1] + b"!"
    with pytest.raises(Unavailable, match=f"not the expected file: its SHA-256 is .*, not {DIGEST}. It was deleted"):
        get()
    assert left(path) == []


def test_a_file_of_another_size_is_refused_before_it_comes(publisher: Publisher, get: Get, path: Path) -> None:
    publisher.files["/net.pth"] = CONTENT + b"!"
    with pytest.raises(Unavailable, match=r"it has 1048577 bytes, not 1048576$"):
        get()
    assert left(path) == []


def test_a_missing_file_is_not_asked_for_twice(publisher: Publisher, get: Get) -> None:
    with pytest.raises(Unavailable, match=r"/no\.pth could not be downloaded: the server answers 404$"):
        get("no.pth")
    assert len(publisher.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_tried_again(publisher: Publisher, get: Get, status: int) -> None:
    publisher.answers = [status] * (ATTEMPTS - 1)
    assert get() == DIGEST


def test_a_lasting_failure_is_given_up(publisher: Publisher, get: Get) -> None:
    publisher.answers = [503] * (ATTEMPTS + 1)
    with pytest.raises(Unavailable, match="the server answers 503$"):
        get()
    assert len(publisher.asked) == ATTEMPTS


def test_waits_double(publisher: Publisher, path: Path) -> None:
    publisher.answers = [503] * 4
    started = time.monotonic()
    with open_client(None) as client:
        wanted = Wanted(f"{publisher.url}/net.pth", path, DIGEST, None)
        download(client, wanted, Store(path.parent), lambda done, total: None, pause_s=0.02)
    assert time.monotonic() - started >= 0.02 * (1 + 2 + 4 + 8)


def test_progress_tells_what_is_here_and_what_will_be(publisher: Publisher, path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    publisher.cut_after = [300_000]
    with open_client(None) as client:
        wanted = Wanted(f"{publisher.url}/net.pth", path, DIGEST, None)
        download(client, wanted, Store(path.parent), lambda *progress: seen.append(progress), pause_s=0)
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert (300_000, len(CONTENT)) in seen


def test_a_disk_that_is_too_small_is_reported_before_a_byte_is_written(
    get: Get, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_SPARE_BYTES", 1 << 60)
    with pytest.raises(Unavailable, match=f"^not enough space in {path.parent}: 1 MB are needed and "):
        get()
    assert left(path) == []
