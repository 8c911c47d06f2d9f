"""Gain maps of HEIC and AVIF files: in both forms, turned, damaged, and of pictures that are HDR themselves."""

import io
import math
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image

from server.errors import SourceUnreadable
from server.images.metadata.cicp import code_points
from server.images.read import heif as ours
from server.images.read.gain_map import GainMap
from server.images.read.open import find_gain_map, open_picture, read_header
from server.images.read.sniff import sniff
from tests import hdr, heif
from tests.pictures import FILES, encoded

MANY = 10**7
BASE, GAIN = ((FILES / f"hdr_{name}.heic").read_bytes() for name in ("base", "gain"))
LOW, HIGH = 0.0252, 2.9718
"""The gain in stops that the file GAIN was made with, by hdr.split of hdr.light(1, 48, 64)."""
BASE_AVIF, GAIN_AVIF = (
    encoded(np.atleast_3d(np.asarray(each)), "AVIF", quality=95) for each in hdr.split(hdr.light(1, 48, 64), 1)[:2]
)
FLAT = encoded(np.full((8, 8, 1), 99, np.uint8), "AVIF")
COLOURED, WIDE = (
    encoded(np.asarray(hdr.split(hdr.light(1, 48, 64), 1, coloured=True)[1]), "AVIF", quality=95),
    encoded(np.full((48, 65, 1), 99, np.uint8), "AVIF"),
)
DEEP: bytes = (
    pyvips.Image.new_from_buffer(COLOURED, "")
    .colourspace("rgb16")
    .heifsave_buffer(compression="av1", bitdepth=10, Q=95)
)
SIGNAL = heif.box(b"colr", b"nclx", struct.pack(">HHHB", 9, 16, 9, 0x80))
"""What a picture in PQ and BT.2020 has."""


def found(data: bytes) -> GainMap | None:
    header = read_header(data, MANY)
    beside = find_gain_map(data, header.mime, header.size)
    assert (header.hdr == "gain map") == (beside is not None)
    return beside


def samples(data: bytes) -> NDArray[Any]:
    beside = found(data)
    assert beside is not None
    read: NDArray[Any] = np.squeeze(beside.open().numpy()).astype(int)
    return read


def expected(file: bytes) -> NDArray[Any]:
    """What the decoders make of the gain map's own file."""
    read: NDArray[Any] = open_picture(file, MANY).numpy().astype(int)
    read = read // 256 if file is DEEP else read
    grey: NDArray[Any] = read[..., 0] if file not in (COLOURED, DEEP) and read.ndim == 3 else read
    return grey


@pytest.mark.parametrize(
    ("base", "gain"),
    [(BASE, GAIN), (BASE_AVIF, GAIN_AVIF), (BASE_AVIF, COLOURED), (BASE_AVIF, DEEP), (BASE_AVIF, FLAT)],
    ids=["HEIC", "AVIF", "AVIF in colour", "10 bits", "smaller"],
)
@pytest.mark.parametrize("idat", [False, True])
def test_a_gain_map_by_iso_is_read_with_its_metadata(base: bytes, gain: bytes, idat: bool) -> None:
    data = hdr.in_heif(base, gain, LOW, HIGH, idat=idat)
    beside = found(data)
    assert beside is not None and beside.stops == pytest.approx(HIGH) and not beside.in_xmp
    difference = abs(samples(data) - expected(gain))  # libavif and libheif enlarge chroma differently
    assert difference.mean() < 1 and difference.max() <= (8 if difference.ndim == 3 else 1)
    assert (open_picture(data, MANY).numpy() == open_picture(base, MANY).numpy()).all()


def test_a_gain_map_turns_with_its_picture() -> None:
    data = hdr.in_heif(BASE, GAIN, LOW, HIGH, heif.box(b"irot", b"\1"))
    assert read_header(data, MANY).size == (48, 64)
    assert (samples(data) == np.rot90(expected(GAIN))).all()


@pytest.mark.parametrize("places", [{"stated": 8.0}, {"camera": True}, {"stated": 8.0, "camera": True}])
def test_apples_form_becomes_that_of_iso(places: dict[str, Any]) -> None:
    """By the formula of Apple's article: light · (1 + (headroom − 1) · share), for each share."""
    data = hdr.in_heic_of_apple(BASE, GAIN, **places)
    beside = found(data)
    assert beside is not None and beside.stops == pytest.approx(3)
    curve = expected(GAIN) / 255
    share = np.where(curve < 0.081, curve / 4.5, ((curve + 0.099) / 1.099) ** (1 / 0.45))
    assert abs(samples(data) / 255 * 3 - np.log2(1 + 7 * share)).max() <= 3 / 255


def test_the_maker_note_s_numbers_count_by_apples_four_lines() -> None:
    note = hdr.in_heic_of_apple(BASE, GAIN, camera=True)
    pairs = struct.pack(">4i", 1, 1, 0, 1)
    place = note.rindex(pairs)
    for boost, gain, stops in ((2.0, 0.005, 2.65), (1.0, 0.5, 2.1515), (0.5, 0.005, 1.7), (0.5, 1.0, 1.5)):
        changed = struct.pack(">4i", round(boost * 1000), 1000, round(gain * 1000), 1000)
        beside = found(note[:place] + changed + note[place + 16 :])
        assert beside is not None and beside.stops == pytest.approx(stops, abs=1e-3)


def test_the_colours_of_a_picture_are_its_own_and_not_those_on_an_hdr_display() -> None:
    """The first box `colr` of a file may be that of the item of the gain map, which is in PQ."""
    data = hdr.in_heif(BASE_AVIF, GAIN_AVIF, LOW, HIGH, colours=[SIGNAL])
    first = ours.Items(data)
    assert code_points(data, "image/avif") is None and read_header(data, MANY).hdr == "gain map"
    assert first.properties(3, b"colr")[0][:4] == b"nclx"
    moved = data.replace(b"colrnclx\0\x09\0\x10", b"colrnclx\0\x01\0\x0d")
    assert (open_picture(data, MANY).numpy() == open_picture(moved, MANY).numpy()).all()


@pytest.mark.parametrize("flags", [0x40, 0])
def test_other_primaries_on_an_hdr_display_are_kept_as_a_profile(flags: int) -> None:
    beside = found(hdr.in_heif(BASE_AVIF, GAIN_AVIF, LOW, HIGH, flags=flags, colours=[SIGNAL]))
    assert beside is not None and (b"ICC_PROFILE" in beside.metadata) == (flags == 0)


def by_iso(**changed: Any) -> bytes:
    return hdr.in_heif(changed.pop("base", BASE_AVIF), changed.pop("gain", GAIN_AVIF), LOW, HIGH, **changed)


GOOD = by_iso()
NUMBERS = GOOD.index(struct.pack(">iIiI", 0, 1, round(HIGH * 1e6), 10**6)) - 6
"""Where the content of the item `tmap` begins."""
UNUSABLE: dict[str, Callable[[], bytes]] = {
    "of an HDR picture": lambda: by_iso(base=hdr.avif(hdr.light(1, 48, 64), hdr.PQ)),
    "larger than the picture": lambda: by_iso(gain=WIDE),
    "of another version": lambda: GOOD[:NUMBERS] + b"\1" + GOOD[NUMBERS + 1 :],
    "a denominator of 0": lambda: GOOD[: NUMBERS + 10] + bytes(4) + GOOD[NUMBERS + 14 :],
    "cut": lambda: GOOD[: NUMBERS + 20],
    "of another picture": lambda: GOOD.replace(b"dimg\0\3\0\2\0\1", b"dimg\0\3\0\2\0\2"),
    "of an item that is missing": lambda: GOOD.replace(b"dimg\0\3\0\2\0\1\0\2", b"dimg\0\3\0\2\0\1\0\7"),
    "of Apple without a headroom": lambda: hdr.in_heic_of_apple(BASE, GAIN),
    "of Apple without more light": lambda: hdr.in_heic_of_apple(BASE, GAIN, stated=1.0),
    "of Apple with too much light": lambda: hdr.in_heic_of_apple(BASE, GAIN, stated=1e9),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_what_can_not_be_used_is_no_gain_map(what: str) -> None:
    data = UNUSABLE[what]()
    header = read_header(data, MANY)
    assert find_gain_map(data, header.mime, header.size) is None and header.hdr != "gain map"


def test_any_single_wrong_byte_of_the_boxes_is_read_or_refused_in_words() -> None:
    """Also in those of another codec. Nothing hangs, and nothing but our own errors is raised."""
    for data in (GOOD, hdr.in_heic_of_apple(BASE, GAIN, stated=4.0, camera=True)):
        end = data.index(b"mdat")
        for place in range(16, end, 5):
            wrong = bytearray(data)
            wrong[place] ^= 0xFF
            if sniff(bytes(wrong)) is None:
                continue
            with suppress(SourceUnreadable):
                found(bytes(wrong))


def test_a_file_with_thousands_of_auxiliary_pictures_costs_no_more_than_reading_it() -> None:
    """The boxes are read once, and not for each of them."""
    aux = heif.full(b"auxC", 0, 0, b"urn:x\0")
    hostile = [heif.picture(BASE), *(heif.Item(b"hvc1", b"", [aux]) for _ in range(5000))]
    data = heif.written(b"heic", hostile, [(b"auxl", number, [1]) for number in range(2, 5002)])
    calls: list[int] = []

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is ours._associated.__code__:
            calls.append(1)

    sys.setprofile(count)
    try:
        assert find_gain_map(data, "image/heic", (64, 48)) is None
    finally:
        sys.setprofile(None)
    assert len(calls) < 10


def test_pillow_reads_the_picture_of_a_file_with_a_gain_map() -> None:
    """The files of these tests are sound for another reader."""
    with Image.open(io.BytesIO(GOOD)) as opened:
        assert opened.size == (64, 48)
    assert math.isclose(hdr.split(hdr.light(1, 48, 64), 1)[3], HIGH, abs_tol=1e-3)
