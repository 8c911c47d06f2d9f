"""The kernels for GPUs, in Triton's interpreter and as compiled for several GPUs. None of it ran on a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from server.kernels import Layers
from server.kernels.cuda import network as cuda
from server.kernels.cuda.network import Block, Network
from server.models import ARCHS
from tests import networks
from tests.paths import ROOT


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """With few columns for a program: so small pictures have several, and the interpreter is quick."""
    small = {width: Block(16, 32, 4, 2) for width in cuda.BLOCKS}
    monkeypatch.setattr(cuda, "BLOCKS", small)
    monkeypatch.setattr(cuda, "HOPPER", small)


def ours(net: nn.Module, dtype: torch.dtype = torch.float32) -> Network:
    arch, facts = next((arch, facts) for arch in ARCHS if (facts := arch.detect(net.state_dict())))
    return Network(arch.layers(net.requires_grad_(False), facts), dtype, networks.CPU)


def run(network: Network, samples: torch.Tensor, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """All of each tile's result, and which overflowed."""
    n, h, w, _ = samples.shape
    seen = torch.zeros(n, 3, dtype=torch.int32)
    features = network(samples)
    whole = slice(0, h * network.scale), slice(0, w * network.scale)
    tiles = [network.finish(features, samples, index, *whole, dtype, seen) for index in range(n)]
    return torch.stack(tiles), network.overflowed(seen)


def picture(n: int, h: int, w: int, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, h, w, channels), dtype=torch.uint8, generator=generator)


@torch.inference_mode()
def package(net: nn.Module, samples: torch.Tensor) -> torch.Tensor:
    image = samples.permute(0, 3, 1, 2).float().div(255).expand(-1, 3, -1, -1)
    return net(image).permute(0, 2, 3, 1)


NETS = {
    "srvgg, 12 channels": lambda: networks.srvgg(num_feat=12, num_conv=2),
    "srvgg ×2": lambda: networks.srvgg(num_feat=16, num_conv=1, upscale=2),
    "rrdbnet, 20 and 5 channels": lambda: networks.rrdbnet(num_block=1, num_feat=20, num_grow_ch=5),
    "rrdbnet ×2": lambda: networks.rrdbnet(2, num_block=1, num_feat=16, num_grow_ch=16),
    "rrdbnet ×1": lambda: networks.rrdbnet(1, num_block=1, num_feat=16, num_grow_ch=4),
}


@pytest.mark.parametrize("name", NETS)
def test_a_network_gives_the_package_s_result_at_odd_sizes(name: str) -> None:
    net = NETS[name]()
    samples = picture(2, 4, 20) if "×1" in name else picture(2, 6, 10) if name == "rrdbnet ×2" else picture(2, 3, 7)
    found, overflowed = run(ours(net), samples)
    assert (found - package(net, samples)).abs().max() < 2e-5
    assert overflowed.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_near_to_fp32_as_torch_s(dtype: torch.dtype) -> None:
    """Sums are of fp32, and a residual is added before the result is rounded."""
    net = networks.rrdbnet(num_block=1, num_feat=16, num_grow_ch=16)
    samples = picture(1, 3, 6)
    exact = package(net, samples)
    found, _ = run(ours(net, dtype), samples)
    with torch.inference_mode():
        image = samples.permute(0, 3, 1, 2).float().div(255).to(dtype)
        theirs = net.to(dtype)(image).float().permute(0, 2, 3, 1)
    error, usual = ((each - exact).square().mean().sqrt() for each in (found, theirs))
    assert 0 < error < usual


def test_a_tile_gives_the_same_bytes_in_any_batch_and_however_rows_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    network = ours(networks.srvgg(num_feat=16, num_conv=1), torch.float16)
    samples = picture(3, 9, 5)
    together, _ = run(network, samples)
    monkeypatch.setattr(cuda, "_ROWS", (2,))
    for index in range(3):
        alone, _ = run(network, samples[index : index + 1])
        assert torch.equal(alone[0], together[index])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
@pytest.mark.parametrize("kind", ["srvgg", "rrdbnet"])
def test_a_kept_part_is_rounded_and_clamped(kind: str, dtype: torch.dtype) -> None:
    net = NETS["srvgg ×2"]() if kind == "srvgg" else NETS["rrdbnet ×2"]()
    network, samples = ours(net), picture(2, 8, 8)
    seen, features = torch.zeros(2, 3, dtype=torch.int32), network(samples)
    part = network.finish(features, samples, 1, slice(3, 12), slice(1, 14), dtype, seen)
    top = 255 if dtype is torch.uint8 else 65535
    wanted = package(net, samples)[1, 3:12, 1:14].mul(top).round().clamp(0, top)
    assert wanted.min() == 0 and wanted.max() == top
    difference = (part.int() & top) - wanted.int()
    assert difference.abs().max() <= (0 if dtype is torch.uint8 else 1)
    assert seen[0].tolist() == [0, 0, 0], "nothing was seen of the other tile"


def test_grey_and_16_bits_are_read_and_written_as_such() -> None:
    net = networks.srvgg(num_feat=16, num_conv=1, upscale=2)
    grey, _ = run(ours(net), picture(1, 5, 6, channels=1))
    wanted = package(net, picture(1, 5, 6, channels=1)).mean(3, keepdim=True)
    assert (grey - wanted).abs().max() < 1e-5
    deep = picture(1, 5, 6).int() * 257
    found, _ = run(ours(net), torch.where(deep > 32767, deep - 65536, deep).to(torch.int16))
    assert (found - package(net, picture(1, 5, 6))).abs().max() < 1e-5


@pytest.mark.parametrize(("fault", "says"), [("infinite", [0, 1]), ("black", [0, 1]), ("none", [0, 0])])
def test_a_tile_that_overflowed_is_found_alone(fault: str, says: list[int]) -> None:
    network = ours(NETS["rrdbnet ×2"](), torch.float16)
    samples = picture(2, 8, 8)
    features = network(samples)
    if fault == "infinite":
        features[1, 5, 3, 2] = torch.inf
    elif fault == "black":
        features[1] = 0
    seen, whole = torch.zeros(2, 3, dtype=torch.int32), slice(0, 16)
    for index in range(2):
        network.finish(features, samples, index, whole, whole, torch.uint8, seen)
    assert network.overflowed(seen).tolist() == says


def test_offsets_beyond_2_to_the_31_reach_the_right_memory() -> None:
    """The last tile of a batch whose map has more than 2³¹ numbers. What the kernel does not touch takes no memory."""
    net = networks.srvgg(num_feat=64, num_conv=1, upscale=1)
    layers = ours(net)
    step = next(each for each in layers.steps if each.source != "source")
    h, w = 3, 20
    n = (1 << 31) // (h * w * 64) + 2
    small = torch.randn(1, h, w, 64, generator=torch.Generator().manual_seed(0)).half()
    network = Network(Layers("srvgg", [*_half(net)], 1), torch.float16, networks.CPU)
    expected: dict[str, torch.Tensor] = {step.source: small}
    network.launch(step, expected, 1, h, w)
    source, target = (torch.empty(n, h, w, 64, dtype=torch.float16) for _ in range(2))
    source[-1] = small[0]
    with only_program(z=n - 1):
        network.launch(step, {step.source: source, step.target: target}, n, h, w)
    assert torch.equal(target[-1], expected[step.target][0])
