"""Frames are as browsers show them: positions, disposals, transparency, times; decoded one after the other."""

import io
import resource
import struct
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image

from server.errors import SourceTooLarge, SourceUnreadable, UpscaleError
from server.images.metadata.timing import Timing
from server.images.read import apng, gif
from server.images.read.animation import Animation, open_animation
from server.images.read.open import open_picture, read_header, why
from tests import moving
from tests.moving import Part, numbers, shown
from tests.paths import SHARED
from tests.pictures import scene

MAX_PIXELS = 10**8


def opened(data: bytes, max_pixels: int = MAX_PIXELS) -> Animation | None:
    try:
        return open_animation(data, open_picture(data, max_pixels), max_pixels)
    except pyvips.Error as error:
        raise why(error) from error


def frames(data: bytes) -> list[NDArray[Any]]:
    """With an alpha channel, even if the file has none."""
    animation = opened(data)
    assert animation is not None
    found = list(animation.frames)
    assert len(found) == animation.timing.frames == read_header(data, MAX_PIXELS).frames
    top = np.iinfo(found[0].dtype).max
    return [
        each if each.shape[2] == 4 else np.dstack((each, np.full(each.shape[:2], top, each.dtype))) for each in found
    ]


def same(ours: list[NDArray[Any]], theirs: list[NDArray[Any]], levels: int = 0) -> None:
    """The colours of transparent pixels do not matter."""
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert np.array_equal(mine[..., 3], other[..., 3])
        assert (np.abs(mine.astype(int) - other.astype(int)) * (mine[..., 3:] > 0)).max() <= levels


GIF_PARTS = [
    Part(0, 0, numbers(20, 16, 0), hundredths=0),
    Part(3, 2, numbers(9, 8, 1, holes=True), "clear", transparent=True, hundredths=1),
    Part(6, 5, numbers(8, 8, 2), "restore", hundredths=2),
    Part(0, 0, numbers(20, 16, 3, holes=True), transparent=True, interlaced=True),
    Part(15, 12, numbers(9, 9, 4), hundredths=65535),  # it sticks out
    Part(2, 2, numbers(0, 3, 5)),  # nothing
]


def test_frames_of_a_gif_are_painted_and_disposed_of() -> None:
    data = moving.gif((20, 16), GIF_PARTS, repeats=2)
    same(frames(data), shown((20, 16), GIF_PARTS))
    animation = opened(data)
    assert animation is not None
    times = [Fraction(part.hundredths, 100) for part in GIF_PARTS]
    assert animation.timing == Timing(tuple(times), plays=3)


@pytest.mark.parametrize("disposal", moving.DISPOSALS)
def test_a_gif_that_does_not_begin_with_all_of_its_canvas_is_transparent_around(disposal: str) -> None:
    parts = [Part(4, 4, numbers(6, 6, 0), disposal), Part(6, 6, numbers(6, 6, 1, holes=True), transparent=True)]
    same(frames(moving.gif((20, 16), parts)), shown((20, 16), parts))


def test_a_gif_has_alpha_only_if_something_shows_through() -> None:
    whole, hole = Part(0, 0, numbers(8, 8, 0)), Part(1, 1, numbers(4, 4, 1, holes=True), transparent=True)
    for parts, channels in (([whole, hole], 3), ([hole, whole], 4), ([Part(0, 0, whole.pixels, "clear"), hole], 4)):
        animation = opened(moving.gif((8, 8), parts))
        assert animation is not None and next(animation.frames).shape[2] == channels


def test_a_gif_plays_once_unless_it_says_otherwise() -> None:
    for repeats, plays in ((None, 1), (0, 0), (1, 2), (65535, 65536)):
        assert gif.read(moving.gif((20, 16), GIF_PARTS, repeats=repeats)).plays == plays


def test_a_gif_may_lack_its_end_and_no_more() -> None:
    data = moving.gif((20, 16), GIF_PARTS, end=False)
    same(frames(data), shown((20, 16), GIF_PARTS))
    with pytest.raises(SourceUnreadable):
        frames(data[:-1])


def random_parts(dtype: type[np.generic]) -> list[Part]:
    generator = np.random.default_rng(8)
    top = np.iinfo(dtype).max

    def pixels(w: int, h: int) -> NDArray[Any]:
        found = generator.integers(0, top + 1, (h, w, 4)).astype(dtype)
        found[..., 3] = generator.choice([0, top // 3, top // 2, top], (h, w))
        return found

    return [
        Part(0, 0, pixels(20, 16), over=False),
        Part(3, 2, pixels(9, 8), "clear"),
        Part(6, 5, pixels(8, 8), "restore", over=False),
        Part(1, 1, pixels(18, 14)),
        Part(0, 0, pixels(20, 16), over=False),
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("aside", [True, False])
def test_frames_of_an_apng_are_painted_and_disposed_of(dtype: type[np.generic], aside: bool) -> None:
    parts = random_parts(dtype)
    data = moving.apng((20, 16), parts, plays=3, aside=aside)
    found = frames(data)
    assert found[0].dtype == dtype
    same(found, shown((20, 16), parts), levels=1)
    animation = opened(data)
    assert animation is not None and animation.timing == Timing((Fraction(7, 100),) * 5, plays=3)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1"])
def test_apngs_of_every_kind_of_pixel_are_read(mode: str) -> None:
    channels = 4 if mode in ("LA", "RGBA") else 3
    pictures = [Image.fromarray(scene(30, 20, channels)).rotate(turn).convert(mode) for turn in (0, 90, 180)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "PNG", save_all=True, append_images=pictures[1:], duration=50)
    animation = opened(buffer.getvalue())
    assert animation is not None
    for ours, theirs in zip(animation.frames, pictures, strict=True):
        assert ours.shape[2] == {"L": 1, "1": 1, "LA": 2}.get(mode, 4 if mode == "RGBA" else 3)
        expected = np.asarray(theirs.convert({"1": "L", "P": "RGB"}.get(mode, mode))).reshape(ours.shape)
        seen = ours[..., -1:] > 0 if mode in ("LA", "RGBA") else 1
        assert not ((ours != expected) * seen).any()


@pytest.mark.parametrize("lossless", [True, False])
def test_frames_of_a_webp_are_those_of_another_reader(lossless: bool) -> None:
    pictures = [Image.fromarray(np.roll(scene(40, 30, 4), 5 * step, axis=1)) for step in range(6)]
    buffer = io.BytesIO()
    times = [0, 10, 1, 70, 100, 16_000_000]
    options: dict[str, Any] = {"lossless": lossless, "duration": times, "loop": 5, "kmin": 2, "kmax": 3}
    pictures[0].save(buffer, "WEBP", save_all=True, append_images=pictures[1:], **options)
    theirs = []
    with Image.open(buffer) as reference:
        for number in range(6):
            reference.seek(number)
            theirs.append(np.asarray(reference.convert("RGBA")).copy())
    same(frames(buffer.getvalue()), theirs, levels=2)
    animation = opened(buffer.getvalue())
    assert animation is not None and animation.timing == Timing(tuple(Fraction(t, 1000) for t in times), plays=5)


def test_what_has_one_frame_is_a_still() -> None:
    part = [Part(0, 0, scene(20, 16, 4))]
    for data in (
        moving.gif((20, 16), GIF_PARTS[:1]),
        moving.apng((20, 16), part),
        moving.apng((20, 16), part, aside=True),
    ):
        assert opened(data) is None and read_header(data, MAX_PIXELS).frames == 1


def test_frames_are_decoded_as_they_are_taken() -> None:
    side, count = 700, 40  # together 59 MB
    part = Part(0, 0, np.zeros((side, side), np.uint8))
    data = moving.gif((side, side), [Part(0, 0, numbers(side, side, 0)), *[part] * (count - 1)])
    animation = opened(data)
    assert animation is not None
    next(animation.frames)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in animation.frames) == count - 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024


def test_a_frame_beyond_the_limit_is_refused_before_it_is_decoded() -> None:
    data = bytearray(moving.gif((8, 8), [Part(0, 0, numbers(8, 8, 0)), Part(0, 0, numbers(8, 8, 1))]))
    place = data.rindex(b"\x2c\0\0\0\0\x08\0\x08\0")
    data[place + 5 : place + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(SourceTooLarge, match="65535×65535"):
        opened(bytes(data))


def test_files_of_countless_pieces_do_not_keep_their_reader_busy() -> None:
    part = moving.gif((8, 8), [Part(0, 0, numbers(8, 8, 0)), Part(0, 0, numbers(8, 8, 1))], end=False)
    comments = part + b"\x21\xfe" + b"\x01x" * 20_000_000 + b"\0;"
    started = time.process_time()
    assert not gif.read(comments).whole
    start = moving.apng((8, 8), [Part(0, 0, scene(8, 8, 4))] * 2)[:-12]
    assert not apng.read(start + moving.chunk(b"tEXt", b"") * 3_000_000).whole  # type: ignore[union-attr]
    assert time.process_time() - started < 3


DAMAGED = {
    "a number is missing": lambda data: data.replace(*fourth_number(data)),
    "a sum is wrong": lambda data: data[: data.rindex(b"fdAT") + 9] + b"?" + data[data.rindex(b"fdAT") + 10 :],
    "the end is missing": lambda data: data[:-12],
    "a frame sticks out": lambda data: moving.apng((20, 16), [*random_parts(np.uint8), Part(9, 9, scene(12, 3, 4))]),
    "a frame has no pixels": lambda data: without_last_pixels(data),
}


def fourth_number(data: bytes) -> tuple[bytes, bytes]:
    start = data.rindex(b"fcTL") - 4
    old = data[start : start + 38]
    return old, moving.chunk(b"fcTL", struct.pack(">I", 99) + old[12:34])


def without_last_pixels(data: bytes) -> bytes:
    return data[: data.rindex(b"fcTL") + 34] + moving.chunk(b"IEND", b"")


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_apngs_are_refused(name: str) -> None:
    data = DAMAGED[name](moving.apng((20, 16), random_parts(np.uint8)))
    with pytest.raises(SourceUnreadable, match="damaged"):
        frames(data)


COLLECTION = SHARED / "images" / "awkward" / "animated"


@pytest.mark.skipif(not COLLECTION.exists(), reason="the collection of awkward pictures is not on this machine")
@pytest.mark.parametrize("name", ["dispose-previous.gif", "cogs.gif", "iss634.gif", "anim.webp", "iss634.webp"])
def test_animations_of_others_are_those_of_another_reader(name: str) -> None:
    data = (COLLECTION / name).read_bytes()
    theirs = []
    with Image.open(io.BytesIO(data)) as reference:
        for number in range(reference.n_frames):  # type: ignore[attr-defined]
            reference.seek(number)
            theirs.append(np.asarray(reference.convert("RGBA")).copy())
    same(frames(data), theirs, levels=1)


SOURCES = {
    "gif": moving.gif((20, 16), GIF_PARTS),
    "apng": moving.apng((20, 16), random_parts(np.uint8)),
    "deep apng": moving.apng((20, 16), random_parts(np.uint16), aside=True),
}


@pytest.mark.parametrize("name", SOURCES)
def test_one_wrong_byte_breaks_nothing(name: str) -> None:
    data = SOURCES[name]
    generator = np.random.default_rng(3)
    read = 0
    for place in generator.permutation(len(data))[:200]:
        damaged = bytearray(data)
        damaged[place] = generator.integers(256)
        try:
            animation = opened(bytes(damaged), 10**6)
            read += animation is None or len(list(animation.frames)) > 1
        except (UpscaleError, pyvips.Error):
            pass
    assert read
