"""Profiles made from numbers are equivalent to those of other programs."""

import io

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image, ImageCms

from server.images.metadata.icc import BT2020, D65, DISPLAY_P3, SRGB, grey_profile, rgb_profile
from tests.pictures import scene


def to_srgb(samples: NDArray[np.uint8], profile: bytes) -> NDArray[np.int64]:
    """By littleCMS."""
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    image = Image.fromarray(samples)
    relative = ImageCms.Intent.RELATIVE_COLORIMETRIC
    converted = ImageCms.profileToProfile(image, source, target, renderingIntent=relative, outputMode="RGB")
    return np.asarray(converted).astype(np.int64)


def test_srgb_by_its_numbers_is_srgb() -> None:
    assert np.abs(to_srgb(scene(), rgb_profile(SRGB)) - scene()).max() <= 1


def test_display_p3_is_the_one_that_libvips_brings() -> None:
    theirs = bytes(pyvips.Operation.call("profile_load", "p3"))
    assert np.abs(to_srgb(scene(), rgb_profile(DISPLAY_P3)) - to_srgb(scene(), theirs)).max() <= 2


def test_wider_primaries_mean_stronger_colours() -> None:
    red = np.full((1, 1, 3), (180, 80, 80), np.uint8)
    spans = [int(np.ptp(to_srgb(red, rgb_profile(each)))) for each in (SRGB, DISPLAY_P3, BT2020)]
    assert spans[0] < spans[1] < spans[2]


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
def test_a_grey_curve_is_the_power_it_says(gamma: float) -> None:
    levels = np.arange(15, 256, 2, np.uint8)[None, :]  # littleCMS is not so exact below
    light = (levels / 255) ** gamma
    srgb = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    ours = to_srgb(levels, grey_profile(gamma))
    assert np.ptp(ours, axis=2).max() <= 1
    assert np.abs(ours[..., 1] - srgb).max() <= 1


def test_another_white_stays_white() -> None:
    d50 = (0.3457, 0.3585)
    for white in (D65, d50):
        seen = to_srgb(np.full((1, 1, 3), 255, np.uint8), rgb_profile(SRGB, white))
        assert seen.min() >= 254
