"""Transparent pixels get the colours nearby; all others stay."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.images.read.alpha_bleeding import bleed_alpha
from tests.pictures import scene


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
@settings(max_examples=15)
@given(w=st.integers(1, 70), h=st.integers(1, 70), seed=st.integers(0, 99))
def test_nothing_visible_changes(channels: int, dtype: type[np.generic], w: int, h: int, seed: int) -> None:
    samples = scene(w, h, channels, dtype)
    samples[np.random.default_rng(seed).random((h, w)) < 0.5] = 0
    before = samples.copy()
    result = bleed_alpha(samples)
    assert np.array_equal(samples, before)
    assert np.array_equal(result[..., -1], before[..., -1])
    assert np.array_equal(result[before[..., -1] > 0], before[before[..., -1] > 0])


def test_a_hole_is_filled_with_what_is_around_it() -> None:
    samples = np.full((90, 110, 4), (200, 100, 50, 255), np.uint8)
    samples[20:60, 30:70] = 0
    result = bleed_alpha(samples)
    assert (result[..., :3] == (200, 100, 50)).all() and (result[30:50, 40:60, 3] == 0).all()


def test_each_side_takes_the_colour_of_its_own_edge() -> None:
    samples = np.zeros((64, 64, 4), np.uint16)
    samples[:, :20], samples[:, 44:] = (60_000, 0, 0, 65_535), (0, 0, 60_000, 65_535)
    result = bleed_alpha(samples).astype(int)
    assert np.abs(result[:, 20:24, 0] - 60_000).max() < 100 and np.abs(result[:, 40:44, 2] - 60_000).max() < 100


def test_faint_pixels_count_for_little() -> None:
    samples = np.zeros((2, 2, 4), np.uint8)
    samples[0, 0], samples[0, 1] = (200, 0, 0, 254), (0, 255, 0, 1)  # a rounding left over from premultiplied files
    assert bleed_alpha(samples)[1, 0, 0] > 195


def test_bands_leave_no_seams() -> None:
    samples = np.zeros((700, 40, 2), np.uint8)
    samples[:, :10] = np.stack([np.linspace(50, 250, 700).astype(np.uint8), np.full(700, 255, np.uint8)], 1)[:, None]
    rows = bleed_alpha(samples)[:, 12, 0].astype(int)
    assert np.abs(np.diff(rows)).max() <= 3


@pytest.mark.parametrize("alpha", [0, 7, 255])
def test_where_there_is_nothing_to_do_nothing_is_done(alpha: int) -> None:
    samples = scene(30, 20, 4)
    samples[..., 3] = alpha
    assert bleed_alpha(samples) is samples


def test_four_megapixels_take_about_a_second() -> None:
    samples = np.full((2000, 2000, 4), 200, np.uint8)
    samples[300:1700, 300:1700, 3] = 0
    started = time.process_time()
    bleed_alpha(samples)
    assert time.process_time() - started < 2
