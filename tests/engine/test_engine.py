"""Tiles must not show, whatever their size, and what goes wrong on a device must be mended there."""

import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from server.engine.backends import native
from server.engine.engine import Engine
from server.errors import OutOfMemory
from server.job.plan import Sizes, make_plan
from server.job.tiling import tile_size, tiles_along
from server.kernels.cpu import Kernel
from server.kernels.cpu import load as find_kernel
from server.kernels.cpu.network import RowPass
from server.models import Model
from server.pipeline import upscale
from tests import networks

Floats = NDArray[np.float32]


def photo_like(h: int, w: int, dtype: type[np.generic] = np.uint8) -> NDArray[np.uint8]:
    """Smooth shapes, edges and a little noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:h, 0:w] / max(h, w)
    waves = [0.5 + 0.3 * np.sin(9 * x + k) * np.cos(7 * y - k) + 0.15 * ((x + y * k) % 0.3 > 0.15) for k in range(3)]
    image = np.clip(np.stack(waves, -1) + rng.normal(0, 0.02, (h, w, 3)), 0, 1)
    return (image * np.iinfo(dtype).max).round().astype(dtype)  # type: ignore[type-var]


def run(model: Model, samples: NDArray[np.uint8], tile: int, batch_pixels: int = 0) -> Floats:
    return np.concatenate(list(Engine(networks.CPU, batch_pixels=batch_pixels).upscale(model, samples, tile=tile)))


def untiled(model: Model, samples: NDArray[np.uint8]) -> Floats:
    image = torch.from_numpy(samples).permute(2, 0, 1)[None].float() / 255
    return np.asarray(model(image)[0].permute(1, 2, 0))


@pytest.fixture(scope="module")
def compact(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return networks.load(networks.save(networks.srvgg(), tmp_path_factory.mktemp("srvgg") / "srvgg.pth"))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return networks.load(networks.save(networks.rrdbnet(), tmp_path_factory.mktemp("rrdb") / "rrdb.pth"))


@pytest.mark.parametrize("tile", [49, 50, 64, 77, 96, 128])
def test_srvgg_in_tiles_is_the_same_as_without(compact: Model, tile: int) -> None:
    samples = photo_like(157, 131)
    assert np.abs(run(compact, samples, tile) - untiled(compact, samples)).max() <= 1e-5


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 2), (48, 48), (49, 96)])
def test_srvgg_in_tiles_takes_any_shape(compact: Model, size: tuple[int, int]) -> None:
    samples = photo_like(*size)
    assert np.abs(run(compact, samples, 48) - untiled(compact, samples)).max() <= 1e-5


@pytest.mark.parametrize("tile", [104, 160])
def test_the_bundled_network_in_tiles_is_the_same_as_without(tile: int) -> None:
    model = networks.load(networks.BUNDLED)
    samples = photo_like(170, 190)
    assert np.abs(run(model, samples, tile) - untiled(model, samples)).max() <= 1e-5


def test_batches_change_nothing(compact: Model) -> None:
    samples = photo_like(120, 150)
    assert np.abs(run(compact, samples, 48, 3 * 48 * 48) - run(compact, samples, 48)).max() <= 1e-5


@pytest.mark.parametrize("scale", [4, 2, 1])
@pytest.mark.parametrize("size", [(150, 133), (31, 30)])
def test_rrdbnet_result_has_the_right_size_for_sides_that_do_not_divide(
    tmp_path: Path, scale: int, size: tuple[int, int]
) -> None:
    model = networks.load(networks.save(networks.rrdbnet(scale, 1, 8, 4), tmp_path / "net.pth"))
    assert run(model, photo_like(*size), 1).shape == (size[0] * scale, size[1] * scale, 3)


def seam_excess(tiled: Floats, whole: Floats, seams: list[int]) -> tuple[float, float]:
    """How much steeper the picture is across the seams because of them, and how much that steepness varies anyway.

    Steepness of a column: the mean absolute difference to the column before it. The first figure is its mean excess,
    tiled over untiled, at the seam columns; the second the standard deviation of the untiled picture's steepness over
    all columns. A seam can be seen when the first is not small beside the second.
    """

    def steepness(image: Floats) -> Floats:
        return np.asarray(np.abs(np.diff(image, axis=1)).mean(axis=(0, 2)))

    there = [seam + offset for seam in seams for offset in (-1, 0)]
    return float((steepness(tiled) - steepness(whole))[there].mean()), float(steepness(whole).std())


def test_rrdbnet_seams_do_not_show(dense: Model) -> None:
    samples = photo_like(150, 300)
    tile = 150
    tiled, whole = run(dense, samples, tile), untiled(dense, samples)
    from server.engine.tile import cut

    facts = dense.facts
    columns = cut(300, tile, facts.halo, facts.blend)
    seams = [(a.keep_stop - facts.blend) * 4 for a in columns[:-1]]
    assert len(seams) >= 2
    excess, variation = seam_excess(tiled, whole, seams)
    # Measured here: excess 1e-6 to 1e-5 where steepness varies by 1e-2.
    assert abs(excess) < 0.05 * variation, f"excess {excess:.2e}, variation {variation:.2e}"


def test_16_bit_samples_keep_their_levels(tmp_path: Path) -> None:
    model = networks.load(networks.save(networks.nearest(), tmp_path / "net.pth"))
    samples = np.arange(300 * 3, dtype=np.uint16).reshape(10, 30, 3) * 70
    result = run(model, samples, 0)  # type: ignore[arg-type]
    expected = samples.repeat(4, axis=0).repeat(4, axis=1)
    assert np.array_equal(np.rint(result * 65535), expected)


def test_on_tile_is_called_once_per_planned_tile_and_may_stop_the_run(compact: Model) -> None:
    samples = photo_like(120, 150)
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    list(Engine(networks.CPU).upscale(compact, samples, tile=64, on_tile=count))
    assert calls == tiles_along(120, 64, 8) * tiles_along(150, 64, 8) > 4

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(Engine(networks.CPU).upscale(compact, samples, tile=64, on_tile=stop))


def limited(model: Model, most_pixels: int) -> Model:
    """The same model on a device where only so many pixels fit at a time."""
    forward = model._forward

    def run_if_it_fits(net: torch.nn.Module, image: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if image.numel() // 3 > most_pixels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a lot")
        return forward(net, image, dtype)

    return Model(model.name, None, model.arch, model.facts, model.device, model.dtype, model._net, run_if_it_fits)


def test_out_of_memory_halves_the_batch_then_the_tile_and_remembers(compact: Model) -> None:
    samples = photo_like(128, 200)
    engine = Engine(networks.CPU, batch_pixels=4 * 100 * 100)
    model = limited(compact, 60 * 60)
    result = np.concatenate(list(engine.upscale(model, samples, tile=100)))
    assert np.abs(result - untiled(compact, samples)).max() <= 1e-5
    assert engine.geometry(model, tile=100).tile == 50
    counted = engine.counters()
    assert (counted["batch_retries"], counted["tiles"]) == (2, counted["batches"])
    again = np.concatenate(list(engine.upscale(model, samples, tile=100)))
    assert np.abs(again - untiled(compact, samples)).max() <= 1e-5
    assert engine.counters()["tile_retries"] == counted["tile_retries"]


@pytest.mark.slow
def test_out_of_memory_is_remembered_for_fitted_tiles_too(tmp_path: Path) -> None:
    """Of a network whose smallest useful tiles are not its smallest possible ones."""
    model = networks.load(networks.save(networks.rrdbnet(4, 1, 16, 8), tmp_path / "x.pth"))
    forward = model._forward
    sizes: list[int] = []

    def limited(net: torch.nn.Module, image: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        sizes.append(image.shape[2] * image.shape[3])
        if sizes[-1] > 150 * 150:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(net, image, dtype)

    small = Model(model.name, None, model.arch, model.facts, model.device, model.dtype, model._net, limited)
    engine = Engine(networks.CPU)
    for number, size in enumerate([(300, 576), (300, 576), (64, 900), (700, 200), (300, 576)]):
        tried = engine.counters()["tile_retries"]
        assert len(joined(engine, small, photo_like(*size), dtype=np.uint8)) == 4 * size[0]
        if number:
            assert engine.counters()["tile_retries"] == tried, "it knows what fits"


def test_out_of_memory_with_the_smallest_tile_is_an_error_of_ours(compact: Model) -> None:
    with pytest.raises(OutOfMemory, match="not even a tile of"):
        list(Engine(networks.CPU).upscale(limited(compact, 100), photo_like(128, 128)))


def test_other_errors_of_the_device_are_not_taken_for_out_of_memory(compact: Model) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    model = Model("x", None, "srvgg", compact.facts, compact.device, compact.dtype, compact._net, broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(Engine(networks.CPU).upscale(model, photo_like(40, 40)))


@pytest.mark.parametrize("broken", [lambda x: x * float("nan"), lambda x: x * 0, lambda x: x / 0])
def test_a_tile_that_overflows_in_half_precision_is_done_again_in_fp32(
    tmp_path: Path, compact: Model, broken: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    path = networks.save(networks.srvgg(), tmp_path / "srvgg.pth")
    half = networks.load(path, dtype=torch.bfloat16)
    forward = half._forward

    def overflow(net: torch.nn.Module, image: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        result = forward(net, image, dtype)
        return broken(result) if dtype is torch.bfloat16 else result

    model = Model("x", None, "srvgg", half.facts, half.device, half.dtype, half._net, overflow)
    samples = photo_like(60, 60)
    # The weights were rounded to bfloat16 when they were loaded, so this is near to fp32 but not the same.
    assert np.abs(run(model, samples, 0) - untiled(compact, samples)).mean() < 0.02


def test_a_black_picture_may_stay_black(tmp_path: Path) -> None:
    model = networks.load(networks.save(networks.nearest(), tmp_path / "net.pth"), dtype=torch.bfloat16)
    assert not run(model, np.zeros((20, 20, 3), np.uint8), 0).any()
    assert model._exact is None


@pytest.mark.parametrize("fits", [1, 2, 3])
def test_a_batch_that_shrinks_in_the_middle_of_a_row_leaves_no_tile_out(compact: Model, fits: int) -> None:
    samples = photo_like(60, 420)  # eight columns of tiles
    engine = Engine(networks.CPU, batch_pixels=4 * 64 * 60)
    model = limited(compact, fits * 64 * 60)
    result = np.concatenate(list(engine.upscale(model, samples, tile=64)))
    assert np.abs(result - untiled(compact, samples)).max() <= 1e-5


def test_out_of_memory_while_a_tile_is_done_again_in_fp32_is_mended_too(tmp_path: Path) -> None:
    half = networks.load(networks.save(networks.srvgg(), tmp_path / "srvgg.pth"), dtype=torch.bfloat16)
    forward = half._forward

    def overflow_then_run_out(net: torch.nn.Module, image: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if dtype is torch.bfloat16:
            return forward(net, image, dtype) * float("nan")
        if image.shape[-1] > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(net, image, dtype)

    model = Model("x", None, "srvgg", half.facts, half.device, half.dtype, half._net, overflow_then_run_out)
    assert np.isfinite(run(model, photo_like(60, 100), 0)).all()


# --- own convolutions -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """`compact` on our own convolutions."""
    kernel = find_kernel()
    if not isinstance(kernel, Kernel):
        pytest.skip(f"no own convolutions here: {kernel}")
    return networks.load(networks.save(networks.srvgg(), tmp_path_factory.mktemp("own") / "srvgg.pth"), kernel=kernel)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.job.tiling._STEP_PIXELS", 2000)


def joined(engine: Engine, model: Model, samples: NDArray[Any], **kwargs: Any) -> NDArray[Any]:
    return np.concatenate(list(engine.upscale(model, samples, **kwargs)))


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("size", [(157, 131), (1, 1), (3, 700), (500, 2), (4, 33)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_in_one_row_pass_is_the_same_as_without(
    own: Model, size: tuple[int, int], dtype: type[np.generic], channels: int
) -> None:
    samples = photo_like(*size)[..., :channels]
    calls: list[None] = []
    result = joined(Engine(networks.CPU), own, samples, dtype=dtype, on_tile=lambda: calls.append(None))
    expected = untiled(own, np.repeat(samples, 4 - channels, axis=2) if channels == 1 else samples)
    if channels == 1:
        expected = expected.mean(axis=2, keepdims=True)
    top = 1 if dtype is np.float32 else np.iinfo(dtype).max
    error = np.abs(result.astype(np.float64) - np.clip(expected, 0, 1) * top if top > 1 else result - expected)
    assert error.max() <= (1e-4 if top == 1 else 0.51 if top == 255 else 7)
    shape = Engine(networks.CPU).geometry(own)
    plan = make_plan(Sizes((size[1], size[0]), (4 * size[1], 4 * size[0])), shape)
    assert shape.row_pass_width > 700 and len(calls) == plan.passes[0].tiles


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiles_give_what_a_row_pass_does_but_for_the_last_rounding(own: Model, dtype: type[np.generic]) -> None:
    samples = photo_like(157, 131)
    engine = Engine(networks.CPU)
    in_rows, tiled = joined(engine, own, samples, dtype=dtype), joined(engine, own, samples, dtype=dtype, tile=64)
    # Where a tile begins decides which samples are transformed together.
    assert np.abs(in_rows.astype(int) - tiled).max() <= (1 if dtype == np.uint8 else 7)
    assert engine.geometry(own, 64).row_pass_width == 0


@pytest.mark.skipif(not isinstance(find_kernel(), Kernel), reason="no own convolutions here")
@pytest.mark.parametrize("size", [(12_300, 40), (16_000, 6000), (20_000, 5000), (100_000, 900)])
def test_pictures_too_wide_for_a_row_pass_are_cut_into_tiles_that_fit(
    size: tuple[int, int],
) -> None:
    model = networks.load(networks.BUNDLED, kernel=find_kernel())
    shape = Engine(networks.CPU).geometry(model)
    assert model.native is not None and 4096 <= shape.row_pass_width < size[0]
    width, height = tile_size(size, shape)
    assert model.native.bytes_for(min(height, size[1]), width) <= 1.1 * (256 << 20)


@pytest.mark.usefixtures("small_steps")
def test_without_memory_for_a_row_pass_tiles_are_cut(own: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole_only(network: Any, samples: NDArray[Any], step: int) -> RowPass:
        if step < len(samples):
            raise torch.OutOfMemoryError("no memory for feature maps")
        return RowPass(network, samples, step)

    engine, samples = Engine(networks.CPU), photo_like(120, 150)
    expected = joined(engine, own, samples, dtype=np.uint8)
    with monkeypatch.context() as patch:
        patch.setattr("server.engine.backends.native.RowPass", whole_only)
        result = joined(engine, own, samples, dtype=np.uint8)
    assert np.abs(result.astype(int) - expected).max() <= 1
    assert engine.geometry(own).row_pass_width == 0, "it is remembered"


@pytest.mark.usefixtures("small_steps")
def test_row_passes_of_several_jobs_take_turns_and_give_the_same_bytes(own: Model) -> None:
    large, small = photo_like(400, 150), photo_like(30, 40)
    alone = [joined(Engine(networks.CPU), own, each, dtype=np.uint8) for each in (large, small)]
    engine = Engine(networks.CPU)
    bands = engine.upscale(own, large, dtype=np.uint8)
    parts = [next(bands)]
    with ThreadPoolExecutor(1) as pool:
        assert np.array_equal(pool.submit(joined, engine, own, small, dtype=np.uint8).result(20), alone[1])
    assert np.array_equal(np.concatenate([*parts, *bands]), alone[0])


def gone(thing: object) -> threading.Event:
    event = threading.Event()
    weakref.finalize(thing, event.set)
    return event


@pytest.mark.usefixtures("small_steps")
def test_a_row_pass_that_nobody_reads_ends_with_its_step_and_gives_its_memory_back(own: Model) -> None:
    engine = Engine(networks.CPU)
    bands = engine.upscale(own, photo_like(400, 150), dtype=np.uint8)
    next(bands)
    done = engine.counters()["tiles"]
    freed = gone(bands.gi_frame.f_locals["row_pass"])  # type: ignore[attr-defined]
    bands.close()  # type: ignore[attr-defined]
    assert freed.wait(10)
    assert engine.counters()["tiles"] <= done + 1


@pytest.mark.usefixtures("small_steps")
def test_a_row_pass_whose_reader_is_collected_in_the_devices_own_thread_does_not_hang_it(
    own: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, begun, let_go = Engine(networks.CPU), threading.Event(), threading.Event()
    rows = RowPass.rows

    def last(row_pass: RowPass, *args: Any) -> None:
        if begun.is_set():
            let_go.wait()
            bands.clear()
        begun.set()
        rows(row_pass, *args)

    monkeypatch.setattr(RowPass, "rows", last)
    bands = [engine.upscale(own, photo_like(400, 150), dtype=np.uint8)]
    next(bands[0])
    freed = gone(bands[0].gi_frame.f_locals["row_pass"])  # type: ignore[attr-defined]
    let_go.set()
    assert freed.wait(10)
    assert engine.call(lambda: 7) == 7


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("after", [1, 3, 20])
def test_a_row_pass_can_be_stopped_after_any_step(own: Model, after: int) -> None:
    engine, calls = Engine(networks.CPU), []

    def stop() -> None:
        calls.append(engine.counters()["tiles"])
        if len(calls) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        joined(engine, own, photo_like(400, 150), on_tile=stop)
    assert len(calls) == after and engine.geometry(own).row_pass_width > 150
    assert joined(engine, own, photo_like(40, 30)).shape == (160, 120, 3), "the device is free"
    assert engine.counters()["tiles"] <= after + 1 + 2


@pytest.mark.usefixtures("small_steps")
def test_memory_that_runs_out_within_a_row_pass_is_an_error_of_ours(
    own: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory to plan the network's run")

    engine = Engine(networks.CPU)
    with monkeypatch.context() as patch:
        patch.setattr("server.kernels.cpu.network.RowPass.rows", none)
        with pytest.raises(OutOfMemory):
            joined(engine, own, photo_like(100, 150))
    assert len(joined(engine, own, photo_like(100, 150))) == 400


@pytest.mark.usefixtures("small_steps")
def test_alpha_may_come_in_tiles_beside_colours_of_a_row_pass(own: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, opened = Engine(networks.CPU), count()
    samples = np.dstack((photo_like(120, 150), photo_like(120, 150)[..., :1]))
    expected = (
        joined(engine, own, samples[..., :3], dtype=np.uint8),
        joined(engine, own, samples[..., 3:], dtype=np.uint8),
    )

    def only_one(network: Any, samples: NDArray[Any], step: int) -> RowPass:
        if step < len(samples) and next(opened):
            raise torch.OutOfMemoryError("no memory for feature maps")
        return RowPass(network, samples, step)

    monkeypatch.setattr("server.engine.backends.native.RowPass", only_one)
    colours = engine.upscale(own, samples[..., :3], dtype=np.uint8)
    alpha = engine.upscale(own, samples[..., 3:], dtype=np.uint8)
    result = np.concatenate(list(upscale._with_alpha(colours, alpha)))
    assert np.abs(result.astype(int) - np.dstack(expected)).max() <= 1


# --- time slices of large tiles ---------------------------------------------------------------------------------------


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """An RRDBNet on our own convolutions, whose tiles take many time slices."""
    kernel = find_kernel()
    if not isinstance(kernel, Kernel):
        pytest.skip(f"no own convolutions here: {kernel}")
    monkeypatch.setattr(native, "_SLICE_WORK", 1e6)
    return networks.load(networks.save(networks.rrdbnet(), tmp_path / "rrdbnet.pth"), kernel=kernel)


def test_others_come_between_the_time_slices_of_a_tile(deep: Model) -> None:
    engine, large, order = Engine(networks.CPU), photo_like(150, 160), list[Any]()
    alone = joined(engine, deep, large, dtype=np.uint8)
    with ThreadPoolExecutor(1) as pool:

        def small(share: float) -> None:
            order.append(share)
            if len(order) == 3:
                assert pool.submit(joined, engine, deep, large[:20, :20], dtype=np.uint8).result(20).shape == (
                    80,
                    80,
                    3,
                )
                order.append("small")

        result = joined(engine, deep, large, dtype=np.uint8, on_slice=small)
    assert order[3] == "small" and len(order) > 8, order
    assert order[:3] == sorted(order[:3]) and all(0 <= each < 1 for each in order if each != "small")
    assert np.array_equal(result, alone)


def test_a_tile_can_be_stopped_between_its_time_slices(deep: Model) -> None:
    engine = Engine(networks.CPU)

    def stop(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        joined(engine, deep, photo_like(150, 160), dtype=np.uint8, on_slice=stop)
    assert engine.counters()["batches"] == 1 and engine.counters()["tiles"] == 0
    assert joined(engine, deep, photo_like(20, 20), dtype=np.uint8).shape == (80, 80, 3), "the device is free"


def test_of_large_tiles_there_is_one_at_a_time(deep: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_LARGE", 1000)
    engine, samples, running = Engine(networks.CPU), photo_like(100, 90), list[str]()

    waited = list[str]()

    def job(name: str) -> None:
        joined(
            engine, deep, samples, dtype=np.uint8, on_slice=lambda at: (waited if at is None else running).append(name)
        )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(job, "ab"))
    order = [name for name, _ in groupby(running)]
    assert len(running) > 8 and order in (["a", "b"], ["b", "a"])
    assert set(waited) <= {order[1]}


def test_large_tiles_of_several_jobs_take_turns(deep: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_LARGE", 1000)
    engine, samples, running = Engine(networks.CPU), photo_like(100, 270), list[str]()

    def job(name: str) -> None:
        for _ in engine.upscale(deep, samples, dtype=np.uint8, tile=96, on_slice=lambda at: running.append(name)):
            pass

    assert engine.tiles(deep, (270, 100), 96) > 2
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(job, "ab"))
    assert len([name for name, _ in groupby(running)]) > 4


def test_a_job_that_waits_with_a_large_tile_can_be_stopped(deep: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_LARGE", 1000)
    monkeypatch.setattr(native, "_CHECK_S", 0.01)
    engine, samples = Engine(networks.CPU), photo_like(100, 90)

    def stop(share: float | None) -> None:
        assert share is None, "it waits"
        raise KeyboardInterrupt

    others = engine._backends[0]._large  # type: ignore[attr-defined]
    others.append(object())
    with pytest.raises(KeyboardInterrupt):
        joined(engine, deep, samples, dtype=np.uint8, on_slice=stop)
    others.clear()
    assert engine.counters()["batches"] == 0
    assert joined(engine, deep, samples, dtype=np.uint8).shape == (400, 360, 3)


@pytest.mark.slow
def test_a_tile_for_which_there_is_no_memory_goes_in_pieces(deep: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, samples, asked = Engine(networks.CPU), photo_like(320, 300), list[int]()

    def scarce(network: Any, samples: NDArray[Any], step: int) -> RowPass:
        asked.append(samples.shape[0] * samples.shape[1])
        if asked[-1] > 40_000:
            raise torch.OutOfMemoryError("no memory for feature maps")
        return RowPass(network, samples, step)

    expected = joined(engine, deep, samples, dtype=np.uint8)
    monkeypatch.setattr(native, "RowPass", scarce)
    result = joined(engine, deep, samples, dtype=np.uint8)
    assert result.shape == expected.shape and np.abs(result.astype(int) - expected).mean() < 1
    assert asked[0] == 320 * 300 and engine.counters()["tile_retries"] == 1
    before = len(asked)
    joined(engine, deep, samples, dtype=np.uint8)
    assert max(asked[before:]) <= 40_000, "it is remembered"


INTERRUPTED = """
import signal, sys
import numpy as np
from server.engine import scheduler
from server.engine.engine import Engine
from server.kernels.cpu import load
from tests import networks
from pathlib import Path
import torch

scheduler._CLOSE_S = 0.2
torch.set_num_threads(1)
model = networks.load(Path(sys.argv[1]), kernel=load())
samples = np.zeros((400, 400, 3), np.uint8)
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.5)
try:
    list(Engine(networks.CPU).upscale(model, samples, dtype=np.uint8))
    sys.exit("it ended too soon to be interrupted")
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("own")
def test_a_process_that_ends_while_the_device_works_does_not_crash(tmp_path: Path) -> None:
    """A time slice that outlasts the moment that the end of Python gives it."""
    net = networks.save(networks.rrdbnet(4, 8, 64, 32), tmp_path / "x.pth")
    run = subprocess.run([sys.executable, "-c", INTERRUPTED, net], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "interrupted\n"), run.stderr


# --- many jobs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_pixels", [0, 4 * 48 * 48])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_job_gives_the_same_bytes_whatever_else_runs(
    compact: Model, batch_pixels: int, dtype: type[np.generic]
) -> None:
    pictures = [np.roll(photo_like(100, 90 + 6 * i), 17 * i, axis=1) for i in range(4)]

    def job(engine: Engine, samples: NDArray[np.uint8]) -> bytes:
        return b"".join(band.tobytes() for band in engine.upscale(compact, samples, dtype=dtype, tile=48))

    alone = [job(Engine(networks.CPU, batch_pixels=batch_pixels), each) for each in pictures]
    engine = Engine(networks.CPU, batch_pixels=batch_pixels)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda samples: job(engine, samples), pictures))
    assert together == alone
    counted = engine.counters()
    assert (counted["batches"] < counted["tiles"]) == (batch_pixels > 0)


class Gated:
    """A model that waits before its first batch until it is let go on, and writes down the shapes that it was given."""

    def __init__(self, model: Model) -> None:
        self.entered, self.gate = threading.Event(), threading.Event()
        self.shapes: list[tuple[int, ...]] = []
        forward = model._forward

        def run(net: torch.nn.Module, image: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
            self.shapes.append(tuple(image.shape))
            self.entered.set()
            self.gate.wait()
            return forward(net, image, dtype)

        self.model = Model(model.name, None, model.arch, model.facts, model.device, model.dtype, model._net, run)


def test_a_thumbnail_waits_for_two_batches_of_a_large_picture_at_most(compact: Model) -> None:
    gated, engine = Gated(compact), Engine(networks.CPU)
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(lambda: sum(map(len, engine.upscale(gated.model, photo_like(200, 200), tile=64))))
        gated.entered.wait()
        small = pool.submit(lambda: sum(map(len, engine.upscale(gated.model, photo_like(20, 20)))))
        while len(engine._runtime._scheduler._queues) < 2:
            time.sleep(0.001)
        gated.gate.set()
        assert (small.result(), large.result()) == (80, 800)
    assert gated.shapes.index((1, 3, 20, 20)) <= 2 < len(gated.shapes) - 10


def test_a_job_that_nobody_reads_computes_only_a_little_ahead_and_stops_when_it_is_dropped(compact: Model) -> None:
    gated, engine = Gated(compact), Engine(networks.CPU)
    gated.gate.set()
    bands = engine.upscale(gated.model, photo_like(300, 120), tile=64)
    next(bands)
    engine.call(lambda: None)  # queued behind all that this job has asked for
    columns = 3
    assert columns <= len(gated.shapes) <= columns + 2
    bands.close()  # type: ignore[attr-defined]
    engine.call(lambda: None)
    assert len(gated.shapes) <= columns + 2


def test_an_error_in_one_job_s_tile_reaches_that_job_alone(compact: Model) -> None:
    def fail_on_bright(net: torch.nn.Module, image: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if (image.amin(dim=(1, 2, 3)) > 0.9).any():  # whoever shares its batch
            raise RuntimeError("this network has no luck with bright pictures")
        return forward(net, image, dtype)

    forward = compact._forward
    facts = compact.facts
    model = Model("x", None, "srvgg", facts, compact.device, compact.dtype, compact._net, fail_on_bright)
    engine = Engine(networks.CPU, batch_pixels=4 * 64 * 64)
    bright = np.full((64, 64, 3), 255, np.uint8)
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(lambda p=p: list(engine.upscale(model, p))) for p in (photo_like(64, 64), bright, bright)]  # type: ignore[misc]
        assert len(jobs[0].result()) == 1
        for each in jobs[1:]:
            with pytest.raises(RuntimeError, match="no luck"):
                each.result()


def test_any_function_runs_in_the_device_s_thread_in_halves_if_it_must(compact: Model) -> None:
    engine = Engine(networks.CPU)
    sizes: list[int] = []

    def add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        assert threading.current_thread().name == "device"
        sizes.append(len(a))
        if len(a) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return a + b

    a, b = torch.arange(7.0)[:, None], torch.ones(7, 1)
    assert torch.equal(engine.run(add, a, b), a + b)
    assert sizes == [7, 7, 4, 4, 2, 2, 3, 3, 2, 1], "each that fails once more, after memory was freed"
    assert engine.call(lambda: engine.call(lambda: 5)) == 5  # from there it does not wait for itself

    def never_fits(_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemory, match="not even one"):
        engine.run(never_fits, a)
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 / 0)
