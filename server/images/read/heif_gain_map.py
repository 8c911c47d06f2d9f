"""The gain map of a HEIC or AVIF file: by ISO 21496-1 (an item `tmap`, ISO/IEC 23008-12, amendment 1), or in Apple's
earlier form (an auxiliary picture). It is read by the decoders of all HEIF pictures, from the file with that picture as
its main one; results have it as an Ultra HDR JPEG has.
"""

import math
import re
import struct

import pyvips

from server.errors import SourceUnreadable
from server.images.metadata import cicp, colour
from server.images.metadata.exif import MAKER_NOTE, Reader, Value, parse
from server.images.read import fallback, jpeg
from server.images.read.gain_map import ISO, GainMap, announcement, iso_stops
from server.images.read.heif import Items

_APPLE = b"urn:com:apple:photo:2020:aux:hdrgainmap"
_HEADROOM = re.compile(rb"HDRGainMap:HDRGainMapHeadroom(?:=[\"']|>)\s*([0-9.]{1,20})")
_SAME_COLOURS = 0x40
"""A flag: the picture on an HDR display has the primaries of the picture in the file (ISO 21496-1, annex C)."""
_MOST_STOPS = 8.0
_UNIT = 1_000_000
"""The denominator of the numbers that are written."""


def find(data: bytes, mime: str, size: tuple[int, int]) -> GainMap | None:
    """The gain map of a HEIF file whose main picture has that width and height, upright; None if it has none that can
    be used, or if the picture itself is HDR. Nothing is decoded, so its pixels may still prove to be damaged."""
    items = Items(data)
    if cicp.code_points(data, mime) is not None or (found := _by_iso(items) or _by_apple(items)) is None:
        return None
    item, metadata, headroom = found
    stops = iso_stops(metadata)
    if stops is None:
        return None

    def load(file: bytes) -> pyvips.Image:
        image = _decoded(file, mime)
        return image if headroom is None else image[0].maplut(_logarithmic(headroom))

    segments = jpeg.segment(0xE2, ISO + metadata) + _profile(items, metadata)
    gain_map = GainMap(items.with_primary(item), segments, announcement(metadata[:4]), False, stops, load)
    try:
        image = gain_map.open()
    except (SourceUnreadable, pyvips.Error):
        return None
    return gain_map if image.width <= size[0] and image.height <= size[1] else None


def _by_iso(items: Items) -> tuple[int, bytes, None] | None:
    """The item of the gain map, and its metadata as JPEG has them."""
    for item, parts in items.references(b"dimg").items():
        if items.kinds.get(item) == "tmap" and len(parts) == 2 and parts[0] == items.primary:
            content = items.content(item)
            if content[:1] == b"\0":  # the version of the item
                return parts[1], content[1:], None
    return None


def _by_apple(items: Items) -> tuple[int, bytes, float] | None:
    """The same, and how many times brighter than standard white the brightest part is, for the samples."""
    for item, owners in items.references(b"auxl").items():
        urns = [each[4:].split(b"\0")[0] for each in items.properties(item, b"auxC")]
        if _APPLE in urns and items.primary in owners:
            headroom = _stated_headroom(items, item) or _headroom_of_camera(items)
            if headroom is not None and 1 < headroom <= 2**_MOST_STOPS:
                stops = round(math.log2(headroom) * _UNIT)
                # Flags; headroom of both pictures; then minimum, maximum, gamma and two offsets of the gain.
                numbers = (_UNIT, 0, stops, 0, stops, _UNIT, 0, 0)
                return item, struct.pack(">HHB8I", 0, 0, 0x08 | _SAME_COLOURS, *numbers), headroom
    return None


def _described(items: Items, item: int, kind: str) -> bytes:
    """The metadata of that kind that describe an item; empty if there are none."""
    owners = [each for each, others in items.references(b"cdsc").items() if item in others]
    return next((items.content(each) for each in owners if items.kinds.get(each) == kind), b"")


def _stated_headroom(items: Items, item: int) -> float | None:
    """Of the gain map's own XMP, which newer files have."""
    found = _HEADROOM.search(_described(items, item, "mime"))
    try:
        return float(found[1]) if found else None
    except ValueError:
        return None


def _headroom_of_camera(items: Items) -> float | None:
    """Of the maker note, by the formula of Apple's article "Applying Apple HDR effect to your photos"."""
    block = _described(items, items.primary, "Exif")
    exif = parse(block[4 + int.from_bytes(block[:4], "big") :])
    note = exif.photo.get(MAKER_NOTE)
    if note is None or not note.data.startswith(b"Apple iOS\0"):
        return None
    # Offsets count from the note's start; its byte order is stated behind its name.
    tags = Reader(note.data[12:14] + note.data[2:]).tags(14)
    boost, gain = _signed(tags.get(33)), _signed(tags.get(48))
    if boost is None or gain is None:
        return None
    if boost < 1:
        stops = 1.8 - 20 * gain if gain <= 0.01 else 1.601 - 0.101 * gain
    else:
        stops = 3 - 70 * gain if gain <= 0.01 else 2.303 - 0.303 * gain
    return float(2 ** min(max(stops, 0.0), _MOST_STOPS))


def _signed(value: Value | None) -> float | None:
    if value is None or len(value.data) != 8:
        return None
    numerator, denominator = struct.unpack("<ii", value.data)
    return float(numerator / denominator) if denominator else None


def _decoded(file: bytes, mime: str) -> pyvips.Image:
    if mime == "image/heic":
        image = fallback.find_heic(file).load()
    elif all(flag & fallback.HIGH_BITDEPTH == 0 for flag in fallback.av1_flags(file)):
        # NOTE: not by libvips, which reads a grey picture of the range 16 … 235 wrongly.
        image = fallback.find_avif(file).load()
    else:
        image = pyvips.Image.heifload_buffer(file, access="sequential", fail_on="error")
    image = colour.to_rgb(image)
    if image.format == "ushort":
        image = (image / 257).rint().cast("uchar")
    return image[: image.bands - 1] if image.bands in (2, 4) else image


def _logarithmic(headroom: float) -> pyvips.Image:
    """From Apple's samples, which are shares of the headroom by the curve of ITU-R BT.709, to shares of its stops."""
    shares = []
    for code in range(256):
        value = code / 255
        share = value / 4.5 if value < 0.081 else ((value + 0.099) / 1.099) ** (1 / 0.45)
        shares.append(round(math.log2(1 + (headroom - 1) * share) / math.log2(headroom) * 255))
    return pyvips.Image.new_from_array([shares]).cast("uchar")


def _profile(items: Items, metadata: bytes) -> bytes:
    """The segment with the primaries of the picture on an HDR display, if they are not those of the picture."""
    if metadata[4] & _SAME_COLOURS:
        return b""
    shown = [each for each, kind in items.kinds.items() if kind == "tmap"]
    boxes = [box for each in shown for box in items.properties(each, b"colr")]
    profile = next((box[4:] if box[:4] in (b"prof", b"rICC") else cicp.primaries_of(box) for box in boxes), None)
    return jpeg.segment(0xE2, b"ICC_PROFILE\0\1\1" + profile) if profile and len(profile) < 60_000 else b""
