"""Colours stay the same through profiles, depths and colour spaces."""

import io
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms
from skimage.color import deltaE_ciede2000, rgb2lab

from server.errors import SourceUnreadable
from server.images.metadata import colour
from server.images.metadata.icc import DISPLAY_P3, grey_profile, rgb_profile
from tests.pictures import far, scene, to_vips

ADOBE_RGB = rgb_profile(((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), gamma=563 / 256)
PROFILES = {"Display P3": rgb_profile(DISPLAY_P3), "Adobe RGB": ADOBE_RGB}
TO_SRGB = {
    "Display P3": ([[1.2249402, -0.2249402, 0], [-0.0420570, 1.0420570, 0], [-0.0196376, -0.0786361, 1.0982735]], None),
    "Adobe RGB": ([[1.3983557, -0.3983557, 0], [0, 1, 0], [0, -0.0429290, 1.0429290]], 563 / 256),
}
"""Matrix between linear colours, and the exponent (None: sRGB's curve), as published for both spaces."""


def cmyk_profile() -> bytes:
    return bytes(pyvips.Operation.call("profile_load", "cmyk"))


def tagged(samples: NDArray[Any], profile: bytes, space: str | None = None) -> pyvips.Image:
    image = to_vips(samples).copy()
    if space is not None:
        image = image.copy(interpretation=space)
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    return image


def tiff(samples: NDArray[Any], **options: Any) -> pyvips.Image:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    return pyvips.Image.tiffload_buffer(buffer.getvalue())


def from_srgb(encoded: NDArray[Any]) -> NDArray[Any]:
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def by_littlecms(samples: NDArray[np.uint8], profile: bytes, mode: str = "RGB") -> NDArray[np.uint8]:
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    relative = ImageCms.Intent.RELATIVE_COLORIMETRIC
    image = Image.fromarray(samples, mode) if mode == "CMYK" else Image.fromarray(samples)
    converted = ImageCms.profileToProfile(image, source, target, renderingIntent=relative, outputMode="RGB")
    return np.asarray(converted)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_wide_colours_become_srgb_rightly_in_either_depth(name: str, dtype: type[np.generic]) -> None:
    ours = colour.to_srgb(tagged(scene(dtype=dtype), PROFILES[name])).numpy()
    assert ours.dtype == dtype
    matrix, gamma = TO_SRGB[name]
    encoded = scene(dtype=dtype) / np.iinfo(dtype).max
    light = encoded**gamma if gamma else from_srgb(encoded)
    expected = np.clip(light @ np.array(matrix).T, 0, 1)
    expected = np.where(expected <= 0.0031308, expected * 12.92, 1.055 * expected ** (1 / 2.4) - 0.055)
    assert far(ours, np.rint(expected * 65535).astype(np.uint16)).max() < 1


def test_in_16_bits_no_levels_are_lost() -> None:
    ramp = np.repeat(np.arange(0, 65536, 11, dtype=np.uint16)[None, :, None], 3, axis=2)
    assert len(np.unique(colour.to_srgb(tagged(ramp, ADOBE_RGB)).numpy()[..., 0])) > 5000


@pytest.mark.parametrize("channels", [1, 2])
def test_grey_stays_grey(channels: int) -> None:
    samples = scene(channels=channels)
    result = colour.to_srgb(tagged(samples, grey_profile(1.8)))
    assert (result.bands, result.interpretation) == (channels, "b-w")
    assert colour.profile(result) is None
    expected = (samples[..., 0] / 255) ** 1.8
    srgb = np.where(expected <= 0.0031308, expected * 12.92, 1.055 * expected ** (1 / 2.4) - 0.055) * 255
    seen = result.numpy().reshape(samples.shape)
    assert np.abs(seen[..., 0] - srgb).max() <= 2
    assert channels == 1 or np.array_equal(seen[..., 1], samples[..., 1])


def test_alpha_is_no_colour() -> None:
    result = colour.to_srgb(tagged(scene(channels=4), ADOBE_RGB)).numpy()
    assert np.array_equal(result[..., 3], scene(channels=4)[..., 3])


@pytest.mark.parametrize(
    ("samples", "profile"),
    [(scene(), b"garbage"), (scene(), grey_profile()), (scene(channels=1), ADOBE_RGB), (scene(), cmyk_profile())],
    ids=["garbage", "for grey", "for colours", "for cmyk"],
)
def test_a_profile_of_another_kind_is_none(samples: NDArray[np.uint8], profile: bytes) -> None:
    image = tagged(samples, profile)
    assert colour.profile(image) is None
    assert np.array_equal(colour.to_srgb(image).numpy().reshape(samples.shape), samples)


@pytest.mark.parametrize("with_profile", [True, False])
def test_cmyk_goes_through_its_profile_or_the_usual_one(with_profile: bool) -> None:
    inks = np.random.default_rng(0).integers(0, 256, (24, 24, 4), np.uint8)
    image = to_vips(inks).copy(interpretation="cmyk")
    if with_profile:
        image = tagged(inks, cmyk_profile(), "cmyk")
    result = colour.to_rgb(image)
    assert (result.bands, result.format, result.interpretation) == (3, "uchar", "srgb")
    assert far(result.numpy(), by_littlecms(inks, cmyk_profile(), "CMYK")).max() < 3
    assert colour.profile(result) is not None  # which says sRGB
    deep = colour.to_rgb(to_vips(inks.astype(np.uint16) * 257).copy(interpretation="cmyk"))
    assert deep.format == "ushort" and far(deep.numpy(), result.numpy()).max() < 1


def test_lab_becomes_srgb_without_losing_depth() -> None:
    lab = rgb2lab(scene(dtype=np.uint16))
    image = pyvips.Image.new_from_array(lab.astype(np.float32), interpretation="lab")
    result = colour.to_rgb(image)
    assert result.format == "ushort" and far(result.numpy(), scene(dtype=np.uint16)).max() < 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_floats_without_a_profile_are_light_from_0_to_1(channels: int) -> None:
    encoded = scene(channels=channels) / 255
    light = from_srgb(encoded).astype(np.float32)
    light[0, 0], light[0, 1] = -3, 7  # beyond black and white
    image = tiff(light if channels == 3 else light[..., 0], photometric="rgb" if channels == 3 else "minisblack")
    result = colour.to_rgb(image)
    samples = result.numpy().reshape(*encoded.shape)
    assert result.format == "ushort" and (samples[0, 0] == 0).all() and (samples[0, 1] == 65535).all()
    assert np.abs(samples[1:] / 65535 - encoded[1:]).max() < 0.001


def test_floats_with_a_profile_are_in_its_space() -> None:
    encoded = scene() / 255
    image = tiff(encoded.astype(np.float32), photometric="rgb").copy()
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", ADOBE_RGB)
    result = colour.to_rgb(image)
    assert np.abs(result.numpy() / 65535 - encoded).max() < 0.0001 and colour.profile(result) == ADOBE_RGB


def test_floats_may_have_alpha() -> None:
    samples = np.dstack([scene() / 255, np.linspace(0, 1, 48)[None, :].repeat(32, 0)]).astype(np.float32)
    result = colour.to_rgb(tiff(samples, photometric="rgb", extrasamples=["unassalpha"]))
    assert (result.bands, result.interpretation) == (4, "rgb16")
    assert np.abs(result.numpy()[..., 3] / 65535 - samples[..., 3]).max() < 0.0001


def test_32_bit_integers_use_their_whole_range() -> None:
    levels = np.array([[0, 2**31, 2**32 - 1]], np.uint32)
    assert colour.to_rgb(tiff(levels)).numpy().tolist() == [[0, 32768, 65535]]


def test_what_can_be_negative_is_refused() -> None:
    with pytest.raises(SourceUnreadable, match="negative"):
        colour.to_rgb(tiff(np.zeros((5, 5), np.int16)))


def test_tens_of_bits_reach_white() -> None:
    image = to_vips(np.full((2, 2, 3), 65472, np.uint16)).copy()
    image.set_type(pyvips.GValue.gint_type, "bits-per-sample", 10)
    assert (colour.to_rgb(image).numpy() == 65535).all()


def test_difference_is_what_it_is_thought_to_be() -> None:
    assert deltaE_ciede2000([50.0, 2.6772, -79.7751], [50.0, 0.0, -82.7485]) == pytest.approx(
        2.0425, abs=1e-4
    )  # Sharma
