"""Animations for tests, built from their parts, and what they look like by the letter of their standards."""

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PALETTE = np.random.default_rng(5).integers(0, 256, (128, 3), np.uint8)
CLEAR_COLOUR = 127
"""The number of the colour that is transparent, where one is."""
DISPOSALS = ("keep", "clear", "restore")


@dataclass
class Part:
    """What one frame paints."""

    left: int
    top: int
    pixels: NDArray[Any]
    """H × W: numbers of colours, for a GIF. H × W × 4: RGBA, for a PNG."""
    disposal: str = "keep"
    over: bool = True
    hundredths: int = 7
    transparent: bool = False
    """Of a GIF: it has a colour that is."""
    interlaced: bool = False

    def rgba(self) -> NDArray[Any]:
        if self.pixels.ndim == 3:
            return self.pixels
        colours = np.dstack((PALETTE[self.pixels], np.full(self.pixels.shape, 255, np.uint8)))
        if self.transparent:
            colours[self.pixels == CLEAR_COLOUR] = 0
        return colours


def shown(size: tuple[int, int], parts: list[Part]) -> list[NDArray[Any]]:
    """H × W × 4 after each part; pixel by pixel, in plain arithmetic."""
    top = np.iinfo(parts[0].rgba().dtype).max
    canvas = np.zeros((size[1], size[0], 4))
    result = []
    for part in parts:
        before = canvas.copy()
        for y, row in enumerate(part.rgba() / top):
            for x, new in enumerate(row):
                place = part.top + y, part.left + x
                if place[0] >= size[1] or place[1] >= size[0]:
                    continue
                old = canvas[place]
                if part.over:
                    alpha = new[3] + old[3] * (1 - new[3])
                    mixed = new[:3] * new[3] + old[:3] * old[3] * (1 - new[3])
                    new = np.array([*(mixed / alpha if alpha else mixed), alpha])
                canvas[place] = new
        result.append(np.rint(canvas * top).astype(parts[0].rgba().dtype))
        h, w = part.pixels.shape[:2]
        if part.disposal == "clear":
            canvas[part.top : part.top + h, part.left : part.left + w] = 0
        elif part.disposal == "restore":
            canvas = before
    return result


def numbers(width: int, height: int, seed: int, *, holes: bool = False) -> NDArray[Any]:
    """Numbers of colours; with `holes` a third are the transparent one's."""
    generator = np.random.default_rng(seed)
    found = generator.integers(0, CLEAR_COLOUR, (height, width), np.uint8)
    if holes:
        found[generator.random((height, width)) < 1 / 3] = CLEAR_COLOUR
    return found


def gif(size: tuple[int, int], parts: list[Part], *, repeats: int | None = None, end: bool = True) -> bytes:
    data = b"GIF89a" + struct.pack("<HHBBB", *size, 0xF6, 3, 0) + PALETTE.tobytes()
    if repeats is not None:
        data += b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", repeats) + b"\0"
    for part in parts:
        flags = (DISPOSALS.index(part.disposal) + 1) << 2 | part.transparent
        data += struct.pack("<BBBBHBB", 0x21, 0xF9, 4, flags, part.hundredths, CLEAR_COLOUR, 0)
        height, width = part.pixels.shape
        data += struct.pack("<BHHHHB", 0x2C, part.left, part.top, width, height, 0x40 if part.interlaced else 0)
        order = list(range(height))
        if part.interlaced:
            order = [*order[0::8], *order[4::8], *order[2::4], *order[1::2]]
        data += b"\x07" + _lzw(part.pixels[order].tobytes())
    return data + (b";" if end else b"")


def _lzw(pixels: bytes) -> bytes:
    """Without compression: the table is cleared before its numbers get longer than a byte."""
    codes = b"".join(b"\x80" + pixels[start : start + 100] for start in range(0, len(pixels), 100)) + b"\x81"
    blocks = [codes[start : start + 255] for start in range(0, len(codes), 255)]
    return b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def apng(size: tuple[int, int], parts: list[Part], *, plays: int = 0, aside: bool = False) -> bytes:
    """`aside`: the first picture is another, for those who know no animations."""
    deep = parts[0].pixels.dtype == np.uint16
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 16 if deep else 8, 6, 0, 0, 0))
    data += chunk(b"acTL", struct.pack(">II", len(parts), plays))
    if aside:
        data += chunk(b"IDAT", _deflated(np.full((size[1], size[0], 4), 77, parts[0].pixels.dtype)))
    sequence = 0
    for number, part in enumerate(parts):
        h, w = part.pixels.shape[:2]
        control = w, h, part.left, part.top, part.hundredths, 100, DISPOSALS.index(part.disposal), part.over
        data += chunk(b"fcTL", struct.pack(">IIIIIHHBB", sequence, *control))
        sequence += 1
        pixels = _deflated(part.pixels)
        if number == 0 and not aside:
            data += chunk(b"IDAT", pixels)
            continue
        for piece in (pixels[: len(pixels) // 2], pixels[len(pixels) // 2 :]):
            data += chunk(b"fdAT", struct.pack(">I", sequence) + piece)
            sequence += 1
    return data + chunk(b"IEND", b"")


def _deflated(pixels: NDArray[Any]) -> bytes:
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(len(pixels), -1)
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
