"""Add properties to the main picture of a HEIF file that libheif has written (ISO/IEC 14496-12, section 8.11, and
23008-12, section 9.3)."""

import struct
from collections.abc import Sequence

from server.images.read import heif

_FULL = 4
"""Bytes of version and flags, with which a "full box" begins."""
_COLOURS = b"colrnclx"


def added(data: bytes, boxes: Sequence[bytes]) -> bytes:
    """The file with these boxes among its properties, which belong to its main picture and need not be understood by
    readers. A box `colr` takes the place of one that is there."""
    place = data.find(_COLOURS)
    if place >= 4 and boxes[0][4:12] == _COLOURS:  # of the same length
        colours, *boxes = boxes
        data = data[: place - 4] + colours + data[place - 4 + len(colours) :]
        if not boxes:
            return data
    (meta,) = heif.find(data, b"meta")
    inside = meta[0] + _FULL, meta[1]
    (iprp,) = heif.find(data, b"iprp", *inside)
    (ipco,) = heif.find(data, b"ipco", *iprp)
    (ipma,) = heif.find(data, b"ipma", *iprp)
    (iloc,) = heif.find(data, b"iloc", *inside)
    new = b"".join(boxes)
    first = sum(1 for _ in heif.find(data, None, *ipco)) + 1
    count, end = _associations(data, ipma[0], heif.primary(data, *inside))
    file = bytearray(data)
    for box, more in (
        (meta, len(new) + len(boxes)),
        (iprp, len(new) + len(boxes)),
        (ipco, len(new)),
        (ipma, len(boxes)),
    ):
        place = box[0] - 8
        struct.pack_into(">I", file, place, struct.unpack_from(">I", file, place)[0] + more)
    _move(file, iloc[0], len(new) + len(boxes))
    file[count] += len(boxes)
    file[end:end] = bytes(range(first, first + len(boxes)))  # from the back, so that places in front stay
    file[ipco[1] : ipco[1]] = new
    return bytes(file)


def _associations(data: bytes, start: int, item: int) -> tuple[int, int]:
    """Where the number of an item's properties is, and where their list ends. libheif writes a byte for each."""
    assert data[start : start + _FULL] == bytes(_FULL)
    place = start + _FULL + 4
    for _ in range(int.from_bytes(data[place - 4 : place], "big")):
        number, count = struct.unpack_from(">HB", data, place)
        end = place + 3 + count
        if number == item:
            return place + 2, end
        place = end
    raise AssertionError("the main picture has no properties")


def _move(file: bytearray, start: int, more: int) -> None:
    """The items' data lie so many bytes further behind. libheif gives each item a base offset of four bytes."""
    version, sizes = file[start], file[start + 4 : start + 6]
    (count,) = struct.unpack_from(">H", file, start + 6)
    assert version in (0, 1) and sizes[0] == 0x44 and sizes[1] >> 4 == 4
    place = start + 8
    for _ in range(count):
        place += 4 + (2 if version else 0)
        method = file[place - 3] & 15 if version else 0
        base, extents = struct.unpack_from(">IH", file, place)
        if method == 0:  # in the file, and not within the box `meta`
            struct.pack_into(">I", file, place, base + more)
        place += 6 + 8 * extents
