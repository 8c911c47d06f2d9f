"""What the engine does on CUDA, on a device that stands in for a GPU. None of these ran on a real one."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from server.engine.engine import Engine
from server.models import Model, load_model
from tests import networks
from tests.engine.fake_device import CUDA, FakeDevice
from tests.engine.test_engine import photo_like


def on_gpu(path: Path) -> Model:
    return load_model(path, name=path.stem, sha256=None, device=CUDA)


def joined(bands: Iterator[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(bands))


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return networks.save(networks.rrdbnet(num_block=1, num_feat=8, num_grow_ch=4), tmp_path / "dense.pth")


@pytest.fixture
def compact(tmp_path: Path) -> Path:
    return networks.save(networks.srvgg(), tmp_path / "compact.pth")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("name", ["dense", "compact"])
def test_the_device_gives_the_cpu_s_result(
    gpu: FakeDevice, request: pytest.FixtureRequest, name: str, dtype: type[np.generic]
) -> None:
    path, samples = request.getfixturevalue(name), photo_like(120, 190)
    engine = Engine(CUDA)
    model = on_gpu(path)
    reference = joined(Engine(networks.CPU).upscale(networks.load(path), samples, dtype=dtype, tile=112))
    for _ in range(4):  # the last ones with graphs
        result = joined(engine.upscale(model, samples, dtype=dtype, tile=112))
        step = 1e-5 if dtype is np.float32 else 1
        assert np.abs(result.astype(np.float64) - reference).max() <= step
    assert engine.counters()["graphs"] >= 1


@pytest.mark.parametrize("name", ["dense", "compact"])
def test_no_job_gets_another_job_s_pixels(gpu: FakeDevice, request: pytest.FixtureRequest, name: str) -> None:
    """Two tiles of one shape are launched, with a graph, before either result is read: as two jobs do it."""
    path = request.getfixturevalue(name)
    engine, model = Engine(CUDA, batch_pixels=0), on_gpu(path)
    samples = [np.ascontiguousarray(each) for each in (photo_like(48, 48), photo_like(48, 48)[::-1])]
    for _ in range(4):
        joined(engine.upscale(model, samples[0]))
    assert engine.counters()["graphs"] == 1
    alone = [joined(engine.upscale(model, each)) for each in samples]
    launched = [threading.Event(), threading.Event()]
    results: list[np.ndarray] = []
    original = engine._backends[1]._collect

    def late(tile, future):
        future.exception()  # launched, and not read yet
        launched[len([each for each in launched if each.is_set()])].set()
        launched[1].wait()
        return original(tile, future)

    engine._backends[1]._collect = late
    jobs = [
        threading.Thread(target=lambda s=each: results.append(joined(engine.upscale(model, s)))) for each in samples
    ]
    for job in jobs:
        job.start()
        while not launched[jobs.index(job)].is_set() and job.is_alive():
            job.join(0.01)
    for job in jobs:
        job.join()
    assert len(results) == 2
    assert {each.tobytes() for each in results} == {each.tobytes() for each in alone}


def test_a_batch_is_copied_once_and_whoever_waits_for_it_sleeps(gpu: FakeDevice, compact: Path) -> None:
    model = load_model(compact, name="half", sha256=None, device=CUDA, dtype=torch.bfloat16)
    engine = Engine(CUDA)
    joined(engine.upscale(model, photo_like(96, 96), tile=64))
    assert engine.counters()["tiles"] == 4
    assert gpu.copies == engine.counters()["batches"], "the tiles and whether they overflowed, together"
    assert all(each.blocking for each in gpu.events)


def test_a_single_thumbnail_is_computed_four_times_at_most(gpu: FakeDevice, compact: Path) -> None:
    model, sizes = on_gpu(compact), []
    forward = model._forward
    model._forward = lambda net, image, dtype: (sizes.append(len(image)), forward(net, image, dtype))[1]
    joined(Engine(CUDA).upscale(model, photo_like(32, 32)))
    assert sizes == [4]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_picture_of_one_tile_is_not_copied_as_floats(gpu: FakeDevice, dense: Path, dtype: type[np.generic]) -> None:
    tiles: list[np.dtype] = []
    engine = Engine(CUDA)
    submit = engine._backends[1]._submit
    engine._backends[1]._submit = lambda tile: (tiles.append(tile.dtype), submit(tile))[1]
    result = joined(engine.upscale(on_gpu(dense), photo_like(40, 40), dtype=dtype))
    assert tiles == [np.dtype(dtype)]
    exact = joined(Engine(networks.CPU).upscale(networks.load(dense), photo_like(40, 40)))
    assert np.abs(np.clip(exact, 0, 1) * np.iinfo(dtype).max - result).max() <= 0.51
