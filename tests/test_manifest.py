"""weights/manifest.toml says of each model what the model's own weights say."""

from pathlib import Path
from typing import Any

import pytest
import torch

from server.models import recognise
from server.shim import RRDBNet, SRVGGNetCompact
from server.weights import FOLDER, Catalog, sha256_of, tomllib  # type: ignore[attr-defined]

ENTRIES: dict[str, dict[str, Any]] = tomllib.loads((FOLDER / "manifest.toml").read_text("utf-8"))["models"]
HYPER_PARAMETERS = {
    "fidelity-x4": {"num_conv": 32},
    "RealESRGAN_x4plus": {"num_block": 23, "scale": 4},
    "realesr-general-x4v3": {"num_conv": 32},
    "realesr-general-wdn-x4v3": {"num_conv": 32},
    "RealESRNet_x4plus": {"num_block": 23, "scale": 4},
    "RealESRGAN_x2plus": {"num_block": 23, "scale": 2},
    "RealESRGAN_x4plus_anime_6B": {"num_block": 6, "scale": 4},
    "realesr-animevideov3": {"num_conv": 16},
}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_agrees_with_its_network(name: str) -> None:
    entry = ENTRIES[name]
    with torch.device("meta"):  # shapes without numbers
        make = SRVGGNetCompact if entry["arch"] == "srvgg" else RRDBNet
        net = make(num_in_ch=3, num_out_ch=3, **HYPER_PARAMETERS[name])
    arch, facts = recognise(net.state_dict(), name)
    said = (entry["arch"], entry["scale"], entry["tile"], entry["halo"])
    assert said == (arch.NAME, facts.scale, facts.tile, facts.halo)


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_says_where_it_comes_from_and_what_is_allowed(name: str) -> None:
    entry = ENTRIES[name]
    assert entry["licence"]
    assert entry["note"]
    assert isinstance(entry["commercial"], bool)
    if entry["bundled"]:
        assert (FOLDER / "bundled" / f"{name}.md").is_file(), "every bundled model has a card"
    else:
        assert entry["url"].startswith("https://")
        assert entry["url"].endswith("/" + entry["file"])
    if "sha256" in entry:
        assert len(entry["sha256"]) == 64
        assert entry["bytes"] > 0


def test_auto_is_the_bundled_fidelity_network(tmp_path: Path) -> None:
    (tmp_path / "RealESRGAN_x4plus.pth").touch()
    assert Catalog(tmp_path).get("auto").name == "fidelity-x4"


def test_the_bundled_files_are_those_of_the_manifest() -> None:
    for name, entry in ENTRIES.items():
        if entry["bundled"]:
            path = FOLDER / "bundled" / entry["file"]
            assert (sha256_of(path), path.stat().st_size) == (entry["sha256"], entry["bytes"]), name
