"""Colours are held to the source's, without seams and whatever bands the rows come in."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from server.kernels.cpu import Kernel, load
from server.rows.colour_lock import aligned, locked, mixed
from server.rows.resample import resample
from tests.pictures import noise, scene


def banded(samples: NDArray[Any], *heights: int) -> Iterator[Any]:
    """In bands of these heights, the last one repeated."""
    row, number = 0, 0
    while row < len(samples):
        height = heights[min(number, len(heights) - 1)]
        yield samples[row : row + height]
        row, number = row + height, number + 1


def joined(bands: Iterator[Any]) -> NDArray[Any]:
    return np.concatenate(list(bands))


def reduced(samples: NDArray[Any], scale: int = 4) -> NDArray[Any]:
    h, w, channels = samples.shape
    means: NDArray[Any] = samples.reshape(h // scale, scale, w // scale, scale, channels).mean(axis=(1, 3))
    return means


def test_a_shift_of_colour_is_taken_back() -> None:
    source = scene(40, 30)
    enlarged = resample(source, (160, 120))
    shifted = np.clip(enlarged.astype(int) + np.array([6, -5, 4]), 0, 255).astype(np.uint8)
    result = joined(locked(banded(shifted, 8), source, 4, np.uint8))
    assert abs(shifted.mean(axis=(0, 1)) - enlarged.mean(axis=(0, 1))).max() > 3
    assert abs(result.mean(axis=(0, 1)) - enlarged.mean(axis=(0, 1))).max() < 0.1


def test_a_shift_in_one_place_is_taken_back_there() -> None:
    source = scene(64, 48)
    enlarged = resample(source, (256, 192), None)
    patch = enlarged.copy()
    patch[60:120, 60:140] = np.clip(patch[60:120, 60:140].astype(int) + 12, 0, 255)
    result = joined(locked(banded(patch, 12), source, 4, np.uint8))
    inside = result[80:100, 80:120].astype(int) - enlarged[80:100, 80:120]
    outside = result[:30].astype(int) - enlarged[:30]
    assert abs(inside.mean()) < 0.5 and abs(outside).max() <= 1


def test_detail_finer_than_the_source_stays() -> None:
    source = np.full((24, 24, 3), 128, np.uint8)
    stripes = np.full((96, 96, 3), 128, np.uint8)
    stripes[:, ::2] += 40
    stripes[:, 1::2] -= 40
    result = joined(locked(banded(stripes, 16), source, 4, np.uint8))
    assert np.array_equal(result, stripes)


@pytest.mark.parametrize("heights", [(4,), (4, 60, 4), (100,), (52, 4, 12), (400,)])
@pytest.mark.parametrize("channels", [1, 3])
def test_bands_do_not_show(heights: tuple[int, ...], channels: int) -> None:
    source, result = noise(90, 13, channels), noise(360, 52, channels)
    whole = joined(locked(iter([result]), source, 4, np.uint16))
    assert np.array_equal(joined(locked(banded(result, *heights), source, 4, np.uint16)), whole)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 9), (9, 1), (7, 5), (70, 3)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_it_is_the_lowpass_of_what_is_lost(h: int, w: int, scale: int) -> None:
    source = noise(h, w, 3) // 3 + 80
    result = noise(h * scale, w * scale, 3, np.uint16) // 3 + 20000
    lost = source / 255 - reduced(result / 65535, scale)
    lowpass = gaussian_filter(lost, (2, 2, 0), mode="nearest", truncate=3)
    places = [np.clip((np.arange(n * scale) + 0.5) / scale - 0.5, 0, n - 1) for n in (h, w)]
    floors = [np.floor(each).astype(int) for each in places]
    shares = [(each - floor)[:, None] for each, floor in zip(places, floors, strict=True)]
    rows = lowpass[floors[0]] * (1 - shares[0][..., None])
    rows += lowpass[np.minimum(floors[0] + 1, h - 1)] * shares[0][..., None]
    wide = rows[:, floors[1]] * (1 - shares[1]) + rows[:, np.minimum(floors[1] + 1, w - 1)] * shares[1]
    expected = np.clip(result / 65535 + wide, 0, 1)
    ours = joined(locked(banded(result, scale), source, scale, np.uint16)) / 65535
    assert abs(ours - expected).max() < 2e-5


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_our_own_code_does_the_same(scale: int, channels: int, depth: type[Any]) -> None:
    kernel = load()
    if not isinstance(kernel, Kernel):
        pytest.skip(str(kernel))
    source, result = noise(90, 13, channels), noise(90 * scale, 13 * scale, channels, np.uint16)
    plain, own = (joined(locked(banded(result, 8 * scale), source, scale, depth, each)) for each in (None, kernel))
    assert abs(plain.astype(int) - own).max() <= 1 and (plain != own).mean() < 0.01
    assert own.dtype == depth


def test_two_pictures_are_mixed_in_any_bands_and_depths() -> None:
    first, second = noise(20, 6, 3), noise(20, 6, 3, np.uint16)
    result = joined(mixed(banded(first, 3, 5), banded(second, 7), 0.25, np.uint16))
    expected = np.floor((first / 255 * 0.25 + second / 65535 * 0.75) * 65535 + 0.5)
    assert abs(result - expected).max() <= 1


def test_pictures_of_different_heights_are_not_taken_for_the_same() -> None:
    with pytest.raises(AssertionError, match="fewer rows"):
        list(aligned(banded(noise(8, 2, 1), 3), banded(noise(6, 2, 1), 2)))
