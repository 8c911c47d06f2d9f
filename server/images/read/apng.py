"""Animated PNG as a row of frames (PNG, third edition, W3C 2025): its chunks are told apart here, the pixels of each
frame are libvips' affair, as those of a PNG of its own."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import pyvips

from server.errors import SourceUnreadable
from server.images.metadata.timing import Timing
from server.images.read.compositor import Disposal, Patch

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 500_000
"""Programs make them of 8 KiB and more. A file that has more is made to keep its reader busy."""
_CONTROL = struct.Struct(">IIIIIHHBB")
_DISPOSALS: tuple[Disposal, ...] = ("keep", "clear", "restore")


@dataclass(frozen=True)
class Frame:
    left: int
    top: int
    width: int
    height: int
    delay: Fraction
    """Seconds."""
    disposal: Disposal
    over: bool
    parts: list[tuple[int, int]]
    """Where in the file its compressed pixels lie."""


@dataclass(frozen=True)
class Apng:
    data: bytes
    frames: tuple[Frame, ...]
    plays: int
    header: bytes
    """Depth, colours, interlacing: what the file's IHDR has behind the size."""
    common: bytes
    """The chunks that all frames need: palette and transparency."""
    whole: bool

    @property
    def timing(self) -> Timing:
        return Timing(tuple(frame.delay for frame in self.frames), self.plays)

    @property
    def has_alpha(self) -> bool:
        """Something may be seen to be transparent."""
        cleared = any(frame.disposal == "clear" for frame in self.frames[:-1])
        return self.header[1] in (4, 6) or b"tRNS" in self.common or cleared or self.frames[0].disposal == "restore"

    def file(self, frame: Frame) -> bytes:
        """A PNG of this frame alone."""
        pixels = b"".join(self.data[start:end] for start, end in frame.parts)
        size = struct.pack(">II", frame.width, frame.height)
        return (
            SIGNATURE + chunk(b"IHDR", size + self.header) + self.common + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
        )


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def read(data: bytes) -> Apng | None:
    """All frames, none decoded; None for a PNG that is not animated. What comes after damage is not there."""
    width, height = struct.unpack_from(">II", data.ljust(24, b"\0"), 16)
    header, common, plays, announced = data[24:29], b"", 0, 0
    frames: list[Frame] = []
    sequence, whole = 0, False
    for name, start, end in _chunks(data):
        if name == b"acTL" and end - start == 8:
            announced, plays = struct.unpack_from(">II", data, start)
        elif name in (b"PLTE", b"tRNS") and name not in common:
            common += data[start - 8 : end + 4]
        elif name == b"IDAT":
            if not announced:
                return None
            if frames:
                frames[0].parts.append((start, end))
        elif name in (b"fcTL", b"fdAT"):
            if end - start < 4 or int.from_bytes(data[start : start + 4], "big") != sequence:
                break
            sequence += 1
            if name == b"fdAT":
                if not frames:
                    break
                frames[-1].parts.append((start + 4, end))
                continue
            frame = _frame(data[start:end])
            if frame is None or frame.left + frame.width > width or frame.top + frame.height > height:
                break
            frames.append(frame)
        elif name == b"IEND":
            whole = True
            break
    if not announced:
        return None
    return Apng(data, tuple(frames[:announced]), plays, header, common, whole)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Names, and where their data are, as far as they are sound."""
    place = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if place + 12 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, place)
        start, end = place + 8, place + 8 + length
        if end + 4 > len(data):
            return
        # Of IDAT libvips looks at it, and the others are put into files of our own, with sums of their own.
        if name in (b"acTL", b"fcTL", b"fdAT") and zlib.crc32(data[place + 4 : end]) != int.from_bytes(
            data[end : end + 4], "big"
        ):
            return
        yield name, start, end
        place = end + 4


def _frame(control: bytes) -> Frame | None:
    if len(control) != _CONTROL.size:
        return None
    _, width, height, left, top, part, of, disposal, blend = _CONTROL.unpack(control)
    if not (width and height and disposal < len(_DISPOSALS) and blend <= 1):
        return None
    return Frame(left, top, width, height, Fraction(part, of or 100), _DISPOSALS[disposal], blend == 1, [])


def patches(apng: Apng, frames: Sequence[Frame]) -> Iterator[Patch]:
    """What each paints, decoded when it is asked for. Raises pyvips.Error and SourceUnreadable."""
    for frame in frames:
        if not frame.parts:
            raise SourceUnreadable("the picture file is damaged")
        image = pyvips.Image.pngload_buffer(apng.file(frame), fail_on="error")
        opaque = 65535 if image.format == "ushort" else 255
        samples = (image if image.bands in (2, 4) else image.bandjoin(opaque)).numpy()
        yield Patch(frame.left, frame.top, samples, frame.over, frame.disposal)
