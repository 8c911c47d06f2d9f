"""The chunks of a PNG file (PNG, third edition, W3C 2025, section 5), and one that only lacks its end."""

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST = 500_000
"""Programs make them of 8 KiB and more. A file that has more is made to keep its reader busy."""
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By colour type."""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced picture: first column and row, steps across and down."""
_PART = 1 << 20


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def places(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Names, and where their contents begin and end; the last one may end beyond the file."""
    place = len(SIGNATURE)
    for _ in range(_MOST):
        if place + 8 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, place)
        yield name, place + 8, place + 8 + length
        place += 12 + length


def lacks_its_end(data: bytes) -> bool:
    """It ends in the last chunk of its pixels: all of these may be there nevertheless."""
    last = None
    for name, _, end in places(data):
        last = (name, end + 4)
    return last is not None and last[0] == b"IDAT" and last[1] > len(data)


def ended(data: bytes) -> bytes | None:
    """With the end that it lacks; None where pixels are missing too. Takes the time that inflating does."""
    parts = [data[start:end] for name, start, end in places(data) if name == b"IDAT"]
    before = next((start - 8 for name, start, _ in places(data) if name == b"IDAT"), 0)
    if before < 33 or data[28] > 1 or data[25] not in _SAMPLES:
        return None
    inflater, checksum, length = zlib.decompressobj(), 1, 0
    try:
        for part in parts:
            while part and not inflater.eof:
                raw = inflater.decompress(part, _PART)
                checksum, length, part = zlib.adler32(raw, checksum), length + len(raw), inflater.unconsumed_tail
        if not inflater.eof:
            raw = inflater.flush()
            checksum, length = zlib.adler32(raw, checksum), length + len(raw)
    except zlib.error:
        return None
    if length < _raw_bytes(data):
        return None
    pixels = b"".join(parts)
    if not inflater.eof:
        pixels = _with_checksum(pixels, checksum)
    return data[:before] + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _with_checksum(pixels: bytes, checksum: int) -> bytes:
    """The stream of which up to four bytes are missing: what is there of its checksum stays where it is right."""
    whole = struct.pack(">I", checksum)
    return next(pixels + whole[there:] for there in (3, 2, 1, 0) if pixels.endswith(whole[:there]))


def _raw_bytes(data: bytes) -> int:
    """Of all rows, each with the byte that says how it is filtered."""
    width, height, depth, kind = struct.unpack_from(">IIBB", data, 16)
    bits = depth * _SAMPLES[kind]
    if not data[28]:
        return int(height * (1 + (width * bits + 7) // 8))
    total: int = 0
    for left, top, across, down in _PASSES:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total
