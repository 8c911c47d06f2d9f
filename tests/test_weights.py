"""The catalog: which models are there, and whether their files are the right ones."""

import hashlib
from pathlib import Path

import pytest

from server import weights
from server.errors import ModelNotFound
from server.weights import Catalog, verify

MANIFEST = """
[models.best]
bundled = false
file = "best.pth"
scale = 4
tile = 512
halo = 34
sha256 = "{digest}"
licence = "BSD-3-Clause"
note = "The best."

[models.ours]
bundled = true
file = "ours.safetensors"
scale = 2
tile = 256
halo = 32
licence = "Apache-2.0"
"""
CONTENT = b"the weights"


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """Two models, of which neither is there yet."""
    manifest = MANIFEST.format(digest=hashlib.sha256(CONTENT).hexdigest())
    (tmp_path / "bundled").mkdir()
    (tmp_path / "manifest.toml").write_text(manifest, "utf-8")
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    return Catalog(tmp_path / "installed")


def install(tmp_path: Path, content: bytes = CONTENT) -> Path:
    (tmp_path / "installed").mkdir()
    path = tmp_path / "installed" / "best.pth"
    path.write_bytes(content)
    return path


def bundle(tmp_path: Path) -> None:
    (tmp_path / "bundled" / "ours.safetensors").write_bytes(b"ours")


def test_the_servers_own_manifest_is_readable_and_its_bundled_weights_are_whole(tmp_path: Path) -> None:
    ours = Catalog(tmp_path)
    assert ours.names(), "a model comes with the server"
    for name in ours.names():
        checkpoint = ours.get(name)
        assert verify(checkpoint) == checkpoint.sha256
        assert checkpoint.shape.tile > 2 * checkpoint.shape.halo


def test_only_models_whose_files_are_here_are_named_best_first(catalog: Catalog, tmp_path: Path) -> None:
    assert catalog.names() == []
    bundle(tmp_path)
    assert catalog.names() == ["ours"]
    install(tmp_path)
    assert catalog.names() == ["best", "ours"]


def test_auto_is_the_best_one_present(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no weights are installed"):
        catalog.get("auto")
    bundle(tmp_path)
    assert catalog.get("auto").name == "ours"
    path = install(tmp_path)
    best = catalog.get("auto")
    assert (best.name, best.path, best.licence, best.note) == ("best", path, "BSD-3-Clause", "The best.")
    assert (best.shape.scale, best.shape.tile, best.shape.halo) == (4, 512, 34)


@pytest.mark.parametrize("name", ["worst", "", "../best", "AUTO", "nul \0"])
def test_an_unknown_model_is_refused_with_those_there_are(catalog: Catalog, tmp_path: Path, name: str) -> None:
    bundle(tmp_path)
    with pytest.raises(ModelNotFound, match="^there is no model .*; installed are ours$") as caught:
        catalog.get(name)
    assert caught.value.field == "model"


def test_a_model_that_is_not_installed_says_what_to_put_where(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=f"put best.pth into {tmp_path / 'installed'}$"):
        catalog.get("best")


def test_a_file_must_be_the_one_of_the_manifest(catalog: Catalog, tmp_path: Path) -> None:
    install(tmp_path)
    assert verify(catalog.get("best")) == hashlib.sha256(CONTENT).hexdigest()


def test_a_damaged_file_is_refused(catalog: Catalog, tmp_path: Path) -> None:
    install(tmp_path, CONTENT[:-1])
    with pytest.raises(ModelNotFound, match="the weights of 'best' are damaged"):
        verify(catalog.get("best"))


def test_a_file_that_nobody_vouches_for_is_hashed_all_the_same(catalog: Catalog, tmp_path: Path) -> None:
    bundle(tmp_path)
    assert verify(catalog.get("ours")) == hashlib.sha256(b"ours").hexdigest()


@pytest.mark.parametrize(("tile", "used"), [(0, 512), (300, 300), (2000, 2000)])
def test_the_operator_may_set_the_tile(catalog: Catalog, tmp_path: Path, tile: int, used: int) -> None:
    install(tmp_path)
    assert Catalog(tmp_path / "installed", tile=tile).get("best").shape.tile == used


def test_a_tile_that_would_be_all_halo_is_made_larger(catalog: Catalog, tmp_path: Path) -> None:
    install(tmp_path)
    shape = Catalog(tmp_path / "installed", tile=1).get("best").shape
    assert shape.tile > 2 * shape.halo
