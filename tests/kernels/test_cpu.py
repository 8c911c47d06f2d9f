"""Our own networks compute what torch does, whatever the shape; their library is built, kept, refused rightly."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from server.kernels import __main__ as command
from server.kernels.cpu import Kernel, NotCompiled, build, load
from server.kernels.cpu.network import Network, RowPass
from server.malloc import MALLOC_ENV
from server.models import load_model, rrdbnet, srvgg
from server.models.base import ModelInfo
from server.models.basicsr_shim import RRDBNet, SRVGGNetCompact
from tests import networks
from tests.paths import PHOTO

SIDES = st.integers(1, 70)


@pytest.fixture(scope="module", autouse=True)
def usable() -> None:
    found = load()
    if not isinstance(found, Kernel):
        pytest.skip(f"no own convolutions here: {found}")


@pytest.fixture(scope="module", params=["avx512", "avx2"])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """Each that this processor can run."""
    found = load(wanted=request.param)
    if not isinstance(found, Kernel):
        pytest.skip(str(found))
    return found


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Each has memory of its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def decibels(result: Tensor, expected: Tensor) -> float:
    """PSNR for a range of 1."""
    return float(-10 * torch.log10((result.double() - expected).square().mean().clamp_min(1e-30)))


@settings(max_examples=60)
@given(
    height=SIDES,
    width=SIDES,
    channels=st.tuples(st.integers(1, 70), st.integers(1, 130)),
    scale=st.sampled_from([1, 2]),
    activation=st.sampled_from(["none", "prelu", "relu"]),
    weights=st.sampled_from(["noise", "zeros", "tiny", "denormal", "sparse"]),
    threads=st.integers(1, 5),
    seed=st.integers(0, 1 << 30),
)
def test_a_convolution_is_torchs_in_float64(
    kernel: Kernel,
    height: int,
    width: int,
    channels: tuple[int, int],
    scale: int,
    activation: str,
    weights: str,
    threads: int,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inner, outer = channels
    image = torch.randn(2, inner, height, width, generator=generator)
    weight = torch.randn(outer, inner, 3, 3, generator=generator) / (9 * inner) ** 0.5
    bias = torch.randn(outer, generator=generator)
    factor = {"noise": 1.0, "zeros": 0.0, "tiny": 1e-20, "denormal": 1e-41, "sparse": 1.0}[weights]
    weight *= factor
    if weights == "sparse":
        weight *= torch.rand(weight.shape, generator=generator) < 0.1
    slope = {"none": None, "relu": torch.zeros(outer), "prelu": torch.randn(outer, generator=generator)}[activation]
    expected = functional.interpolate(image.double(), scale_factor=scale, mode="nearest")
    expected = functional.conv2d(expected, weight.double(), bias.double(), padding=1)
    if slope is not None:
        expected = torch.where(expected > 0, expected, expected * slope.double()[:, None, None])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        result = Network(kernel, "convolution", [(weight, bias, slope)], scale=scale)(image)
    finally:
        torch.set_num_threads(before)
    assert (result - expected).abs().max() < 1e-4


@settings(max_examples=12)
@given(
    height=SIDES,
    width=SIDES,
    features=st.sampled_from([3, 16, 24, 64]),
    depth=st.integers(0, 5),
    upscale=st.integers(1, 4),
    act_type=st.sampled_from(["prelu", "relu"]),
)
def test_any_srvgg_is_the_packages(
    kernel: Kernel,
    tmp_path_factory: pytest.TempPathFactory,
    height: int,
    width: int,
    features: int,
    depth: int,
    upscale: int,
    act_type: str,
) -> None:
    net = networks.seeded(
        SRVGGNetCompact(num_feat=features, num_conv=depth, upscale=upscale, act_type=act_type), height
    )
    same_as_the_class(kernel, net, tmp_path_factory.mktemp("srvgg"), height, width)


@pytest.mark.parametrize("scale", [4, 2, 1])
@pytest.mark.parametrize("channels", [(64, 32), (10, 6), (16, 16)])
@pytest.mark.parametrize("size", [(4, 4), (8, 132), (76, 20)])
def test_any_rrdbnet_is_the_packages(
    kernel: Kernel, tmp_path: Path, scale: int, channels: tuple[int, int], size: tuple[int, int]
) -> None:
    net = networks.rrdbnet(scale, 2, *channels)
    same_as_the_class(kernel, net, tmp_path, *size)


def same_as_the_class(kernel: Kernel, net: nn.Module, folder: Path, height: int, width: int) -> None:
    model = load_model(
        networks.save(net, folder / "net.pth"), name="x", sha256=None, device=networks.CPU, kernel=kernel
    )
    assert isinstance(model._net, Network)
    image = torch.rand(2, 3, height, width)
    with torch.no_grad():
        expected = net.double()(image.double())
    assert (model(image) - expected).abs().max() < 5e-5 * max(1, float(expected.abs().max()))


@pytest.mark.parametrize(("ups", "step"), [(0, 2), (1, 2), (1, 3), (3, 2), pytest.param(4, 2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("size", [(49, 101), (130, 40)])
def test_any_number_of_up_convolutions_is_torchs(kernel: Kernel, ups: int, step: int, size: tuple[int, int]) -> None:
    net = networks.seeded(rrdbnet.Net(3, 3, 16, 1, 8, 1, ups), ups)
    facts = rrdbnet.detect(net.state_dict())
    assert facts is not None
    facts = rrdbnet.tripled(facts) if step == 3 else facts
    assert facts is not None
    network = Network.of(kernel, rrdbnet.layers(net, facts))
    image = torch.rand(1, 3, *size)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        result = network(image)
    finally:
        torch.set_num_threads(before)
    with torch.no_grad():
        assert decibels(result, net.double()(image.double(), step)) > 100


@pytest.mark.parametrize("size", [(131, 110), (49, 401), (470, 31), (100, 97)])
@pytest.mark.parametrize(
    "net",
    [
        networks.srvgg(32, 7),
        pytest.param(networks.rrdbnet(4, 2, 32, 16), marks=pytest.mark.slow),
        networks.rrdbnet(2, 1, 24, 8),
    ],
)
def test_pictures_of_many_blocks_are_torchs(
    kernel: Kernel, tmp_path: Path, net: nn.Module, size: tuple[int, int]
) -> None:
    path = networks.save(net, tmp_path / "net.pth")
    model = load_model(path, name="x", sha256=None, device=networks.CPU, kernel=kernel)
    image = torch.rand(1, 3, size[0] // 2 * 2, size[1] // 2 * 2)
    with torch.no_grad():
        expected = net.double()(image.double())
    net.float()
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert decibels(model(image), expected) > 110
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("low", "width"), [(400, 300), (120, 700)])
def test_a_tall_picture_gives_the_same_bytes_as_the_top_of_it(
    kernel: Kernel, tmp_path: Path, low: int, width: int
) -> None:
    # Their blocks differ, their tiles do not. Far from the lower one's end both see the same samples.
    net = networks.save(networks.srvgg(16, 4), tmp_path / "net.pth")
    model = load_model(net, name="x", sha256=None, device=networks.CPU, kernel=kernel)
    image = torch.rand(1, 3, 1500, width)
    tall, top = model(image), model(image[:, :, :low])
    assert torch.equal(tall[:, :, : 4 * (low - 20)], top[:, :, : 4 * (low - 20)])


def test_the_number_of_threads_changes_no_byte(kernel: Kernel, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    for net in (networks.srvgg(24, 5), networks.rrdbnet(4, 2, 32, 16)):
        path = networks.save(net, tmp_path / "net.pth")
        model = load_model(path, name="x", sha256=None, device=networks.CPU, kernel=kernel)
        image = torch.rand(1, 3, 140, 90)
        results = []
        try:
            for threads in (1, 2, 7):
                torch.set_num_threads(threads)
                results.append(model(image))
        finally:
            torch.set_num_threads(before)
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("threads", [1, 3])
def test_weights_that_are_kept_transformed_change_no_byte(kernel: Kernel, threads: int) -> None:
    """An RRDBNet's: at the second small picture in a row they are kept, at a larger one freed."""
    net = networks.rrdbnet(4, 1, 32, 16)
    facts = rrdbnet.detect(net.state_dict())
    assert facts is not None
    layers = rrdbnet.layers(net, facts)
    small, large = torch.rand(1, 3, 50, 60), torch.rand(1, 3, 100, 130)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fresh = [Network.of(kernel, layers)(image) for image in (small, large)]
        network = Network.of(kernel, layers)
        for image, expected in zip(
            [small] * 3 + [large, small, small], [fresh[0]] * 3 + [fresh[1]] + [fresh[0]] * 2, strict=True
        ):
            assert torch.equal(network(image), expected)
    finally:
        torch.set_num_threads(before)


def test_small_and_large_pictures_at_once_share_the_weights(kernel: Kernel) -> None:
    net = networks.rrdbnet(4, 1, 16, 8)
    facts = rrdbnet.detect(net.state_dict())
    assert facts is not None
    network = Network.of(kernel, rrdbnet.layers(net, facts))
    images = [torch.rand(1, 3, *size) for size in [(20, 30), (20, 30), (130, 120), (24, 18)]]
    expected = [network(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for result, right in zip(pool.map(network, images * 8), expected * 8, strict=True):
            assert torch.equal(result, right)


def test_an_rrdbnets_weights_take_little_more_than_its_checkpoint(kernel: Kernel) -> None:
    net = networks.rrdbnet(4, 2, 64, 32)
    facts = rrdbnet.detect(net.state_dict())
    assert facts is not None
    network = Network.of(kernel, rrdbnet.layers(net, facts))
    assert network.weight_bytes < 1.1 * 4 * sum(each.numel() for each in net.state_dict().values())


def test_several_threads_may_call_at_once(kernel: Kernel, tmp_path: Path) -> None:
    path = networks.save(networks.srvgg(32, 6), tmp_path / "net.pth")
    model = load_model(path, name="x", sha256=None, device=networks.CPU, kernel=kernel)
    images = [torch.rand(1, 3, 40 + 9 * i, 70 - 5 * i) for i in range(8)]
    expected = [model(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for result, right in zip(pool.map(model, images), expected, strict=True):
                assert torch.equal(result, right)


KINDS = st.sampled_from([np.uint8, np.uint16, np.float32])


def random_samples(height: int, width: int, channels: int, kind: type[np.generic], seed: int) -> NDArray[Any]:
    noise = np.random.default_rng(seed).random((height, width, channels), np.float32)
    return noise if kind is np.float32 else (noise * np.iinfo(kind).max).astype(kind)


def rounded(image: Tensor, kind: type[np.generic], channels: int) -> NDArray[Any]:
    """(1, 3, H, W) as samples of that kind, by way of torch."""
    result = image[0].permute(1, 2, 0)
    if channels == 1:
        result = result.mean(2, keepdim=True)
    if kind is np.float32:
        return result.numpy()
    top = np.iinfo(kind).max
    return (result * top).round().clamp(0, top).numpy().astype(kind)


@settings(max_examples=40)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 40),
    step=st.integers(1, 80),
    channels=st.sampled_from([1, 3]),
    kinds=st.tuples(KINDS, KINDS),
    depth=st.integers(0, 4),
    scale=st.integers(1, 4),
    threads=st.integers(1, 3),
)
def test_a_row_pass_in_steps_gives_what_the_whole_picture_does(
    kernel: Kernel,
    height: int,
    width: int,
    step: int,
    channels: int,
    kinds: tuple[type[np.generic], type[np.generic]],
    depth: int,
    scale: int,
    threads: int,
) -> None:
    net = networks.seeded(SRVGGNetCompact(num_feat=16, num_conv=depth, upscale=scale), height)
    facts = srvgg.detect(net.state_dict())
    assert facts is not None
    network = Network.of(kernel, srvgg.layers(net, facts))
    samples = random_samples(height, width, channels, kinds[0], width)
    top = 1 if kinds[0] is np.float32 else np.iinfo(kinds[0]).max
    image = torch.from_numpy((samples / np.float32(top)).astype(np.float32)).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = rounded(net(image.expand(-1, 3, -1, -1)), kinds[1], channels)
    wide = np.repeat(samples, 2, axis=1)[:, ::2]  # not one after the other in memory
    result = np.full((height * scale, width * scale, channels), 77, kinds[1])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with RowPass(network, wide, 6 * step) as row_pass:
            for start in range(0, height, 6 * step):
                stop = min(height, start + 6 * step)
                row_pass.rows(stop, result[start * scale : stop * scale])
    finally:
        torch.set_num_threads(before)
    unit = 1e-4 if kinds[1] is np.float32 else 1 if kinds[1] is np.uint8 else 7
    assert np.abs(result.astype(np.float64) - expected).max() <= unit


@settings(max_examples=30)
@given(
    net=st.sampled_from([networks.rrdbnet(4, 2, 16, 8), networks.rrdbnet(2, 1, 16, 8), networks.srvgg(16, 3)]),
    size=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    work=st.sampled_from([0.0, 1e6, 1e7, 1e8, 1e20]),
    threads=st.integers(1, 3),
)
def test_turns_give_the_bytes_that_a_run_at_once_does(
    kernel: Kernel, net: nn.Module, size: tuple[int, int], work: float, threads: int
) -> None:
    arch = rrdbnet if isinstance(net, RRDBNet) else srvgg
    facts = arch.detect(net.state_dict())
    assert facts is not None
    network = Network.of(kernel, arch.layers(net, facts))
    h, w = (side * facts.multiple for side in size)
    samples = random_samples(h, w, 3, np.uint8, 1)
    whole, result = (np.zeros((h * facts.scale, w * facts.scale, 3), np.uint16) for _ in range(2))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        network.into(samples, whole)
        shares = []
        with RowPass(network, samples, h) as row_pass:
            while not shares or shares[-1] < 1:
                shares.append(row_pass.time_slice(work, result))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(result, whole)
    assert shares == sorted(shares) and shares[0] >= 0
    assert len(shares) == 1 if work == 1e20 else len(shares) > 1 or work > 0


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("net", [networks.srvgg(16, 3), networks.rrdbnet(4, 1, 16, 8), networks.rrdbnet(2, 1, 16, 8)])
def test_only_the_wanted_part_of_a_result_is_written(
    kernel: Kernel, tmp_path: Path, net: nn.Module, channels: int, kind: type[np.generic]
) -> None:
    model = load_model(networks.save(net, tmp_path / "x"), name="x", sha256=None, device=networks.CPU, kernel=kernel)
    assert model.native is not None
    scale = model.facts.scale
    samples = random_samples(38, 26, channels, np.uint8, 0)
    whole = np.empty((38 * scale, 26 * scale, channels), kind)
    model.native.into(samples, whole)
    around = np.full((30, 40, channels), 7, kind)
    model.native.into(samples, around[3:27, 5:33], top=17, left=11)
    assert np.array_equal(around[3:27, 5:33], whole[17:41, 11:39])
    around[3:27, 5:33] = 7
    assert (around == 7).all()


def test_what_is_not_finite_becomes_black_in_integers(kernel: Kernel, tmp_path: Path) -> None:
    net = networks.srvgg(16, 1)
    with torch.no_grad():
        net.body[-1].bias.fill_(float("nan"))  # type: ignore[union-attr]
    model = load_model(networks.save(net, tmp_path / "x"), name="x", sha256=None, device=networks.CPU, kernel=kernel)
    assert model.native is not None
    result = np.full((32, 32, 3), 9, np.uint8)
    model.native.into(np.zeros((8, 8, 3), np.uint8), result)
    assert not result.any()


@pytest.mark.usefixtures("two_threads")
def test_a_tall_picture_takes_no_more_memory_than_a_low_one(kernel: Kernel, tmp_path: Path) -> None:
    model = load_model(
        networks.save(networks.srvgg(16, 8), tmp_path / "x"), name="x", sha256=None, device=networks.CPU, kernel=kernel
    )
    assert model.native is not None
    assert model.native.bytes_for(100_000, 600) == model.native.bytes_for(800, 600)
    limit = 50 << 20
    widest = model.native.columns_within(limit)
    assert (
        0.99 * limit < model.native.bytes_for(100_000, widest) <= limit < model.native.bytes_for(100_000, widest + 100)
    )
    assert model.native.columns_within(0) == 0


def real_networks() -> list[Path]:
    return [networks.BUNDLED, *sorted(networks.OFFICIAL.glob("*.pth"))]


@pytest.mark.parametrize("path", real_networks(), ids=lambda path: path.stem)
def test_real_weights_on_a_real_picture_are_within_100_decibels(kernel: Kernel, path: Path) -> None:
    photo = np.asarray(Image.open(PHOTO).convert("RGB"))[:61, :74]
    image = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float() / 255
    plain = load_model(path, name="x", sha256=None, device=networks.CPU)
    fast = load_model(path, name="x", sha256=None, device=networks.CPU, kernel=kernel)
    assert isinstance(plain._net, nn.Module)
    with torch.no_grad():
        exact = plain._net.double()(image.double())
    assert decibels(fast(image), exact) >= 100


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_pictures_of_other_than_three_channels(kernel: Kernel, channels: int) -> None:
    net = networks.seeded(RRDBNet(channels, channels, num_feat=16, num_block=1, num_grow_ch=8), 3)
    network = Network.of(kernel, rrdbnet.layers(net, ModelInfo(4, 128, 8, 0, 1, 1, {"num_grow_ch": 8})))
    image = torch.rand(1, channels, 13, 21)
    with torch.no_grad():
        assert decibels(network(image), net.double()(image.double())) > 100


@pytest.mark.usefixtures("two_threads")
def test_a_tile_of_512_pixels_takes_less_than_32_mib(kernel: Kernel) -> None:
    model = load_model(networks.BUNDLED, name="x", sha256=None, device=networks.CPU, kernel=kernel)
    assert isinstance(model._net, Network)
    assert model._net.bytes_for(512, 512) < 32 << 20


def test_the_kernel_serves_fp32_only(kernel: Kernel) -> None:
    half = load_model(networks.BUNDLED, name="x", sha256=None, device=networks.CPU, dtype=torch.bfloat16, kernel=kernel)
    assert isinstance(half._net, nn.Module)


def test_the_wanted_instruction_set_is_the_one_that_runs(kernel: Kernel) -> None:
    wanted: build.Wanted = "avx2" if kernel.target == "AVX2" else "avx512"
    found = load(wanted=wanted)
    assert isinstance(found, Kernel) and found.target == kernel.target
    best = load()
    assert isinstance(best, Kernel)
    assert best.target == next(name for name in build.TARGETS if build.TARGETS[name][0] <= build._processor())


def test_an_instruction_set_that_the_processor_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_processor", lambda: build.TARGETS["AVX2"][0])
    with pytest.raises(build.Unusable, match="lacks what AVX-512 needs \\(avx512bw, avx512dq, avx512f, avx512vl\\)"):
        build.library(wanted="avx512")
    monkeypatch.setattr(build, "_processor", lambda: frozenset({"avx2"}))
    with pytest.raises(build.Unusable, match="lacks what AVX2 needs \\(fma\\)"):
        build.library(wanted="avx2")


def test_without_a_compiler_the_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.Unusable, match="there is no C\\+\\+ compiler"):
        build.library(tmp_path / "cache")


def test_a_compiler_that_fails_is_quoted_and_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c++").write_text("#!/bin/sh\necho 'x.cpp:1: error: no such thing' >&2\nexit 1\n")
    (tmp_path / "c++").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(build.Unusable, match="error: no such thing"):
        build.library(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_on_an_old_processor_the_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_processor", frozenset)
    with pytest.raises(build.Unusable, match="neither AVX-512 nor AVX2"):
        build.library(tmp_path)


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    (tmp_path / "open" / "cache").mkdir(mode=0o700)
    with pytest.raises(build.Unusable, match="others can write to"):
        build.library(tmp_path / "open" / "cache")


def kept(folder: Path) -> Path:
    """A copy of the library in another folder, without the seconds of building it."""
    folder.mkdir(mode=0o700)
    return Path(shutil.copy(build.library().path, folder))


@pytest.fixture
def quick_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gives the library that there is, instead of compiling it again. The file is there once it has been called."""
    code = build.library().path.read_bytes()[: -len(build._tail(b""))]
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "library").write_bytes(code)
    called = tmp_path / "tools" / "called"
    script = f'#!/bin/sh\ntouch {called}\nfor last; do :; done\ncat {tmp_path}/tools/library > "$last"\n'
    (tmp_path / "tools" / "c++").write_text(script)
    (tmp_path / "tools" / "c++").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'tools'}:/bin:/usr/bin")
    return called


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.slow
def test_workers_that_build_at_once_all_get_it_and_leave_nothing_else(tmp_path: Path, quick_compiler: Path) -> None:
    script = quick_compiler.with_name("c++")
    script.write_text(script.read_text() + "sleep 2\n")  # so that both are at it
    code = "import sys, pathlib, server.kernels.cpu.build as b; print(b.library(pathlib.Path(sys.argv[1])).path)"
    command = [sys.executable, "-c", code, str(tmp_path / "cache")]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = {run.communicate()[0].strip() for run in runs}
    assert all(run.returncode == 0 for run in runs)
    assert [str(path) for path in (tmp_path / "cache").iterdir()] == list(found)


def test_a_library_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    path = kept(tmp_path / "cache")
    path.chmod(0o722)
    with pytest.raises(build.Unusable, match="others can write to"):
        build.library(tmp_path / "cache")


DAMAGES = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "without its last byte": lambda data: data[:-1],
    "only the checksum": lambda data: data[-len(build._tail(b"")) :],
    "a byte changed": lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
    "zeros at its end": lambda data: data[:-4096] + bytes(4096),
    "something else": lambda data: b"not a library",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_built_again(tmp_path: Path, quick_compiler: Path, damage: str) -> None:
    path = kept(tmp_path / "cache")
    right = path.read_bytes()
    assert build.library(tmp_path / "cache").origin == "compiled before" and not quick_compiler.exists()
    path.write_bytes(DAMAGES[damage](right))
    found = load(tmp_path / "cache")
    assert isinstance(found, Kernel) and found.origin == "compiled now"
    assert quick_compiler.exists() and path.read_bytes() == right
    assert list((tmp_path / "cache").iterdir()) == [path]


def test_what_was_not_compiled_yet_is_said_instead_of_compiling_it(tmp_path: Path, quick_compiler: Path) -> None:
    folder = tmp_path / "cache"
    assert isinstance(load(folder, may_compile=False), NotCompiled) and not quick_compiler.exists()
    load(folder)
    again = build.library(folder, may_compile=False)
    assert again.origin == "compiled before"


def test_what_a_killed_compiler_has_left_is_removed(tmp_path: Path, quick_compiler: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    old, new = folder / "kernels-0old.part", folder / "kernels-0new.part"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    build.library(folder)
    assert new.exists() and not old.exists(), "the new one may belong to a process that compiles now"


@pytest.mark.usefixtures("no_compiler")
def test_a_damaged_library_that_cannot_be_built_again_is_not_used(tmp_path: Path) -> None:
    path = kept(tmp_path / "cache")
    path.write_bytes(path.read_bytes()[:20_000])
    assert "there is no C++ compiler" in str(load(tmp_path / "cache"))


def test_a_compiler_that_makes_something_else_is_found_out(tmp_path: Path, quick_compiler: Path) -> None:
    quick_compiler.with_name("library").write_bytes(b"not a library")
    assert "can't be loaded" in str(load(tmp_path / "cache"))


@pytest.fixture
def prebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(build, "BUILT", tmp_path / "built")
    return kept(tmp_path / "built")


@pytest.mark.usefixtures("no_compiler")
def test_a_library_that_came_with_the_code_needs_no_compiler_and_no_cache(tmp_path: Path, prebuilt: Path) -> None:
    prebuilt.chmod(0o444)
    found = load(tmp_path / "cache")
    assert isinstance(found, Kernel) and found.origin == "prebuilt"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("what", ["damaged", "others can write to it", "of other sources"])
def test_another_is_compiled_where_the_one_that_came_will_not_do(
    tmp_path: Path, prebuilt: Path, quick_compiler: Path, what: str
) -> None:
    if what == "damaged":
        prebuilt.write_bytes(prebuilt.read_bytes()[:5000])
    elif what == "of other sources":
        prebuilt.rename(prebuilt.with_name("kernels-0123456789abcdef.so"))
    else:
        prebuilt.chmod(0o666)
    found = load(tmp_path / "cache")
    assert isinstance(found, Kernel) and found.origin == "compiled now"
    assert quick_compiler.exists()


def test_the_command_compiles_ahead_for_every_kind_of_processor(
    tmp_path: Path, quick_compiler: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "_processor", frozenset)  # whatever this one can
    monkeypatch.setattr(sys, "argv", ["kernels", "--all", "--folder", str(tmp_path / "built")])
    command.main()
    files = sorted((tmp_path / "built").iterdir())
    assert len(files) == len(build.TARGETS) and all(build.is_whole(path) for path in files)
    said = capsys.readouterr().out
    assert all(f"{target}, compiled now" in said for target in build.TARGETS)
    assert (tmp_path / "built").stat().st_mode & 0o055 == 0o055, "another user reads it"
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in files)


@pytest.mark.usefixtures("no_compiler")
def test_the_command_says_why_it_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["kernels", "--folder", str(tmp_path / "cache")])
    with pytest.raises(SystemExit, match="no own kernels: there is no C\\+\\+ compiler"):
        command.main()


RESTING = """
import sys
from pathlib import Path
import torch
from server.config import Config
from server.job.job import Params
from server.weights.catalog import Catalog
from server.worker.loop import memory_bytes
from server.worker.upscaler import Upscaler

config = Config(device="cpu", dtype="fp32", weights_dir=Path(sys.argv[1]).parent)
upscaler = Upscaler(config, Catalog.of(config), allow_paths=True)
small = upscaler.load(Params(scale=4, model=sys.argv[2])).model
before = memory_bytes()
large = upscaler.load(Params(scale=4, model=sys.argv[1])).model
during = memory_bytes()
large(torch.zeros(1, 3, 100, 100))
plain = memory_bytes()
for _ in range(2):
    large(torch.zeros(1, 3, 32, 32))
kept = memory_bytes()
large(torch.zeros(1, 3, 100, 100))
freed, weights = memory_bytes(), large.weight_bytes
del small, large
upscaler._cache._keep_s = 0.0
upscaler.tidy()
upscaler._engine._runtime.call(lambda: None)  # until the device's thread has done it
print(before, during, plain, kept, freed, weights, memory_bytes(), upscaler.counters()["models"])
"""


@pytest.mark.slow
def test_the_weights_go_back_to_the_system_transformed_for_a_large_picture_and_all_at_rest(tmp_path: Path) -> None:
    """In a process whose malloc keeps what is freed, as a worker's does."""
    large = networks.save(networks.rrdbnet(4, 8, 64, 32), tmp_path / "large.pth")
    small = networks.save(networks.rrdbnet(4, 1, 16, 8), tmp_path / "small.pth")
    run = [sys.executable, "-c", RESTING, str(large), str(small)]
    done = subprocess.run(run, env=os.environ | MALLOC_ENV, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    before, during, plain, kept, freed, weights, after, models = map(float, done.stdout.splitlines()[-1].split())
    assert weights > 20e6 and during - before > 0.95 * weights
    assert kept - plain > 6 * weights and freed - plain < 0.5 * weights
    assert models == 0 and after - before < 0.7 * weights
