"""The chunks of PNG files (PNG, third edition, W3C 2025, section 5) and of RIFF files, which WebP is (RFC 9649): the
only reader and the only writer of each."""

import struct
import zlib
from collections.abc import Iterator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 500_000
"""In one PNG. Programs make chunks of 8 KiB and more; a file with more chunks is made to keep its reader busy."""
_RIFF_HEADER_BYTES = 12


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the contents of each chunk in a PNG file, at most MAX_CHUNKS; the last one may end beyond
    the file."""
    place = len(PNG_SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if place + 8 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, place)
        yield name, place + 8, place + 8 + length
        place += 12 + length


def is_intact(data: bytes, start: int, end: int) -> bool:
    """The checksum behind the contents is that of the name and the contents."""
    return zlib.crc32(data[start - 4 : end]) == int.from_bytes(data[end : end + 4], "big")


def before_pixels(data: bytes) -> dict[bytes, bytes]:
    """The contents, by name, of the chunks before the pixels of a PNG file."""
    found: dict[bytes, bytes] = {}
    for name, start, end in png_chunks(data):
        if name == b"IDAT":
            break
        found.setdefault(name, data[start:end])
    return found


def riff_chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and contents of each chunk in a RIFF file."""
    place = _RIFF_HEADER_BYTES
    while place < len(data):
        name, length = struct.unpack_from("<4sI", data, place)
        yield name, data[place + 8 : place + 8 + length]
        place += 8 + length + length % 2
