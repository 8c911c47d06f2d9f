"""EXIF as a tree of raw values: read, reduced, and written again. Only the few values that must change are interpreted.

EXIF (CIPA DC-008) is a TIFF file (TIFF 6.0, section 2) without a picture: a directory of tags, two of which point to
more directories. Libraries that decode values to text and encode them again lose all non-ASCII characters; raw values
lose nothing. The thumbnail's directory is not read, so the result never has an old thumbnail.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from server.images.metadata.placement import Placement

ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x0112, 0x011A, 0x011B, 0x0128
ARTIST, COPYRIGHT = 0x013B, 0x8298
_PHOTO, _GPS, _INTEROPERABILITY = 0x8769, 0x8825, 0xA005
_IPTC = 0x83BB
MAKER_NOTE = 0x927C
_WIDTH, _HEIGHT, _COLOUR_SPACE, _GAMMA = 0xA002, 0xA003, 0xA001, 0xA500
_WHITE_POINT, _CHROMATICITIES = 0x013E, 0x013F
_FOCAL_PLANE = 0xA20E, 0xA20F
"""Pixels per unit on the sensor, horizontally and vertically."""
_SUBJECTS = 0x9214, 0xA214
"""Position of the main subject, in pixels of the picture as stored: a point, a circle or a box."""
_INDEX, _RELATED_WIDTH, _RELATED_HEIGHT = 0x0001, 0x1001, 0x1002
"""Of the interoperability directory: the rules that the file follows (R98: sRGB, R03: Adobe RGB), and a size."""
_SRGB, _ADOBE_RGB, _UNCALIBRATED = 1, 2, 0xFFFF
"""Values of ColorSpace; 2 is not in the standard, but some cameras write it."""
_PREFIX = b"Exif\0\0"

_RESOLUTION = {X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT}
_BASIC = {
    0x010E, 0x010F, 0x0110, 0x0131, 0x0132, ARTIST, 0x013C,  # description, make, model, software, date, host
    0x010D, 0x011D, _WHITE_POINT, _CHROMATICITIES,  # names of a document and a page
    0x4746, 0x4749, COPYRIGHT, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F,  # rating, and Windows's title … subject
    ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT,
}  # fmt: skip
"""Tags of the first directory that describe the picture. The others describe the file's layout."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 1, 7: 1, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of the number of a TIFF type, or of each of the two numbers of a rational: the unit of byte order."""
_PAIRS = {5, 10}
_WHOLE, _SIGNED = {1, 3, 4, 6, 8, 9, 13, 16, 17, 18}, {6, 8, 9, 17}
_ASCII, _SHORT, _LONG, _RATIONAL, _UNDEFINED, _LONG8 = 2, 3, 4, 5, 7, 16

_MOST = 4
"""Most bytes in one directory, in units of MAX_BYTES: in hostile files all entries point to the same bytes."""

_MOST_ENTRIES = 4096
"""In one directory; real directories have some dozens."""

MAX_BYTES = 60_000
"""A JPEG segment holds 65,533 bytes, some of which the encoder needs."""


@dataclass(frozen=True)
class Value:
    type: int
    data: bytes
    """Little-endian."""

    @property
    def count(self) -> int:
        return len(self.data) // (_SIZES[self.type] * (2 if self.type in _PAIRS else 1))

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of a tag of any integer type; empty for other types."""
        if self.type not in _WHOLE:
            return ()
        size, signed = _SIZES[self.type], self.type in _SIGNED
        places = range(0, len(self.data) - size + 1, size)
        return tuple(int.from_bytes(self.data[place : place + size], "little", signed=signed) for place in places)


Tags = Mapping[int, Value]


@dataclass(frozen=True)
class Exif:
    image: Tags = field(default_factory=dict)
    """Of the first directory: description, orientation and resolution."""
    photo: Tags = field(default_factory=dict)
    gps: Tags = field(default_factory=dict)
    interop: Tags = field(default_factory=dict)

    @property
    def orientation(self) -> int | None:
        """1 … 8, where invalid values are 1; None if there is no such tag."""
        value = self.image.get(ORIENTATION)
        if value is None:
            return None
        number = (value.numbers or (1,))[0]
        return number if 1 <= number <= 8 else 1

    @property
    def is_adobe_rgb(self) -> bool:
        """By ColorSpace, or if that is uncalibrated or missing, by the rules that the file follows (DCF 2.0)."""
        space = self.photo.get(_COLOUR_SPACE)
        number = (space.numbers or (_SRGB,))[0] if space is not None else _UNCALIBRATED
        index = self.interop.get(_INDEX)
        return number == _ADOBE_RGB or (
            number == _UNCALIBRATED and index is not None and index.data.rstrip(b"\0 ") == b"R03"
        )

    @property
    def chromaticities(self) -> tuple[float, ...] | None:
        """x and y of white, red, green and blue (TIFF 6.0, section 20), if all are there and no colour space is."""
        space = self.photo.get(_COLOUR_SPACE)
        if space is not None and space.numbers != (_UNCALIBRATED,):
            return None
        white, others = (ratios(self.image.get(tag)) for tag in (_WHITE_POINT, _CHROMATICITIES))
        return white + others if (len(white), len(others)) == (2, 6) else None

    @property
    def gamma(self) -> float | None:
        """The exponent from samples to light; None if there is no such tag."""
        return _ratio(self.photo.get(_GAMMA)) or None

    def only(self, *tags: int) -> "Exif":
        """Only these tags of the first directory."""
        return Exif(image={tag: value for tag, value in self.image.items() if tag in tags})

    def with_resolution(self, tags: Tags) -> "Exif":
        """With these tags in place of its own resolution."""
        others = {tag: value for tag, value in self.image.items() if tag not in _RESOLUTION}
        return replace(self, image={**others, **tags})

    def upright(self, placement: Placement) -> "Exif":
        """For the result: without an orientation, and with sizes and positions in the result's pixels."""
        image = {tag: value for tag, value in self.image.items() if tag != ORIENTATION}
        photo, interop = dict(self.photo), dict(self.interop)
        width, height = placement.after
        if photo:
            photo |= {_WIDTH: _long(width), _HEIGHT: _long(height)}
        for tag, size in ((_RELATED_WIDTH, width), (_RELATED_HEIGHT, height)):
            if tag in interop:
                interop[tag] = _long(size)
        planes = [self.photo.get(tag) for tag in _FOCAL_PLANE]
        if any(planes) and (placement.turns or placement.scale != (1, 1)):
            found = planes[::-1] if placement.turns else planes
            for tag, value, scale in zip(_FOCAL_PLANE, found, placement.scale, strict=True):
                photo.pop(tag, None)
                if density := _ratio(value):
                    photo[tag] = _rational(density * scale)
        for tag in _SUBJECTS:
            numbers = photo[tag].numbers if tag in photo else ()
            if tag in photo:
                del photo[tag]
            if 2 <= len(numbers) <= 4:
                moved = placement.subject(numbers)
                if all(0 <= number <= 0xFFFF for number in moved):
                    photo[tag] = Value(_SHORT, struct.pack(f"<{len(moved)}H", *moved))
        return replace(self, image=image, photo=photo, interop=interop)

    def as_srgb(self) -> "Exif":
        """For a picture whose colours were converted to sRGB."""
        image = {tag: value for tag, value in self.image.items() if tag not in (_WHITE_POINT, _CHROMATICITIES)}
        photo = {tag: value for tag, value in self.photo.items() if tag != _GAMMA}
        interop = dict(self.interop)
        if _COLOUR_SPACE in photo:
            photo[_COLOUR_SPACE] = Value(_SHORT, struct.pack("<H", _SRGB))
        if _INDEX in interop:
            interop[_INDEX] = Value(_ASCII, b"R98\0")
        return replace(self, image=image, photo=photo, interop=interop)

    def __bool__(self) -> bool:
        return bool(self.image or self.photo or self.gps or self.interop)


def parse(data: bytes, first: Tags | None = None) -> Exif:
    """From an EXIF block, with or without its `Exif` prefix, or a whole TIFF file. Damaged values are left out.

    `first`: used in place of the first directory, for a TIFF file whose first picture is not the one that is read."""
    reader = Reader(data.removeprefix(_PREFIX))
    if first is None:
        first = reader.tags(reader.first)
    photo = reader.tags(_pointer(first.get(_PHOTO)))
    interop = reader.tags(_pointer(photo.pop(_INTEROPERABILITY, None)))
    image = {tag: value for tag, value in first.items() if tag in _BASIC}
    exif = Exif(image, photo, reader.tags(_pointer(first.get(_GPS))), interop)
    if len(serialise(exif)) > MAX_BYTES:
        photo.pop(MAKER_NOTE, None)
    return exif if len(serialise(exif)) <= MAX_BYTES else exif.only(ORIENTATION, ARTIST, COPYRIGHT)


def serialise(exif: Exif) -> bytes:
    """An EXIF block with its prefix."""
    body, first = directories(exif, {}, offset=8)
    return _PREFIX + b"II*\0" + struct.pack("<I", first) + body


def directories(exif: Exif, layout: Tags, *, offset: int, wide: bool = False) -> tuple[bytes, int]:
    """The directories, encoded for `offset` of a TIFF file, and the offset of the first one, to which `layout` is
    added. `wide`: BigTIFF."""
    blocks = b""

    def add(tags: Tags) -> Value:
        """Encode a directory, and return a pointer to it."""
        nonlocal blocks
        start = offset + len(blocks)
        blocks += _directory(tags, start, wide)
        return Value(_LONG8, struct.pack("<Q", start)) if wide else _long(start)

    first, photo = {**exif.image, **layout}, dict(exif.photo)
    if exif.interop:
        photo[_INTEROPERABILITY] = add(exif.interop)
    for tag, tags in ((_PHOTO, photo), (_GPS, exif.gps)):
        if tags:
            first[tag] = add(tags)
    start = offset + len(blocks)
    add(first)
    return blocks, start


def iptc_of_tiff(data: bytes, own: int = 0) -> bytes | None:
    """The IIM records of a TIFF file, of any type: of the directory at `own`, else of the first one."""
    reader = Reader(data)
    return reader.raw(own, _IPTC) or reader.raw(reader.first, _IPTC)


def append(path: Path, exif: Exif, iptc: bytes | None = None, more: Tags | None = None) -> None:
    """Add `exif`, IIM records and `more` tags to a little-endian TIFF file: a new first directory is written at the
    end."""
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = Reader(data, max_bytes=len(data))
            layout, end = reader.tags(reader.first), len(data) + len(data) % 2
        layout |= more or {}
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
            values += value.data + b"\0" * (len(value.data) % 2)  # directories and values start at even offsets
        entries += struct.pack("<HH", tag, value.type) + struct.pack(number, value.count) + place.ljust(inline, b"\0")
    return entries + bytes(inline) + values  # no next directory


class Reader:
    """Reads a TIFF structure of either byte order, classic or BigTIFF. Values beyond the end are treated as missing."""

    def __init__(self, data: bytes | mmap.mmap, max_bytes: int = MAX_BYTES) -> None:
        self._data = data
        self._max_bytes = max_bytes
        self._order = ">" if data[:2] == b"MM" else "<"
        self.wide = data[2:4] in (b"+\0", b"\0+")
        self.first = self._number(8, 8) if self.wide else self._number(4, 4)

    def tags(self, offset: int) -> dict[int, Value]:
        """The tags of the directory at `offset`; empty if that is 0."""
        tags: dict[int, Value] = {}
        room = _MOST * self._max_bytes
        for place in self._entries(offset):
            value = self._value(place)
            if value is not None and (room := room - len(value.data)) > 0:
                tags[self._number(place, 2)] = value
        return tags

    def is_directory(self, offset: int) -> bool:
        return 0 < offset < len(self._data) and self._number(offset, 8 if self.wide else 2) > 0

    def next(self, offset: int) -> int:
        """Offset of the directory after the one at `offset`; 0 if there is none."""
        count = self._number(offset, 8 if self.wide else 2)
        return self._number(offset + (8 + 20 * count if self.wide else 2 + 12 * count), 8 if self.wide else 4)

    def count(self, offset: int) -> int:
        """Number of entries that are read of the directory at `offset`."""
        return len(self._entries(offset))

    def with_short(self, offset: int, tag: int, number: int) -> bytes:
        """The whole file with another 16-bit number in that tag, which must be there."""
        place = next(place for place in self._entries(offset) if self._number(place, 2) == tag)
        start = place + (12 if self.wide else 8)
        changed = number.to_bytes(2, "big" if self._order == ">" else "little")
        return self._data[:start] + changed + self._data[start + 2 :]

    def alone(self, offset: int) -> bytes:
        """The whole file, with the directory at `offset` as the only one of its chain."""
        size = 8 if self.wide else 4
        count = self._number(offset, 8 if self.wide else 2)
        end = offset + (8 + 20 * count if self.wide else 2 + 12 * count)
        first = offset.to_bytes(size, "big" if self._order == ">" else "little")
        with memoryview(self._data) as data:  # its slices are not copies
            return b"".join((data[:size], first, data[2 * size : end], bytes(size), data[end + size :]))

    def raw(self, offset: int, tag: int) -> bytes | None:
        """The bytes of one tag, in the file's byte order; None if it is missing."""
        places = (place for place in self._entries(offset) if self._number(place, 2) == tag)
        return next((self._bytes(place) for place in places), None)

    def _entries(self, offset: int) -> range:
        """Offsets of the entries of the directory at `offset`."""
        if not 0 < offset < len(self._data):
            return range(0)
        head = 8 if self.wide else 2
        size = 20 if self.wide else 12
        count = min(self._number(offset, head), (len(self._data) - offset - head) // size, _MOST_ENTRIES)
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


def _rational(number: float) -> Value:
    nearest = Fraction(number).limit_denominator(10_000)
    return Value(_RATIONAL, struct.pack("<II", min(nearest.numerator, 2**32 - 1), nearest.denominator))


def _ratio(value: Value | None) -> float:
    return next(iter(ratios(value)), 0.0)


def ratios(value: Value | None) -> tuple[float, ...]:
    """Rationals as floats; 0 for a denominator of 0."""
    if value is None or value.type != _RATIONAL:
        return ()
    pairs = struct.iter_unpack("<II", value.data[: len(value.data) // 8 * 8])
    return tuple(float(numerator / denominator) if denominator else 0.0 for numerator, denominator in pairs)
