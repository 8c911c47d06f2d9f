"""GIF as a list of frames (GIF89a, CompuServe, 1990): its blocks are read here; libvips decodes the pixels.

NOTE: libvips reads whole animations too, but it fills cleared boxes with the background colour, which no browser does,
and in some files it gave frames other colours than those of their tables.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyvips

from server.images.metadata.timing import Timing
from server.images.read.compositor import Disposal, Patch

MAX_BLOCKS = 2_000_000
"""Sub-blocks in a file, at most 256 bytes each. A file with more is made to keep its reader busy."""
_EXTENSION, _IMAGE, _END = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL, _APPLICATION, _COMMENT = 0xF9, 0xFF, 0xFE
_MOST_COMMENT_BYTES = 1 << 20
"""Of all comments together."""
_ASPECT_PLACE = 12
_LOOPS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")
_FIRST_COLOUR = b"\x02\x02\x44\x01\0"
"""One pixel, compressed: the codes clear, colour 0, end; three bits each."""
_DISPOSALS: dict[int, Disposal] = {2: "clear", 3: "restore", 4: "restore"}
"""All other values, also undefined ones: keep."""


@dataclass(frozen=True)
class Frame:
    left: int
    top: int
    width: int
    """Pixels; 0 in some odd files, likewise `height`."""
    height: int
    interlaced: bool
    colours: bytes
    """Its colour table, three bytes per colour; empty if the file has none."""
    transparent: int | None
    """The index of the transparent colour."""
    hundredths: int
    """How long it is shown, in 1/100 s."""
    disposal: Disposal
    lzw: bytes
    """Its compressed pixels, as in the file."""

    @property
    def file(self) -> bytes:
        """A GIF of this frame alone."""
        return (
            b"GIF89a"
            + struct.pack("<HH", self.width, self.height)
            + _screen_flags(self.colours)
            + b"\0\0"
            + self.colours
            + control(0, "keep", self.transparent)
            + struct.pack("<BHHHHB", _IMAGE, 0, 0, self.width, self.height, 0x40 if self.interlaced else 0)
            + self.lzw
            + bytes([_END])
        )


@dataclass(frozen=True)
class Gif:
    frames: tuple[Frame, ...]
    plays: int
    whole: bool
    """Nothing is damaged or missing."""
    comments: tuple[bytes, ...] = ()

    @property
    def timing(self) -> Timing:
        return Timing(tuple(Fraction(frame.hundredths, 100) for frame in self.frames), self.plays)

    def has_alpha(self, size: tuple[int, int]) -> bool:
        """Some pixel of a canvas of this (width, height) may be transparent in some frame."""
        first = self.frames[0]
        covers = first.left == first.top == 0 and first.width >= size[0] and first.height >= size[1]
        cleared = any(frame.disposal == "clear" for frame in self.frames[:-1])
        return first.transparent is not None or not covers or first.disposal == "restore" or cleared


class _Damaged(Exception):
    pass


def read(data: bytes) -> Gif:
    """All frames, not decoded. Frames after damaged data are left out."""
    reader = _Reader(data)
    try:
        whole = reader.read()
    except (_Damaged, IndexError, struct.error):
        whole = False
    return Gif(tuple(reader.frames), reader.plays, whole, tuple(reader.comments))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 13
        self._blocks = 0
        self.frames: list[Frame] = []
        self.plays = 1
        self.comments: list[bytes] = []
        self._comment_room = _MOST_COMMENT_BYTES

    def read(self) -> bool:
        data = self._data
        common = self._table(data[10])
        hundredths, disposal, transparent = 0, 0, None
        # Some programs write no end.
        while self._place != len(data) and (kind := data[self._place]) != _END:
            self._place += 1
            if kind == _EXTENSION:
                label = data[self._place]
                self._place += 1
                start = self._place
                self._skip()
                if label == _GRAPHIC_CONTROL:
                    flags, hundredths, index = struct.unpack_from("<BHB", data, start + 1)
                    disposal, transparent = flags >> 2 & 7, index if flags & 1 else None
                elif label == _COMMENT and self._place - start <= self._comment_room:
                    self._comment_room -= self._place - start
                    self.comments.append(_joined(data[start : self._place]))
                elif label == _APPLICATION and data[start + 1 : start + 12] in _LOOPS and data[start + 13] == 1:
                    (repeats,) = struct.unpack_from("<H", data, start + 14)
                    self.plays = repeats + 1 if repeats else 0
            elif kind == _IMAGE:
                left, top, width, height, flags = struct.unpack_from("<HHHHB", data, self._place)
                self._place += 9
                table = self._table(flags) or common
                start = self._place
                self._place += 1
                self._skip()
                self.frames.append(
                    Frame(
                        left, top, width, height, bool(flags & 0x40), table, transparent, hundredths,
                        _DISPOSALS.get(disposal, "keep"), data[start : self._place],
                    )
                )  # fmt: skip
                hundredths, disposal, transparent = 0, 0, None
            elif kind != 0:  # empty blocks between others are common and harmless
                return False
        return True

    def _table(self, flags: int) -> bytes:
        length = 3 * (2 << (flags & 7)) if flags & 0x80 else 0
        self._place += length
        return self._data[self._place - length : self._place]

    def _skip(self) -> None:
        """Skip sub-blocks, each after its length, up to an empty one."""
        data, place = self._data, self._place
        while length := data[place]:
            place += 1 + length
            self._blocks += 1
            if self._blocks > MAX_BLOCKS:
                raise _Damaged
        self._place = place + 1


def _joined(pieces: bytes) -> bytes:
    """The content of a chain of sub-blocks."""
    parts, place = [], 0
    while length := pieces[place]:
        parts.append(pieces[place + 1 : place + 1 + length])
        place += 1 + length
    return b"".join(parts)


def patches(frames: Sequence[Frame]) -> Iterator[Patch]:
    """The patch of each frame, decoded on demand. Raises pyvips.Error."""
    for frame in frames:
        samples = np.zeros((0, 0, 4), np.uint8)
        if frame.width and frame.height:
            image = pyvips.Image.gifload_buffer(frame.file, fail_on="error")
            if image.bands < 3:
                image = image.colourspace("srgb")
            samples = (image if image.hasalpha() else image.bandjoin(255)).numpy()
        yield Patch(frame.left, frame.top, samples, True, frame.disposal)


# --- writing ---


def control(hundredths: int, disposal: Disposal, transparent: int | None) -> bytes:
    """A graphic control extension: how long a frame is shown, its disposal and transparent colour."""
    number = {"keep": 1, "clear": 2, "restore": 3}[disposal]
    flags = number << 2 | (transparent is not None)
    return struct.pack("<BBBBHBB", _EXTENSION, _GRAPHIC_CONTROL, 4, flags, hundredths, transparent or 0, 0)


def comment(text: bytes) -> bytes:
    pieces = (text[start : start + 255] for start in range(0, len(text), 255))
    return bytes([_EXTENSION, _COMMENT]) + b"".join(bytes([len(each)]) + each for each in pieces) + b"\0"


_XMP = struct.pack("<BBB11s", _EXTENSION, _APPLICATION, 11, b"XMP DataXMP")
_XMP_TRAILER = bytes([1, *range(255, -1, -1), 0])


def xmp(packet: bytes) -> bytes:
    """An application extension (XMP, part 3, section 1.1.2). The packet is not cut into sub-blocks: the trailer leads
    readers that skip sub-blocks to its end, wherever in it they arrive."""
    return _XMP + packet + _XMP_TRAILER


def packet(data: bytes) -> bytes | None:
    """The XMP of a GIF file."""
    start = data.find(_XMP) + len(_XMP)
    end = data.find(_XMP_TRAILER, start) if start >= len(_XMP) else -1
    return data[start:end] if end >= 0 else None


def complete(path: Path, blocks: bytes, aspect: int) -> None:
    """Add extensions, for example comments, and the pixel aspect ratio (see resolution.py) to a GIF file."""
    if blocks:  # most readers find only comments before the first frame
        data = path.read_bytes()
        start = 13 + (3 * (2 << (data[10] & 7)) if data[10] & 0x80 else 0)
        path.write_bytes(data[:start] + blocks + data[start:])
    if aspect:
        with path.open("r+b") as file:
            file.seek(_ASPECT_PLACE)
            file.write(bytes([aspect]))


class GifWriter:
    """Writes frames of at most 256 colours each, every frame with a colour table of its own."""

    STEP = 1

    def __init__(
        self, file: BinaryIO, first: pyvips.Image, timing: Timing, blocks: bytes = b"", aspect: int = 0
    ) -> None:
        self._file = file
        self._delays = iter(timing.in_units(100, 0xFFFF))
        self.always_whole: bool = first.hasalpha()
        """A transparent pixel shows the pixel below it. So with transparency the canvas is cleared before each
        frame."""
        file.write(b"GIF89a" + struct.pack("<HHBBB", first.width, first.height, 0, 0, aspect))
        if timing.plays != 1:
            repeats = min(timing.plays - 1, 0xFFFF) if timing.plays else 0
            file.write(struct.pack("<BBB11sBBHB", _EXTENSION, _APPLICATION, 11, _LOOPS[0], 3, 1, repeats, 0))
        file.write(blocks)

    def write(self, image: pyvips.Image, left: int, top: int) -> None:
        (frame,) = read(image.gifsave_buffer(keep="none")).frames
        self._file.write(control(next(self._delays), "clear" if self.always_whole else "keep", frame.transparent))
        place = struct.pack("<BHHHH", _IMAGE, left, top, frame.width, frame.height)
        self._file.write(place + bytes([_screen_flags(frame.colours)[0] & 0x87]) + frame.colours + frame.lzw)

    def repeat(self, _: pyvips.Image) -> None:
        place = struct.pack("<BHHHHB", _IMAGE, 0, 0, 1, 1, 0x80)  # with a table of two colours
        self._file.write(control(next(self._delays), "keep", 0) + place + bytes(6) + _FIRST_COLOUR)

    def end(self) -> None:
        self._file.write(bytes([_END]))


def _screen_flags(colours: bytes) -> bytes:
    """The byte that states a colour table of so many colours, a power of two."""
    return bytes([0x80 | ((len(colours) // 3).bit_length() - 2)]) if colours else b"\0"
