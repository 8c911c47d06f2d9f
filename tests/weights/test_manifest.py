"""weights/manifest.toml has the facts of each checkpoint's own weights, its source and its licence."""

from typing import Any

import pytest
import torch

from server.errors import InvalidRequest
from server.models import recognise
from server.models.basicsr_shim import RRDBNet, SRVGGNetCompact
from server.weights.manifest import FOLDER, Entry, Kind, read_manifest
from server.weights.store import sha256_of

MANIFEST = read_manifest()
UPSCALERS = [entry for entry in MANIFEST.entries.values() if entry.kind is Kind.UPSCALER]
HYPER_PARAMETERS: dict[str, dict[str, Any]] = {
    "fidelity-x4": {"num_conv": 32},
    "RealESRGAN_x4plus": {"num_block": 23, "scale": 4},
    "realesr-general-x4v3": {"num_conv": 32},
    "realesr-general-wdn-x4v3": {"num_conv": 32},
    "RealESRNet_x4plus": {"num_block": 23, "scale": 4},
    "RealESRGAN_x2plus": {"num_block": 23, "scale": 2},
    "RealESRGAN_x4plus_anime_6B": {"num_block": 6, "scale": 4},
    "realesr-animevideov3": {"num_conv": 16},
}


def name_of(entry: Entry) -> str:
    return entry.name


@pytest.mark.parametrize("entry", UPSCALERS, ids=name_of)
def test_an_entry_agrees_with_its_network(entry: Entry) -> None:
    with torch.device("meta"):  # shapes without numbers
        make = SRVGGNetCompact if entry.arch == "srvgg" else RRDBNet
        net = make(num_in_ch=3, num_out_ch=3, **HYPER_PARAMETERS[entry.name])
    arch, facts = recognise(net.state_dict(), entry.name)
    assert entry.geometry is not None
    said = (entry.arch, entry.geometry.scale, entry.geometry.tile, entry.geometry.halo)
    assert said == (arch.NAME, facts.scale, facts.tile, facts.halo)


@pytest.mark.parametrize("entry", MANIFEST.entries.values(), ids=name_of)
def test_an_entry_says_where_it_comes_from_and_what_is_allowed(entry: Entry) -> None:
    assert entry.licence and entry.note
    for file in entry.files:
        assert file.sha256 is None or (len(file.sha256) == 64 and int(file.sha256, 16))
        assert file.size is None or file.size > 0
        assert (file.sha256 is None) == (file.size is None)
        if not entry.bundled:
            assert file.url.startswith("https://")
            assert file.url.endswith("/" + file.path.name)
    if entry.bundled:
        assert (FOLDER / "bundled" / f"{entry.name}.md").is_file(), "every bundled model has a card"


def test_no_two_files_have_one_place() -> None:
    paths = [file.path for entry in MANIFEST.entries.values() for file in entry.files]
    assert len(paths) == len(set(paths))
    assert all(".." not in path.parts and not path.is_absolute() for path in paths)


def test_the_bundled_files_are_those_of_the_manifest() -> None:
    for entry in MANIFEST.entries.values():
        if entry.bundled:
            path = FOLDER / "bundled" / entry.path
            (file,) = entry.files
            assert (sha256_of(path), path.stat().st_size) == (file.sha256, file.size), entry.name


def test_every_checkpoint_that_people_expect_is_known() -> None:
    expected = {
        Kind.UPSCALER: set(HYPER_PARAMETERS),
        Kind.FACE_RESTORER: {"GFPGANv1.3", "GFPGANv1.4"},
        Kind.FACE_DETECTOR: {"retinaface-resnet50", "retinaface-mobile0.25"},
        Kind.FACE_PARSER: {"parsenet"},
        Kind.DIFFUSION: {"sdxl-base"},
        Kind.CONTROLNET: {"sdxl-controlnet-tile"},
    }
    for kind, names in expected.items():
        assert names <= {entry.name for entry in MANIFEST.entries.values() if entry.kind is kind}


def test_face_weights_have_the_names_that_facexlib_gives_them() -> None:
    paths = {name: str(MANIFEST.entries[name].path) for name in ("retinaface-resnet50", "parsenet")}
    assert paths == {"retinaface-resnet50": "detection_Resnet50_Final.pth", "parsenet": "parsing_parsenet.pth"}
    assert str(MANIFEST.entries["retinaface-mobile0.25"].path) == "detection_mobilenet0.25_Final.pth"


def test_a_folder_lists_its_files_by_their_places_in_it() -> None:
    base = MANIFEST.entries["sdxl-base"]
    config = next(file for file in base.files if file.path.name == "config.json" and "unet" in file.path.parts)
    assert str(config.path) == "sdxl-base/unet/config.json"
    assert config.url.endswith("/resolve/462165984030d82259a11f4367a4eed129e94a7b/unet/config.json")
    assert base.size is not None and base.size > 6e9
    assert MANIFEST.entries["sdxl-controlnet-tile"].size is None


def test_what_is_not_beyond_doubt_is_not_commercial() -> None:
    refused = {entry.name for entry in MANIFEST.entries.values() if not entry.commercial}
    assert refused == {"GFPGANv1.3", "GFPGANv1.4"}


def test_groups_are_made_of_entries() -> None:
    for members in MANIFEST.groups.values():
        assert set(members) <= set(MANIFEST.entries)
    assert [entry.name for entry in MANIFEST.select(["gfpgan"])] == ["GFPGANv1.4", "retinaface-resnet50", "parsenet"]
    assert "fidelity-x4" not in MANIFEST.groups["all"], "it comes with the server"
    assert not set(MANIFEST.groups) & set(MANIFEST.entries)


def test_names_and_groups_can_be_mixed_and_nothing_else() -> None:
    assert [entry.name for entry in MANIFEST.select(["parsenet", "gfpgan", "parsenet"])] == [
        "parsenet",
        "GFPGANv1.4",
        "retinaface-resnet50",
    ]
    with pytest.raises(InvalidRequest, match="there are no weights 'x8'"):
        MANIFEST.select(["parsenet", "x8"])


def test_a_face_model_is_pulled_with_its_helpers() -> None:
    assert MANIFEST.hint("retinaface-resnet50") == "gfpgan"
    assert MANIFEST.hint("RealESRGAN_x2plus") == "RealESRGAN_x2plus"
    assert MANIFEST.hint("GFPGANv1.3") == "GFPGANv1.3"
