"""Small files that would keep their reader busy are refused; files of real programs are not."""

import io
import zlib

import pytest
from PIL import Image, PngImagePlugin

from server.errors import SourceUnreadable
from server.images.chunks import png_chunk as chunk
from server.images.read.open import read_header
from server.images.read.png import MAX_OTHERS, MAX_UNPACKED_BYTES
from tests.conftest import draw

LARGE = zlib.compress(bytes(50_000_000), 9)


def with_chunks(*chunks: bytes) -> bytes:
    """A valid PNG with these chunks between its header and its pixels."""
    data, place = draw(64, 48), 8 + 25
    return data[:place] + b"".join(chunks) + data[place:]


@pytest.mark.parametrize(
    "data",
    [
        with_chunks(*[chunk(b"zTXt", b"key%d\0\0" % number + LARGE) for number in range(50)]),
        with_chunks(chunk(b"iTXt", b"key\0\1\0\0\0" + LARGE)),
        with_chunks(chunk(b"iCCP", b"name\0\0" + LARGE)),
        with_chunks(*[chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(100_000)))] * 200),
    ],
    ids=["50 zTXt of 50 MB", "an iTXt of 50 MB", "a profile of 50 MB", "200 zTXt of 100 kB"],
)
def test_what_is_packed_beside_the_pixels_has_a_bound(data: bytes) -> None:
    with pytest.raises(SourceUnreadable, match="texts and profiles take more than 16 MiB when unpacked"):
        read_header(data, 10**8)


@pytest.mark.parametrize(
    "data",
    [
        with_chunks(*[chunk(b"tEXt", b"k\0x")] * (MAX_OTHERS + 1)),
        with_chunks(*[chunk(b"abCd", b"")] * 500_000),
        with_chunks(*[chunk(b"tRNS", b"\0" * 6)] * 100_000),
        with_chunks(*[chunk(b"IDAT", b"")] * 30_000),
    ],
    ids=["very many texts", "500,000 chunks", "100,000 of transparency", "very many without pixels"],
)
def test_chunks_have_a_bound(data: bytes) -> None:
    with pytest.raises(SourceUnreadable, match="cut into very many chunks"):
        read_header(data, 10**8)


def test_texts_of_real_programs_are_read() -> None:
    texts = PngImagePlugin.PngInfo()
    for number in range(100):
        texts.add_text(f"key {number}", "workflow " * 5000, zip=number % 2 == 0)
        texts.add_itxt(f"other {number}", "ä" * 20_000, zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, "PNG", pnginfo=texts)
    assert MAX_UNPACKED_BYTES > 100 * 45_000 + 100 * 40_000
    assert read_header(buffer.getvalue(), 10**8).size == (64, 48)


def test_damaged_texts_are_no_reason_to_refuse_a_picture() -> None:
    damaged = (b"zTXt", b"key\0\0nothing"), (b"zTXt", b"no end"), (b"iTXt", b"key\0\1\0"), (b"iCCP", b"")
    assert read_header(with_chunks(*[chunk(*each) for each in damaged]), 10**8).size == (64, 48)
