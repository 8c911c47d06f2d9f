"""Community checkpoints of RRDBNet and SRVGGNetCompact, in the layouts that OpenModelDB has, against spandrel's own."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from server.engine.engine import _pad
from server.errors import ModelNotFound
from server.kernels.cpu import Kernel, load
from server.models import rrdbnet
from server.models.base import Model
from server.models.basicsr_shim import SRVGGNetCompact
from tests import networks
from tests.engine.test_engine import photo_like, run

spandrel = pytest.importorskip("spandrel", reason="the reference: extra `models`")

RRDB = [
    # scale, unshuffle, channels, features, blocks, keys
    *((scale, 1, 3, 64, 1, keys) for scale in (1, 2, 4, 8) for keys in ("old", "trunk", "new")),
    *((scale, unshuffle, 3, 64, 1, "new") for scale, unshuffle in ((1, 2), (1, 4), (2, 2), (4, 2))),
    *((16, 1, 3, 12, 1, keys) for keys in ("old", "trunk", "new")),
    *((4, 1, 3, nf, nb, "old") for nf, nb in ((32, 2), (48, 1), (128, 1), (16, 8), (12, 8), (64, 6))),
    *((scale, 1, channels, 32, 1, keys) for scale in (1, 2, 4) for channels in (1, 4) for keys in ("old", "new")),
    *((scale, unshuffle, 1, 32, 1, "new") for scale, unshuffle in ((2, 2), (1, 4))),
    (2, 2, 4, 32, 1, "new"),
    (1, 1, 3, 20, 2, "old"),
]
COMPACT = [
    # scale, channels, features, convolutions
    *((scale, 3, 64, 4) for scale in (1, 2, 3, 4, 8)),
    *((scale, channels, 24, 3) for scale in (1, 2, 4) for channels in (1, 4)),
    *((2, 3, features, 2) for features in (12, 20, 32, 48)),
    (4, 3, 64, 16),
]
SLOW = [
    (4, 1, 3, 64, 23, "old"),
    (2, 2, 3, 64, 23, "new"),
    (1, 1, 3, 64, 23, "trunk"),
    (4, 1, 3, 32, 12, "old"),
    (4, 1, 3, 48, 16, "old"),
    (4, 1, 3, 48, 18, "old"),
    (4, 1, 3, 128, 23, "old"),
    (4, 1, 3, 64, 24, "old"),
]
SIZES = ((1, 1), (5, 2), (23, 31))


@pytest.fixture(scope="module")
def kernel() -> Kernel | None:
    found = load()
    return found if isinstance(found, Kernel) else None


def dense(scale: int, unshuffle: int, channels: int, features: int, blocks: int) -> nn.Module:
    """With seeded weights that keep the signal's size, so that nothing saturates."""
    ups = (scale * unshuffle).bit_length() - 1
    inputs = channels * unshuffle**2
    net = networks.seeded(rrdbnet.Net(inputs, channels, features, blocks, 32, unshuffle, ups), features)
    with torch.no_grad():
        seen = torch.cat([net(torch.rand(1, channels, 16, 16)) for _ in range(2)])
        net.conv_last.weight.div_(seen.std() * 5)  # type: ignore[operator,union-attr]
        net.conv_last.bias.sub_(seen.mean() / (seen.std() * 5)).add_(0.5)  # type: ignore[operator,union-attr]
    return net


def renamed(state: Mapping[str, Tensor], keys: str) -> dict[str, Tensor]:
    """basicsr's names in another dialect."""
    ups = sum(1 for key in state if re.fullmatch(r"conv_up\d\.weight", key))
    blocks = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("body."))
    rules = {
        "new": (),
        "trunk": (
            (r"body\.(\d+)\.rdb", r"RRDB_trunk.\1.RDB"),
            ("conv_body", "trunk_conv"),
            ("conv_up", "upconv"),
            ("conv_hr", "HRconv"),
        ),
        "old": (
            (r"body\.(\d+)\.rdb(\d)\.conv(\d)", r"model.1.sub.\1.RDB\2.conv\3.0"),
            ("conv_first", "model.0"),
            ("conv_body", f"model.1.sub.{blocks}"),
            *((f"conv_up{number}", f"model.{3 * number}") for number in range(1, ups + 1)),
            ("conv_hr", f"model.{3 * ups + 2}"),
            ("conv_last", f"model.{3 * ups + 4}"),
        ),
    }[keys]
    found = {}
    for key, value in state.items():
        for old, new in rules:
            key = re.sub(old, new, key)
        found[key] = value
    return found


def reference(state: dict[str, Tensor], samples: Any) -> Any:
    """The result of spandrel's network, in levels of 255: H × W × 3. It gets what ours gets: a picture that is mirrored
    to the sides that the network needs and no further, although spandrel alone would enlarge one of a single pixel."""
    descriptor = spandrel.ModelLoader().load_from_state_dict(state)
    height, width, _ = samples.shape
    multiple = getattr(descriptor.model, "shuffle_factor", None) or 1
    image = torch.from_numpy(_pad(samples, multiple)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        if descriptor.input_channels == 1:
            found = torch.cat([descriptor.model(image[:, c : c + 1]) for c in range(3)], dim=1)
        else:
            alpha = torch.ones_like(image[:, : descriptor.input_channels - 3])
            found = descriptor.model(torch.cat((image, alpha), dim=1))[:, :3]
    found = found[0, :, : height * descriptor.scale, : width * descriptor.scale].clamp(0, 1)
    return np.rint(found.permute(1, 2, 0).numpy() * 255).astype(int)


def assert_spandrels(state: dict[str, Tensor], folder: Path, kernel: Kernel | None) -> Model:
    torch.save({"params": state}, folder / "net.pth")
    plain, fast = networks.load(folder / "net.pth"), networks.load(folder / "net.pth", kernel=kernel)
    assert (fast.native is not None) == (kernel is not None), "it runs on our own kernels"
    for height, width in SIZES:
        samples = photo_like(height, width)
        wanted = reference(dict(state), samples)
        for model in (plain, fast):
            found = np.rint(np.clip(run(model, samples, 0), 0, 1) * 255).astype(int)
            assert found.shape == wanted.shape
            assert np.abs(found - wanted).max() <= 1
    assert wanted.std() > 4 and np.mean((wanted == 0) | (wanted == 255)) < 0.2, "a flat or cut result proves nothing"
    return plain


@pytest.mark.parametrize("layout", [*RRDB, *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)])
def test_an_rrdbnet_gives_what_spandrel_does(layout: tuple[Any, ...], tmp_path: Path, kernel: Kernel | None) -> None:
    scale, unshuffle, channels, *sizes, keys = layout
    state = renamed(dense(scale, unshuffle, channels, *sizes).state_dict(), keys)
    model = assert_spandrels(state, tmp_path, kernel)
    assert (model.facts.scale, model.facts.multiple) == (scale, unshuffle)


@pytest.mark.parametrize("layout", COMPACT)
def test_a_compact_network_gives_what_spandrel_does(
    layout: tuple[int, ...], tmp_path: Path, kernel: Kernel | None
) -> None:
    scale, channels, features, convolutions = layout
    net = networks.seeded(
        SRVGGNetCompact(
            num_in_ch=channels, num_out_ch=channels, num_feat=features, num_conv=convolutions, upscale=scale
        )
    )
    with torch.no_grad():
        net.body[-1].weight.mul_(0.05)  # type: ignore[index,union-attr,operator]
    assert assert_spandrels(dict(net.state_dict()), tmp_path, kernel).facts.scale == scale


def test_three_times_is_what_its_publisher_says(tmp_path: Path, kernel: Kernel | None) -> None:
    """Its weights are those of a network of ×2, and spandrel takes it for one."""
    net = dense(2, 1, 3, 16, 1)
    path = tmp_path / "net.pth"
    torch.save(renamed(net.state_dict(), "old"), path)
    image = torch.rand(1, 3, 9, 14)
    with torch.no_grad():
        wanted = net(image, 3)
    for each in (None, kernel):
        assert networks.load(path, kernel=each).facts.scale == 2
        assert (networks.load(path, kernel=each, scale=3)(image) - wanted).abs().max() < 1e-4
    with pytest.raises(ModelNotFound, match="enlarges ×2, not ×4"):
        networks.load(path, scale=4)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 3), (3, 1), (4, 3), (3, 3)])
def test_networks_that_change_the_number_of_channels_give_colour(
    inputs: int, outputs: int, tmp_path: Path, kernel: Kernel | None
) -> None:
    net = networks.seeded(rrdbnet.Net(inputs, outputs, 16, 1, 8, 1, 1), 1)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    image = torch.rand(1, 3, 8, 12)
    luma = (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    seen = {1: luma, 3: image, 4: torch.cat((image, torch.ones_like(luma)), dim=1)}[inputs]
    with torch.no_grad():
        wanted = net(seen).expand(-1, 3, -1, -1)
    for each in (None, kernel):
        assert (networks.load(tmp_path / "net.pth", kernel=each)(image) - wanted).abs().max() < 1e-3


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 2), (6, 3), (3, 4), (3, 2)])
def test_channels_that_are_no_picture_are_refused(inputs: int, outputs: int, tmp_path: Path) -> None:
    torch.save(rrdbnet.Net(inputs, outputs, 8, 1, 4, 1, 1).state_dict(), tmp_path / "net.pth")
    with pytest.raises(ModelNotFound, match=f"a network of {inputs} channels that gives {outputs}"):
        networks.load(tmp_path / "net.pth")


@pytest.mark.parametrize("layout", [(1, 1, 3, 12, 1), (8, 1, 3, 12, 1), (1, 2, 3, 12, 1), (2, 1, 1, 12, 1)])
def test_tiles_of_a_community_layout_have_no_seams(
    layout: tuple[int, ...], tmp_path: Path, kernel: Kernel | None
) -> None:
    path = networks.save(dense(*layout), tmp_path / "net.pth")
    samples = photo_like(150, 170)
    for each in (None, kernel):
        model = networks.load(path, kernel=each)
        whole, tiled = (run(model, samples, tile) for tile in (0, 144))
        assert np.abs(whole - tiled).max() <= 2 / 255
