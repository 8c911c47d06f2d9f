"""What tiles may take of a GPU's memory, on GPUs of several sizes."""

from pathlib import Path

import pytest
import torch

from server.engine.engine import Engine
from server.engine.memory import GIB, tile_bytes
from server.engine.model_cache import ModelCache, budget_of
from server.models import load_model
from tests import networks
from tests.engine.fake_device import CUDA, FakeDevice

X4PLUS, SDXL = 34 << 20, 7 * GIB
"""Of their weights in fp16, SDXL with its ControlNet and autoencoder."""
PIXEL = 4748
"""Bytes that a source pixel of RealESRGAN_x4plus takes in fp16: counted by benchmarks.gpu_kernels."""


class Network:
    pass


@pytest.mark.parametrize(
    ("gb", "tile", "side", "sdxl_fits"),
    [
        (8, GIB, 475, False),
        (16, 2 * GIB, 672, True),
        (24, 4 * GIB, 951, True),
        (48, 8 * GIB, 1345, True),
        (80, 8 * GIB, 1345, True),
        (141, 16 * GIB, 1902, True),
    ],
)
def test_tiles_and_networks_fit_together(gpu: FakeDevice, gb: int, tile: int, side: int, sdxl_fits: bool) -> None:
    gpu.total = gb * 1000**3 if gb == 141 else gb * GIB
    gpu.free = gpu.total - GIB // 2  # CUDA's own
    assert tile_bytes(gpu.total, gpu.free) == tile
    assert int((tile / PIXEL) ** 0.5) == side
    loads: list[str] = []
    cache = ModelCache(budget_of(CUDA))
    for _ in range(2):
        for name, size in (("sdxl", SDXL), ("x4plus", X4PLUS), ("fidelity-x4", 3 << 20)):
            cache.get(name, lambda name=name: loads.append(name) or Network(), lambda _, size=size: size)
    assert loads.count("sdxl") == 1, "it takes minutes to load"
    assert (len(loads) == 3) is sdxl_fits
    assert (cache.size <= budget_of(CUDA)) is sdxl_fits
    if sdxl_fits:
        assert cache.size + 2 * tile < gpu.free, "two batches are under way"


def test_a_few_megabytes_or_another_process_change_no_tile_unless_memory_is_really_short() -> None:
    assert tile_bytes(24 * GIB, 23 * GIB) == tile_bytes(24 * GIB, 23 * GIB - (300 << 20)) == 4 * GIB
    assert tile_bytes(24 * GIB, 13 * GIB) == 4 * GIB
    assert tile_bytes(24 * GIB, 4 * GIB) == GIB
    assert tile_bytes(2 * GIB, 100 << 20) == GIB // 4, "one that is too small for any is tried all the same"


def test_after_warm_up_tiles_follow_what_was_measured(gpu: FakeDevice, tmp_path: Path) -> None:
    path = networks.save(networks.rrdbnet(num_block=1, num_feat=8, num_grow_ch=4), tmp_path / "dense.pth")
    model = load_model(path, name="dense", sha256=None, device=CUDA, dtype=torch.float32)
    engine = Engine(CUDA)
    gpu.peak = 24 * 24 * 40_000  # a pixel of the last picture that is warmed
    gpu.free = 4 * GIB
    engine.warm(model)
    assert engine._runtime.memory.pixel_bytes(model) == 40_000
    measured = engine._backends[1].tile_pixels(model)
    assert measured == GIB // 40_000
    assert engine.counters()["tiles"] == 2
