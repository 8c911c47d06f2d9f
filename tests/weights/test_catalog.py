"""The catalog: which weights are installed, which are allowed, and whether their files are the right ones."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from server.config import Config
from server.errors import InvalidField, ModelNotFound
from server.job.job import Params
from server.weights.catalog import Blend, Catalog, verify
from server.weights.manifest import Kind, Manifest, read_manifest
from server.weights.own import Network, Own, Stated, stamp, stated_at, write_index

MANIFEST = """
[groups]
faces = ["restorer"]

[models.best]
kind = "upscaler"
bundled = false
file = "best.pth"
arch = "rrdbnet"
scale = 4
tile = 512
halo = 34
sha256 = "{digest}"
licence = "BSD-3-Clause"
commercial = true
note = "The best."

[models.ours]
kind = "upscaler"
bundled = true
file = "ours.safetensors"
arch = "srvgg"
scale = 2
tile = 256
halo = 32
licence = "Apache-2.0"
commercial = true
note = ""

[models.restorer]
kind = "face-restorer"
bundled = false
file = "restorer.pth"
arch = "gfpgan"
licence = "for research"
commercial = false
note = "Learned from what is not free."

[models.parts]
kind = "diffusion"
bundled = false
folder = "a"
arch = "sdxl"
licence = "Apache-2.0"
commercial = true
note = ""
files = [{{ file = "config.json" }}, {{ file = "sub/net.safetensors" }}]
"""
CONTENT = b"the weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()

MakeCatalog = Callable[..., Catalog]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Four entries, none of them installed yet."""
    (tmp_path / "bundled").mkdir()
    (tmp_path / "manifest.toml").write_text(MANIFEST.format(digest=DIGEST), "utf-8")
    return read_manifest(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "installed"


@pytest.fixture
def make(manifest: Manifest, folder: Path) -> MakeCatalog:
    return lambda **settings: Catalog(folder, manifest=manifest, **settings)


@pytest.fixture
def catalog(make: MakeCatalog) -> Catalog:
    return make()


def install(folder: Path, name: str = "best.pth", content: bytes = CONTENT) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def add_own(folder: Path, name: str = "mine.pth", **changes: Any) -> Path:
    """A checkpoint of the operator's own, as in the index."""
    path = install(folder, name)
    size, mtime_ns = stamp(path) or (0, 0)
    facts = {"file": name, "size": size, "mtime_ns": mtime_ns, "problem": None, "network": None} | changes
    network = Network(DIGEST, "srvgg", 3, 512, 10) if facts["problem"] is None else None
    write_index(folder, [Own(**facts | {"network": network})])
    return path


def bundle(tmp_path: Path) -> None:
    (tmp_path / "bundled" / "ours.safetensors").write_bytes(b"ours")


def test_the_servers_own_manifest_is_readable_and_its_bundled_weights_are_whole(tmp_path: Path) -> None:
    ours = Catalog.of(Config(weights_dir=tmp_path))
    assert ours.names(), "a model comes with the server"
    for name in ours.names():
        checkpoint = ours.get(name)
        assert verify(checkpoint) == checkpoint.sha256
        assert checkpoint.geometry.tile > 2 * checkpoint.geometry.halo


def test_only_models_whose_files_are_here_are_named_in_the_manifests_order(
    catalog: Catalog, folder: Path, tmp_path: Path
) -> None:
    assert catalog.names() == []
    bundle(tmp_path)
    assert catalog.names() == ["ours"]
    install(folder)
    assert catalog.names() == ["best", "ours"]


def test_a_model_is_what_the_manifest_says_of_it(catalog: Catalog, folder: Path) -> None:
    path = install(folder)
    best = catalog.get("best")
    assert (best.name, best.path, best.sha256, best.licence, best.note) == (
        "best",
        path,
        DIGEST,
        "BSD-3-Clause",
        "The best.",
    )
    assert (best.geometry.scale, best.geometry.tile, best.geometry.halo) == (4, 512, 34)


@pytest.mark.parametrize("name", ["worst", "", "../best", "AUTO", "nul \0"])
def test_an_unknown_model_is_refused_with_those_there_are(catalog: Catalog, tmp_path: Path, name: str) -> None:
    bundle(tmp_path)
    with pytest.raises(ModelNotFound, match="^there is no model .*; installed are ours$") as caught:
        catalog.get(name)
    assert caught.value.field == "model"


def test_a_model_that_is_not_installed_says_how_to_get_it(catalog: Catalog, folder: Path) -> None:
    with pytest.raises(ModelNotFound, match="weights pull best` gets them, or put best.pth into the weights folder$"):
        catalog.get("best")
    with pytest.raises(ModelNotFound, match="weights pull faces` gets them"):
        catalog.find("restorer")


def test_a_file_on_its_way_is_not_there(catalog: Catalog, folder: Path) -> None:
    install(folder, "best.pth.partial")
    install(folder, "mine.pth.partial")
    assert catalog.names() == []


def test_what_is_no_upscaler_is_found_but_not_run_as_one(catalog: Catalog, folder: Path) -> None:
    path = install(folder, "restorer.pth")
    assert catalog.find("restorer").path == path
    assert catalog.names() == [] and catalog.names(Kind.FACE_RESTORER) == ["restorer"]
    with pytest.raises(ModelNotFound, match="^restorer is not an upscaling network, but a face-restorer$"):
        catalog.get("restorer")


def test_a_folder_is_there_when_all_its_files_are(catalog: Catalog, folder: Path) -> None:
    install(folder, "a/config.json", b"{}")
    with pytest.raises(ModelNotFound, match="'parts' are not installed"):
        catalog.find("parts")
    install(folder, "a/sub/net.safetensors")
    parts = catalog.find("parts")
    assert (parts.path, parts.sha256) == (folder / "a", None)
    listing = f"{hashlib.sha256(b'{}').hexdigest()}  config.json\n{DIGEST}  sub/net.safetensors\n"
    assert verify(parts) == hashlib.sha256(listing.encode()).hexdigest()


def test_the_policy_refuses_with_the_reason(make: MakeCatalog, folder: Path) -> None:
    install(folder)
    install(folder, "restorer.pth")
    strict = make(policy="commercial")
    assert strict.get("best").name == "best"
    assert strict.names(Kind.FACE_RESTORER) == []
    with pytest.raises(ModelNotFound, match="^restorer is refused, because .* its licence is: for research. Learned"):
        strict.find("restorer")


def test_a_checkpoint_of_ones_own_is_a_model_like_others(catalog: Catalog, folder: Path) -> None:
    path = add_own(folder)
    install(folder)
    assert catalog.names() == ["best", "mine"]
    mine = catalog.get("mine")
    assert (mine.path, mine.sha256, mine.licence) == (path, DIGEST, "unknown")
    assert (mine.geometry.name, mine.geometry.scale, mine.geometry.tile, mine.geometry.halo) == ("mine", 3, 512, 10)
    assert verify(mine) == DIGEST


def test_one_that_has_changed_since_is_not_there_until_it_is_looked_at(catalog: Catalog, folder: Path) -> None:
    add_own(folder).write_bytes(b"other weights")
    assert catalog.names() == []
    with pytest.raises(ModelNotFound, match="there is no model 'mine'"):
        catalog.get("mine")


def test_one_that_can_not_be_used_is_not_offered(catalog: Catalog, folder: Path) -> None:
    add_own(folder, problem="holds no network")
    assert catalog.names() == []


def test_the_policy_refuses_what_nobody_has_said_the_licence_of(make: MakeCatalog, folder: Path) -> None:
    add_own(folder)
    strict = make(policy="commercial")
    assert strict.names() == []
    with pytest.raises(ModelNotFound, match=r"^mine is refused, .* none was given to `weights add`"):
        strict.get("mine")


@pytest.mark.parametrize(
    ("licence", "arch", "allowed"),
    [
        ("MIT", "srvgg", True),
        ("GPL-3.0-or-later", "rrdbnet", True),
        ("CC-BY-NC-4.0", "srvgg", False),
        ("unknown", "srvgg", False),
        ("MIT", "AuraSR", False),
    ],
)
def test_the_policy_goes_by_what_was_stated_and_by_the_code(
    make: MakeCatalog, folder: Path, licence: str, arch: str, allowed: bool
) -> None:
    path = install(folder, "mine.pth")
    stated_at(path).write_text(json.dumps(asdict(Stated(DIGEST, licence, "A. Person", "https://example.org", "JPEG"))))
    size, mtime_ns = stamp(path) or (0, 0)
    write_index(folder, [Own("mine.pth", size, mtime_ns, Network(DIGEST, arch, 1, 512, 10), None)])
    assert ("mine" in make(policy="commercial").names()) == allowed
    mine = make().get("mine")
    assert (mine.licence, mine.author, mine.source, mine.note) == (licence, "A. Person", "https://example.org", "JPEG")


def test_a_file_must_be_the_one_of_the_manifest(catalog: Catalog, folder: Path) -> None:
    install(folder)
    assert verify(catalog.get("best")) == DIGEST


def test_a_damaged_file_is_refused(catalog: Catalog, folder: Path) -> None:
    install(folder, content=CONTENT[:-1])
    with pytest.raises(ModelNotFound, match="the weights of 'best' are damaged"):
        verify(catalog.get("best"))


def test_a_file_that_nobody_vouches_for_is_hashed_all_the_same(catalog: Catalog, tmp_path: Path) -> None:
    bundle(tmp_path)
    assert verify(catalog.get("ours")) == hashlib.sha256(b"ours").hexdigest()


@pytest.mark.parametrize(("tile", "used"), [(0, 512), (300, 300), (2000, 2000)])
def test_the_operator_may_set_the_tile(make: MakeCatalog, folder: Path, tile: int, used: int) -> None:
    install(folder)
    assert make(tile=tile).get("best").geometry.tile == used


def test_a_tile_that_would_be_all_halo_is_made_larger(make: MakeCatalog, folder: Path) -> None:
    install(folder)
    shape = make(tile=1).get("best").geometry
    assert shape.tile > 2 * shape.halo


def test_a_job_gets_the_network_it_names(catalog: Catalog, folder: Path) -> None:
    install(folder)
    found = catalog.choose(Params(scale=4, model="best"))
    assert (found.name, found.main.geometry, found.verify()) == ("best", catalog.get("best").geometry, DIGEST)
    with pytest.raises(ModelNotFound, match="there is no model 'worst'"):
        catalog.choose(Params(scale=4, model="worst"))
    with pytest.raises(InvalidField, match="^best has no denoise strength; realesr-general-x4v3 has$"):
        catalog.choose(Params(scale=4, model="best", denoise=0.5))


def test_a_mix_is_named_and_hashed_by_its_recipe(catalog: Catalog, folder: Path, tmp_path: Path) -> None:
    install(folder)
    bundle(tmp_path)
    best, ours = catalog.get("best"), catalog.get("ours")
    blend = Blend(((best, 0.25), (ours, 0.75)))
    assert blend.name == blend.geometry.name == "best 0.25 + ours 0.75"
    recipe = f"0.25  {DIGEST}  best\n0.75  {hashlib.sha256(b'ours').hexdigest()}  ours\n"
    assert blend.verify() == hashlib.sha256(recipe.encode()).hexdigest()
    install(folder, content=b"damaged")
    with pytest.raises(ModelNotFound, match="the weights of 'best' are damaged"):
        blend.verify()


def test_auto_is_what_comes_with_the_server(tmp_path: Path) -> None:
    (tmp_path / "RealESRGAN_x4plus.pth").touch()
    ours = Catalog(tmp_path)
    assert ours.choose(Params(scale=4, creativity=-2)).name == "fidelity-x4"
    assert ours.choose(Params(scale=4), device="cuda").name == "RealESRGAN_x4plus"
    strict = Catalog(tmp_path, policy="commercial")
    assert strict.choose(Params(scale=4), device="cuda").name == "RealESRGAN_x4plus", "BSD"


def test_what_should_have_come_with_the_server_is_not_to_be_pulled(catalog: Catalog) -> None:
    with pytest.raises(ModelNotFound, match=r"they are part of the server, but .*ours\.safetensors is missing"):
        catalog.get("ours")
