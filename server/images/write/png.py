"""Write PNG, still and animated: row by row, in parallel, faster than libpng.

Writing a large PNG takes mostly the time of deflate. ISA-L's deflate takes a half to a quarter of libpng's time at the
same size, and the bands of the picture are compressed in parallel (measured by benchmarks/codecs.py). Each band ends at
a byte boundary, so that all bands together are one deflate stream (RFC 1951, section 3.2.4). Every row has the filter
"Up": on enlarged pictures no other filter, nor a choice among them for each row, made smaller files.
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

from server.images.chunks import PNG_SIGNATURE, png_chunk
from server.images.metadata import resolution, texts
from server.images.metadata.cicp import CodePoints
from server.images.metadata.fields import CODE_POINTS, EXIF, ICC, RESOLUTION, TEXTS, XMP, get_field
from server.images.metadata.timing import Timing

_LEVEL = 1
_BAND_BYTES = 2 << 20
_WORKERS = min(8, os.cpu_count() or 1)

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""By channels: grey, grey + alpha, RGB, RGB + alpha (PNG, third edition, W3C 2025, section 11.2.1)."""
_UP = 2
_MOST_PLAYS = 2**31 - 1


def save_png(image: pyvips.Image, path: Path) -> None:
    """`image`: 8 or 16 bits, grey or RGB, with or without alpha. Its profile, EXIF, XMP, texts and resolution are
    written too. It is read once, from top to bottom. Raises pyvips.Error if it can't be computed, OSError if it can't
    be written."""
    with path.open("wb") as file:
        _write_header(file, image)
        _write_metadata(file, image)
        _write_pixels(image, lambda data: file.write(png_chunk(b"IDAT", data)))
        file.write(png_chunk(b"IEND", b""))


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
        file.write(png_chunk(b"acTL", struct.pack(">II", timing.frames, min(timing.plays, _MOST_PLAYS))))
        _write_metadata(file, first)

    def write(self, image: pyvips.Image, left: int, top: int) -> None:
        delay = _fraction(self._timing.delays[self._frames])
        place = image.width, image.height, left, top
        # The last two numbers: nothing is cleared after the frame, and its pixels replace those below.
        self._file.write(png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", self._next(), *place, *delay, 0, 0)))
        first = self._frames == 0
        _write_pixels(image, self._write_data if first else self._write_frame_data)
        self._frames += 1

    def repeat(self, pixel: pyvips.Image) -> None:
        self.write(pixel, 0, 0)

    def end(self) -> None:
        self._file.write(png_chunk(b"IEND", b""))

    def _write_data(self, data: bytes) -> None:
        self._file.write(png_chunk(b"IDAT", data))

    def _write_frame_data(self, data: bytes) -> None:
        self._file.write(png_chunk(b"fdAT", struct.pack(">I", self._next()) + data))

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1


def _fraction(delay: Fraction) -> tuple[int, int]:
    """Seconds as numerator and denominator of 16 bits: exact if possible."""
    nearest = delay.limit_denominator(0xFFFF)
    if nearest.numerator > 0xFFFF:
        nearest = Fraction(min(round(delay), 0xFFFF))
    return nearest.numerator, nearest.denominator


def _write_header(file: BinaryIO, image: pyvips.Image) -> None:
    file.write(PNG_SIGNATURE)
    header = image.width, image.height, 16 if image.format == "ushort" else 8, _COLOUR_TYPES[image.bands], 0, 0, 0
    file.write(png_chunk(b"IHDR", struct.pack(">IIBBBBB", *header)))


def _write_pixels(image: pyvips.Image, write: Callable[[bytes], object]) -> None:
    deep = image.format == "ushort"
    with ThreadPoolExecutor(_WORKERS) as pool:
        deflater = _Deflater(write, pool, row_bytes=image.width * image.bands * (2 if deep else 1))
        _read_rows(image.byteswap() if deep else image, deflater.add)
        deflater.end()


def _read_rows(image: pyvips.Image, add: Callable[[bytes], None]) -> None:
    """Pass all bytes of `image` to `add`, in pieces of any length. An exception of `add` stops the reading."""
    raised: list[BaseException] = []

    def write(data: bytes) -> int:
        try:
            add(data)
        except BaseException as error:  # libvips is the caller, and would only print it
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
    """Compresses raw samples to a zlib stream, and passes its parts to `write`."""

    def __init__(self, write: Callable[[bytes], object], pool: ThreadPoolExecutor, row_bytes: int) -> None:
        self._write = write
        self._pool = pool
        self._row_bytes = row_bytes
        self._band_bytes = max(1, _BAND_BYTES // row_bytes) * row_bytes
        self._raw = bytearray()
        self._above = bytes(row_bytes)
        self._waiting: deque[Future[tuple[bytes, bytes]]] = deque()
        self._checksum = isal_zlib.adler32(b"")
        self._start = b"\x78\x01"  # zlib's header (RFC 1950): a window of 32 KiB, fastest compression

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
    """Rows, and the row above them → the filtered rows, uncompressed and compressed."""
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
        file.write(png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile)))
    codes = CodePoints.unpack(get_field(image, CODE_POINTS))
    for name, data in codes.png_chunks() if codes else ():
        file.write(png_chunk(name, data))
    stated = resolution.unpack(get_field(image, RESOLUTION))
    if stated is not None and (contents := resolution.phys(stated)) is not None:
        file.write(png_chunk(b"pHYs", contents))
    if tags is not None:
        file.write(png_chunk(b"eXIf", tags.removeprefix(b"Exif\0\0")))
    if packet is not None:
        file.write(png_chunk(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + packet))
    for name, contents in texts.unpack(get_field(image, TEXTS)).as_chunks():
        file.write(png_chunk(name, contents))
