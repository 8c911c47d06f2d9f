"""Our results against the package's own: `RealESRGANer.enhance`, fp32, untiled, no padding of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from server.models import load_state
from server.models.basicsr_shim import RRDBNet, SRVGGNetCompact
from server.weights.catalog import Catalog
from tests import networks
from tests.engine.test_engine import photo_like, run


def enhance(path: Path, net: nn.Module, scale: int, samples: Any) -> Any:
    from realesrgan import RealESRGANer

    upsampler = RealESRGANer(
        scale=scale, model_path=str(path), model=net, tile=0, pre_pad=0, half=False, device=torch.device("cpu")
    )
    result, _ = upsampler.enhance(np.ascontiguousarray(samples[..., ::-1]))  # it speaks BGR
    return result[..., ::-1]


def assert_same(path: Path, net: nn.Module, scale: int) -> None:
    samples = photo_like(61, 90)
    ours = np.rint(np.clip(run(networks.load(path), samples, 0), 0, 1) * 255).astype(int)
    theirs = enhance(path, net, scale, samples).astype(int)
    assert ours.shape == theirs.shape
    assert theirs.std() > 10  # a flat result would prove nothing
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize(
    ("name", "depth"), [("realesr-general-x4v3", 32), ("realesr-general-wdn-x4v3", 32), ("realesr-animevideov3", 16)]
)
def test_official_srvgg_checkpoints_give_the_package_s_result(name: str, depth: int) -> None:
    assert_same(networks.official(f"{name}.pth"), SRVGGNetCompact(num_conv=depth), 4)


def test_seeded_srvgg_gives_the_package_s_result(tmp_path: Path) -> None:
    net = networks.srvgg()
    with torch.no_grad():
        net.body[-1].weight.mul_(0.05)  # a residual of the size that trained networks have
    assert_same(networks.save(net, tmp_path / "net.pth"), net, 4)


@pytest.mark.parametrize("scale", [4, 2])
def test_seeded_rrdbnet_gives_the_package_s_result(tmp_path: Path, scale: int) -> None:
    net = networks.rrdbnet(scale)
    assert_same(networks.save(net, tmp_path / "net.pth"), net, scale)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "net"),
    [
        ("RealESRGAN_x4plus", RRDBNet(num_in_ch=3, num_out_ch=3, num_block=23)),
        ("RealESRGAN_x4plus_anime_6B", RRDBNet(num_in_ch=3, num_out_ch=3, num_block=6)),
        ("realesr-animevideov3", SRVGGNetCompact(num_conv=16)),
    ],
)
def test_the_packaged_networks_give_the_package_s_result(tmp_path: Path, name: str, net: nn.Module) -> None:
    """Their own class, with the weights as we read them."""
    state = load_state(Catalog(tmp_path).get(name).path)
    torch.save({"params_ema": state}, tmp_path / f"{name}.pth")
    assert_same(tmp_path / f"{name}.pth", net, 4)
