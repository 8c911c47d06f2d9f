"""Gain maps are found by what is in the file; what can't be used is no gain map, whatever the file says of it."""

import io
import resource

import pytest
from PIL import Image

from server.images.read import gain_map, jpeg
from server.images.read.gain_map import GainMap
from server.images.read.open import read_header
from tests import hdr
from tests.pictures import encoded, noise

PICTURE = hdr.light(1, 32, 48)
PLAIN = encoded(noise(32, 48, 3), "JPEG")
ISO, GOOGLE = hdr.by_libultrahdr(PICTURE), hdr.by_hand(PICTURE)
APPLE = hdr.by_hand(PICTURE, apple=True)
VERSION = b"urn:iso:std:iso:ts:21496:-1\0"


def found(data: bytes) -> GainMap | None:
    header = read_header(data, 10**9)
    beside = gain_map.find(data, jpeg.look(data), header.size)
    assert (header.hdr == "gain map") == (beside is not None)
    return beside


def start(data: bytes = ISO) -> int:
    """Where its gain map begins."""
    return jpeg.look(data).end


@pytest.mark.parametrize(("data", "in_xmp"), [(ISO, False), (GOOGLE, True), (APPLE, False)])
def test_each_form_is_found_with_its_metadata(data: bytes, in_xmp: bool) -> None:
    beside = found(data)
    assert beside is not None and beside.file == data[start(data) :] and beside.in_xmp == in_xmp
    assert (beside.stops is None) == (data is APPLE) and (beside.stops is None or 1 < beside.stops < 7)
    assert (VERSION in beside.announced) == (data is ISO) and b"MPF\0" not in beside.metadata
    assert beside.open().numpy().size > 0


def test_offsets_and_lengths_of_the_file_do_not_count() -> None:
    place = ISO.index(b"MPF\0") + 8
    lies = ISO[:place] + b"\xff" * 74 + ISO[place + 74 :]
    assert found(lies) == found(ISO)
    length = GOOGLE.index(b'Item:Length="') + 13
    assert found(GOOGLE[:length] + b"9" + GOOGLE[length + 1 :]) == found(GOOGLE)
    for between in (bytes(64), PLAIN):  # padding; a preview before the gain map
        assert found(ISO[: start()] + between + ISO[start() :]) == found(ISO)
    assert found(ISO + b"\0\0\0\x18ftypmp42" + bytes(10_000)) == found(ISO)  # the video of a motion photo


def with_metadata(picture: Image.Image) -> bytes:
    """A picture with the metadata of a gain map."""
    beside, buffer = found(ISO), io.BytesIO()
    assert beside is not None
    picture.save(buffer, "JPEG")
    return buffer.getvalue()[:2] + beside.metadata + buffer.getvalue()[2:]


NUMBERS = ISO.index(VERSION, start()) + len(VERSION)
"""Where the numbers of the gain map are: versions, flags, then pairs of four bytes."""
UNUSABLE = {
    "missing": ISO[: start()],
    "cut in its header": ISO[: start() + 40],
    "cut in its pixels": ISO[:-20],
    "a denominator of 0": ISO[: NUMBERS + 9] + bytes(4) + ISO[NUMBERS + 13 :],
    "three channels announced, one there": ISO[: NUMBERS + 4] + b"\x80" + ISO[NUMBERS + 5 :],
    "a version alone": ISO[: start()] + PLAIN[:2] + jpeg.segment(0xE2, VERSION + bytes(4)) + PLAIN[2:],
    "no metadata": ISO[: start()] + PLAIN,
    "larger than the picture": ISO[: start()] + with_metadata(Image.new("L", (49, 32))),
    "longer than the picture": ISO[: start()] + with_metadata(Image.new("L", (1, 1500))),
    "very large": ISO[: start()] + with_metadata(Image.new("L", (9000, 9000))),
    "CMYK": ISO[: start()] + with_metadata(Image.new("CMYK", (8, 8))),
    "not a number": GOOGLE.replace(b'HDRCapacityMax="', b'HDRCapacityMax="e'),
    "infinite": GOOGLE.replace(b'HDRCapacityMax="', b'HDRCapacityMax="9e999'),
    "behind many pictures": ISO[: start()] + PLAIN * 9 + ISO[start() :],
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_what_can_not_be_used_is_no_gain_map_and_costs_no_memory(what: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert found(UNUSABLE[what]) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 * 1024


def test_any_single_wrong_byte_is_read_or_not_a_gain_map() -> None:
    for place in range(start(), len(ISO), 7):
        wrong = bytearray(ISO)
        wrong[place] ^= 0xFF
        found(bytes(wrong))
