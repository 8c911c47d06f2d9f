"""`weights pull` as a whole: from a real server into a folder, whatever happens on the way."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.config import Config
from server.errors import Conflict, InvalidRequest, ModelNotFound, Unavailable
from server.outbound.pull_weights import Pulled, pull
from server.weights.catalog import Catalog
from server.weights.manifest import Entry, Manifest, read_manifest
from server.weights.store import Store
from tests.outbound.publisher import Publisher, proxying, publishing

CONTENT = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PARTS = {"a/config.json": b"{}", "a/sub/net.safetensors": CONTENT[:5000]}

MANIFEST = """
[groups]
pair = ["plain", "parts"]

[models.plain]
kind = "upscaler"
bundled = false
file = "plain.pth"
url = "{url}/releases/plain.pth"
arch = "srvgg"
scale = 4
tile = 512
halo = 34
sha256 = "{digest}"
bytes = 1048576
licence = "BSD-3-Clause"
commercial = true
note = "One file."

[models.parts]
kind = "diffusion"
bundled = false
folder = "a"
url = "{url}/repository/"
arch = "sdxl"
licence = "research only"
commercial = false
note = "Two files, of unknown hashes."
files = [{{ file = "config.json" }}, {{ file = "sub/net.safetensors" }}]

[models.ours]
kind = "upscaler"
bundled = true
file = "ours.safetensors"
arch = "srvgg"
scale = 4
tile = 512
halo = 34
licence = "Apache-2.0"
commercial = true
note = ""
"""

Pull = Callable[..., list[Pulled]]


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as publisher:
        publisher.files = {
            "/releases/plain.pth": CONTENT,
            "/repository/config.json": PARTS["a/config.json"],
            "/repository/sub/net.safetensors": PARTS["a/sub/net.safetensors"],
        }
        yield publisher


@pytest.fixture
def manifest(tmp_path: Path, publisher: Publisher) -> Manifest:
    (tmp_path / "manifest.toml").write_text(MANIFEST.format(url=publisher.url, digest=DIGEST), "utf-8")
    return read_manifest(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


@pytest.fixture
def run(manifest: Manifest, folder: Path) -> Pull:
    """`run("plain", weights_mirror=…)`: everything that was pulled."""

    def run(*names: str, **settings: Any) -> list[Pulled]:
        config = Config(weights_dir=folder, **settings)
        entries: list[Entry] = manifest.select(names)
        return list(pull(entries, config, lambda file: lambda done, total: None, pause_s=0))

    return run


def installed(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_checkpoint_is_installed(run: Pull, folder: Path, manifest: Manifest) -> None:
    (done,) = run("plain")
    assert (str(done.file.path), done.sha256, done.was_here, done.pinned) == ("plain.pth", DIGEST, False, False)
    assert installed(folder) == {"plain.pth": CONTENT}
    assert Catalog(folder, manifest=manifest).get("plain").path == folder / "plain.pth"


def test_a_folder_is_installed_file_by_file_and_what_is_unknown_is_pinned(
    run: Pull, folder: Path, manifest: Manifest
) -> None:
    assert [done.pinned for done in run("parts")] == [True, True]
    found = installed(folder)
    assert b"sub/net.safetensors" in found.pop("pins.json")
    assert found == PARTS
    weights = Catalog(folder, manifest=manifest).find("parts")
    assert weights.path == folder / "a" and all(expected for _, expected in weights.files)


def test_a_pinned_file_that_changes_at_its_source_is_refused(run: Pull, folder: Path, publisher: Publisher) -> None:
    run("parts")
    (folder / "a" / "config.json").unlink()
    publisher.files["/repository/config.json"] = b"[]"
    with pytest.raises(Unavailable, match=r"config\.json is not the expected file"):
        run("parts")
    assert not (folder / "a" / "config.json").exists()


def test_what_is_here_is_checked_and_not_downloaded_again(run: Pull, folder: Path, publisher: Publisher) -> None:
    run("plain")
    (again,) = run("plain")
    assert (again.was_here, again.sha256, len(publisher.asked)) == (True, DIGEST, 1)


def test_what_is_damaged_is_downloaded_again(run: Pull, folder: Path) -> None:
    folder.mkdir()
    (folder / "plain.pth").write_bytes(b"damaged")
    (done,) = run("plain")
    assert not done.was_here
    assert installed(folder) == {"plain.pth": CONTENT}


def test_groups_and_names_are_taken_once_each(run: Pull) -> None:
    assert [str(done.file.path) for done in run("pair", "plain")] == ["plain.pth", *PARTS]
    assert len(run("all")) == 3


def test_an_unknown_name_is_refused_with_those_there_are(run: Pull) -> None:
    with pytest.raises(InvalidRequest, match="^there are no weights 'best'; the manifest has pair, all, plain, parts"):
        run("plain", "best")


def test_what_comes_with_the_server_is_not_pulled(run: Pull) -> None:
    with pytest.raises(InvalidRequest, match="^ours comes with the server"):
        run("ours")


def test_a_killed_download_is_resumed_and_never_visible(run: Pull, folder: Path, publisher: Publisher) -> None:
    """A reader looks all the time; the connection breaks again and again; one attempt gives up altogether."""
    seen: set[tuple[str, bytes]] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for path in folder.glob("*.pth"):
                seen.add((path.name, path.read_bytes()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        publisher.cut_after = [100_000, 200_000] + [0] * 5
        with pytest.raises(Unavailable):
            run("plain")
        assert sorted(installed(folder)) == ["plain.pth.partial", "plain.pth.partial.etag"]
        publisher.cut_after = [300_000]
        run("plain")
    finally:
        stop.set()
        watcher.join()
    assert publisher.asked[-1][1] == "bytes=600000-"
    assert seen <= {("plain.pth", CONTENT)}
    assert installed(folder) == {"plain.pth": CONTENT}


def test_wrong_bytes_are_never_visible(run: Pull, folder: Path, publisher: Publisher, manifest: Manifest) -> None:
    publisher.files["/releases/plain.pth"] = CONTENT[::-1]
    with pytest.raises(Unavailable, match="is not the expected file"):
        run("plain")
    assert installed(folder) == {}
    with pytest.raises(ModelNotFound, match="`python -m server weights pull plain` gets them"):
        Catalog(folder, manifest=manifest).get("plain")


def test_a_mirror_has_the_files_by_their_paths(run: Pull, folder: Path, publisher: Publisher) -> None:
    publisher.files = {"/mirror/plain.pth": CONTENT} | {f"/mirror/{name}": data for name, data in PARTS.items()}
    run("plain", "parts", weights_mirror=f"{publisher.url}/mirror/")
    assert [asked[0] for asked in publisher.asked] == [
        "/mirror/plain.pth",
        "/mirror/a/config.json",
        "/mirror/a/sub/net.safetensors",
    ]


def test_a_proxy_is_the_one_of_the_settings_and_no_other(
    run: Pull, folder: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with proxying(publisher) as proxy:
        run("plain", weights_proxy=proxy.url)
        assert proxy.asked == [f"{publisher.url}/releases/plain.pth"]
        assert publisher.asked == []
        run("parts")
        assert len(proxy.asked) == 1
    (folder / "plain.pth").unlink()
    with pytest.raises(Unavailable, match="could not be downloaded"):
        run("plain", weights_proxy=proxy.url)


def test_the_licence_policy_refuses_before_anything_is_downloaded(
    run: Pull, folder: Path, publisher: Publisher
) -> None:
    with pytest.raises(ModelNotFound, match="^parts is refused, because UPSCALE_LICENCE_POLICY=commercial and its lic"):
        run("plain", "parts", licence_policy="commercial")
    assert publisher.asked == [] and not folder.exists()
    run("plain", licence_policy="commercial")


def test_only_one_pull_at_a_time(run: Pull, folder: Path) -> None:
    with Store(folder).locked(), pytest.raises(Conflict, match="another process is at work"):
        run("plain")
