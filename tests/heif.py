"""HEIF files for tests, put together from the coded pictures of others (ISO/IEC 14496-12 and 23008-12)."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from server.images.read import heif

Reference = tuple[bytes, int, Sequence[int]]
"""The kind, the item that refers, and the items that it refers to."""


@dataclass(frozen=True)
class Item:
    """One item of a file; its number is its place in the list, from 1."""

    kind: bytes
    data: bytes
    properties: list[bytes] = field(default_factory=list)
    """Whole boxes."""
    hidden: bool = False
    more: bytes = b""
    """After its kind and its empty name: the content type of kind "mime"."""


def box(name: bytes, *contents: bytes) -> bytes:
    inside = b"".join(contents)
    return struct.pack(">I", 8 + len(inside)) + name + inside


def full(name: bytes, version: int, flags: int, *contents: bytes) -> bytes:
    return box(name, struct.pack(">I", version << 24 | flags), *contents)


def picture(file: bytes, *properties: bytes, hidden: bool = False) -> Item:
    """The first item of a file that libheif or libavif has written, with more properties."""
    (meta,) = heif.find(file, b"meta")
    ((iprp, end),) = heif.find(file, b"iprp", meta[0] + 4, meta[1])
    ((ipco, stop),) = heif.find(file, b"ipco", iprp, end)
    own = [file[start - 8 : last] for start, last in heif.find(file, None, ipco, stop)]
    kind = b"hvc1" if b"hvcC" in file else b"av01"
    return Item(kind, heif.Items(file).content(1), own + list(properties), hidden)


def written(
    brand: bytes, items: Sequence[Item], references: Sequence[Reference] = (), *, primary: int = 1, idat: bool = False
) -> bytes:
    """`idat`: items that are not coded pictures lie within the box `meta`."""
    properties = list(dict.fromkeys(each for item in items for each in item.properties))
    associations = b"".join(
        struct.pack(">HB", number, len(item.properties))
        + bytes(
            0x80 * (each[4:8] in (b"hvcC", b"av1C", b"irot")) | properties.index(each) + 1 for each in item.properties
        )
        for number, item in enumerate(items, 1)
    )
    infos = b"".join(
        full(b"infe", 2, item.hidden, struct.pack(">HH", number, 0), item.kind, b"\0", item.more)
        for number, item in enumerate(items, 1)
    )
    refers = b"".join(
        box(kind, struct.pack(">HH", owner, len(others)), *(struct.pack(">H", each) for each in others))
        for kind, owner, others in references
    )
    inside = [idat and item.kind not in (b"hvc1", b"av01") for item in items]

    within_meta = b"".join(item.data for item, within in zip(items, inside, strict=True) if within)

    def meta(start: int) -> bytes:
        places, offset = [], [start, 0]
        for item, within in zip(items, inside, strict=True):
            places.append(offset[within])
            offset[within] += len(item.data)
        locations = b"".join(
            struct.pack(">HHHHII", number, within, 0, 1, place, len(item.data))
            for number, (item, within, place) in enumerate(zip(items, inside, places, strict=True), 1)
        )
        return full(
            b"meta", 0, 0,
            full(b"hdlr", 0, 0, struct.pack(">I4s13x", 0, b"pict")),
            full(b"pitm", 0, 0, struct.pack(">H", primary)),
            full(b"iloc", 1, 0, struct.pack(">HH", 0x4400, len(items)), locations),
            full(b"iinf", 0, 0, struct.pack(">H", len(items)), infos),
            *([full(b"iref", 0, 0, refers)] if references else []),
            box(b"iprp", box(b"ipco", *properties), full(b"ipma", 0, 0, struct.pack(">I", len(items)), associations)),
            *([box(b"idat", within_meta)] if within_meta else []),
        )  # fmt: skip

    first = box(b"ftyp", brand, bytes(4), b"mif1", brand, b"tmap")
    return (
        first
        + meta(len(first) + len(meta(0)) + 8)
        + box(b"mdat", *(item.data for item, within in zip(items, inside, strict=True) if not within))
    )
