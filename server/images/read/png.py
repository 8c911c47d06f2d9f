"""What a PNG file is before libvips reads it: whether it is safe to unpack, and what it lacks at its end.

Texts and profiles are unpacked whole, and a small file can hold many of them. The pixels are limited by width × height,
which the header states before anything is decoded.
"""

import struct
import zlib
from collections.abc import Iterator

from server.errors import SourceUnreadable
from server.images.chunks import MAX_CHUNKS, png_chunk, png_chunks

MAX_OTHERS = 5000
"""Chunks that hold no pixels. Programs write a few dozen."""
MAX_UNPACKED_BYTES = 16 << 20
"""Of all that is compressed beside the pixels."""
_PIXELS = (b"IDAT", b"fdAT", b"fcTL")
_COMPRESSIBLE = (b"zTXt", b"iTXt", b"iCCP")
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Per pixel, by colour type."""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced picture: first column, first row, steps across and down."""
_PART = 1 << 20


def check(data: bytes) -> None:
    """Raises SourceUnreadable for a file that is made to keep its reader busy."""
    others, left = 0, MAX_UNPACKED_BYTES
    most = min(20_000 + len(data) // 1024, MAX_CHUNKS - 1)  # programs make chunks of 8 KiB and more
    for number, (name, start, end) in enumerate(png_chunks(data), start=1):
        others += name not in _PIXELS
        if number > most or others > MAX_OTHERS:
            raise SourceUnreadable("the PNG is cut into very many chunks; saved anew by any program it has fewer")
        if name == b"IEND":
            return
        if name in _COMPRESSIBLE:
            for packed in _packed(name, data[start:end]):
                left -= _unpacked_size(packed, left)
            if left < 0:
                limit = MAX_UNPACKED_BYTES >> 20
                raise SourceUnreadable(f"the PNG's texts and profiles take more than {limit} MiB when unpacked")


def _packed(name: bytes, chunk: bytes) -> Iterator[bytes]:
    """What is compressed in a text or a profile (PNG, third edition, section 11.3)."""
    rest = chunk.partition(b"\0")[2]
    if name != b"iTXt":
        yield rest[1:]
    elif rest[:1] == b"\1":
        yield rest[2:].partition(b"\0")[2].partition(b"\0")[2]


def _unpacked_size(packed: bytes, most: int) -> int:
    """In bytes, up to a little more than `most`. Damaged data end where the damage is."""
    size, unpacker = 0, zlib.decompressobj()
    try:
        while packed and size <= most and not unpacker.eof:
            size += len(unpacker.decompress(packed, 1 << 18))
            packed = unpacker.unconsumed_tail
    except zlib.error:
        pass
    return size


# --- files that lack only their end ---


def lacks_its_end(data: bytes) -> bool:
    """The file ends within the last chunk of its pixels. All pixels may be there nevertheless: see `completed`."""
    last = None
    for name, _, end in png_chunks(data):
        last = (name, end + 4)
    return last is not None and last[0] == b"IDAT" and last[1] > len(data)


def completed(data: bytes) -> bytes | None:
    """The file with the end that it lacks; None where pixels are missing too. Takes as long as inflating the pixels."""
    parts = [data[start:end] for name, start, end in png_chunks(data) if name == b"IDAT"]
    before = next((start - 8 for name, start, _ in png_chunks(data) if name == b"IDAT"), 0)
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
    return data[:before] + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def _with_checksum(pixels: bytes, checksum: int) -> bytes:
    """A zlib stream without up to four of its last bytes → the stream with its whole checksum."""
    whole = struct.pack(">I", checksum)
    return next(pixels + whole[there:] for there in (3, 2, 1, 0) if pixels.endswith(whole[:there]))


def _raw_bytes(data: bytes) -> int:
    """Of all rows, each with the byte that names its filter."""
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
