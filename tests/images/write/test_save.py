"""Other programs read what was requested, and large pictures are not held in memory."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image

from server.errors import ResultImpossible
from server.images.metadata.icc import DISPLAY_P3, rgb_profile
from server.images.write.save import save
from server.job.formats import FORMATS
from server.job.job import Params
from tests.pictures import far, over, scene, to_vips


def written(tmp_path: Path, image: pyvips.Image, format_: str, **options: Any) -> Path:
    path = tmp_path / f"result{FORMATS[format_].suffix}"
    save(image, path, Params(scale=1, format=format_, **options))  # type: ignore[arg-type]
    return path


def samples_of(path: Path) -> NDArray[Any]:
    image = pyvips.Image.new_from_file(str(path), fail_on="error")
    result: NDArray[Any] = image.numpy().reshape(image.height, image.width, image.bands)
    return result


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_picture_goes_into_every_format(
    tmp_path: Path, format_: str, channels: int, dtype: type[np.generic]
) -> None:
    samples = scene(96, 64, channels, dtype)
    quality = 95 if FORMATS[format_].default_quality else None
    read = samples_of(written(tmp_path, to_vips(samples), format_, quality=quality))
    deep = dtype is np.uint16 and FORMATS[format_].deep
    assert read.dtype == (np.uint16 if deep else np.uint8) and read.shape[:2] == (64, 96)
    alpha = channels in (2, 4) and format_ != "jpeg"
    if format_ == "gif" and not alpha and read.shape[2] == 4:  # it names a transparent colour, and does not use it
        assert read[..., 3].min() == 255
        read = read[..., :3]
    grey = channels < 3 and format_ not in ("webp", "avif", "gif")  # these only have colours
    assert read.shape[2] == (1 if grey else 3) + alpha
    if format_ == "gif" and alpha:  # which is all or nothing there
        samples[..., -1] = np.where(samples[..., -1] < (1 + np.iinfo(dtype).max) // 2, 0, np.iinfo(dtype).max)
    for background in ((255, 255, 255), (0, 0, 0)) if alpha else ((255, 255, 255),):
        seen = over(read, background) if alpha else read
        expected = over(samples, background) if channels in (2, 4) else samples
        limit = {"jpeg": 3, "png": 0.6, "webp": 4, "avif": 4, "tiff": 0.6, "gif": 12}[format_]  # of 256 colours
        assert far(seen, expected).max() < limit


@pytest.mark.parametrize("format_", ["png", "tiff", "webp", "avif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_lossless_is_exact(tmp_path: Path, format_: str, channels: int) -> None:
    samples = np.random.default_rng(0).integers(0, 256, (40, 50, channels), np.uint8)
    if channels == 4:
        samples[..., 3] |= 1  # WebP is free to forget colours that nobody sees
    assert np.array_equal(samples_of(written(tmp_path, to_vips(samples), format_, lossless=True)), samples)


@pytest.mark.parametrize("format_", ["jpeg", "webp", "avif"])
def test_quality_costs_bytes(tmp_path: Path, format_: str) -> None:
    noise = to_vips(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    sizes = [written(tmp_path, noise, format_, quality=quality).stat().st_size for quality in (30, 80, 100)]
    assert sizes == sorted(sizes) and sizes[2] > 1.5 * sizes[0]


@pytest.mark.parametrize(("quality", "sampling"), [(89, 2), (90, 0), (None, 0)])
def test_good_jpeg_keeps_all_of_its_colour(tmp_path: Path, quality: int | None, sampling: int) -> None:
    from PIL.JpegImagePlugin import get_sampling

    with Image.open(written(tmp_path, to_vips(scene()), "jpeg", quality=quality)) as image:
        assert get_sampling(image) == sampling


@pytest.mark.parametrize("progressive", [True, False])
def test_jpeg_is_progressive_on_request(tmp_path: Path, progressive: bool) -> None:
    with Image.open(written(tmp_path, to_vips(scene()), "jpeg", progressive=progressive)) as image:
        assert bool(image.info.get("progressive")) == progressive


@pytest.mark.parametrize("format_", ["png", "tiff"])
def test_16_bits_become_8_on_request_and_are_rounded(tmp_path: Path, format_: str) -> None:
    samples = scene(dtype=np.uint16)
    read = samples_of(written(tmp_path, to_vips(samples), format_, depth=8))
    assert np.array_equal(read, np.rint(samples / 257))


def test_16_bits_are_10_in_avif(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 65535, 1024).astype(np.uint16)[None, :, None].repeat(8, 0), 3, axis=2)
    read = samples_of(written(tmp_path, to_vips(ramp), "avif", lossless=True))
    assert len(np.unique(read)) == 1024 and read.max() == 65472  # 1023 · 64
    assert np.abs(read / 65472 - ramp / 65535).max() < 0.001


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_shows_the_background_where_there_is_none(tmp_path: Path, channels: int, dtype: type[np.generic]) -> None:
    samples = scene(96, 64, channels, dtype)
    read = samples_of(written(tmp_path, to_vips(samples), "jpeg", background=(255, 0, 255), quality=100))
    if channels == 4:
        assert far(read, over(samples, (255, 0, 255))).max() < 3
    else:  # grey stays grey, and so its background
        light = 0.2126 + 0.0722
        level = round((1.055 * light ** (1 / 2.4) - 0.055) * 255)
        assert read.shape[2] == 1 and abs(int(read[0, 0, 0]) - level) <= 2


@pytest.mark.parametrize("format_", [name for name, form in FORMATS.items() if form.profile])
def test_colours_become_srgb_on_request(tmp_path: Path, format_: str) -> None:
    image = to_vips(scene(dtype=np.uint16)).copy()
    profile = rgb_profile(DISPLAY_P3)
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    kept, converted = (tmp_path / name for name in ("kept", "converted"))
    kept.mkdir()
    converted.mkdir()
    with Image.open(written(kept, image, format_)) as result:
        assert result.info["icc_profile"] == profile
    path = written(converted, image, format_, colour="srgb")
    with Image.open(path) as result:
        assert result.info["icc_profile"] == bytes(pyvips.Operation.call("profile_load", "srgb"))
    expected = image.icc_transform("srgb", embedded=True, intent="relative", depth=16).numpy()
    assert far(samples_of(path), expected).max() < 5
    assert far(samples_of(path), expected).mean() < 1


def test_what_cannot_be_held_is_refused_before_a_row_is_made(tmp_path: Path) -> None:
    endless = pyvips.Image.black(20_000, 20_000, bands=3).copy(interpretation="srgb")
    for format_, words in (("webp", "16383"), ("avif", "16384")):
        with pytest.raises(ResultImpossible, match=words):
            written(tmp_path, endless, format_)
    with pytest.raises(ResultImpossible, match="progressive"):
        written(tmp_path, endless, "jpeg", progressive=True)


_PEAK = """
import resource, sys
from pathlib import Path
import pyvips
from server.images.write.save import save
from server.job.job import Params
column = pyvips.Image.xyz(8000, 8000)
image = (column[0] + column[1] * 3).bandjoin([column[1], column[0] * 5]).cast("uchar", shift=False)
image = (image & 255).cast("uchar").copy(interpretation="srgb")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
save(image, Path(sys.argv[1]), Params(scale=1, format=sys.argv[2]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["jpeg", "png", "tiff"])
def test_64_megapixels_pass_in_a_fraction_of_their_size(tmp_path: Path, format_: str) -> None:
    command = [sys.executable, "-c", _PEAK, str(tmp_path / "result"), format_]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 90  # MiB; the picture has 183
