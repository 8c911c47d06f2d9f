"""Metadata in each format, with each policy."""

import io
import struct
from pathlib import Path
from typing import Any

import pytest
import pyvips
from PIL import Image, IptcImagePlugin

from server.images.metadata import exif
from server.images.metadata.exif import ARTIST, COPYRIGHT, Exif, Value
from server.images.metadata.icc import DISPLAY_P3, rgb_profile
from server.images.metadata.metadata import Metadata, attach_metadata, photoshop_block, read
from server.images.read.open import open_picture
from server.images.write.save import save
from server.job.formats import FORMATS
from server.job.job import Metadata as Policy
from server.job.job import Params
from tests.pictures import encoded, scene, to_vips

AUTHOR = "Zoë"
IIM = b"\x1c\x02\x50\x00\x03Ann" + b"\x1c\x02\x74\x00\x05(c) A"
XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" tiff:Orientation="6" xmp:Rating="5">
<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">rights</rdf:li></rdf:Alt></dc:rights></rdf:Description></rdf:RDF>
</x:xmpmeta>"""
PROFILE = rgb_profile(DISPLAY_P3)
HOLDING = [name for name, form in FORMATS.items() if form.profile]
"""The formats that hold metadata."""
EXIF = Exif(
    {
        0x010F: Value(2, b"Maker\0"),
        0x0112: Value(3, b"\6\0"),
        ARTIST: Value(2, f"{AUTHOR}\0".encode()),
        COPYRIGHT: Value(2, b"(c) Z\0"),
    },
    {0x829A: Value(5, struct.pack("<II", 1, 250)), 0xA002: Value(4, b"\x30\0\0\0"), 0xA003: Value(4, b"\x20\0\0\0")},
    {1: Value(2, b"N\0")},
)


def source() -> pyvips.Image:
    """A JPEG with all kinds of metadata."""
    data = encoded(scene(), "JPEG", exif=exif.serialise(EXIF), xmp=XMP, icc_profile=PROFILE, dpi=(300, 150), quality=95)
    block = photoshop_block(IIM)
    segment = b"\xff\xed" + struct.pack(">H", len(block) + 2) + block
    return pyvips.Image.jpegload_buffer(data[:2] + segment + data[2:])


class Written:
    """A result, as Pillow sees it."""

    def __init__(self, path: Path) -> None:
        with Image.open(path) as image:
            image.load()
            self.size = image.size
            self.info: dict[Any, Any] = image.info
            self.exif = image.getexif()
            self.photo = self.exif.get_ifd(0x8769)
            self.thumbnail = self.exif.get_ifd(1)
            iptc = IptcImagePlugin.getiptcinfo(image) if path.suffix in (".jpeg", ".tiff") else None
        self.iptc = iptc or {}
        xmp = self.info.get("xmp") or self.info.get("XML:com.adobe.xmp") or b""
        self.xmp: bytes = xmp.encode() if isinstance(xmp, str) else xmp


def write(tmp_path: Path, format_: str, policy: Policy) -> Written:
    upright = to_vips(scene(64, 96))
    path = tmp_path / f"result{FORMATS[format_].suffix}"
    save(attach_metadata(upright, read(source()), policy), path, Params(scale=1, format=format_))  # type: ignore[arg-type]
    return Written(path)


def test_everything_is_read() -> None:
    found = read(source())
    assert found.icc == PROFILE and found.xmp == XMP and found.iptc == IIM
    assert found.exif.image[ARTIST] == EXIF.image[ARTIST] and found.exif.photo == EXIF.photo
    assert found.pixels_per_mm == pytest.approx((300 / 25.4, 150 / 25.4), abs=0.01)
    assert found.orientation == 6


@pytest.mark.parametrize("format_", HOLDING)
def test_keep_keeps_all_but_what_was_the_old_pictures(tmp_path: Path, format_: str) -> None:
    written = write(tmp_path, format_, "keep")
    assert written.exif[0x010F] == "Maker" and written.photo[0x829A] == pytest.approx(1 / 250)
    assert written.exif.get(0x0112, 1) == 1 and not written.thumbnail
    assert (written.photo[0xA002], written.photo[0xA003]) == written.size == (64, 96)
    assert written.exif.get_ifd(0x8825)[1] == "N"
    assert written.xmp.replace(b'"1"', b'"6"') == XMP
    assert written.info["icc_profile"] == PROFILE
    assert bool(written.iptc) == (format_ in ("jpeg", "tiff"))  # the others have no place for it
    if format_ in ("jpeg", "tiff"):
        assert written.iptc[2, 80] == b"Ann"


@pytest.mark.parametrize("format_", HOLDING)
def test_letters_beyond_ascii_survive(tmp_path: Path, format_: str) -> None:
    write(tmp_path, format_, "keep")
    assert f"{AUTHOR}\0".encode() in (tmp_path / f"result{FORMATS[format_].suffix}").read_bytes()


@pytest.mark.parametrize("format_", HOLDING)
def test_resolution_is_kept_and_turned_with_the_picture(tmp_path: Path, format_: str) -> None:
    written = write(tmp_path, format_, "keep")
    known = written.info.get("jfif_density" if format_ == "jpeg" else "dpi")
    across, down = known or (written.exif[0x011A], written.exif[0x011B])
    assert (float(across), float(down)) == pytest.approx((150, 300), abs=0.5)


@pytest.mark.parametrize("format_", HOLDING)
def test_copyright_keeps_who_made_it_and_no_more(tmp_path: Path, format_: str) -> None:
    written = write(tmp_path, format_, "copyright")
    assert written.exif[COPYRIGHT] == "(c) Z" and ARTIST in written.exif
    assert 0x010F not in written.exif and 0x829A not in written.photo and not written.exif.get_ifd(0x8825)
    assert b"rights" in written.xmp and b"Rating" not in written.xmp
    assert written.info["icc_profile"] == PROFILE and not written.iptc


@pytest.mark.parametrize("format_", HOLDING)
def test_strip_leaves_the_profile_only(tmp_path: Path, format_: str) -> None:
    written = write(tmp_path, format_, "strip")
    assert "exif" not in written.info and not written.photo and not written.xmp and not written.iptc
    assert not {0x010F, ARTIST, COPYRIGHT} & set(written.exif)
    assert written.info["icc_profile"] == PROFILE
    assert written.info.get("dpi", (72, 72)) == pytest.approx((72, 72), abs=0.1)


@pytest.mark.parametrize("format_", FORMATS)
def test_where_there_was_nothing_nothing_is_made_up(tmp_path: Path, format_: str) -> None:
    path = tmp_path / f"a{FORMATS[format_].suffix}"
    save(attach_metadata(to_vips(scene()), Metadata()), path, Params(scale=1, format=format_))  # type: ignore[arg-type]
    written = Written(path)
    assert "exif" not in written.info and not written.xmp and not written.info.get("icc_profile")


def test_webp_and_avif_have_their_resolution_in_exif() -> None:
    tags = Exif({0x011A: Value(5, struct.pack("<II", 200, 1)), 0x011B: Value(5, struct.pack("<II", 200, 1))})
    for kind in ("WEBP", "AVIF"):
        image = pyvips.Image.new_from_buffer(encoded(scene(), kind, exif=exif.serialise(tags)), "")
        assert read(image).pixels_per_mm == pytest.approx((200 / 25.4, 200 / 25.4))


def test_a_resolution_that_is_none_is_none() -> None:
    for nonsense in (0.0, 1.0):
        assert read(to_vips(scene()).copy(xres=nonsense, yres=nonsense)).resolution is None


@pytest.mark.parametrize(
    "block",
    [b"", b"Photoshop 3.0\0", b"Photoshop 3.0\x008BIM", b"Photoshop 3.0\x008BIM\4\4", b"\0\0\0", photoshop_block(b"")],
)
def test_broken_iptc_is_none(block: bytes) -> None:
    image = to_vips(scene()).copy()
    image.set_type(pyvips.GValue.blob_type, "iptc-data", block)
    assert read(image).iptc is None


def test_iptc_is_found_among_other_blocks() -> None:
    other = b"8BIM" + struct.pack(">H", 0x03ED) + b"\3abc" + struct.pack(">I", 3) + b"xyz\0"
    image = to_vips(scene()).copy()
    block = photoshop_block(IIM)
    image.set_type(pyvips.GValue.blob_type, "iptc-data", block[:14] + other + block[14:])
    assert read(image).iptc == IIM


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_metadata_of_every_kind_of_file_is_read(kind: str) -> None:
    buffer = io.BytesIO()
    options: dict[str, Any] = (
        {"exif": exif.serialise(EXIF.only(ARTIST))} if kind != "TIFF" else {"tiffinfo": {315: "Ann"}}
    )
    Image.fromarray(scene()).save(buffer, kind, icc_profile=PROFILE, **options)
    found = read(open_picture(buffer.getvalue(), 10**6))
    assert found.icc == PROFILE and found.exif.image[ARTIST].data.rstrip(b"\0") in (b"Ann", AUTHOR.encode())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("type_", [1, 4, 7])
def test_iptc_of_tiff_is_read_whatever_its_type(order: str, type_: int) -> None:
    iim = IIM + bytes(-len(IIM) % 4)
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    entry = struct.pack(order + "HHII", 0x83BB, type_, len(iim) // (4 if type_ == 4 else 1), 26)
    assert exif.iptc_of_tiff(head + struct.pack(order + "H", 1) + entry + bytes(4) + iim) == iim
