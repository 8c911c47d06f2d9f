"""The tiled sampler: the same noise everywhere, tiles that agree, detail without new colours."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from server.pipeline.refine.sampler import locked, noise_at, sample, tiles
from server.refiners import Grid
from server.refiners.bundled.refiner import BundledRefiner

CPU = torch.device("cpu")


def picture(h: int, w: int) -> torch.Tensor:
    coarse = torch.rand(1, 3, h // 6, w // 6, generator=torch.Generator().manual_seed(3))
    return functional.interpolate(coarse, size=(h, w), mode="bicubic").clamp(0, 1)


def straight(function: Callable[..., torch.Tensor], /, *tensors: torch.Tensor) -> torch.Tensor:
    """What the engine does, without one."""
    return function(*tensors)


def refined(refiner: BundledRefiner, image: torch.Tensor, grid: Grid, creativity: float = 1.0) -> torch.Tensor:
    wanted = refiner.settings(creativity)
    noise = noise_at(5, (0, image.shape[2]), (0, image.shape[3]), image.shape[3], 3)
    return sample(refiner, image, noise, wanted, straight, grid)


@given(
    length=st.integers(1, 200).map(lambda n: n * 16),
    tile=st.integers(16, 48).map(lambda n: n * 16),
    step=st.integers(0, 9),
)
def test_tiles_cover_a_side_with_two_halos_between_them(length: int, tile: int, step: int) -> None:
    grid = Grid(tile, halo=48, multiple=16)
    spans = tiles(length, grid, step)
    assert spans[0][0] == 0 and spans[-1][1] == length
    assert all(start % 16 == 0 and stop - start == min(tile, length) for start, stop in spans)
    assert all(one[1] - other[0] >= 2 * 48 and other[0] > one[0] for one, other in pairwise(spans))


def test_tiles_move_between_steps() -> None:
    grid = Grid(512, halo=48, multiple=16)
    inner = [{start for start, _ in tiles(4096, grid, step)} - {0, 4096 - 512} for step in range(4)]
    assert all(not one & other for one, other in pairwise(inner))


@settings(max_examples=20)
@given(st.integers(0, 2**63 - 1), st.integers(0, 90), st.integers(1, 60), st.integers(0, 30), st.integers(1, 30))
def test_a_place_has_the_same_noise_however_it_is_asked_for(seed: int, y: int, h: int, x: int, w: int) -> None:
    whole = noise_at(seed, (0, 160), (0, 64), 64, 4)
    part = noise_at(seed, (y, y + h), (x, x + w), 64, 4)
    assert torch.equal(part, whole[..., y : y + h, x : x + w])


@settings(max_examples=20)
@given(st.integers(1, 70), st.integers(1, 50), st.integers(0, 90), st.integers(0, 60))
def test_noise_may_repeat(down: int, across: int, y: int, x: int) -> None:
    once = noise_at(3, (0, down), (0, across), 128, 3)
    part = noise_at(3, (y, y + 40), (x, x + 30), 128, 3, (down, across))
    assert torch.equal(part, once[..., np.arange(y, y + 40) % down, :][..., np.arange(x, x + 30) % across])
    along = noise_at(3, (y, y + 40), (x, x + 30), 128, 3, (None, across))
    assert torch.equal(along, noise_at(3, (y, y + 40), (0, across), 128, 3)[..., np.arange(x, x + 30) % across])


def test_noise_is_standard_normal_and_differs_by_seed() -> None:
    one, other = (noise_at(seed, (0, 200), (0, 200), 200, 3) for seed in (1, 2))
    assert abs(one.mean()) < 0.02 and abs(one.std() - 1) < 0.02
    assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.02


@pytest.mark.slow
def test_cut_in_tiles_the_result_is_the_same_within_two_levels(refiner: BundledRefiner) -> None:
    image = picture(384, 448)
    whole = refined(refiner, image, Grid(512, halo=48, multiple=16))
    cut = refined(refiner, image, Grid(256, halo=48, multiple=16))
    assert (whole - image).abs().max() > 4 / 255  # it did something
    assert (cut - whole).abs().max() <= 2 / 255


def test_the_same_noise_gives_the_same_bytes(refiner: BundledRefiner) -> None:
    image, grid = picture(96, 128), Grid(512, halo=48, multiple=16)
    assert torch.equal(refined(refiner, image, grid), refined(refiner, image, grid))


def test_what_stops_a_tile_stops_the_run(refiner: BundledRefiner) -> None:
    image, done = picture(384, 384), 0

    def on_tiles(count: int) -> None:
        nonlocal done
        done += count
        if done == 3:
            raise KeyboardInterrupt

    noise, grid = noise_at(0, (0, 384), (0, 384), 384, 3), Grid(256, halo=48, multiple=16)
    with pytest.raises(KeyboardInterrupt):
        sample(refiner, image, noise, refiner.settings(1), straight, grid, on_tiles=on_tiles)
    assert done == 3


def test_tiles_in_batches_give_what_they_give_alone(refiner: BundledRefiner) -> None:
    image, wanted, grid = picture(256, 384), refiner.settings(1), Grid(256, halo=48, multiple=16)
    noise = noise_at(0, (0, 256), (0, 384), 384, 3)
    alone, together = (sample(refiner, image, noise, wanted, straight, grid, batch=batch) for batch in (1, 3))
    assert (alone - together).abs().max() < 1e-4


def test_the_lock_takes_colour_casts_and_leaves_detail() -> None:
    image = picture(192, 256)
    detail = 0.05 * torch.randn(1, 1, 192, 256, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    cast = torch.tensor([0.1, 0.0, -0.1])[None, :, None, None]
    result = locked(image + detail + cast, image, radius=16, gain=1.0)
    assert (result - image - detail).abs().mean() < 1.5 / 255
    assert functional.avg_pool2d(result - image, 64).abs().max() < 2 / 255


def test_flat_ground_and_gradients_take_no_detail() -> None:
    ramp = torch.linspace(0.2, 0.8, 256).expand(1, 3, 192, 256)
    noise = 0.05 * torch.randn(1, 3, 192, 256, generator=torch.Generator().manual_seed(0))
    assert (locked(ramp + noise, ramp, radius=16, gain=1.0) - ramp).abs().max() < 0.1 / 255


def test_a_single_dot_is_no_stronger_than_what_is_around_it() -> None:
    faint = 0.5 + 0.004 * torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(0)).expand(1, 3, 96, 96)
    dotted = faint.clone()
    dotted[..., 48, 48] += 0.2
    added = (locked(dotted, faint, radius=16, gain=1.0) - faint).abs().max()
    assert 0.005 < added < 0.03
    rough = picture(96, 96)
    dotted = rough.clone()
    dotted[..., 48, 48] += 0.05
    assert (locked(dotted, rough, radius=16, gain=1.0) - rough)[..., 48, 48].min() > 0.04


def test_smooth_ground_beside_an_edge_stays_smooth() -> None:
    edge = torch.full((1, 3, 96, 96), 0.2)
    edge[..., 44:] = 0.8
    sand = edge + 0.1 * torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    assert (locked(sand, edge, radius=16, gain=1.0) - edge).abs().max() < 0.5 / 255


@pytest.mark.parametrize("gain", [0.0, 0.5, 2.0])
def test_gain_scales_the_detail(gain: float) -> None:
    image = picture(64, 64)
    other = image + 0.05 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    once = locked(other, image, 8, 1.0) - image
    assert torch.allclose(locked(other, image, 8, gain) - image, gain * once, atol=1e-6)


def test_odd_sizes_keep_theirs() -> None:
    image = torch.rand(1, 3, 61, 7)
    assert locked(image + 0.1, image, 12, 1.0).shape == image.shape
    assert np.isfinite(locked(image + 0.1, image, 0.1, 1.0).numpy()).all()
