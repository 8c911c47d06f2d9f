"""Animated WebP (RFC 9649): libvips encodes each frame as a file of its own, and its chunks are copied into one file.

libwebp's own encoder holds all frames until the last one.
"""

import struct
from typing import BinaryIO

import pyvips

from server.errors import ResultImpossible
from server.images.chunks import riff_chunk, riff_chunks
from server.images.metadata.fields import kept
from server.images.metadata.timing import Timing

_PROFILE, _ALPHA, _EXIF, _XMP, _ANIMATION = 0x20, 0x10, 0x08, 0x04, 0x02
_REPLACES, _SHOWS_THROUGH = 0x02, 0x00
"""A frame replaces the pixels below it, or is blended with them."""
_PIXELS = (b"ALPH", b"VP8 ", b"VP8L")
_FLAGS_START = 20
_LONGEST_MS = 2**24 - 1
_MOST_BYTES = 2**32 - 2


class WebpWriter:
    STEP = 2
    """RFC 9649 stores left and top of a frame in units of two pixels."""

    def __init__(
        self, file: BinaryIO, first: pyvips.Image, timing: Timing, *, quality: int | None, lossless: bool
    ) -> None:
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
            # libvips writes the first picture's metadata with it.
            encoded = self._first.webpsave_buffer(keep=kept(self._first), **self._options)
            self._begin(self._first, dict(riff_chunks(encoded)))
            self._first = None
            self._add(encoded, box, _REPLACES)

    def _begin(self, first: pyvips.Image, metadata: dict[bytes, bytes]) -> None:
        self._flags = _ANIMATION | (_ALPHA if first.hasalpha() else 0)
        for name, flag in ((b"ICCP", _PROFILE), (b"EXIF", _EXIF), (b"XMP ", _XMP)):
            self._flags |= flag if name in metadata else 0
        self._last = [(name, metadata[name]) for name in (b"EXIF", b"XMP ") if name in metadata]
        self._file.write(b"RIFF\0\0\0\0WEBP")
        self._write(b"VP8X", struct.pack("<I", self._flags) + _three(first.width - 1) + _three(first.height - 1))
        if b"ICCP" in metadata:
            self._write(b"ICCP", metadata[b"ICCP"])
        self._write(b"ANIM", struct.pack("<IH", 0, min(self._plays, 0xFFFF)))

    def repeat(self, _: pyvips.Image) -> None:
        self._flags |= _ALPHA
        clear = pyvips.Image.black(1, 1, bands=4).copy(interpretation="srgb")
        self._add(clear.webpsave_buffer(lossless=True, keep="none"), (0, 0, 1, 1), _SHOWS_THROUGH)

    def _add(self, encoded: bytes, box: tuple[int, int, int, int], flag: int) -> None:
        left, top, width, height = box
        place = _three(left // 2) + _three(top // 2) + _three(width - 1) + _three(height - 1)
        pixels = b"".join(riff_chunk(name, data) for name, data in riff_chunks(encoded) if name in _PIXELS)
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
        self._file.write(riff_chunk(name, data))
        if self._file.tell() > _MOST_BYTES:
            raise ResultImpossible("webp can't hold more than 4 GiB; use png", field="format")


def _three(number: int) -> bytes:
    return number.to_bytes(3, "little")
