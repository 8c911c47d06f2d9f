"""The gain map of an Ultra HDR JPEG: a second JPEG behind the first, which says by how much each part of the picture is
brighter on an HDR display (ISO 21496-1; Google's "Ultra HDR image format" 1.1; Apple's earlier form). Those of HEIC and
AVIF are in heif_gain_map.py.

Gain maps are found by what is in the file. The offsets and lengths that its metadata state (CIPA DC-007, "MPF", and
Google's container in XMP) are not used: programs that edit pictures often leave them wrong.
"""

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

import pyvips

from server.images.read import jpeg

ISO = b"urn:iso:std:iso:ts:21496:-1\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_GOOGLE, _APPLE = b"http://ns.adobe.com/hdr-gain-map/1.0/", b"urn:com:apple:photo:2020:aux:hdrgainmap"
_APP1, _APP2 = 0xE1, 0xE2
_START = b"\xff\xd8\xff"
_MOST_PICTURES = 8
"""Pictures behind the first that are looked at. Cameras write up to three: a gain map, a preview, a depth map."""
_MULTICHANNEL, _COMMON_DENOMINATOR = 0x80, 0x08
_NUMBER = rb"(?:=[\"']|>)\s*([-+0-9.eE]{1,40})"


def _load_jpeg(data: bytes) -> pyvips.Image:
    return pyvips.Image.jpegload_buffer(data, access="sequential", fail_on="error")


@dataclass(frozen=True)
class GainMap:
    file: bytes
    """A picture file whose main picture is the gain map, which is not larger than the picture that it belongs to."""
    metadata: bytes
    """The segments that a JPEG of the gain map needs; they do not depend on its size."""
    announced: bytes
    """The segments of the picture that say which version of ISO 21496-1 the gain map has; may be empty."""
    in_xmp: bool
    """It has Google's form, for which the picture's XMP must state its place."""
    stops: float | None
    """How many stops above standard white the brightest part of the picture is; None if the metadata do not say it."""

    load: Callable[[bytes], pyvips.Image] = _load_jpeg
    """How `file` is decoded."""

    def open(self) -> pyvips.Image:
        """Grey or RGB of 8 bits, to be read once, from top to bottom. Raises pyvips.Error, also when its rows are read,
        and SourceUnreadable."""
        return self.load(self.file)


def find(data: bytes, found: jpeg.Jpeg, size: tuple[int, int]) -> GainMap | None:
    """The gain map of a JPEG file of that width and height, as stored, whose segments are `found`; None if it has none
    that can be used.
    Nothing is decoded, so the gain map's own pixels may still prove to be damaged."""
    place = found.end
    for _ in range(_MOST_PICTURES):
        place = data.find(_START, place) if place else -1
        if place < 0:
            return None
        other = jpeg.look(data, place)
        if not other.ends:
            return None
        if (read := _read(data, place, other)) is not None:
            metadata, in_xmp, stops = read
            announced = [announcement(each) for each in jpeg.application(data, found, 2, ISO)]
            gain_map = GainMap(data[place : other.end], metadata, b"".join(announced), in_xmp, stops)
            return gain_map if _is_usable(gain_map, other, size) else None
        place = other.end
    return None


def _is_usable(gain_map: GainMap, found: jpeg.Jpeg, size: tuple[int, int]) -> bool:
    if jpeg.unsupported(found) is not None or not found.has_all_scans:
        return False
    try:
        image = gain_map.open()
    except pyvips.Error:
        return False
    return image.bands in (1, 3) and image.width <= size[0] and image.height <= size[1]


def _read(data: bytes, start: int, found: jpeg.Jpeg) -> tuple[bytes, bool, float | None] | None:
    """The segments with metadata, whether it has Google's form, and the stops; None if it is no gain map."""
    stated = [iso_stops(each) for each in jpeg.application(data, found, 2, ISO)]
    packets = jpeg.application(data, found, 1, _XMP)
    google = [_xmp_stops(each) for each in packets if _GOOGLE in each]
    sound = [each for each in (*stated, *google) if each is not None]
    if not sound and not any(_APPLE in each for each in packets):
        return None
    kept = [
        jpeg.segment(code, data[first:end])
        for code, first, end in found.segments
        if (code == _APP1 and data.startswith(_XMP, first)) or (code == _APP2 and not data.startswith(b"MPF\0", first))
    ]
    return b"".join(kept), any(each is not None for each in google), max(sound, default=None)


def announcement(version: bytes) -> bytes:
    """The segment of a picture that has a gain map by ISO 21496-1."""
    return jpeg.segment(_APP2, ISO + version)


def iso_stops(metadata: bytes) -> float | None:
    """Of the brighter of both pictures (ISO 21496-1, annex C); None if the metadata are damaged."""
    if len(metadata) < 5:
        return None
    flags = metadata[4]
    channels = 3 if flags & _MULTICHANNEL else 1
    common = bool(flags & _COMMON_DENOMINATOR)
    count = 1 + 2 + 5 * channels if common else 2 * (2 + 5 * channels)
    if len(metadata) < 5 + 4 * count:
        return None
    numbers = struct.unpack_from(f">{count}I", metadata, 5)
    if 0 in (numbers[:1] if common else numbers[1::2]):
        return None
    base, alternate = (each / numbers[0] for each in numbers[1:3]) if common else (
        numbers[0] / numbers[1],
        numbers[2] / numbers[3],
    )  # fmt: skip
    return float(max(base, alternate))


def _xmp_stops(packet: bytes) -> float | None:
    if re.search(rb"hdrgm:GainMapMax\b", packet) is None:
        return None
    found = re.search(rb"hdrgm:HDRCapacityMax" + _NUMBER, packet)
    try:
        stops = float(found[1]) if found else math.nan
    except ValueError:
        return None
    return stops if math.isfinite(stops) else None
