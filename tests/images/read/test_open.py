"""Headers are read fast and with little memory, whatever size the file states."""

import io
import resource
import struct
import time
import zlib

import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from server.errors import SourceTooLarge, SourceUnreadable
from server.images.metadata import metadata
from server.images.metadata.exif import ORIENTATION, Exif, Value, serialise
from server.images.read.open import Header, open_picture, read_header
from tests.conftest import Picture
from tests.pictures import FILES, encoded, scene

MANY = 10**12


def claim(width: int, height: int) -> bytes:
    """A PNG of a few bytes that states so many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "tiff", "bmp", "avif"])
def test_a_header_tells_size_and_kind(picture: Picture, kind: str) -> None:
    assert read_header(picture(40, 30, "RGB", kind), MANY) == Header(40, 30, f"image/{kind}")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_after_rotation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "jpeg", exif=exif)
    upright = open_picture(buffer.getvalue(), MANY).autorot()
    size = read_header(buffer.getvalue(), MANY).size
    assert size == (upright.width, upright.height) == ((40, 30) if orientation < 5 else (30, 40))


def test_a_bomb_is_refused_before_anything_is_allocated() -> None:
    data = claim(100_000, 100_000)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.thread_time()
    with pytest.raises(
        SourceTooLarge, match="^the picture has 100000×100000 pixels; this server takes at most 100000000$"
    ):
        read_header(data, 100_000_000)
    assert time.thread_time() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib < 50 * 1024


def test_a_picture_of_exactly_the_limit_is_taken(picture: Picture) -> None:
    data = picture(40, 30)
    assert read_header(data, 1200).size == (40, 30)
    with pytest.raises(SourceTooLarge):
        read_header(data, 1199)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"This is text, whatever its name says.",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"%PDF-1.7\n",
        b"BM" + bytes(100),
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
        b"\xff\xd8\xff\xe0 and then something else",
        b"II*\0\xff\xff\xff\xff",
        b"RIFF\x10\0\0\0WEBPVP8 ",
    ],
)
def test_what_is_no_picture_is_unreadable(data: bytes) -> None:
    with pytest.raises(SourceUnreadable):
        read_header(data, MANY)


def test_a_truncated_picture_has_a_header_but_no_pixels(picture: Picture) -> None:
    whole = picture(400, 300, "RGB", "jpeg")
    part = whole[: len(whole) // 2]
    assert read_header(part, MANY).size == (400, 300)
    with pytest.raises((pyvips.Error, SourceUnreadable)):
        open_picture(part, MANY).numpy()
    assert open_picture(whole, MANY).numpy().shape[:2] == (300, 400)


def test_a_picture_of_many_channels_is_refused_before_it_is_decoded() -> None:
    image = pyvips.Image.black(50, 40, bands=200).cast("uchar")
    with pytest.raises(SourceUnreadable, match="200 channels"):
        read_header(image.tiffsave_buffer(compression="deflate"), 10**8)


@pytest.mark.parametrize("kind", ["bmp", "avif"])
def test_no_kind_is_decoded_beyond_the_limit(picture: Picture, kind: str) -> None:
    with pytest.raises(SourceTooLarge, match="40×30"):
        open_picture(picture(40, 30, kind=kind), 1199)
    with pytest.raises(SourceTooLarge, match="64×48"):
        open_picture((FILES / "turned.heic").read_bytes(), 1000)


def test_heic_is_turned_by_its_own_boxes_only() -> None:
    data = (FILES / "turned.heic").read_bytes()
    assert b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06" in data  # its EXIF says 6, which HEIF ignores
    image = open_picture(data, MANY)
    assert read_header(data, MANY) == Header(64, 48, "image/heic")
    assert (image.width, image.height) == (64, 48) and metadata.read(image).orientation == 1


def test_heic_of_ten_bits_is_not_cut_to_eight() -> None:
    image = open_picture((FILES / "deep.heic").read_bytes(), MANY)
    assert image.format == "ushort" and len(np.unique(image.numpy()[..., 0])) > 60


def test_grey_avif_is_grey_and_reaches_black_and_white() -> None:
    data = encoded(np.linspace(0, 255, 64 * 64).astype(np.uint8).reshape(64, 64, 1), "AVIF", quality=100)
    image = open_picture(data, MANY)
    assert image.bands == 1 and image.min() < 4 and image.max() > 251


def test_orientation_is_also_found_in_the_texts_of_png() -> None:
    block = serialise(Exif({ORIENTATION: Value(3, b"\x06\0")}))
    for text in (
        ("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n"),
        ("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="8"/>'),
    ):
        info = PngInfo()
        info.add_itxt(*text) if text[0].startswith("XML") else info.add_text(*text)
        assert read_header(encoded(scene(40, 30), "PNG", pnginfo=info), MANY).size == (30, 40)


def test_reasons_are_told_where_they_are_known() -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((9, 9), np.complex64))
    with pytest.raises(SourceUnreadable, match="TIFF with samples of this kind is not supported"):
        read_header(buffer.getvalue(), MANY)
    with pytest.raises(SourceUnreadable, match="JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF or HEIC"):
        read_header(b"\xff\x0a" + bytes(50), MANY)


@pytest.mark.parametrize("place", [176, 177, 178, 179])
def test_a_heic_with_names_in_no_encoding_is_refused_and_kills_nobody(place: int) -> None:
    data = bytearray((FILES / "turned.heic").read_bytes())
    assert bytes(data[176:180]) == b"Exif"  # the type of an item
    data[place] = 0xFF
    with pytest.raises(SourceUnreadable):
        read_header(bytes(data), MANY)


def test_an_error_in_no_encoding_spoils_no_later_one(picture: Picture) -> None:
    """The AVIF has a property whose name is not UTF-8; libvips copies it to its message."""
    for data in ((FILES / "bad_name.avif").read_bytes(), picture(40, 30, "RGB", "png")[:20]):
        with pytest.raises(SourceUnreadable, match="damaged|not supported"):
            open_picture(data, MANY)


def test_animated_avif_keeps_its_profile_and_exif() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    profile = profile[:16] + b"RGB " + profile[20:]
    exif = Image.Exif()
    exif[0x8298] = "Zoe"
    file = io.BytesIO()
    frames = [Image.new("RGB", (32, 24), colour) for colour in ("red", "blue")]
    frames[0].save(file, "AVIF", save_all=True, append_images=frames[1:], icc_profile=profile, exif=exif)
    image = open_picture(file.getvalue(), MANY)
    assert bytes(image.get("icc-profile-data")) == profile
    assert metadata.read(image).exif.image[0x8298].data.rstrip(b"\0") == b"Zoe"


@pytest.mark.parametrize("value", [0, 2**32 - 1])
def test_a_resolution_out_of_this_world_is_left_out(picture: Picture, value: int) -> None:
    rational = struct.pack("<II", value, 1)
    tags = Exif(image={0x011A: Value(5, rational), 0x011B: Value(5, rational)})
    image = pyvips.Image.new_from_buffer(picture(40, 30, "RGB", "webp"), "").copy()
    image.set_type(pyvips.GValue.blob_type, "exif-data", serialise(tags))
    found = metadata.read(image)
    assert found.resolution is None
