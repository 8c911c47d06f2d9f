"""EXIF as a tree of raw values: read, cut down, and written again. Only the few that must change are interpreted.

EXIF (CIPA DC-008) is a TIFF file (TIFF 6.0, section 2) without a picture: a directory of tags, of which two point to
further ones. What libraries decode to text and encode again loses every letter beyond ASCII; raw values lose nothing.
The directory of the thumbnail is not read, so that none is ever written.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x0112, 0x011A, 0x011B, 0x0128
ARTIST, COPYRIGHT = 0x013B, 0x8298
_PHOTO, _GPS, _INTEROPERABILITY = 0x8769, 0x8825, 0xA005
_IPTC = 0x83BB
_WIDTH, _HEIGHT, _MAKER_NOTE = 0xA002, 0xA003, 0x927C
_INCH, _CENTIMETRE = 2, 3
_PREFIX = b"Exif\0\0"

_BASIC = {
    0x010E, 0x010F, 0x0110, 0x0131, 0x0132, ARTIST, 0x013C,  # description, make, model, software, date, host
    0x4746, 0x4749, COPYRIGHT, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F,  # rating, and Windows's title … subject
    ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT,
}  # fmt: skip
"""Tags of the first directory that say something about the picture. The others are about the file's own layout."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 1, 7: 1, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of the number, or of each of the two, that a TIFF type is made of: what changes with the byte order."""
_PAIRS = {5, 10}
_SHORT, _LONG, _RATIONAL, _UNDEFINED, _LONG8 = 3, 4, 5, 7, 16

_MOST = 4
"""Times MAX_BYTES in one directory: hostile files let all of its entries point at the same bytes."""

MAX_BYTES = 60_000
"""A JPEG segment holds 65,533 bytes, of which some are for what an encoder adds."""


@dataclass(frozen=True)
class Value:
    type: int
    data: bytes
    """Little-endian."""

    @property
    def count(self) -> int:
        return len(self.data) // (_SIZES[self.type] * (2 if self.type in _PAIRS else 1))


Tags = Mapping[int, Value]


@dataclass(frozen=True)
class Exif:
    image: Tags = field(default_factory=dict)
    """Of the first directory: descriptive ones, orientation and resolution."""
    photo: Tags = field(default_factory=dict)
    gps: Tags = field(default_factory=dict)

    @property
    def orientation(self) -> int:
        """1 … 8; what is not among these is 1."""
        value = self.image.get(ORIENTATION)
        number = int.from_bytes(value.data[:2], "little") if value and value.type == _SHORT else 1
        return number if 1 <= number <= 8 else 1

    @property
    def pixels_per_mm(self) -> tuple[float, float] | None:
        """Across and down, or None where no sensible resolution is stated."""
        x, y = _ratio(self.image.get(X_RESOLUTION)), _ratio(self.image.get(Y_RESOLUTION))
        unit = self.image.get(RESOLUTION_UNIT)
        per = int.from_bytes(unit.data[:2], "little") if unit else _INCH
        if not x or not y or per not in (_INCH, _CENTIMETRE):
            return None
        mm = 25.4 if per == _INCH else 10.0
        return x / mm, y / mm

    def only(self, *tags: int) -> "Exif":
        """Nothing but these tags of the first directory."""
        return Exif(image={tag: value for tag, value in self.image.items() if tag in tags})

    def upright(self, width: int, height: int) -> "Exif":
        """As of a picture of that size that stands as it is stored."""
        image = {tag: value for tag, value in self.image.items() if tag != ORIENTATION}
        size = {_WIDTH: _long(width), _HEIGHT: _long(height)}
        return replace(self, image=image, photo={**self.photo, **size} if self.photo else {})

    def __bool__(self) -> bool:
        return bool(self.image or self.photo or self.gps)


def parse(data: bytes) -> Exif:
    """From an EXIF block, with or without its `Exif` prefix, or a whole TIFF file. What is damaged is left out."""
    reader = _Reader(data.removeprefix(_PREFIX))
    first = reader.tags(reader.first)
    photo = reader.tags(_pointer(first.get(_PHOTO)))
    photo.pop(_INTEROPERABILITY, None)
    image = {tag: value for tag, value in first.items() if tag in _BASIC}
    exif = Exif(image, photo, reader.tags(_pointer(first.get(_GPS))))
    if len(serialise(exif)) > MAX_BYTES:
        photo.pop(_MAKER_NOTE, None)
    return exif if len(serialise(exif)) <= MAX_BYTES else exif.only(ORIENTATION, ARTIST, COPYRIGHT)


def serialise(exif: Exif) -> bytes:
    """An EXIF block with its prefix."""
    body, first = directories(exif, {}, offset=8)
    return _PREFIX + b"II*\0" + struct.pack("<I", first) + body


def directories(exif: Exif, layout: Tags, *, offset: int, wide: bool = False) -> tuple[bytes, int]:
    """The directories as they would lie at `offset` of a TIFF file, and where the first of them starts, which `layout`
    is added to. `wide`: BigTIFF."""
    first, blocks = {**exif.image, **layout}, b""
    for tag, tags in ((_PHOTO, exif.photo), (_GPS, exif.gps)):
        if tags:
            first[tag] = Value(_LONG8, struct.pack("<Q", offset + len(blocks))) if wide else _long(offset + len(blocks))
            blocks += _directory(tags, offset + len(blocks), wide)
    return blocks + _directory(first, offset + len(blocks), wide), offset + len(blocks)


def iptc_of_tiff(data: bytes) -> bytes | None:
    """The IIM records of a TIFF file, whatever type it says they have."""
    reader = _Reader(data)
    return reader.raw(reader.first, _IPTC)


def append(path: Path, exif: Exif, iptc: bytes | None = None) -> None:
    """Add `exif`, and IIM records, to a little-endian TIFF file: its first directory is written again at the end."""
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data, max_bytes=len(data))
            layout, end = reader.tags(reader.first), len(data) + len(data) % 2
        if iptc is not None:
            layout[_IPTC] = Value(_UNDEFINED, iptc)
        body, first = directories(exif, layout, offset=end, wide=reader.wide)
        file.seek(end)
        file.write(body)
        file.seek(8 if reader.wide else 4)
        file.write(struct.pack("<Q" if reader.wide else "<I", first))


def _directory(tags: Tags, offset: int, wide: bool) -> bytes:
    number, count, inline = ("<Q", "<Q", 8) if wide else ("<I", "<H", 4)
    entries, values = struct.pack(count, len(tags)), b""
    beyond = offset + len(entries) + len(tags) * (4 + 2 * inline) + inline
    for tag, value in sorted(tags.items()):
        place = value.data
        if len(place) > inline:
            place = struct.pack(number, beyond + len(values))
            values += value.data + b"\0" * (len(value.data) % 2)  # directories and values start at even places
        entries += struct.pack("<HH", tag, value.type) + struct.pack(number, value.count) + place.ljust(inline, b"\0")
    return entries + bytes(inline) + values  # there is no next directory


class _Reader:
    """Of one TIFF structure, of either byte order, either width. Lenient: what lies beyond the end does not exist."""

    def __init__(self, data: bytes | mmap.mmap, max_bytes: int = MAX_BYTES) -> None:
        self._data = data
        self._max_bytes = max_bytes
        self._order = ">" if data[:2] == b"MM" else "<"
        self.wide = data[2:4] in (b"+\0", b"\0+")
        self.first = self._number(8, 8) if self.wide else self._number(4, 4)

    def tags(self, offset: int) -> dict[int, Value]:
        """Those of the directory at `offset`; none where that is 0."""
        tags: dict[int, Value] = {}
        room = _MOST * self._max_bytes
        for place in self._entries(offset):
            value = self._value(place)
            if value is not None and (room := room - len(value.data)) > 0:
                tags[self._number(place, 2)] = value
        return tags

    def raw(self, offset: int, tag: int) -> bytes | None:
        """The bytes of one tag, in the order in which they lie there."""
        places = (place for place in self._entries(offset) if self._number(place, 2) == tag)
        return next((self._bytes(place) for place in places), None)

    def _entries(self, offset: int) -> range:
        """Where those of the directory at `offset` start."""
        if not 0 < offset < len(self._data):
            return range(0)
        head = 8 if self.wide else 2
        size = 20 if self.wide else 12
        count = min(self._number(offset, head), (len(self._data) - offset - head) // size)
        return range(offset + head, offset + head + count * size, size)

    def _value(self, place: int) -> Value | None:
        type_, data = self._number(place + 2, 2), self._bytes(place)
        if data is None:
            return None
        if self._order == ">":
            unit = _SIZES[type_]
            data = b"".join(data[i : i + unit][::-1] for i in range(0, len(data), unit))
        return Value(type_, data)

    def _bytes(self, place: int) -> bytes | None:
        inline = 8 if self.wide else 4
        type_, count = self._number(place + 2, 2), self._number(place + 4, inline)
        length = count * _SIZES.get(type_, 0) * (2 if type_ in _PAIRS else 1)
        start = place + 4 + inline
        if length > inline:
            start = self._number(start, inline)
        data = self._data[start : start + length]
        return data if 0 < length <= self._max_bytes and len(data) == length else None

    def _number(self, place: int, size: int) -> int:
        return int.from_bytes(self._data[place : place + size], "big" if self._order == ">" else "little")


def _pointer(value: Value | None) -> int:
    return int.from_bytes(value.data[:8], "little") if value else 0


def _long(number: int) -> Value:
    return Value(_LONG, struct.pack("<I", number))


def _ratio(value: Value | None) -> float:
    if value is None or value.type != _RATIONAL:
        return 0.0
    numerator, denominator = struct.unpack("<II", value.data[:8])
    return float(numerator / denominator) if denominator else 0.0
