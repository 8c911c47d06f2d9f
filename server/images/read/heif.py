"""The boxes of a HEIF file (ISO/IEC 14496-12 and 23008-12) that state its contents."""

from collections.abc import Iterator
from functools import cached_property

CODECS = {
    "hvc1": "image/heic",
    "hev1": "image/heic",
    "lhv1": "image/heic",
    "av01": "image/avif",
}
"""Supported types of coded items and of samples in tracks."""
OTHER_CODECS = {
    "avc1": "H.264",
    "vvc1": "H.266 (VVC)",
    "evc1": "EVC",
    "j2k1": "JPEG 2000",
    "jpeg": "JPEG",
    "mjpg": "JPEG",
    "unci": "uncompressed pictures",
    "mski": "uncompressed masks",
    "jxl ": "JPEG XL",
}
"""Types that are not supported."""
_BRANDS = {
    "avif": "image/avif",
    "avis": "image/avif",
    "heic": "image/heic",
    "heix": "image/heic",
    "heim": "image/heic",
    "heis": "image/heic",
    "hevc": "image/heic",
    "hevx": "image/heic",
    "hevm": "image/heic",
    "hevs": "image/heic",
}
"""Brands that imply a codec. Generic brands (mif1, msf1, miaf, …) only say that the file is HEIF."""
_GENERIC = {"mif1", "mif2", "mif3", "msf1", "miaf", "unif", "pict", "1pic"}

_DERIVED = ("grid", "iovl", "iden")
"""Types of items that are composed from others."""

_MOST_BOXES = 10_000
_MOST_ITEMS = 10_000
_FULL = 4
"""Bytes of version and flags, with which a "full box" begins."""


def is_bmff(data: bytes) -> bool:
    return data[4:8] == b"ftyp"


def brands(data: bytes) -> list[str]:
    """The major brand, then all compatible brands."""
    start, end = _first(data)
    body = data[start : min(end, len(data))]
    return [_text(body[place : place + 4]) for place in (0, *range(8, len(body) - 3, 4)) if len(body) >= place + 4]


def is_heif(data: bytes) -> bool:
    """By its brands; the contents may still be of any kind."""
    return is_bmff(data) and bool({*_GENERIC, *_BRANDS} & set(brands(data)))


def codec(data: bytes) -> str | None:
    """The codec of the main picture, as four characters: of its item, or of an item that it is composed from, else of
    the first track. None if `data` do not state it."""
    meta = next(find(data, b"meta"), None)
    if meta is not None and (found := _codec_of_items(data, meta[0] + _FULL, meta[1])):
        return found
    return next(_codecs_of_tracks(data), None)


def sniff(data: bytes) -> str | None:
    """The MIME type, by the codec; by the brands if the first bytes do not state the codec."""
    if not is_heif(data):
        return None
    coded = codec(data)
    if coded is not None:
        return CODECS.get(coded)
    return next((_BRANDS[brand] for brand in brands(data) if brand in _BRANDS), None)


def auxiliaries(data: bytes) -> list[str]:
    """The purposes of auxiliary pictures: the URNs of boxes `auxC`, and "tmap" for the item of a gain map."""
    meta = next(find(data, b"meta"), None)
    if meta is None:
        return []
    start, end = meta[0] + _FULL, meta[1]
    found = ["tmap"] if "tmap" in _items(data, start, end).values() else []
    return found + [_text(each[_FULL:].split(b"\0")[0]) for each in properties(data, b"auxC")]


def properties(data: bytes, name: bytes) -> Iterator[bytes]:
    """The contents of the boxes of that name among the properties of items."""
    for meta in find(data, b"meta"):
        for place, stop in find(data, b"iprp", meta[0] + _FULL, meta[1]):
            for container in find(data, b"ipco", place, stop):
                yield from (data[start:end] for start, end in find(data, name, *container))


def of_main(data: bytes, name: bytes) -> list[bytes]:
    """The contents of the boxes of that name that belong to the main picture, or else to the first of its parts."""
    items = Items(data)
    parts = items.references(b"dimg").get(items.primary, [])
    return next((found for each in (items.primary, *parts[:1]) if (found := items.properties(each, name))), [])


class Items:
    """The items of a file: pictures, parts of pictures, and metadata."""

    def __init__(self, data: bytes) -> None:
        meta = next(find(data, b"meta"), (len(data), len(data)))
        self._data, self._inside = data, (meta[0] + _FULL, meta[1])
        self.kinds = _items(data, *self._inside)
        """By item number, as four characters."""
        self.primary = primary(data, *self._inside)

    def references(self, kind: bytes) -> dict[int, list[int]]:
        """For each item the items that it refers to."""
        return _references(self._data, *self._inside, kind)

    def properties(self, item: int, name: bytes) -> list[bytes]:
        """The contents of that item's boxes of that name."""
        found = (
            self._data[start:end]
            for start, end in self._properties.get(item, ())
            if name == self._data[start - 4 : start]
        )
        return list(found)

    @cached_property
    def _properties(self) -> dict[int, list[tuple[int, int]]]:
        """For each item its boxes: start and end of their contents. Read once, as hostile files have many items."""
        found: dict[int, list[tuple[int, int]]] = {}
        for place, stop in find(self._data, b"iprp", *self._inside):
            boxes = [
                each for inner in find(self._data, b"ipco", place, stop) for each in find(self._data, None, *inner)
            ]
            for start, end in find(self._data, b"ipma", place, stop):
                for item, numbers in _associated(self._data, start, end).items():
                    found.setdefault(item, []).extend(boxes[each - 1] for each in numbers if 0 < each <= len(boxes))
        return found

    def content(self, item: int) -> bytes:
        """The bytes of that item; empty if they are not in this file, or not all of them."""
        idat = next(find(self._data, b"idat", *self._inside), None)
        for start, end in find(self._data, b"iloc", *self._inside):
            for number, method, extents in _locations(self._data, start, end):
                if number != item or method > 1 or (method == 1 and idat is None):
                    continue
                first, last = idat if method == 1 and idat is not None else (0, len(self._data))
                places = [(first + offset, first + offset + (length or last)) for offset, length in extents]
                pieces = [self._data[a : min(b, last)] for a, b in places]
                whole = all(b <= last or not length for (_, b), (_, length) in zip(places, extents, strict=True))
                return b"".join(pieces) if whole else b""
        return b""

    def with_primary(self, item: int) -> bytes:
        """The file with that item as its main picture, neither hidden nor auxiliary to another."""
        file = bytearray(self._data)
        for place, _ in find(self._data, b"pitm", *self._inside):
            width = 2 if file[place] == 0 else 4
            file[place + _FULL : place + _FULL + width] = item.to_bytes(width, "big")
        for number, place in _entries(self._data, *self._inside):
            if number == item:
                file[place + 3] &= 0xFE
        for place, stop in find(self._data, b"iref", *self._inside):
            width = 2 if file[place] == 0 else 4
            for start, _ in find(self._data, b"auxl", place + _FULL, stop):
                if int.from_bytes(file[start : start + width], "big") == item:
                    file[start - 4 : start] = b"cdsc"
        return bytes(file)


def _associated(data: bytes, start: int, end: int) -> dict[int, list[int]]:
    """The numbers of each item's properties, from 1 (the box `ipma`)."""
    version, wide = data[start], data[start + 3] & 1
    width, place = 4 if version else 2, start + _FULL + 4
    found: dict[int, list[int]] = {}
    for _ in range(min(int.from_bytes(data[place - 4 : place], "big"), _MOST_ITEMS)):
        if place + width >= end:
            break
        item, count = int.from_bytes(data[place : place + width], "big"), data[place + width]
        place += width + 1
        size = 2 if wide else 1
        mask = 0x7FFF if wide else 0x7F
        found[item] = [
            int.from_bytes(data[place + size * i : place + size * (i + 1)], "big") & mask for i in range(count)
        ]
        place += size * count
    return found


def _locations(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Item, method (0: offsets in the file, 1: in the box `idat`), offsets and lengths (the box `iloc`)."""
    version, sizes = data[start], data[start + _FULL : start + _FULL + 2]
    if version > 2 or len(sizes) < 2:
        return
    offset, length, base, index = sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4, sizes[1] & 15 if version else 0
    wide = 4 if version == 2 else 2
    place = start + _FULL + 2

    def number(size: int) -> int:
        nonlocal place
        place += size
        return int.from_bytes(data[place - size : min(place, end)], "big")

    for _ in range(min(number(wide), _MOST_ITEMS)):
        item, method = number(wide), number(2) & 15 if version else 0
        number(2)  # which file, 0: this one
        first, extents = number(base), []
        for _ in range(min(number(2), _MOST_ITEMS)):
            number(index)
            extents.append((first + number(offset), number(length)))
            if place > end:
                return
        yield item, method, extents


def pictures(data: bytes) -> int:
    """The number of independent pictures: not hidden, not part of another, not auxiliary to another."""
    meta = next(find(data, b"meta"), None)
    if meta is None:
        return 1
    start, end = meta[0] + _FULL, meta[1]
    parts = {part for each in _references(data, start, end, b"dimg").values() for part in each}
    companions = {
        owner for kind in (b"thmb", b"auxl", b"cdsc", b"base") for owner in _references(data, start, end, kind)
    }
    hidden = _hidden(data, start, end)
    coded = {number for number, kind in _items(data, start, end).items() if kind in (*CODECS, *_DERIVED)}
    return max(1, len(coded - parts - companions - hidden))


def _hidden(data: bytes, start: int, end: int) -> set[int]:
    return {number for number, place in _entries(data, start, end) if data[place + 3] & 1}


def _entries(data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The items' numbers, and where the contents of their boxes `infe` begin."""
    for place, stop in find(data, b"iinf", start, end):
        place += _FULL + (2 if data[place : place + 1] == b"\0" else 4)
        for item, item_end in find(data, b"infe", place, stop):
            width = 2 if data[item : item + 1] == b"\2" else 4
            if item + _FULL + width <= item_end:
                yield int.from_bytes(data[item + _FULL : item + _FULL + width], "big"), item


def _codec_of_items(data: bytes, start: int, end: int) -> str | None:
    items = _items(data, start, end)
    if not items:
        return None
    known = {*CODECS, *OTHER_CODECS}
    main = primary(data, start, end)
    if (coded := items.get(main)) in known:
        return coded
    parts = _references(data, start, end, b"dimg").get(main, [])
    candidates = [items[part] for part in parts if part in items] + list(items.values())
    return next((each for each in candidates if each in known), None)


def _items(data: bytes, start: int, end: int) -> dict[int, str]:
    """Item types by item number, from the box `iinf`."""
    found: dict[int, str] = {}
    for place, stop in find(data, b"iinf", start, end):
        place += _FULL + (2 if data[place : place + 1] == b"\0" else 4)
        for item, item_end in find(data, b"infe", place, stop):
            version = data[item] if item < len(data) else 0
            if version < 2 or len(found) >= _MOST_ITEMS:
                continue
            width = 2 if version == 2 else 4
            number = int.from_bytes(data[item + _FULL : item + _FULL + width], "big")
            kind = item + _FULL + width + 2
            if kind + 4 <= item_end:
                found[number] = _text(data[kind : kind + 4])
    return found


def primary(data: bytes, start: int, end: int) -> int:
    """The number of the main picture; `start` and `end`: of what is in the box `meta`."""
    for place, _ in find(data, b"pitm", start, end):
        width = 2 if data[place : place + 1] == b"\0" else 4
        return int.from_bytes(data[place + _FULL : place + _FULL + width], "big")
    return -1


def _references(data: bytes, start: int, end: int, kind: bytes) -> dict[int, list[int]]:
    """For each item the items that it refers to."""
    found: dict[int, list[int]] = {}
    for place, stop in find(data, b"iref", start, end):
        width = 2 if data[place : place + 1] == b"\0" else 4
        for at, at_end in find(data, kind, place + _FULL, stop):
            owner = int.from_bytes(data[at : at + width], "big")
            first = at + width + 2
            places = range(first, min(at_end - width + 1, first + width * _MOST_ITEMS), width)
            found[owner] = [int.from_bytes(data[each : each + width], "big") for each in places]
    return found


def _codecs_of_tracks(data: bytes) -> Iterator[str]:
    known = {*CODECS, *OTHER_CODECS}
    for movie in find(data, b"moov"):
        for track in find(data, b"trak", *movie):
            inner = [track]
            for name in (b"mdia", b"minf", b"stbl", b"stsd"):
                inner = [found for each in inner for found in find(data, name, *each)]
            for start, _ in inner:
                kind = _text(data[start + _FULL + 4 + 4 : start + _FULL + 4 + 8])
                if kind in known:
                    yield kind


def _first(data: bytes) -> tuple[int, int]:
    return next(find(data, b"ftyp"), (len(data), len(data)))


def find(data: bytes, name: bytes | None, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Start and end of the contents of each box of that name, or of any name, in that part of the file."""
    end = len(data) if end is None else min(end, len(data))
    for _ in range(_MOST_BOXES):
        if start + 8 > end:
            return
        length, head = int.from_bytes(data[start : start + 4], "big"), 8
        if length == 1:  # a length of 64 bits follows
            length, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        stop = end if length == 0 else start + length  # 0: to the end of the file
        if stop < start + head:
            return
        if name is None or data[start + 4 : start + 8] == name:
            yield start + head, min(stop, end)
        start = stop


def _text(data: bytes) -> str:
    return data.decode("latin-1")
