"""An exported tar can be imported into an empty folder, and nothing else is installed."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.errors import InvalidRequest, ModelNotFound, Unavailable
from server.weights.archive import export, import_
from server.weights.catalog import Catalog, verify
from server.weights.manifest import Manifest, read_manifest
from server.weights.store import Store

PLAIN, CONFIG = b"plain weights" * 1000, b"{}"
FILES = {"plain.pth": PLAIN, "a/config.json": CONFIG}

MANIFEST = f"""
[models.plain]
kind = "upscaler"
bundled = false
file = "plain.pth"
arch = "srvgg"
scale = 4
tile = 512
halo = 34
sha256 = "{hashlib.sha256(PLAIN).hexdigest()}"
bytes = {len(PLAIN)}
licence = "BSD-3-Clause"
commercial = true
note = ""

[models.parts]
kind = "diffusion"
bundled = false
folder = "a"
arch = "sdxl"
licence = "research only"
commercial = false
note = "No hash is known."
files = [{{ file = "config.json" }}]

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

Forge = Callable[..., Path]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    (tmp_path / "manifest.toml").write_text(MANIFEST, "utf-8")
    return read_manifest(tmp_path)


@pytest.fixture
def full(tmp_path: Path) -> Store:
    """A folder with all weights installed."""
    for name, content in FILES.items():
        path = tmp_path / "full" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Store(tmp_path / "full")


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    return Store(tmp_path / "empty")


@pytest.fixture
def exported(tmp_path: Path, full: Store, manifest: Manifest) -> Path:
    tar = tmp_path / "weights.tar"
    export(manifest.select(["all"]), full, tar)
    return tar


def installed(store: Store) -> dict[str, bytes]:
    paths = [path for path in store.folder.rglob("*") if path.is_file() and path.name not in (".lock", "pins.json")]
    return {str(path.relative_to(store.folder)): path.read_bytes() for path in paths}


def member(name: str, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def listed(**files: bytes) -> dict[str, Any]:
    rows = [
        {"path": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()
    ]
    return {"format": 1, "files": rows}


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    """`forge(listing, (member, content), …)`: a hostile tar."""

    def write(listing: Any, *members: tuple[tarfile.TarInfo, bytes], first: str = "weights.json") -> Path:
        with tarfile.open(tmp_path / "forged.tar", "w") as archive:
            text = json.dumps(listing).encode()
            for info, content in ((member(first), text), *members):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return tmp_path / "forged.tar"

    return write


def test_what_was_exported_installs_and_verifies_in_an_empty_folder(
    exported: Path, empty: Store, manifest: Manifest
) -> None:
    rows = import_(exported, empty, manifest, "any")
    assert [str(row.file.path) for row in rows] == list(FILES)
    assert installed(empty) == FILES
    catalog = Catalog(empty.folder, manifest=manifest)
    assert verify(catalog.get("plain")) == hashlib.sha256(PLAIN).hexdigest()
    assert catalog.find("parts").sha256 == hashlib.sha256(CONFIG).hexdigest(), "the pin has crossed the gap"
    import_(exported, empty, manifest, "any")
    assert installed(empty) == FILES, "again is fine"


def test_the_tar_says_what_is_in_it_and_what_is_allowed(exported: Path) -> None:
    with tarfile.open(exported) as archive:
        assert archive.getnames() == ["weights.json", *FILES]
        listing = json.load(archive.extractfile("weights.json"))  # type: ignore[arg-type]
    assert listing["entries"]["parts"] == {"licence": "research only", "commercial": False, "note": "No hash is known."}
    assert listing["files"][0]["sha256"] == hashlib.sha256(PLAIN).hexdigest()


def test_the_same_files_make_the_same_tar(exported: Path, full: Store, manifest: Manifest, tmp_path: Path) -> None:
    export(manifest.select(["all"]), full, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == exported.read_bytes()


def test_a_damaged_file_is_not_exported(full: Store, manifest: Manifest, tmp_path: Path) -> None:
    (full.folder / "plain.pth").write_bytes(b"damaged")
    with pytest.raises(ModelNotFound, match="the weights of 'plain' are damaged"):
        export(manifest.select(["all"]), full, tmp_path / "out.tar")
    (full.folder / "plain.pth").unlink()
    with pytest.raises(ModelNotFound, match="the weights of 'plain' are not installed"):
        export(manifest.select(["all"]), full, tmp_path / "out.tar")
    with pytest.raises(InvalidRequest, match="there is nothing to export"):
        export([], full, tmp_path / "out.tar")
    assert not list(tmp_path.glob("out.tar*"))


def test_a_tar_is_not_overwritten(exported: Path, full: Store, manifest: Manifest) -> None:
    with pytest.raises(InvalidRequest, match="exists already$"):
        export(manifest.select(["plain"]), full, exported)


@pytest.mark.parametrize("damage", ["cut", "flip", "compress", "empty", "text"])
def test_a_damaged_tar_installs_nothing(exported: Path, empty: Store, manifest: Manifest, damage: str) -> None:
    data = exported.read_bytes()
    at = data.index(CONFIG + b"\0")
    damaged = {
        "cut": data[: at - 600],
        "flip": data.replace(CONFIG + b"\0", b"[]\0"),
        "compress": gzip.compress(data),
        "empty": b"",
        "text": b"no tar at all" * 100,
    }[damage]
    exported.write_bytes(damaged)
    with pytest.raises(InvalidRequest, match="weights.tar"):
        import_(exported, empty, manifest, "any")
    assert installed(empty) == {}


EVIL = {
    "../evil.pth": member("../evil.pth"),
    "/tmp/evil.pth": member("/tmp/evil.pth"),
    "plain.pth": member("plain.pth", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a/config.json": member("a/config.json", type=tarfile.LNKTYPE, linkname="weights.json"),
    "device": member("plain.pth", type=tarfile.CHRTYPE),
    "folder": member("plain.pth", type=tarfile.DIRTYPE),
    "fifo": member("plain.pth", type=tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("evil", EVIL)
def test_nothing_but_listed_files_is_unpacked(forge: Forge, empty: Store, manifest: Manifest, evil: str) -> None:
    tar = forge(listed(**{"plain.pth": PLAIN}), (EVIL[evil], b""))
    with pytest.raises(InvalidRequest, match="which is not in its listing, or has another size there$"):
        import_(tar, empty, manifest, "any")
    assert installed(empty) == {}
    assert not (empty.folder.parent / "evil.pth").exists()


@pytest.mark.parametrize(
    "name", ["../evil.pth", "/tmp/evil.pth", "evil.pth", "pins.json", "ours.safetensors", "a/../b"]
)
def test_a_listing_may_name_only_what_the_manifest_knows(
    forge: Forge, empty: Store, manifest: Manifest, name: str
) -> None:
    tar = forge(listed(**{name: b"evil"}), (member(name), b"evil"))
    with pytest.raises(InvalidRequest, match="which is not in this server's manifest$"):
        import_(tar, empty, manifest, "any")
    assert installed(empty) == {}


def test_other_content_under_a_known_name_is_refused(forge: Forge, empty: Store, manifest: Manifest) -> None:
    tar = forge(listed(**{"plain.pth": b"evil"}), (member("plain.pth"), b"evil"))
    with pytest.raises(InvalidRequest, match=r"has another plain\.pth: its SHA-256 is "):
        import_(tar, empty, manifest, "any")


def test_other_content_under_a_pinned_name_is_refused(
    exported: Path, forge: Forge, empty: Store, manifest: Manifest
) -> None:
    import_(exported, empty, manifest, "any")
    tar = forge(listed(**{"a/config.json": b"[]"}), (member("a/config.json"), b"[]"))
    with pytest.raises(InvalidRequest, match=r"has another a/config\.json"):
        import_(tar, empty, manifest, "any")
    assert installed(empty) == FILES


def test_a_tar_that_lacks_what_it_lists_installs_nothing(forge: Forge, empty: Store, manifest: Manifest) -> None:
    tar = forge(listed(**FILES), (member("plain.pth"), PLAIN))
    with pytest.raises(InvalidRequest, match=r"is incomplete: a/config\.json is missing$"):
        import_(tar, empty, manifest, "any")
    assert installed(empty) == {}


@pytest.mark.parametrize(
    "listing",
    [
        [],
        {},
        {"format": 1},
        {"format": 1, "files": [{}]},
        {"format": 1, "files": [{"path": "plain.pth", "sha256": "", "bytes": "x"}]},
        {"format": 1, "files": listed(**{"a/config.json": CONFIG})["files"] * 2},
    ],
)
def test_a_listing_that_makes_no_sense_is_refused(forge: Forge, empty: Store, manifest: Manifest, listing: Any) -> None:
    with pytest.raises(InvalidRequest, match="was not written by `weights export`$"):
        import_(forge(listing), empty, manifest, "any")


def test_a_tar_of_something_else_or_of_another_version_is_refused(
    forge: Forge, empty: Store, manifest: Manifest
) -> None:
    with pytest.raises(InvalidRequest, match="was not written by `weights export`$"):
        import_(forge(listed(), first="readme.json"), empty, manifest, "any")
    with pytest.raises(InvalidRequest, match="by another version of this server, in format 2$"):
        import_(forge({"format": 2}), empty, manifest, "any")


def test_the_licence_policy_holds_for_what_is_carried_too(exported: Path, empty: Store, manifest: Manifest) -> None:
    with pytest.raises(ModelNotFound, match="^parts is refused, because UPSCALE_LICENCE_POLICY=commercial"):
        import_(exported, empty, manifest, "commercial")
    assert installed(empty) == {}


def test_a_tar_larger_than_the_disk_is_told_before_it_is_unpacked(
    forge: Forge, empty: Store, manifest: Manifest
) -> None:
    listing = listed(**{"a/config.json": CONFIG})
    listing["files"][0]["bytes"] = 10**18
    with pytest.raises(Unavailable, match="not enough space"):
        import_(forge(listing), empty, manifest, "any")


def test_what_a_killed_import_left_is_cleared_away(exported: Path, empty: Store, manifest: Manifest) -> None:
    (empty.folder / ".import").mkdir(parents=True)
    (empty.folder / ".import" / "0").write_bytes(b"half")
    import_(exported, empty, manifest, "any")
    assert installed(empty) == FILES


def test_an_import_that_fails_while_names_are_given_leaves_none_behind(
    exported: Path, empty: Store, manifest: Manifest
) -> None:
    *_, last = FILES
    (empty.folder / last / "in the way").mkdir(parents=True)
    with pytest.raises(OSError):
        import_(exported, empty, manifest, "any")
    assert installed(empty) == {}
    shutil.rmtree(empty.folder / last)
    import_(exported, empty, manifest, "any")
    assert installed(empty) == FILES
