"""EXIF of the result: what must change is changed, and everything else stays the same bytes."""

import struct
from pathlib import Path

import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from server.images.metadata.exif import ARTIST, COPYRIGHT, MAX_BYTES, Exif, Value, append, parse, serialise
from server.images.metadata.placement import Placement
from tests.pictures import scene, to_vips


def camera() -> Exif:
    """EXIF as from a camera, in three directories."""
    photo = {0x829A: Value(5, struct.pack("<II", 1, 250)), 0xA002: Value(4, struct.pack("<I", 48))}
    gps = {1: Value(2, b"N\0"), 2: Value(5, struct.pack("<6I", 48, 1, 12, 1, 7, 2))}
    image = {0x010F: Value(2, b"Maker\0"), 0x0112: Value(3, b"\x06\0"), ARTIST: Value(2, "Zoë ©\0".encode())}
    return Exif(image | {COPYRIGHT: Value(2, b"\xa9 latin\0")}, photo, gps)


def by_pillow(block: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(block)
    return exif


def test_what_is_written_is_read_again() -> None:
    assert parse(serialise(camera())) == camera()


def test_others_read_what_is_written() -> None:
    exif = by_pillow(serialise(camera()))
    assert exif[0x010F] == "Maker" and exif[0x0112] == 6
    assert exif.get_ifd(0x8769)[0x829A] == 1 / 250
    assert exif.get_ifd(0x8825)[2] == (48.0, 12.0, 3.5)


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_are_read(order: str) -> None:
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    entries = struct.pack(order + "HHII", 0x0112, 3, 1, 0)[:8] + struct.pack(order + "HH", 8, 0)
    entries += struct.pack(order + "HHII", 0x011A, 5, 1, 50) + struct.pack(order + "HHII", 0x011B, 5, 1, 50)
    data = head + struct.pack(order + "H", 3) + entries + bytes(4) + struct.pack(order + "II", 300, 1)
    assert len(data) == 58
    exif = parse(data)
    assert exif.orientation == 8
    assert exif.image[0x011A] == exif.image[0x011B] == Value(5, struct.pack("<II", 300, 1))


def test_upright_drops_the_orientation_and_states_the_size() -> None:
    exif = by_pillow(serialise(camera().upright(Placement(6, (48, 32), (64, 96)))))
    assert 0x0112 not in exif
    photo = exif.get_ifd(0x8769)
    assert (photo[0xA002], photo[0xA003], photo[0x829A]) == (64, 96, 1 / 250)


def test_letters_beyond_ascii_stay_as_they_are() -> None:
    only = parse(serialise(camera().only(ARTIST, COPYRIGHT)))
    assert only.image == {ARTIST: Value(2, "Zoë ©\0".encode()), COPYRIGHT: Value(2, b"\xa9 latin\0")}
    assert not only.photo and not only.gps


def test_thumbnails_are_never_carried_on() -> None:
    block = bytearray(serialise(camera()).removeprefix(b"Exif\0\0"))
    (first,) = struct.unpack_from("<I", block, 4)
    (entries,) = struct.unpack_from("<H", block, first)
    struct.pack_into("<I", block, first + 2 + 12 * entries, len(block))  # the next directory: that of the thumbnail
    thumbnail = len(block) + 2 + 24 + 4
    block += struct.pack("<H", 2) + struct.pack("<HHIIHHII", 0x0201, 4, 1, thumbnail, 0x0202, 4, 1, 90) + bytes(4)
    block += b"THUMBNAIL" * 10
    assert b"THUMBNAIL" not in serialise(parse(bytes(block))) and parse(bytes(block)) == camera()


def test_a_maker_note_that_fits_no_jpeg_is_dropped_first() -> None:
    large = {0x927C: Value(7, bytes(50_000)), 0x829A: Value(5, struct.pack("<II", 1, 250))}
    exif = parse(serialise(Exif(camera().image, {**large, 0x9286: Value(7, bytes(20_000))})))
    assert 0x927C not in exif.photo and 0x9286 in exif.photo
    assert len(serialise(exif)) <= MAX_BYTES


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    for start in (b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0", b""):
        serialise(parse(start + data))


@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_file_gets_exif_and_stays_what_it_was(tmp_path: Path, big: bool) -> None:
    samples = scene(301, 200)
    path = tmp_path / "a.tiff"
    to_vips(samples).tiffsave(str(path), compression="deflate", bigtiff=big, xres=11.811, yres=11.811)
    append(path, camera().upright(Placement(1, (301, 200), (301, 200))))
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff == big
        page = file.pages[0]
        assert page.asarray().tobytes() == samples.tobytes()  # type: ignore[union-attr]
        tags = page.tags  # type: ignore[union-attr]
        assert tags["Make"].value == "Maker"
        assert tags["ExifTag"].value["ExposureTime"] == (1, 250)
        assert tags["GPSTag"].value["GPSLatitudeRef"] == "N"
    again = parse(path.read_bytes())
    assert again.photo == camera().upright(Placement(1, (301, 200), (301, 200))).photo and again.gps == camera().gps
    if not big:  # which Pillow does not read
        with Image.open(path) as image:
            assert image.getexif()[0x010F] == "Maker"


def test_a_thousand_tags_that_share_their_bytes_take_little() -> None:
    shared = struct.pack("<2sHIH", b"II", 42, 8, 5000)
    place = len(shared) + 5000 * 12 + 4
    entries = b"".join(struct.pack("<HHII", 0xA000 + number, 7, 50_000, place) for number in range(5000))
    exif = parse(b"Exif\0\0" + shared + entries + bytes(4) + bytes(50_000))
    assert sum(len(value.data) for value in exif.image.values()) < 4 * MAX_BYTES
    reader_only = struct.pack("<2sHIH", b"II", 42, 8, 1) + struct.pack("<HHII", 0x8769, 4, 1, 26) + bytes(4)
    photo = struct.pack("<H", 5000) + b"".join(
        struct.pack("<HHII", 0xA000 + number, 7, 50_000, 28 + 5000 * 12) for number in range(5000)
    )
    assert len(serialise(parse(reader_only + photo + bytes(60_000)))) <= MAX_BYTES
