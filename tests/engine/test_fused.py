"""The engine with our own kernels for GPUs, in Triton's interpreter, on a device that stands in for a GPU."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from server.engine.backends.fused import problem
from server.engine.engine import Engine
from server.kernels.cuda import network as cuda
from server.kernels.cuda.network import Block
from server.models import Model, load_model
from tests import networks
from tests.engine.fake_device import CUDA, FakeDevice
from tests.engine.test_engine import photo_like
from tests.engine.test_engine_on_gpu import joined


@pytest.fixture(autouse=True)
def interpreter(gpu: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.runs_triton(monkeypatch)
    monkeypatch.setattr(cuda, "BLOCKS", {width: Block(64, 32, 4, 2) for width in cuda.BLOCKS})


@pytest.fixture
def compact(tmp_path: Path) -> Path:
    return networks.save(networks.srvgg(num_feat=16, num_conv=1, upscale=2), tmp_path / "compact.pth")


def on_gpu(path: Path) -> Model:
    return load_model(path, name=path.stem, sha256=None, device=CUDA, dtype=torch.float16, fused=True)


def by_cpu(path: Path, samples: np.ndarray) -> np.ndarray:
    return joined(Engine(networks.CPU).upscale(networks.load(path), samples, dtype=np.uint8)).astype(int)


def test_pictures_are_the_cpu_s_within_rounding_with_and_without_graphs(compact: Path) -> None:
    engine, model, samples = Engine(CUDA), on_gpu(compact), photo_like(6, 9)
    for _ in range(4):
        found = joined(engine.upscale(model, samples, dtype=np.uint8))
        assert np.abs(found - by_cpu(compact, samples)).max() <= 1
    assert engine.counters()["graphs"] == 1 and engine.counters()["precision_retries"] == 0


@pytest.mark.slow
def test_tiles_that_are_blended_are_the_cpu_s_within_rounding(tmp_path: Path) -> None:
    net = networks.rrdbnet(num_block=1, num_feat=16, num_grow_ch=16)
    path = networks.save(net, tmp_path / "dense.pth")
    samples, model, reference = photo_like(4, 70), on_gpu(path), networks.load(path)
    model.facts = reference.facts = replace(model.facts, halo=4, blend=2)  # the interpreter is slow
    found = joined(Engine(CUDA).upscale(model, samples, dtype=np.uint8, tile=56))
    exact = joined(Engine(networks.CPU).upscale(reference, samples, dtype=np.uint8, tile=56))
    assert np.abs(found.astype(int) - exact).max() <= 1


def test_batches_are_not_filled_up_and_a_job_gives_the_same_bytes_beside_others(
    compact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, model = Engine(CUDA), on_gpu(compact)
    assert model.fused is not None
    computed, run = [], cuda.Network.__call__
    monkeypatch.setattr(
        cuda.Network, "__call__", lambda self, samples: (computed.append(len(samples)), run(self, samples))[1]
    )
    pictures = [photo_like(6, 8), np.ascontiguousarray(photo_like(6, 8)[::-1])]
    alone = [joined(engine.upscale(model, each, dtype=np.uint8)) for each in pictures]
    assert computed == [1, 1]
    gate = threading.Event()
    with ThreadPoolExecutor(3) as pool:
        pool.submit(engine.call, gate.wait)
        beside = [
            pool.submit(lambda each=each: joined(engine.upscale(model, each, dtype=np.uint8))) for each in pictures
        ]
        while len(engine._runtime._scheduler._queues) < 2:
            time.sleep(0.01)
        gate.set()
    assert computed == [1, 1, 2]
    assert all(np.array_equal(each.result(), other) for each, other in zip(beside, alone, strict=True))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's, about infinite numbers
def test_a_tile_that_overflows_is_computed_again_by_torch_in_fp32(
    compact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, model = Engine(CUDA), on_gpu(compact)
    run = cuda.Network.__call__
    monkeypatch.setattr(cuda.Network, "__call__", lambda self, samples: run(self, samples).mul_(torch.inf))
    found = joined(engine.upscale(model, photo_like(6, 8), dtype=np.uint8))
    assert np.abs(found - by_cpu(compact, photo_like(6, 8))).max() <= 1
    assert engine.counters()["precision_retries"] == 1


def test_what_the_kernels_need_is_said_in_words(gpu: FakeDevice) -> None:
    assert problem(CUDA, torch.float16) is None
    assert "GPU" in str(problem(networks.CPU, torch.float16))
    assert "UPSCALE_DTYPE" in str(problem(CUDA, torch.float32))
    gpu.capability = (7, 5)
    assert "8.0, this GPU has 7.5" in str(problem(CUDA, torch.float16))
