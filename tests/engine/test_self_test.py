"""A device that computes nonsense, or nothing, is found before the first job. On a device that stands in for a GPU."""

from pathlib import Path

import pytest
import torch

from server.engine.engine import Engine
from server.engine.self_test import self_test
from server.errors import Unavailable
from server.models import Model, load_model
from tests import networks
from tests.engine.fake_device import CUDA, FakeDevice


@pytest.fixture
def pair(gpu: FakeDevice, tmp_path: Path) -> tuple[Model, Model]:
    path = networks.save(networks.srvgg(), tmp_path / "net.pth")
    return load_model(path, name="net", sha256=None, device=CUDA), networks.load(path)


def test_a_device_that_computes_right_passes(pair: tuple[Model, Model]) -> None:
    assert self_test(Engine(CUDA), *pair) < 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_passes_with_room(gpu: FakeDevice, dtype: torch.dtype) -> None:
    model = load_model(networks.BUNDLED, name="net", sha256=None, device=CUDA, dtype=dtype)
    limit = {torch.bfloat16: 8.0, torch.float16: 2.0}[dtype]
    assert self_test(Engine(CUDA, dtype=dtype), model, networks.load(networks.BUNDLED)) < limit / 4


def test_a_device_that_computes_something_else_fails_in_words(pair: tuple[Model, Model]) -> None:
    model, reference = pair
    forward = model._forward
    model._forward = lambda net, image, dtype: forward(net, image, dtype) + 0.05
    with pytest.raises(Unavailable, match=r"net gives another picture on cuda:0 than on the CPU .* driver is faulty"):
        self_test(Engine(CUDA), model, reference)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("CUDA error: no kernel image is available for execution on the device", r"compute capability 8\.6, .*no code"),
        ("CUDA error: out of memory", r"too little free memory \(20.0 of 24.0 GiB\)"),
        ("CUDA driver version is insufficient for CUDA runtime version", "R580 or newer"),
        ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", "can't use the GPU: cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    ],
)
def test_what_fails_on_the_device_says_why(gpu: FakeDevice, pair: tuple[Model, Model], error: str, words: str) -> None:
    def fail(name: str) -> None:
        if name == "conv2d":
            raise RuntimeError(error)

    gpu.before = fail
    with pytest.raises(Unavailable, match=f"the self-test failed: .*{words}"):
        self_test(Engine(CUDA), *pair)
