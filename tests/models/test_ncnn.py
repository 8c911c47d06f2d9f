"""Networks in ncnn's format: the official files as the package has them, and files that are damaged."""

import shutil
import struct
from pathlib import Path

import ncnn
import numpy as np
import pytest
import torch

from server.errors import ModelNotFound
from server.models import load_model, load_state
from server.models.ncnn import load_ncnn
from server.weights.catalog import Catalog, verify
from tests.networks import CPU, OFFICIAL
from tests.pictures import noise

NAMES = ("RealESRGAN_x4plus", "RealESRGAN_x4plus_anime_6B", "realesr-animevideov3")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path)


def by_ncnn(path: Path, samples: np.ndarray) -> np.ndarray:
    """What the `ncnn` package itself makes of it, in fp32: H × W × 3 in 0…1."""
    net = ncnn.Net()
    for option in ("vulkan_compute", "fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    net.opt.num_threads = 1  # its threads wait busily, which a loaded machine has no time for
    net.load_param(str(path.with_suffix(".param")))
    net.load_model(str(path))
    extractor = net.create_extractor()
    planes = np.ascontiguousarray(samples.transpose(2, 0, 1).astype(np.float32) / 255)
    extractor.input("data", ncnn.Mat(planes).clone())
    result = np.array(extractor.extract("output")[1])
    return result.transpose(1, 2, 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_network_gives_what_ncnn_itself_makes_of_the_file(catalog: Catalog, name: str) -> None:
    checkpoint = catalog.get(name)
    samples = noise(20, 27, 3)
    model = load_model(checkpoint.path, name=name, sha256=None, device=CPU)
    image = torch.from_numpy(samples).permute(2, 0, 1)[None].float() / 255
    ours = model(image)[0].permute(1, 2, 0).numpy()
    theirs = by_ncnn(checkpoint.path, samples)
    assert abs(ours - theirs).max() < 1e-4
    rounded = [np.rint(np.clip(each, 0, 1) * 255) for each in (ours, theirs)]
    assert abs(rounded[0] - rounded[1]).max() <= 1


def test_the_packaged_file_is_the_published_one_rounded_to_fp16(catalog: Catalog) -> None:
    name = "realesr-animevideov3"
    if not (OFFICIAL / f"{name}.pth").exists():
        pytest.skip(f"{name}.pth is not on this machine")
    packaged, published = load_state(catalog.get(name).path), load_state(OFFICIAL / f"{name}.pth")
    assert packaged.keys() == published.keys()
    assert all(torch.equal(packaged[key], published[key]) for key in packaged)


def test_each_packaged_network_says_its_form_and_is_verified(catalog: Catalog) -> None:
    for name in NAMES:
        checkpoint = catalog.get(name)
        assert checkpoint.form == "package, fp16" and verify(checkpoint) == checkpoint.sha256


@pytest.fixture
def copied(catalog: Catalog, tmp_path: Path) -> Path:
    source = catalog.get("realesr-animevideov3").path
    for suffix in (".bin", ".param"):
        shutil.copy(source.with_suffix(suffix), tmp_path / f"net{suffix}")
    return tmp_path / "net.bin"


@pytest.mark.parametrize("change", [-1, -1000, 1, 4])
def test_a_file_that_is_too_short_or_too_long_is_refused(copied: Path, change: int) -> None:
    content = copied.read_bytes()
    copied.write_bytes(content[:change] if change < 0 else content + bytes(change))
    with pytest.raises(ModelNotFound, match="not a network in ncnn's format, or a damaged one"):
        load_ncnn(copied)


def test_weights_in_another_form_are_refused(copied: Path) -> None:
    copied.write_bytes(struct.pack("<I", 0x000D4B38) + copied.read_bytes()[4:])
    with pytest.raises(ModelNotFound, match="not a network in ncnn's format"):
        load_ncnn(copied)


@pytest.mark.parametrize("text", ["", "7767517\n", "7767518\n1 1\n", "7767517\n1 1\nConvolution c x y\n", "\xff"])
def test_a_description_that_is_none_is_refused(copied: Path, text: str) -> None:
    copied.with_suffix(".param").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelNotFound):
        load_ncnn(copied)


def test_without_its_description_a_file_is_refused(copied: Path) -> None:
    copied.with_suffix(".param").unlink()
    with pytest.raises(ModelNotFound):
        load_state(copied)


def test_layers_that_fit_no_network_are_refused(copied: Path) -> None:
    lines = copied.with_suffix(".param").read_text("utf-8").splitlines()
    convolution = next(line for line in lines if line.startswith("Convolution"))
    copied.with_suffix(".param").write_text("\n".join([*lines[:2], convolution]), "utf-8")
    copied.write_bytes(copied.read_bytes()[: 4 + 1728 * 2 + 64 * 4])
    with pytest.raises(ModelNotFound, match="a network that this server does not know"):
        load_ncnn(copied)
