"""From file to file: whatever kind of picture comes, at any scale, in any format, what must be kept is kept."""

import struct
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import pyvips
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.engine.engine import Engine
from server.images.metadata import colour, exif, metadata
from server.images.metadata.exif import ARTIST, ORIENTATION, Exif, Value
from server.images.metadata.icc import DISPLAY_P3, grey_profile, rgb_profile
from server.images.read.open import open_picture
from server.job.formats import FORMATS, FormatName
from server.job.job import Params
from server.models import Model
from server.pipeline import Context, run
from tests import networks
from tests.pictures import far, over, scene, to_vips

NOTHING = Exif({ARTIST: Value(2, b"Ann\0")})
BACKGROUNDS = ((0, 0, 0), (255, 255, 255), (255, 0, 255))


@pytest.fixture(scope="module")
def repeating(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return networks.load(networks.save(networks.nearest(), tmp_path_factory.mktemp("net") / "nearest.pth"))


@pytest.fixture(scope="module")
def bundled() -> Model:
    return networks.load(networks.BUNDLED)


def enlarged(model: Model, data: bytes, params: Params) -> pyvips.Image:
    with TemporaryDirectory() as folder:
        target = Path(folder) / "result"
        limits: dict[str, Any] = {"max_source_pixels": 10**8, "max_result_pixels": 10**8}
        engine = Engine(networks.CPU)
        run(Context(params=params, data=data, target=target, engine=engine, load=networks.loader(model), **limits))
        return open_picture(target.read_bytes(), 10**9).copy_memory()


def samples_of(image: pyvips.Image) -> NDArray[Any]:
    result: NDArray[Any] = image.numpy().reshape(image.height, image.width, image.bands)
    return result


def source(samples: NDArray[Any], suffix: str, profile: bytes | None, orientation: int) -> bytes:
    image = to_vips(samples)
    image = image.copy(xres=6, yres=6)
    block = exif.serialise(Exif({**NOTHING.image, ORIENTATION: Value(3, struct.pack("<H", orientation))}))
    for name, data in (("icc-profile-data", profile), ("exif-data", block)):
        if data is not None:
            image.set_type(pyvips.GValue.blob_type, name, data)
    image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    options: dict[str, Any] = {".webp": {"lossless": True}, ".jpg": {"Q": 98, "subsample_mode": "off"}}.get(suffix, {})
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"source{suffix}"
        image.write_to_file(str(path), **options)
        if suffix == ".tiff":  # into which libvips writes none
            exif.append(path, exif.parse(block))
        return path.read_bytes()


def upright(samples: NDArray[Any], orientation: int) -> NDArray[Any]:
    """By the table of the standard: which side of the stored picture is the top one, and which the left one."""
    across = samples.transpose(1, 0, 2)
    return {
        1: samples, 2: samples[:, ::-1], 3: samples[::-1, ::-1], 4: samples[::-1],
        5: across, 6: across[:, ::-1], 7: across[::-1, ::-1], 8: across[::-1],
    }[orientation]  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    channels=st.sampled_from([1, 2, 3, 4]),
    deep=st.booleans(),
    tagged=st.booleans(),
    orientation=st.integers(1, 8),
    suffix=st.sampled_from([".png", ".tiff", ".webp", ".jpg"]),
    format_=st.sampled_from([name for name, form in FORMATS.items() if form.profile]),
    scale=st.floats(1, 2),
)
def test_what_must_be_kept_is_kept(
    repeating: Model, channels: int, deep: bool, tagged: bool, orientation: int, suffix: str, format_: str, scale: float
) -> None:
    deep = deep and suffix in (".png", ".tiff")
    channels = channels - 1 if suffix == ".jpg" and channels in (2, 4) else channels
    channels = channels + 2 if suffix == ".webp" and channels < 3 else channels
    samples = scene(40, 28, channels, np.uint16 if deep else np.uint8)
    profile = (grey_profile(2.2) if channels < 3 else rgb_profile(DISPLAY_P3)) if tagged else None
    result = enlarged(
        repeating,
        source(samples, suffix, profile, orientation),
        Params(scale=scale, format=format_, quality=98),  # type: ignore[arg-type]
    )
    stands = upright(samples, orientation)
    h, w = stands.shape[:2]
    assert (result.width, result.height) == (round(w * scale), round(h * scale))
    found, form = metadata.read(result), FORMATS[format_]
    assert found.orientation == 1 and found.exif.image[ARTIST] == NOTHING.image[ARTIST]
    assert (result.format == "ushort") == (deep and form.deep)
    colours_only = format_ in ("webp", "avif")
    assert (result.bands < 3) == (channels < 3 and not colours_only)
    assert result.hasalpha() == (channels in (2, 4) and form.alpha)
    # A profile for grey says nothing about the colours that WebP and AVIF make of it: it must have been applied.
    if not (colours_only and channels < 3):
        assert found.icc == profile
    if suffix != ".webp":
        assert found.pixels_per_mm == pytest.approx((6, 6), rel=0.01)
    if result.format == "ushort" and format_ == "avif":
        result = colour.to_rgb(result)  # its 10 bits
    seen = colour.to_srgb(result)
    expected = colour.to_srgb(_tagged(stands, profile))
    expected = expected.resize(seen.width / w, vscale=seen.height / h, kernel="linear").cast(expected.format)
    ours, theirs = (
        over(samples_of(each), (255, 255, 255)) if each.hasalpha() else samples_of(each) for each in (seen, expected)
    )
    inner = slice(3, -3), slice(3, -3)
    assert far(ours[inner], theirs[inner]).mean() < 2


def _tagged(samples: NDArray[Any], profile: bytes | None) -> pyvips.Image:
    image = to_vips(np.ascontiguousarray(samples)).copy()
    if profile is not None:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    return image


@pytest.mark.parametrize(("scale", "creativity"), [(1.5, None), (4, None), (7, None), (3, -2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_cut_out_objects_get_no_halo(
    bundled: Model, dtype: type[np.generic], scale: float, creativity: float | None
) -> None:
    side = 64
    y, x = np.mgrid[:side, :side]
    top = np.iinfo(dtype).max  # type: ignore[type-var]

    def object_(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        return np.stack([0.8 - 0.3 * x / side, 0.3 + 0 * x, 0.2 + 0.5 * y / side], axis=-1)

    alpha = np.clip(side * 0.35 - np.hypot(x - side / 2 + 0.5, y - side / 2 + 0.5) + 0.5, 0, 1)
    colours = np.where((alpha > 0)[..., None], object_(x, y), (0, 1, 0))  # green where nobody sees it
    samples = np.rint(np.dstack([colours, alpha]) * top).astype(dtype)
    result = samples_of(
        enlarged(bundled, bytes(to_vips(samples).pngsave_buffer()), Params(scale=scale, creativity=creativity))
    )
    large_y, large_x = (np.mgrid[: round(side * scale), : round(side * scale)] + 0.5) / scale - 0.5
    expected = np.dstack([np.rint(object_(large_x, large_y) * top), result[..., 3]]).astype(dtype)
    for background in BACKGROUNDS:
        # Without colours under what is transparent it would be 50.
        assert far(over(result, background), over(expected, background)).max() < 1.5


@pytest.mark.parametrize("format_", ["avif", "webp"])
def test_an_encoder_with_loss_does_not_mix_the_colour_of_the_transparent_in(
    bundled: Model, format_: FormatName
) -> None:
    y, x = np.mgrid[:41, :41]
    alpha = np.where(np.hypot(x - 20, y - 20) < 10, 255, 0).astype(np.uint8)
    samples = np.dstack([np.full((41, 41, 3), (200, 90, 200), np.uint8), alpha])
    data = bytes(to_vips(samples).pngsave_buffer())
    result = samples_of(enlarged(bundled, data, Params(scale=3, format=format_)))
    visible = result[result[..., 3] > 128]
    assert abs(visible[:, :3].astype(int) - (200, 90, 200)).max() <= 10  # 34 in AVIF where it is black


@pytest.mark.parametrize("format_", ["png", "tiff"])
def test_a_16_bit_gradient_has_more_than_4000_levels(bundled: Model, format_: str) -> None:
    ramp = np.linspace(2000, 63_000, 128 * 96).astype(np.uint16).reshape(96, 128, 1).repeat(3, 2)
    result = enlarged(bundled, bytes(to_vips(ramp).pngsave_buffer()), Params(scale=1.7, format=format_))  # type: ignore[arg-type]
    assert result.format == "ushort" and len(np.unique(samples_of(result))) > 4000


@pytest.mark.parametrize("format_", ["png", "tiff", "jpeg", "webp", "avif"])
@pytest.mark.parametrize("target", ["keep", "srgb"])
def test_wide_colours_are_seen_as_before(repeating: Model, format_: str, target: str) -> None:
    patches = np.array([[[200, 60, 60], [60, 190, 70], [70, 80, 200], [128, 128, 128], [230, 210, 60]]], np.uint8)
    samples = patches.repeat(32, 0).repeat(32, 1)
    profile = rgb_profile(DISPLAY_P3)
    params = Params(scale=2, format=format_, colour=target, quality=100)  # type: ignore[arg-type]
    result = enlarged(repeating, source(samples, ".png", profile, 1), params)
    seen = samples_of(colour.to_srgb(result))[32::64, 32::64]
    before = samples_of(colour.to_srgb(_tagged(patches, profile)))
    assert far(seen, before).max() < 1


def test_cmyk_is_what_libvips_makes_of_it(repeating: Model) -> None:
    inks = np.array(
        [[[200, 20, 20, 0], [20, 200, 20, 30], [20, 20, 200, 60], [0, 0, 0, 0], [90, 90, 90, 90]]], np.uint8
    )
    image = to_vips(inks.repeat(32, 0).repeat(32, 1)).copy(interpretation="cmyk")
    expected = image.icc_transform("srgb", input_profile="cmyk", intent="relative").numpy()[16::32, 16::32]
    result = enlarged(repeating, bytes(image.tiffsave_buffer()), Params(scale=2))
    assert far(samples_of(result)[32::64, 32::64], expected).max() < 3
