"""Writing PNG, still and animated: row by row, in parallel, faster than libpng.

A large result in PNG is mostly time spent in deflate. With ISA-L's it takes a half to a quarter of libpng's time at the
same size, and the picture is cut into bands that are compressed at the same time (figures: benchmarks/codecs.py).
Each band is a deflate block that ends at a byte, so that together they are one stream (RFC 1951, section 3.2.4). Every
row is filtered by "Up": on enlarged pictures no other filter, nor choosing among them, made smaller files.
"""

import os
import struct
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyvips
from isal import isal_zlib

from server.images.metadata import resolution, texts
from server.images.metadata.fields import EXIF, ICC, RESOLUTION, TEXTS, XMP, get_field
from server.images.metadata.timing import Timing

_LEVEL = 1
_BAND_BYTES = 2 << 20
_WORKERS = min(8, os.cpu_count() or 1)

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""Of the PNG specification (W3C, 2025, section 11.2.1), by channels: grey, grey + alpha, RGB, RGB + alpha."""
_UP = 2
_MOST_PLAYS = 2**31 - 1


def save_png(image: pyvips.Image, path: Path) -> None:
    """`image`: 8 or 16 bits, grey or RGB, perhaps with alpha. Its profile, EXIF, XMP and resolution go with it. It
    is read once, from top to bottom. Raises pyvips.Error when it can't be computed, OSError when not be written."""
    with path.open("wb") as file:
        _write_header(file, image)
        _write_metadata(file, image)
        _write_pixels(image, lambda data: _write_chunk(file, b"IDAT", data))
        _write_chunk(file, b"IEND", b"")


class PngWriter:
    """An animated PNG (PNG, third edition, W3C 2025)."""

    STEP = 1

    def __init__(self, file: BinaryIO, first: pyvips.Image, timing: Timing) -> None:
        self._file = file
        self._timing = timing
        self._frames = 0
        self._sequence = 0
        self.always_whole = False
        _write_header(file, first)
        _write_chunk(file, b"acTL", struct.pack(">II", timing.frames, min(timing.plays, _MOST_PLAYS)))
        _write_metadata(file, first)

    def write(self, image: pyvips.Image, left: int, top: int) -> None:
        delay = _fraction(self._timing.delays[self._frames])
        place = image.width, image.height, left, top
        # What is below is kept when its time is over, and replaced when the frame is painted.
        _write_chunk(self._file, b"fcTL", struct.pack(">IIIIIHHBB", self._next(), *place, *delay, 0, 0))
        first = self._frames == 0
        _write_pixels(image, self._write_data if first else self._write_frame_data)
        self._frames += 1

    def repeat(self, pixel: pyvips.Image) -> None:
        self.write(pixel, 0, 0)

    def end(self) -> None:
        _write_chunk(self._file, b"IEND", b"")

    def _write_data(self, data: bytes) -> None:
        _write_chunk(self._file, b"IDAT", data)

    def _write_frame_data(self, data: bytes) -> None:
        _write_chunk(self._file, b"fdAT", struct.pack(">I", self._next()) + data)

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1


def _fraction(delay: Fraction) -> tuple[int, int]:
    """Of a second, as two numbers of 16 bits: exactly, where that can be."""
    nearest = delay.limit_denominator(0xFFFF)
    if nearest.numerator > 0xFFFF:
        nearest = Fraction(min(round(delay), 0xFFFF))
    return nearest.numerator, nearest.denominator


def _write_header(file: BinaryIO, image: pyvips.Image) -> None:
    file.write(b"\x89PNG\r\n\x1a\n")
    header = image.width, image.height, 16 if image.format == "ushort" else 8, _COLOUR_TYPES[image.bands], 0, 0, 0
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", *header))


def _write_pixels(image: pyvips.Image, write: Callable[[bytes], None]) -> None:
    deep = image.format == "ushort"
    with ThreadPoolExecutor(_WORKERS) as pool:
        deflater = _Deflater(write, pool, row_bytes=image.width * image.bands * (2 if deep else 1))
        _read_rows(image.byteswap() if deep else image, deflater.add)
        deflater.end()


def _read_rows(image: pyvips.Image, add: Callable[[bytes], None]) -> None:
    """Give `add` all bytes of `image`, in pieces of any length. What it raises ends the reading."""
    raised: list[BaseException] = []

    def write(data: bytes) -> int:
        try:
            add(data)
        except BaseException as error:  # libvips calls: it would be printed, and lost
            raised.append(error)
            return -1
        return len(data)

    target = pyvips.TargetCustom()
    target.on_write(write)
    try:
        image.rawsave_target(target)
    except pyvips.Error:
        if not raised:
            raise
    if raised:
        raise raised[0]


class _Deflater:
    """Raw samples in, a zlib stream out, in parts that `write` is given."""

    def __init__(self, write: Callable[[bytes], None], pool: ThreadPoolExecutor, row_bytes: int) -> None:
        self._write = write
        self._pool = pool
        self._row_bytes = row_bytes
        self._band_bytes = max(1, _BAND_BYTES // row_bytes) * row_bytes
        self._raw = bytearray()
        self._above = bytes(row_bytes)
        self._waiting: deque[Future[tuple[bytes, bytes]]] = deque()
        self._checksum = isal_zlib.adler32(b"")
        self._start = b"\x78\x01"  # zlib's header (RFC 1950): 32 KiB of window, fast

    def add(self, data: bytes) -> None:
        self._raw += data
        while len(self._raw) >= self._band_bytes:
            self._submit(bytes(self._raw[: self._band_bytes]))
            del self._raw[: self._band_bytes]

    def end(self) -> None:
        if self._raw:
            self._submit(bytes(self._raw))
        while self._waiting:
            self._write_first()
        self._write(_compressed(b"", last=True) + struct.pack(">I", self._checksum))

    def _submit(self, band: bytes) -> None:
        self._waiting.append(self._pool.submit(_deflate, self._above, band))
        self._above = band[-self._row_bytes :]
        if len(self._waiting) > _WORKERS:
            self._write_first()

    def _write_first(self) -> None:
        filtered, compressed = self._waiting.popleft().result()
        self._checksum = isal_zlib.adler32(filtered, self._checksum)
        self._write(self._start + compressed)
        self._start = b""


def _deflate(above: bytes, band: bytes) -> tuple[bytes, bytes]:
    """Rows and the one above them → filtered rows, and these compressed."""
    rows = np.frombuffer(band, np.uint8).reshape(-1, len(above))
    filtered = np.empty((len(rows), len(above) + 1), np.uint8)
    filtered[:, 0] = _UP
    np.subtract(rows[0], np.frombuffer(above, np.uint8), out=filtered[0, 1:])
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    data = filtered.tobytes()
    return data, _compressed(data)


def _compressed(data: bytes, *, last: bool = False) -> bytes:
    deflate = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, -15)
    return deflate.compress(data) + deflate.flush(isal_zlib.Z_FINISH if last else isal_zlib.Z_SYNC_FLUSH)


def _write_metadata(file: BinaryIO, image: pyvips.Image) -> None:
    profile, tags, packet = (get_field(image, name) for name in (ICC, EXIF, XMP))
    if profile is not None:
        _write_chunk(file, b"iCCP", b"icc\0\0" + zlib.compress(profile))
    stated = resolution.unpack(get_field(image, RESOLUTION))
    if stated is not None and (contents := resolution.phys(stated)) is not None:
        _write_chunk(file, b"pHYs", contents)
    if tags is not None:
        _write_chunk(file, b"eXIf", tags.removeprefix(b"Exif\0\0"))
    if packet is not None:
        _write_chunk(file, b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + packet)
    for name, contents in texts.unpack(get_field(image, TEXTS)).as_chunks():
        _write_chunk(file, name, contents)


def _write_chunk(file: BinaryIO, name: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + name)
    file.write(data)
    file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(name))))
