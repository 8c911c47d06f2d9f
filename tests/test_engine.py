"""Tiles must not show, whatever their size, and what goes wrong on a device must be mended there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from server.engine import Engine
from server.errors import OutOfMemory
from server.models import Model
from tests import networks

Floats = NDArray[np.float32]


def photo_like(h: int, w: int, dtype: type[np.generic] = np.uint8) -> NDArray[np.uint8]:
    """Smooth shapes, edges and a little noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:h, 0:w] / max(h, w)
    waves = [0.5 + 0.3 * np.sin(9 * x + k) * np.cos(7 * y - k) + 0.15 * ((x + y * k) % 0.3 > 0.15) for k in range(3)]
    image = np.clip(np.stack(waves, -1) + rng.normal(0, 0.02, (h, w, 3)), 0, 1)
    return (image * np.iinfo(dtype).max).round().astype(dtype)  # type: ignore[type-var]


def run(model: Model, samples: NDArray[np.uint8], tile: int, batch: int = 1) -> Floats:
    engine = Engine(networks.CPU)
    engine._batch = batch
    bands = list(engine.upscale(model, samples, tile=tile))
    return np.concatenate(bands)


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
    assert np.abs(run(compact, samples, 48, batch=3) - run(compact, samples, 48)).max() <= 1e-5


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
    from server.tile import cut

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
    from server.plan import spans

    samples = photo_like(120, 150)
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    list(Engine(networks.CPU).upscale(compact, samples, tile=64, on_tile=count))
    assert calls == spans(120, 64, 8) * spans(150, 64, 8) > 4

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
    engine = Engine(networks.CPU)
    engine._batch = 4
    result = np.concatenate(list(engine.upscale(limited(compact, 60 * 60), samples, tile=100)))
    assert np.abs(result - untiled(compact, samples)).max() <= 1e-5
    assert engine._batch == 1
    assert engine._tiles[compact.name] == 50


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
    engine = Engine(networks.CPU)
    engine._batch = 4
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
