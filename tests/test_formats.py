"""The table of formats agrees with what the files themselves say."""

import io

import pytest
from PIL import Image

from server.formats import FORMATS, sniff


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_recognised_by_its_own_first_bytes(name: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3)).save(buffer, name)
    assert sniff(buffer.getvalue()) == FORMATS[name].mime


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (b"GIF89a", "image/gif"),
        (b"II*\0....", "image/tiff"),
        (b"MM\0*....", "image/tiff"),
        (b"\0\0\0\x1cftypavif", "image/avif"),
        (b"\0\0\0\x18ftypheic", "image/heic"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
    ],
)
def test_other_kinds_that_are_read(data: bytes, mime: str) -> None:
    assert sniff(data) == mime


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"BM and more: our libvips has no reader for it",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"\0\0\0\x18ftypmp42",
        b"just text",
    ],
)
def test_what_is_no_picture_is_not_recognised(data: bytes) -> None:
    assert sniff(data) is None


def test_a_format_is_found_under_its_own_name() -> None:
    for name, format_ in FORMATS.items():
        assert (format_.name, format_.mime, format_.suffix) == (name, f"image/{name}", f".{name}")


def test_quality_has_a_default_where_it_means_something() -> None:
    assert {name: bool(each.default_quality) for name, each in FORMATS.items()} == {
        "jpeg": True,
        "png": False,
        "webp": True,
    }
