"""Animated PNG as a list of frames (PNG, third edition, W3C 2025): its chunks are read here; libvips decodes the pixels
of each frame as a PNG of its own."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import pyvips

from server.errors import SourceUnreadable
from server.images.chunks import PNG_SIGNATURE, is_intact, png_chunk, png_chunks
from server.images.metadata.timing import Timing
from server.images.read.compositor import Disposal, Patch

_CHECKED = (b"acTL", b"fcTL", b"fdAT")
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
    """Start and end, in the file, of its compressed pixels."""


@dataclass(frozen=True)
class Apng:
    data: bytes
    frames: tuple[Frame, ...]
    plays: int
    header: bytes
    """Depth, colour type, interlacing: the part of IHDR after the size."""
    common: bytes
    """Chunks that every frame needs: palette and transparency."""
    whole: bool
    """Nothing is damaged or missing."""

    @property
    def timing(self) -> Timing:
        return Timing(tuple(frame.delay for frame in self.frames), self.plays)

    @property
    def has_alpha(self) -> bool:
        """Some pixel may be transparent in some frame."""
        cleared = any(frame.disposal == "clear" for frame in self.frames[:-1])
        return self.header[1] in (4, 6) or b"tRNS" in self.common or cleared or self.frames[0].disposal == "restore"

    def file(self, frame: Frame) -> bytes:
        """A PNG of this frame alone."""
        pixels = b"".join(self.data[start:end] for start, end in frame.parts)
        size = struct.pack(">II", frame.width, frame.height)
        header, body = png_chunk(b"IHDR", size + self.header), png_chunk(b"IDAT", pixels)
        return PNG_SIGNATURE + header + self.common + body + png_chunk(b"IEND", b"")


def read(data: bytes) -> Apng | None:
    """All frames, not decoded; None for a PNG that is not animated. Frames after damaged data are left out."""
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
    """Name, start and end of the contents of each chunk, up to the first that is damaged."""
    for name, start, end in png_chunks(data):
        # libvips checks IDAT; the contents of others are written into new files, with new checksums.
        if end + 4 > len(data) or (name in _CHECKED and not is_intact(data, start, end)):
            return
        yield name, start, end


def _frame(control: bytes) -> Frame | None:
    if len(control) != _CONTROL.size:
        return None
    _, width, height, left, top, part, of, disposal, blend = _CONTROL.unpack(control)
    if not (width and height and disposal < len(_DISPOSALS) and blend <= 1):
        return None
    return Frame(left, top, width, height, Fraction(part, of or 100), _DISPOSALS[disposal], blend == 1, [])


def patches(apng: Apng, frames: Sequence[Frame]) -> Iterator[Patch]:
    """The patch of each frame, decoded on demand. Raises pyvips.Error and SourceUnreadable."""
    for frame in frames:
        if not frame.parts:
            raise SourceUnreadable("the picture file is damaged")
        image = pyvips.Image.pngload_buffer(apng.file(frame), fail_on="error")
        opaque = 65535 if image.format == "ushort" else 255
        samples = (image if image.bands in (2, 4) else image.bandjoin(opaque)).numpy()
        yield Patch(frame.left, frame.top, samples, frame.over, frame.disposal)
