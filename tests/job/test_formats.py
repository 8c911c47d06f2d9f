"""The table of formats agrees with files."""

import io

import pytest
from PIL import Image

from server.errors import ResultImpossible
from server.images.read.sniff import sniff
from server.job.formats import FORMATS, check_fits, check_frames


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_recognised_by_its_own_first_bytes(name: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3)).save(buffer, name)
    assert sniff(buffer.getvalue()[:32]) == FORMATS[name].mime


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (b"GIF89a", "image/gif"),
        (b"II*\0....", "image/tiff"),
        (b"MM\0*....", "image/tiff"),
        (b"II+\0....", "image/tiff"),
        (b"\0\0\0\x1cftypavif", "image/avif"),
        (b"\0\0\0\x1cftypavis", "image/avif"),
        (b"\0\0\0\x18ftypheic", "image/heic"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "image/heic"),
        (b"\0\0\0\x20ftypmif1\0\0\0\0mif1miafavif", "image/avif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"BM" + bytes(12) + b"\x28\0\0\0", "image/bmp"),
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
        b"BM and more: a text",
        b"BM" + bytes(100),
        b"GIF8 and no version",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"\0\0\0\x18ftypmp42",
        b"\0\0\0\x18ftypmif1\0\0\0\0mif1miaf",
        b"\xff\x0a",
        b"just text",
    ],
)
def test_what_is_no_picture_is_not_recognised(data: bytes) -> None:
    assert sniff(data) is None


def test_a_format_is_found_under_its_own_name() -> None:
    for name, format_ in FORMATS.items():
        assert (format_.name, format_.mime, format_.suffix) == (name, f"image/{name}", f".{name}")


def test_quality_has_a_default_where_it_means_something() -> None:
    assert {name for name, each in FORMATS.items() if each.default_quality} == {"jpeg", "webp", "avif"}


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("jpeg", (65_501, 1), "jpeg can't hold 65501×1: its longest side is 65500 pixels; use png or tiff"),
        ("webp", (1, 16_384), "use jpeg, png, avif or tiff"),
        ("avif", (16_384, 16_384), "would take too much memory: at most 45000000 pixels; use jpeg, png or tiff"),
        ("png", (1_000_001, 1), "longest side is 1000000 pixels$"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_with_advice(name: str, size: tuple[int, int], words: str) -> None:
    with pytest.raises(ResultImpossible, match=words):
        check_fits(size, FORMATS[name])


def test_limits_depend_on_how_it_is_encoded() -> None:
    size = (10_000, 10_000)
    check_fits(size, FORMATS["webp"])
    with pytest.raises(ResultImpossible, match="lossless webp of 10000×10000 .*; use png or tiff$"):
        check_fits(size, FORMATS["webp"], lossless=True)
    check_fits(size, FORMATS["jpeg"], progressive=True)
    with pytest.raises(ResultImpossible, match="progressive") as raised:
        check_fits((12_000, 12_000), FORMATS["jpeg"], progressive=True)
    assert raised.value.field == "progressive"


@pytest.mark.parametrize("name", ["jpeg", "png", "tiff"])
def test_what_is_written_row_by_row_has_no_limit_but_its_sides(name: str) -> None:
    check_fits((FORMATS[name].max_side, FORMATS[name].max_side), FORMATS[name], lossless=name != "jpeg")


def test_formats_without_animation_name_those_that_have_it() -> None:
    check_frames(9, (4000, 3000), FORMATS["webp"])
    for name in ("jpeg", "avif", "tiff"):
        with pytest.raises(ResultImpossible, match=f"{name} can't hold .* this one has 9 frames; use png,"):
            check_frames(9, (40, 30), FORMATS[name])
    with pytest.raises(ResultImpossible, match="8200×5600 would take too much memory"):
        check_frames(9, (8200, 5600), FORMATS["gif"])
