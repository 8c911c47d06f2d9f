"""What a picture file may make its reader do: texts and profiles are unpacked whole, and a little file can hold many.

The pixels' own bounds are those of width × height, which are told from the header before anything is decoded.
"""

import struct
import zlib
from collections.abc import Iterator

from server.errors import SourceUnreadable

MAX_OTHERS = 5000
"""Chunks of a PNG that hold no pixels. Programs write a few dozen."""
MAX_UNPACKED_BYTES = 16 << 20
"""Of all that is packed in it beside the pixels."""
_SIGNATURE_BYTES = 8
_PIXELS = (b"IDAT", b"fdAT", b"fcTL")


def check_png(data: bytes) -> None:
    """Raises SourceUnreadable for a file that is made to keep its reader busy."""
    place, chunks, others, left = _SIGNATURE_BYTES, 0, 0, MAX_UNPACKED_BYTES
    most = 20_000 + len(data) // 1024  # programs make chunks of 8 KiB and more
    while place + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        start, place = place + 8, place + 12 + length
        chunks, others = chunks + 1, others + (name not in _PIXELS)
        if chunks > most or others > MAX_OTHERS:
            raise SourceUnreadable("the PNG is cut into very many chunks; saved anew by any program it has fewer")
        if name == b"IEND":
            return
        if name in (b"zTXt", b"iTXt", b"iCCP"):
            for packed in _packed(name, data[start : start + length]):
                left -= _unpacked_size(packed, left)
            if left < 0:
                limit = MAX_UNPACKED_BYTES >> 20
                raise SourceUnreadable(f"the PNG's texts and profiles take more than {limit} MiB when unpacked")


def _packed(name: bytes, chunk: bytes) -> Iterator[bytes]:
    """What is compressed in a chunk that is no pixels (PNG, third edition, 11.3)."""
    if name in (b"zTXt", b"iCCP"):
        yield chunk.partition(b"\0")[2][1:]
    elif name == b"iTXt":
        rest = chunk.partition(b"\0")[2]
        if rest[:1] == b"\1":
            yield rest[2:].partition(b"\0")[2].partition(b"\0")[2]


def _unpacked_size(packed: bytes, most: int) -> int:
    """Up to one more than `most`. What is damaged ends where it is."""
    size, unpacker = 0, zlib.decompressobj()
    try:
        while packed and size <= most and not unpacker.eof:
            size += len(unpacker.decompress(packed, 1 << 18))
            packed = unpacker.unconsumed_tail
    except zlib.error:
        pass
    return size
