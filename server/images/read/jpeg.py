"""The segments of a JPEG file (ITU-T T.81): its kind, whether it is complete, and its metadata. No coefficients are
decoded."""

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import pyvips

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Not those within a scan: a stuffed FF, or a restart (ITU-T T.81, section B.1.1.2)."""
_TEM, _EOI, _SOS, _COMMENT = 0x01, 0xD9, 0xDA, 0xFE
_APP = range(0xE0, 0xF0)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}
"""Markers that begin a frame, one for each coding process; the last is JPEG-LS."""
_PROGRESSIVE = {0xC2, 0xCA}
_UNSUPPORTED = {
    0xC5: "hierarchical JPEG",
    0xC6: "hierarchical JPEG",
    0xC7: "hierarchical JPEG",
    0xCB: "lossless JPEG with arithmetic coding",
    0xCD: "hierarchical JPEG",
    0xCE: "hierarchical JPEG",
    0xCF: "hierarchical JPEG",
    0xF7: "JPEG-LS",
}

MAX_SCANS = 100
"""Encoders make at most a few dozen. Each scan costs the decoder a pass over all coefficients, even if it has few
bytes: a file with thousands would keep it busy for minutes."""
_MAX_SEGMENTS = 100_000
"""Reading more segments would itself take long."""


@dataclass
class Jpeg:
    frame: int = 0
    """The marker that begins its frame; 0 if there is none."""
    depth: int = 8
    height: int = 1
    components: tuple[int, ...] = ()
    scans: int = 0
    missing: dict[int, list[int]] = field(default_factory=dict)
    """By component: for each of its 64 coefficients the number of low bits that no scan has; -1 if no scan has it."""
    ends: bool = False
    """There is an end-of-image marker."""
    end: int = 0
    """Offset after that marker. Data after it, such as a video, are not part of the picture."""
    has_too_many_parts: bool = False
    """It has more than MAX_SCANS scans, or more segments than are read."""
    segments: list[tuple[int, int, int]] = field(default_factory=list)
    """Application segments before the first scan, and comments: marker, start and end of the content."""

    @property
    def has_all_scans(self) -> bool:
        """Every bit of every coefficient is in some scan, provided that no scan is truncated."""
        return bool(self.components) and all(
            component in self.missing and not any(self.missing[component]) for component in self.components
        )


def look(data: bytes, start: int = 0) -> Jpeg:
    """Read the markers up to the end of the picture that begins at `start`."""
    found, place = Jpeg(), start + 2
    for _ in range(_MAX_SEGMENTS):
        marker = _MARKER.search(data, place)
        if marker is None:
            return found
        code, place = data[marker.start() + 1], marker.end()
        if code == _EOI:
            found.ends, found.end = True, place
            return found
        if code == _TEM:  # the only other one without a length
            continue
        length = max(2, int.from_bytes(data[place : place + 2], "big"))
        body, place = data[place + 2 : place + length], place + length
        if code in _FRAMES and not found.frame:
            _read_frame(found, code, body)
        elif code == _SOS:
            found.scans += 1
            _read_scan(found, body)
        elif code == _COMMENT or (code in _APP and not found.scans):
            found.segments.append((code, place - length + 2, min(place, len(data))))
        if found.scans > MAX_SCANS:
            break
    found.has_too_many_parts = True
    return found


def _read_frame(found: Jpeg, code: int, body: bytes) -> None:
    if len(body) >= 6:
        found.frame, found.depth, found.height = code, body[0], int.from_bytes(body[1:3], "big")
        found.components = tuple(body[6 : 6 + 3 * body[5] : 3])


def _read_scan(found: Jpeg, body: bytes) -> None:
    count = body[0] if body else 0
    if len(body) < 4 + 2 * count:
        return
    first, last, low = body[1 + 2 * count], body[2 + 2 * count], body[3 + 2 * count] & 15
    for component in body[1 : 1 + 2 * count : 2]:
        bits = found.missing.setdefault(component, [-1] * 64)
        if found.frame not in _PROGRESSIVE:
            bits[:] = [0] * 64
        else:
            for coefficient in range(first, min(last, 63) + 1):
                bits[coefficient] = low


_SOME = bytes(each * 167 % 251 for each in range(1, 251))
FILLER = _SOME + b"".join(bytes([0xFF, 0xD0 + each % 8]) + _SOME for each in range(16))
"""Bytes that a scan could contain, with restarts. After the end of a complete scan decoders ignore them."""


def completed(data: bytes, filler: bytes = b"") -> bytes:
    """The file with an end-of-image marker, which some programs leave out or truncate to one byte."""
    return data.removesuffix(b"\xff") + filler + b"\xff\xd9"


def unsupported(found: Jpeg) -> str | None:
    """Why a valid file of this kind can't be read, as a message; None if it can."""
    if found.frame in _UNSUPPORTED:
        return f"{_UNSUPPORTED[found.frame]} is not supported; convert it to baseline or progressive JPEG, or to PNG"
    if found.frame and found.depth != 8:
        return f"JPEG with {found.depth} bits per sample is not supported; convert it to PNG or TIFF of 16 bits"
    if found.frame and found.height == 0:
        return "JPEG whose header does not state its height is not supported; save it again with another program"
    return None


def comments(data: bytes, found: Jpeg) -> list[bytes]:
    return [data[start:end] for code, start, end in found.segments if code == _COMMENT]


def application(data: bytes, found: Jpeg, number: int, name: bytes) -> list[bytes]:
    """The contents, after `name`, of the segments APP`number` that begin with `name`."""
    parts = (data[start:end] for code, start, end in found.segments if code == _APP[number])
    return [part[len(name) :] for part in parts if part.startswith(name)]


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def comment(text: bytes) -> bytes:
    return segment(_COMMENT, text)


def write(save: Callable[[pyvips.TargetCustom], None], file: BinaryIO, first: bytes, added: Sequence[bytes]) -> int:
    """Write to `file` what `save` writes, with the segment `first` before all others, and the segments `added` after
    the application segments. Returns the offset behind these. Raises OSError."""
    waiting, raised = bytearray(), []
    end = 0
    head: bytes | None = b"".join(added)

    def put(data: bytes) -> int:
        nonlocal head, waiting, end
        try:
            if head is None:
                file.write(data)
            else:
                waiting += data
                place = _behind_applications(waiting)
                if place is not None:
                    file.write(waiting[:2] + first + waiting[2:place] + head + waiting[place:])
                    end = len(first) + place + len(head)
                    head, waiting = None, bytearray()
        except BaseException as error:  # libvips is the caller, and would only print it
            raised.append(error)
            return -1
        return len(data)

    target = pyvips.TargetCustom()
    target.on_write(put)
    try:
        save(target)
    except pyvips.Error:
        if not raised:
            raise
    if raised:
        raise raised[0]
    return end


def _behind_applications(data: bytearray) -> int | None:
    """Offset of the first segment that is not an application's; None if `data` do not reach it yet."""
    place = 2
    while place + 4 <= len(data):
        if data[place + 1] not in _APP:
            return place
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None
