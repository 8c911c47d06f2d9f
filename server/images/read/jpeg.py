"""The segments of a JPEG file (ITU-T T.81): what it is made of, whether all of it is there, and what it says beside the
picture. No coefficient is decoded."""

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import pyvips

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Not those that stand within a scan: a stuffed FF, or a restart (ITU-T T.81, B.1.1.2)."""
_TEM, _EOI, _SOS, _COMMENT = 0x01, 0xD9, 0xDA, 0xFE
_APP = range(0xE0, 0xF0)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}
"""Markers that begin a frame, each of its own process; the last is JPEG-LS's."""
_PROGRESSIVE = {0xC2, 0xCA}
_UNREAD = {
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
"""A few dozen are the most that encoders make. Each costs a pass over all coefficients, however few bytes it has, so
that a file of thousands keeps a decoder busy for minutes."""
_MAX_SEGMENTS = 100_000
"""Beyond which looking for more would itself take long."""


@dataclass
class Jpeg:
    frame: int = 0
    """The marker that its frame begins with."""
    depth: int = 8
    height: int = 1
    components: tuple[int, ...] = ()
    scans: int = 0
    missing: dict[int, list[int]] = field(default_factory=dict)
    """By component: of each of its 64 coefficients, how many low bits have not come; -1 for none of it."""
    ends: bool = False
    """There is an end of the picture."""
    end: int = 0
    """Where that end is, if there is one; what follows, such as a film, is not of the picture."""
    is_tiresome: bool = False
    """It has more than MAX_SCANS."""
    segments: list[tuple[int, int, int]] = field(default_factory=list)
    """Of those before the first scan that belong to applications, and of comments: marker, start and end of content."""

    @property
    def has_all_scans(self) -> bool:
        """Every bit of every coefficient has been in some scan, if no scan is cut short."""
        return bool(self.components) and all(
            component in self.missing and not any(self.missing[component]) for component in self.components
        )


def look(data: bytes) -> Jpeg:
    """From one marker to the next up to the end of the picture."""
    found, place = Jpeg(), 2
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
    found.is_tiresome = True
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
"""Bytes as a scan may have them, with restarts, which decoders pass over behind the end of one."""


def ended(data: bytes, filler: bytes = b"") -> bytes:
    """With the two bytes at its end that some programs leave out, or lose one of."""
    return data.removesuffix(b"\xff") + filler + b"\xff\xd9"


def unread(found: Jpeg) -> str | None:
    """Why it can't be read although it is sound, in words; None where nothing is known against it."""
    if found.frame in _UNREAD:
        return f"{_UNREAD[found.frame]} is not read; convert it to ordinary JPEG or PNG"
    if found.frame and found.depth != 8:
        return f"JPEG with {found.depth} bits per sample is not read; convert it to PNG or TIFF of 16 bits"
    if found.frame and found.height == 0:
        return "JPEG whose header does not state its height is not read; save it again with another program"
    return None


def comments(data: bytes, found: Jpeg) -> list[bytes]:
    return [data[start:end] for code, start, end in found.segments if code == _COMMENT]


def application(data: bytes, found: Jpeg, number: int, name: bytes) -> list[bytes]:
    """What the segments APP`number` of that name hold behind it."""
    parts = (data[start:end] for code, start, end in found.segments if code == _APP[number])
    return [part[len(name) :] for part in parts if part.startswith(name)]


def write(save: Callable[[pyvips.TargetCustom], None], file: BinaryIO, first: bytes, added: Sequence[bytes]) -> None:
    """Into `file` what `save` writes, with the segment `first` before all others, and comments behind those for
    applications. Raises OSError."""
    waiting, raised = bytearray(), []
    head: bytes | None = b"".join(bytes([0xFF, _COMMENT]) + struct.pack(">H", len(each) + 2) + each for each in added)

    def put(data: bytes) -> int:
        nonlocal head, waiting
        try:
            if head is None:
                file.write(data)
            else:
                waiting += data
                place = _behind_applications(waiting)
                if place is not None:
                    file.write(waiting[:2] + first + waiting[2:place] + head + waiting[place:])
                    head, waiting = None, bytearray()
        except BaseException as error:  # libvips calls: it would be printed, and lost
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


def _behind_applications(data: bytearray) -> int | None:
    """Where the first other segment begins; None where that has not come yet."""
    place = 2
    while place + 4 <= len(data):
        if data[place + 1] not in _APP:
            return place
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None
