"""The kernels for GPUs, in Triton's interpreter and as compiled for several GPUs. None of it ran on a GPU."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from triton.runtime.interpreter import interpreter_builder

from server.kernels.cuda import network as cuda
from server.kernels.cuda.network import Block, Network
from server.models import ARCHS
from tests import networks


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """With few columns for a program: so small pictures have several, and the interpreter is quick."""
    small = {width: Block(16, 32, 4, 2) for width in cuda.BLOCKS}
    monkeypatch.setattr(cuda, "BLOCKS", small)
    monkeypatch.setattr(cuda, "HOPPER", small)


def ours(net: nn.Module, dtype: torch.dtype = torch.float32) -> Network:
    arch, facts = next((arch, facts) for arch in ARCHS if (facts := arch.detect(net.state_dict())))
    return Network(arch.layers(net.requires_grad_(False), facts), dtype, networks.CPU)


def run(
    network: Network, samples: torch.Tensor, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
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
    samples = picture(2, 4, 20) if "×1" in name else picture(1, 4, 6) if name == "rrdbnet ×2" else picture(2, 3, 5)
    found, overflowed = run(ours(net), samples)
    assert (found - package(net, samples)).abs().max() < 2e-5
    assert not overflowed.any()


def test_half_precision_is_nearer_to_fp32_than_torch_s() -> None:
    """Sums are of fp32, and a residual is added before the result is rounded."""
    net = networks.rrdbnet(num_block=1, num_feat=16, num_grow_ch=16)
    samples = picture(1, 3, 4)
    exact = package(net, samples)
    found, _ = run(ours(net, torch.float16), samples)
    with torch.inference_mode():
        image = samples.permute(0, 3, 1, 2).float().div(255).half()
        theirs = net.half()(image).float().permute(0, 2, 3, 1)
    error, usual = ((each - exact).square().mean().sqrt() for each in (found, theirs))
    assert 0 < error < usual


def test_a_tile_gives_the_same_bytes_in_any_batch_and_however_rows_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    network = ours(networks.srvgg(num_feat=16, num_conv=1), torch.float16)
    samples = picture(2, 3, 3)
    together, _ = run(network, samples)
    monkeypatch.setattr(cuda, "_ROWS", (2,))
    for index in range(2):
        alone, _ = run(network, samples[index : index + 1])
        assert torch.equal(alone[0], together[index])


def features_of(network: Network, samples: torch.Tensor) -> torch.Tensor:
    """As the network would return them: results around 0…1."""
    n, h, w, _ = samples.shape
    buffer, generator = network.buffers["result"], torch.Generator().manual_seed(1)
    return torch.rand(n, h * buffer.level, w * buffer.level, buffer.pitch, generator=generator) * 1.5 - 0.25


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_a_kept_part_is_rounded_and_clamped(dtype: torch.dtype) -> None:
    network, samples = ours(networks.rrdbnet(num_block=1, num_feat=16, num_grow_ch=16)), picture(2, 4, 4)
    seen, features = torch.zeros(2, 3, dtype=torch.int32), features_of(network, samples)
    part = network.finish(features, samples, 1, slice(3, 12), slice(1, 14), dtype, seen)
    top = 255 if dtype is torch.uint8 else 65535
    wanted = features[1, 3:12, 1:14, :3].mul(top).round().clamp(0, top)
    assert wanted.min() == 0 and wanted.max() == top
    assert torch.equal(part.int() & top, wanted.int())
    assert seen[0].tolist() == [0, 0, 0], "nothing was seen of the other tile"


def test_srvgg_s_pixels_are_shuffled_and_added_to_the_source() -> None:
    network, samples = ours(networks.srvgg(num_feat=16, num_conv=1, upscale=2)), picture(1, 4, 5)
    features, seen = features_of(network, samples), torch.zeros(1, 3, dtype=torch.int32)
    part = network.finish(features, samples, 0, slice(0, 8), slice(0, 10), torch.uint8, seen)
    image = samples.permute(0, 3, 1, 2).float() / 255
    shuffled = functional.pixel_shuffle(features[..., :12].permute(0, 3, 1, 2), 2)
    wanted = (shuffled + functional.interpolate(image, scale_factor=2))[0].permute(1, 2, 0)
    assert torch.equal(part, wanted.mul(255).round().clamp(0, 255).to(torch.uint8))


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
    network, samples = ours(networks.rrdbnet(num_block=1, num_feat=16, num_grow_ch=16)), picture(2, 4, 4)
    features = features_of(network, samples)
    if fault == "infinite":
        features[1, 5, 3, 2] = torch.inf
    elif fault == "black":
        features[1] = 0
    seen, whole = torch.zeros(2, 3, dtype=torch.int32), slice(0, 16)
    for index in range(2):
        network.finish(features, samples, index, whole, whole, torch.uint8, seen)
    assert network.overflowed(seen).tolist() == says


def test_offsets_beyond_2_to_the_31_reach_the_right_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last tile of a batch whose maps have more than 2³¹ numbers. Memory that is not written to costs nothing."""
    network = ours(networks.srvgg(num_feat=64, num_conv=1, upscale=1), torch.float16)
    step = network.steps[1]
    h, w = 3, 20
    n = (1 << 31) // (h * w * 64) + 2
    one = torch.randn(1, h, w, 64, generator=torch.Generator().manual_seed(0)).half()
    expected = {step.source: one}
    network.launch(step, expected, 1, h, w)
    source, target = (torch.empty(n, h, w, 64, dtype=torch.float16) for _ in range(2))
    source[-1] = one[0]
    grid, place = cuda._grid, interpreter_builder.set_grid_idx

    def last(x: int, y: int, z: int) -> None:
        place(x, y, z)
        interpreter_builder.grid_idx = (x, y, n - 1)

    # The interpreter runs the programs of one tile, as those of the last one.
    monkeypatch.setattr(cuda, "_grid", lambda *args: (*grid(*args)[:2], 1))
    monkeypatch.setattr(interpreter_builder, "set_grid_idx", last)
    network.launch(step, {step.source: source, step.target: target}, n, h, w)
    assert torch.equal(target[-1], expected[step.target][0])
