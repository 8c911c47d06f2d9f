"""Animated WebP (RFC 9649): libvips encodes each frame as a picture of its own, which is put in here.

libwebp's own way is to hold all frames until the last is there.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

import pyvips

from server.errors import ResultImpossible
from server.images.metadata.fields import kept
from server.images.metadata.timing import Timing

_PROFILE, _ALPHA, _EXIF, _XMP, _ANIMATION = 0x20, 0x10, 0x08, 0x04, 0x02
_REPLACES, _SHOWS_THROUGH = 0x02, 0x00
"""A frame is put in the place of what is below, or blended with it."""
_FLAGS_START = 20
_LONGEST_MS = 2**24 - 1
_MOST_BYTES = 2**32 - 2


class WebpWriter:
    STEP = 2
    """Frames begin at even places."""

    def __init__(self, file: BinaryIO, first: pyvips.Image, timing: Timing, *, quality: int, lossless: bool) -> None:
        self._file = file
        self._first: pyvips.Image | None = first
        self._plays = timing.plays
        self._delays = iter(timing.in_units(1000, _LONGEST_MS))
        self._options = {"Q": quality, "lossless": lossless, "effort": 0 if lossless else 2}
        self._last: list[tuple[bytes, bytes]] = []
        self.always_whole = False

    def write(self, image: pyvips.Image, left: int, top: int) -> None:
        box = left, top, image.width, image.height
        if self._first is None:
            self._add(image.webpsave_buffer(keep="none", **self._options), box, _REPLACES)
        else:
            # Of the first picture libvips writes all that goes with it, too.
            encoded = self._first.webpsave_buffer(keep=kept(self._first), **self._options)
            self._begin(self._first, dict(_chunks(encoded)))
            self._first = None
            self._add(encoded, box, _REPLACES)

    def _begin(self, first: pyvips.Image, dressed: dict[bytes, bytes]) -> None:
        self._flags = _ANIMATION | (_ALPHA if first.hasalpha() else 0)
        for name, flag in ((b"ICCP", _PROFILE), (b"EXIF", _EXIF), (b"XMP ", _XMP)):
            self._flags |= flag if name in dressed else 0
        self._last = [(name, dressed[name]) for name in (b"EXIF", b"XMP ") if name in dressed]
        self._file.write(b"RIFF\0\0\0\0WEBP")
        self._write(b"VP8X", struct.pack("<I", self._flags) + _three(first.width - 1) + _three(first.height - 1))
        if b"ICCP" in dressed:
            self._write(b"ICCP", dressed[b"ICCP"])
        self._write(b"ANIM", struct.pack("<IH", 0, min(self._plays, 0xFFFF)))

    def repeat(self, _: pyvips.Image) -> None:
        self._flags |= _ALPHA
        clear = pyvips.Image.black(1, 1, bands=4).copy(interpretation="srgb")
        self._add(clear.webpsave_buffer(lossless=True, keep="none"), (0, 0, 1, 1), _SHOWS_THROUGH)

    def _add(self, encoded: bytes, box: tuple[int, int, int, int], flag: int) -> None:
        left, top, width, height = box
        place = _three(left // 2) + _three(top // 2) + _three(width - 1) + _three(height - 1)
        pixels = b"".join(_chunk(name, data) for name, data in _chunks(encoded) if name in (b"ALPH", b"VP8 ", b"VP8L"))
        self._write(b"ANMF", place + _three(next(self._delays)) + bytes([flag]) + pixels)

    def end(self) -> None:
        for name, data in self._last:
            self._write(name, data)
        length = self._file.tell() - 8
        self._file.seek(4)
        self._file.write(struct.pack("<I", length))
        self._file.seek(_FLAGS_START)
        self._file.write(struct.pack("<I", self._flags))

    def _write(self, name: bytes, data: bytes) -> None:
        self._file.write(_chunk(name, data))
        if self._file.tell() > _MOST_BYTES:
            raise ResultImpossible("webp can't hold more than 4 GiB; use png", field="format")


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 12
    while place < len(data):
        name, length = struct.unpack_from("<4sI", data, place)
        yield name, data[place + 8 : place + 8 + length]
        place += 8 + length + length % 2


def _three(number: int) -> bytes:
    return number.to_bytes(3, "little")
