"""What the engine does on CUDA, on a device that stands in for a GPU. None of these ran on a real one."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from server.engine.backends.transfer import Landing
from server.engine.cuda import tf32
from server.engine.engine import Engine
from server.job.tiling import tile_size
from server.models import Model, load_model
from tests import networks
from tests.engine.fake_device import CUDA, GB, FakeDevice
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
    assert np.abs(np.clip(exact, 0, 1) * np.iinfo(dtype).max - result).max() <= 0.6


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiles_that_are_blended_cross_the_bus_as_integers(
    gpu: FakeDevice, dense: Path, dtype: type[np.generic], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    take = Landing.take
    monkeypatch.setattr(Landing, "take", lambda self: (kept.append((part := take(self)).nbytes), part)[1])
    samples = photo_like(30, 190)
    result = joined(Engine(CUDA).upscale(on_gpu(dense), samples, dtype=dtype, tile=152))
    overlaps = 2 * 2 * 8 * 4 * 30 * 4 * 3  # of two seams: twice the blend, on both sides
    assert sum(kept) <= (result.size + overlaps) * np.dtype(dtype).itemsize
    exact = joined(Engine(networks.CPU).upscale(networks.load(dense), samples, tile=152))
    assert np.abs(np.clip(exact, 0, 1) * np.iinfo(dtype).max - result).max() <= 1.1


def test_a_failed_capture_turns_graphs_off_and_the_pictures_stay_right(gpu: FakeDevice, compact: Path) -> None:
    gpu.capture_error = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    engine, model = Engine(CUDA), on_gpu(compact)
    pictures = [joined(engine.upscale(model, photo_like(48, side))) for side in (48, 48, 48, 48, 48, 64, 64, 64, 64)]
    assert len(gpu.captures) == 1 and engine.counters()["graphs"] == 0
    reference = joined(Engine(networks.CPU).upscale(networks.load(compact), photo_like(48, 48)))
    assert np.abs(pictures[4] - reference).max() <= 1e-5


def test_graphs_are_recorded_only_with_ample_free_memory(gpu: FakeDevice, compact: Path) -> None:
    engine, model = Engine(CUDA), on_gpu(compact)
    gpu.free = 3 * GB // 2  # the network takes 1 GB in the stand-in's books
    for _ in range(5):
        joined(engine.upscale(model, photo_like(48, 48)))
    assert gpu.captures == []
    gpu.free = 3 * GB
    joined(engine.upscale(model, photo_like(48, 48)))
    assert len(gpu.captures) == 1


def test_all_graphs_share_a_pool_and_a_stream(gpu: FakeDevice, compact: Path) -> None:
    engine, model = Engine(CUDA), on_gpu(compact)
    for side in (48, 64):
        for _ in range(4):
            joined(engine.upscale(model, photo_like(48, side)))
    (first, second) = gpu.captures
    assert first[0] is not None and first[0] is second[0] and first[1] is second[1]


def test_memory_that_runs_out_once_costs_nothing_but_what_was_not_needed(gpu: FakeDevice, compact: Path) -> None:
    engine, model, freed = Engine(CUDA), on_gpu(compact), []
    engine.relieve_first(lambda: freed.append(gpu.emptied))
    fail = [True]

    def before(name: str) -> None:
        if name == "conv2d" and fail:
            fail.clear()
            raise RuntimeError("Unable to find an engine to execute this computation")

    gpu.before = before
    joined(engine.upscale(model, photo_like(48, 48)))
    assert freed == [0] and gpu.emptied == 1, "idle networks first, then caches"
    assert engine.counters()["batch_retries"] == engine.counters()["tile_retries"] == 0
    assert engine._backends[1]._pixels.get(model.name) > 1 << 40


def test_fp32_is_not_tf32_and_the_same_picture_gives_the_same_sums(gpu: FakeDevice) -> None:
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = True, False
    Engine(CUDA)
    found = torch.backends.cudnn
    assert (found.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (False, False)
    assert (found.deterministic, found.benchmark) == (True, False)
    with tf32():
        assert found.allow_tf32
    assert not found.allow_tf32


def test_the_thread_of_a_gpu_stays(gpu: FakeDevice, compact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.engine.scheduler._IDLE_S", 0.01)
    engine = Engine(CUDA)
    first = engine.call(threading.current_thread)
    first.join(0.2)
    assert first.is_alive() and engine.call(threading.current_thread) is first


def test_fitted_tiles_have_few_different_shapes(gpu: FakeDevice, compact: Path) -> None:
    """Their sides are multiples of 64, or the picture's own."""
    engine, model = Engine(CUDA), on_gpu(compact)
    for size in [(4000, 3000), (3999, 3001), (5111, 1777), (2900, 7003)]:
        for side, whole in zip(tile_size(size, engine.geometry(model)), size, strict=True):
            assert side % 64 == 0 or side >= whole


def test_a_small_gpu_gets_smaller_tiles(gpu: FakeDevice, compact: Path) -> None:
    model = on_gpu(compact)
    large = Engine(CUDA).geometry(model).tile
    gpu.total = 8 * GB
    assert Engine(CUDA).geometry(model).tile < large


def test_a_model_that_overflows_with_every_tile_runs_in_fp32(gpu: FakeDevice, compact: Path) -> None:
    model = load_model(compact, name="half", sha256=None, device=CUDA, dtype=torch.bfloat16)
    forward, ran = model._forward, []

    def overflowing(net: torch.nn.Module, image: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        ran.append(dtype)
        return forward(net, image, dtype) if dtype is torch.float32 else forward(net, image, dtype) * torch.inf

    model._forward = overflowing
    engine = Engine(CUDA, batch_pixels=0)
    for _ in range(12):
        joined(engine.upscale(model, photo_like(48, 48)))
    assert engine.counters()["precision_retries"] == 8
    assert ran[-4:] == [torch.float32] * 4


def test_a_model_that_overflows_now_and_then_keeps_its_precision(gpu: FakeDevice, compact: Path) -> None:
    model = load_model(compact, name="half", sha256=None, device=CUDA, dtype=torch.bfloat16)
    forward, count = model._forward, iter(range(1000))

    def sometimes(net: torch.nn.Module, image: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        result = forward(net, image, dtype)
        return result if dtype is torch.float32 or next(count) % 2 else result * torch.inf

    model._forward = sometimes
    engine = Engine(CUDA, batch_pixels=0)
    engine._backends[1]._graphs._enabled = False
    for _ in range(20):
        joined(engine.upscale(model, photo_like(48, 48)))
    assert engine.counters()["precision_retries"] == 10
