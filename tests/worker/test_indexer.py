"""Checkpoints dropped into the weights folder are recognised by what is in them, and by nothing else."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from server.errors import ModelNotFound
from server.models.basicsr_shim import SRVGGNetCompact
from server.weights.catalog import Catalog, sha256_of, verify
from server.weights.own import Own, read_index
from server.worker.indexer import index
from tests.conftest import Live
from tests.networks import rrdbnet, save, srvgg

Look = Callable[[], dict[str, Own]]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """What the index has by file name, after a look."""
    return lambda: {own.file: own for own in index(tmp_path)}


def save_safe(net: torch.nn.Module, path: Path) -> Path:
    safetensors.torch.save_file(net.state_dict(), path)
    return path


def test_networks_are_recognised_whatever_the_files_are_called(tmp_path: Path, look: Look) -> None:
    save(srvgg(num_conv=6), tmp_path / "my photo net.pth")
    save_safe(rrdbnet(scale=2), tmp_path / "x4.safetensors")
    found = look()
    plain, dense = found["my photo net.pth"].network, found["x4.safetensors"].network
    assert plain and dense
    assert (plain.arch, plain.scale, plain.halo) == ("srvgg", 4, 8)
    assert (dense.arch, dense.scale) == ("rrdbnet", 2)
    assert plain.sha256 == sha256_of(tmp_path / "my photo net.pth")


def test_the_catalog_offers_what_was_found(tmp_path: Path, look: Look) -> None:
    path = save(srvgg(), tmp_path / "mine.pth")
    catalog = Catalog(tmp_path)
    assert "mine" not in catalog.names()
    look()
    assert catalog.names()[-1] == "mine"
    assert verify(catalog.get("mine")) == sha256_of(path)


def test_the_half_without_torch_reads_what_this_half_wrote(tmp_path: Path, look: Look) -> None:
    save(srvgg(), tmp_path / "mine.pth")
    (tmp_path / "text.pth").write_text("no network")
    assert {own.file: own for own in read_index(tmp_path)} == {}
    found = look()
    assert {own.file: own for own in read_index(tmp_path)} == found


def test_a_file_is_looked_at_once_and_again_when_it_changes(tmp_path: Path, look: Look) -> None:
    path = save(srvgg(upscale=4), tmp_path / "mine.pth")
    before = look()
    written = (tmp_path / "index.json").stat().st_mtime_ns
    assert look() == before
    assert (tmp_path / "index.json").stat().st_mtime_ns == written
    save(srvgg(upscale=2), path)
    network = look()["mine.pth"].network
    assert network and network.scale == 2
    path.unlink()
    assert look() == {}


class Evil:
    def __reduce__(self) -> Any:
        return eval, ("print('run by a checkpoint')",)


def problem(tmp_path: Path, make: Callable[[Path], Any], name: str = "mine.pth") -> str:
    make(tmp_path / name)
    (own,) = index(tmp_path)
    assert own.network is None and own.problem
    assert Catalog(tmp_path).names() == Catalog(tmp_path / "nothing").names()
    with pytest.raises(ModelNotFound):
        Catalog(tmp_path).get(name.split(".")[0])
    return own.problem


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = problem(tmp_path, lambda path: path.write_bytes(pickle.dumps(Evil(), protocol=2)))
    assert words == "mine.pth is not a checkpoint, or a damaged one"
    assert "run by a checkpoint" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a checkpoint"),
        (b"\x80\x02.", "is not a checkpoint"),
        (b"PK\x03\x04 not a zip", "is not a checkpoint"),
    ],
)
def test_what_is_no_checkpoint_says_so(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in problem(tmp_path, lambda path: path.write_bytes(content))


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"weight": torch.zeros(3)},
        {"body.0.weight": torch.zeros(1), "body.x.weight": torch.zeros(1, 1, 1, 1)},
        dict(list(srvgg().state_dict().items())[:-1]),
    ],
    ids=["empty", "another", "a strange key", "without its last layer"],
)
def test_weights_of_no_known_network_say_so(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    words = problem(tmp_path, lambda path: torch.save(state, path))
    assert words.startswith("mine.pth ")


def test_a_network_for_no_kind_of_picture_is_refused(tmp_path: Path) -> None:
    net = SRVGGNetCompact(num_in_ch=2, num_out_ch=2, num_feat=8, num_conv=2)
    assert "a network of 2 channels that gives 2" in problem(tmp_path, lambda path: save(net, path))


@pytest.mark.parametrize(
    "name", ["RealESRGAN_x4plus.safetensors", "fidelity-x4.pth", "GFPGANv1.4.safetensors", "auto.pth"]
)
def test_a_name_of_the_manifest_is_not_taken_over(tmp_path: Path, name: str, look: Look) -> None:
    (save_safe if name.endswith("safetensors") else save)(srvgg(), tmp_path / name)
    assert look()[name].problem == f"the name {Path(name).stem} belongs to the manifest: rename {name}"


def test_of_two_files_of_one_name_the_first_has_it(tmp_path: Path, look: Look) -> None:
    first = save(srvgg(), tmp_path / "mine.pth")
    save_safe(srvgg(upscale=2), tmp_path / "mine.safetensors")
    assert look()["mine.safetensors"].problem == "another file has the name mine: rename mine.safetensors"
    assert Catalog(tmp_path).get("mine").geometry.scale == 4
    first.unlink()
    network = look()["mine.safetensors"].network
    assert network and network.scale == 2


def test_the_manifests_own_files_and_files_on_their_way_are_no_business_of_this(tmp_path: Path, look: Look) -> None:
    for name in ("RealESRGAN_x4plus.pth", "parsing_parsenet.pth", "mine.pth.partial", "pins.json", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.pth").mkdir()
    assert look() == {}
    assert not (tmp_path / "index.json").exists()


def test_a_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert index(tmp_path / "nowhere") == []
    assert not (tmp_path / "nowhere").exists()


def test_a_file_too_large_to_be_one_is_not_read(tmp_path: Path) -> None:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate((1 << 30) + 1)

    assert "too large for any network" in problem(tmp_path, make)


def test_callers_see_it_and_can_ask_for_it(live: Live) -> None:
    folder = live.config.weights_path
    save(srvgg(upscale=2), folder / "mine.pth")
    index(folder)
    mine = live.client.get("/models").json()["models"][-1]
    assert (mine["name"], mine["scale"], mine["licence"]) == ("mine", 2, "unknown")
    plan = live.client.post("/plan", json={"width": 64, "height": 48, "scale": 2, "model": "mine"}).json()
    assert (plan["model"], plan["result"]) == ("mine", [128, 96])


@pytest.mark.parametrize(
    "content", ["{", "[1]", '[{"file": "x"}]', '{"file": 1}', '[{"file": "a", "later": 1}]', "null"]
)
def test_a_damaged_index_or_a_later_version_s_is_made_again(tmp_path: Path, look: Look, content: str) -> None:
    save(srvgg(), tmp_path / "mine.pth")
    (tmp_path / "index.json").write_text(content)
    assert read_index(tmp_path) == []
    assert look()["mine.pth"].network is not None
    assert [own.file for own in read_index(tmp_path)] == ["mine.pth"]
