"""Other programs read the same frames, times and loops from a written animation; only differences are written."""

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image

from server.errors import ResultImpossible
from server.images.metadata.exif import ARTIST, Exif, Value
from server.images.metadata.icc import DISPLAY_P3, rgb_profile
from server.images.metadata.metadata import Metadata, attach_metadata
from server.images.metadata.timing import Timing
from server.images.write.animation import AnimationEncoder
from server.job.job import Params
from tests.pictures import far, over, scene, to_vips

TIMES = (0, 10, 20, 70, 1000)


def timing(*milliseconds: int, plays: int = 4) -> Timing:
    return Timing(tuple(Fraction(each, 1000) for each in milliseconds), plays)


def written(
    path: Path, pictures: list[NDArray[Any] | None], times: Timing, found: Metadata | None = None, **options: Any
) -> bytes:
    """None: the last frame again."""
    with AnimationEncoder(path, Params(scale=1, **options), times) as film:
        for samples in pictures:
            film.repeat() if samples is None else film.add(attach_metadata(to_vips(samples), found or Metadata()))
    return path.read_bytes()


def others(data: bytes) -> tuple[list[NDArray[np.uint8]], list[float], int | None]:
    """Frames in RGBA, milliseconds, and the loop count, as Pillow reads them."""
    frames, times = [], []
    with Image.open(io.BytesIO(data)) as image:
        for number in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(number)
            frames.append(np.asarray(image.convert("RGBA")).copy())
            times.append(image.info["duration"])
        return frames, times, image.info.get("loop")


def steps(channels: int, dtype: type[np.generic] = np.uint8) -> list[NDArray[Any]]:
    """A moving square on a still background; few colours, each pixel transparent or opaque."""
    pictures = []
    for step in range(len(TIMES)):
        picture = np.rint(scene(61, 40, channels, dtype) / 32).astype(dtype) * 32
        picture[5:17, 3 + 9 * step : 14 + 9 * step] = np.iinfo(dtype).max
        if channels in (2, 4):
            picture[..., -1] = np.iinfo(dtype).max
            picture[20:30, 6 * step : 6 * step + 25, -1] = 0
        pictures.append(picture)
    return pictures


def rgba(samples: NDArray[Any]) -> NDArray[np.uint8]:
    samples = (samples // 257).astype(np.uint8) if samples.dtype == np.uint16 else samples
    if samples.shape[2] < 3:
        samples = np.concatenate((*[samples[..., :1]] * 3, samples[..., 1:]), axis=2)
    return samples if samples.shape[2] == 4 else np.dstack((samples, np.full(samples.shape[:2], 255, np.uint8)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("format_", ["gif", "png", "webp"])
def test_others_read_the_same_frames_and_times(tmp_path: Path, format_: str, channels: int) -> None:
    pictures = steps(channels)
    data = written(tmp_path / "a", [*pictures], timing(*TIMES), format=format_, lossless=format_ == "webp")
    frames, times, loops = others(data)
    assert times == list(TIMES) and loops == (3 if format_ == "gif" else 4)  # a GIF says how often it is repeated
    for ours, theirs in zip(pictures, frames, strict=True):
        assert np.array_equal(rgba(ours)[..., 3], theirs[..., 3])
        assert not ((rgba(ours) != theirs) * (theirs[..., 3:] > 0)).any()


def test_16_bits_are_kept_in_png_and_8_made_on_request(tmp_path: Path) -> None:
    pictures = steps(3, np.uint16)
    for depth, bits in ((None, 16), (8, 8)):
        data = written(tmp_path / "a", [*pictures], timing(*TIMES), format="png", depth=depth)
        assert data[24] == bits
        for ours, theirs in zip(pictures, others(data)[0], strict=True):
            assert np.abs(rgba(ours).astype(int) - theirs).max() <= 1  # the reader cuts the low bits off


@pytest.mark.parametrize(("format_", "most"), [("gif", 40), ("png", 120), ("webp", 60)])
@pytest.mark.parametrize("again", [True, False])
def test_a_frame_that_is_the_same_costs_nearly_nothing(tmp_path: Path, format_: str, most: int, again: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    one = written(tmp_path / "a", [noise], timing(50), format=format_)
    five = written(tmp_path / "b", [noise, *[None if again else noise] * 4], timing(*TIMES), format=format_)
    assert len(five) - len(one) < 4 * most and others(five)[1] == list(TIMES)
    assert all(np.array_equal(frame, others(one)[0][0]) for frame in others(five)[0])


@pytest.mark.parametrize("format_", ["png", "webp"])
def test_the_profile_and_all_else_are_kept(tmp_path: Path, format_: str) -> None:
    profile = rgb_profile(DISPLAY_P3)
    size = {0xA002: Value(4, struct.pack("<I", 20)), 0xA003: Value(4, struct.pack("<I", 10))}
    found = Metadata(
        icc=profile, exif=Exif({ARTIST: Value(2, b"Ann\0")}, size), xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    )
    data = written(tmp_path / "a", [*steps(4)], timing(*TIMES), found, format=format_)
    with Image.open(io.BytesIO(data)) as result:
        assert result.info["icc_profile"] == profile and result.getexif()[ARTIST] == "Ann"
        photo = result.getexif().get_ifd(0x8769)
        assert (photo[0xA002], photo[0xA003]) == (61, 40)
        assert b"xmpmeta" in data


def test_a_gif_has_no_profile_so_its_colours_become_srgb(tmp_path: Path) -> None:
    profile = rgb_profile(DISPLAY_P3)
    samples = np.full((8, 8, 3), (200, 60, 60), np.uint8)
    data = written(tmp_path / "a", [samples, samples], timing(50, 50), Metadata(icc=profile), format="gif")
    tagged = attach_metadata(to_vips(samples), Metadata(icc=profile))
    expected = tagged.icc_transform("srgb", embedded=True, intent="relative").numpy()
    assert far(others(data)[0][0][..., :3], expected).max() < 1 < far(samples, expected).max()


def test_a_gif_of_many_colours_looks_like_them(tmp_path: Path) -> None:
    pictures = [scene(96, 64, 4), scene(96, 64, 4)[::-1].copy()]
    for picture in pictures:
        picture[..., 3] = np.where(picture[..., 3] < 128, 0, 255)
    frames, _, _ = others(written(tmp_path / "a", [*pictures], timing(50, 50), format="gif"))
    for ours, theirs in zip(pictures, frames, strict=True):
        assert far(over(theirs, (255, 255, 255)), over(ours, (255, 255, 255))).mean() < 2


@pytest.mark.parametrize(
    ("seconds", "said"), [(Fraction(1, 30), (1, 30)), (Fraction(700), (700, 1)), (Fraction(100_000), (65535, 1))]
)
def test_png_says_times_exactly_where_it_can(tmp_path: Path, seconds: Fraction, said: tuple[int, int]) -> None:
    data = written(tmp_path / "a", [scene(), None], Timing((seconds, seconds), 0), format="png")
    place = data.index(b"fcTL") + 4
    assert struct.unpack_from(">HH", data, place + 20) == said


def test_what_fails_leaves_no_whole_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), AnimationEncoder(tmp_path / "a", Params(scale=1), timing(50, 50)) as film:
        film.add(to_vips(scene()))
        raise ZeroDivisionError
    assert b"IEND" not in (tmp_path / "a").read_bytes()


def test_what_cannot_be_held_is_refused(tmp_path: Path) -> None:
    wide = pyvips.Image.black(20_000, 1, bands=3).copy(interpretation="srgb")
    with (
        pytest.raises(ResultImpossible, match="16383"),
        AnimationEncoder(tmp_path / "a", Params(scale=1, format="webp"), timing(50)) as film,
    ):
        film.add(wide)
