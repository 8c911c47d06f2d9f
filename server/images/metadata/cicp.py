"""Colour profiles for files that state their colours as code points (CICP), chromaticities or names instead."""

import struct

import numpy as np

from server.errors import SourceUnreadable
from server.images.chunks import before_pixels
from server.images.metadata.exif import Exif
from server.images.metadata.icc import (
    ADOBE_RGB,
    ADOBE_RGB_GAMMA,
    BT2020,
    D65,
    DISPLAY_P3,
    SRGB,
    Chromaticity,
    Primaries,
    grey_profile,
    rgb_profile,
)

_CODES: dict[int, Primaries] = {9: BT2020, 12: DISPLAY_P3}
"""ITU-T H.273, table 2. All others are read as sRGB's."""
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
"""ITU-T H.273, table 3. All others are read with sRGB's curve, as browsers do."""

_BOXES = 1 << 20
"""The box is searched in so many bytes at the start of a HEIF file."""
_SRGB_GAMMA = 0.45455
_USUAL_GAMMA = 2.2
"""For files that state only the primaries (TIFF 6.0, section 20)."""
_SAME_GAMMA, _SAME_CHROMATICITY = 0.02, 0.005
"""Smaller differences are rounding: many programs write the numbers of sRGB instead of its name."""


def from_png(data: bytes, *, grey: bool) -> bytes | None:
    """The profile that the chunks before the pixels describe, in this order of precedence: cICP, iCCP, sRGB, gAMA with
    cHRM (PNG, third edition, section 4.3). None for sRGB, for no or invalid values, and for iCCP, which libvips reads
    itself. Raises SourceUnreadable for HDR."""
    found = before_pixels(data)
    if len(coded := found.get(b"cICP", b"")) == 4:
        return _by_code(coded[0], coded[1])
    if b"iCCP" in found or b"sRGB" in found or len(found.get(b"gAMA", b"")) != 4:
        return None
    exponent = int.from_bytes(found[b"gAMA"], "big") / 100_000
    if not 0.1 <= exponent <= 10:
        return None
    numbers = found.get(b"cHRM", b"")
    points = _points(numbers) if len(numbers) == 32 else [D65, *SRGB]
    close = abs(exponent - _SRGB_GAMMA) < _SAME_GAMMA
    if close and (grey or np.allclose(points, [D65, *SRGB], atol=_SAME_CHROMATICITY)):
        return None
    gamma = None if close else 1 / exponent
    if grey:
        return grey_profile(gamma)
    return _by_points(points, gamma)


def from_heif(data: bytes) -> bytes | None:
    """The profile that the box `colr` of type `nclx` describes (ISO/IEC 14496-12, section 12.1.5); None for sRGB, or if
    there is no such box. Raises SourceUnreadable for HDR."""
    place = data.find(b"colrnclx", 0, _BOXES)
    if place < 0 or len(data) < place + 12:
        return None
    primaries, transfer = struct.unpack_from(">HH", data, place + 8)
    return _by_code(primaries, transfer)


def from_exif(exif: Exif) -> bytes | None:
    """The profile that EXIF or TIFF tags describe; None for sRGB, or if they state nothing."""
    if exif.is_adobe_rgb:
        return rgb_profile(ADOBE_RGB, gamma=ADOBE_RGB_GAMMA)
    numbers = exif.chromaticities
    if numbers is None:
        return None
    points = list(zip(numbers[0::2], numbers[1::2], strict=True))
    close = exif.gamma is None or abs(1 / exif.gamma - _SRGB_GAMMA) < _SAME_GAMMA
    if close and np.allclose(points, [D65, *SRGB], atol=_SAME_CHROMATICITY):
        return None
    return _by_points(points, _USUAL_GAMMA if exif.gamma is None else exif.gamma)


def are_stated(data: bytes, mime: str) -> bool:
    """Whether the file states its colours outside of EXIF, even if they are sRGB. If so, EXIF does not count."""
    if mime == "image/png":
        return bool({b"cICP", b"sRGB", b"gAMA"} & set(before_pixels(data)))
    return mime in ("image/avif", "image/heic") and b"colrnclx" in data[:_BOXES]


def _by_points(points: list[Chromaticity], gamma: float | None) -> bytes | None:
    white, red, green, blue = points
    try:
        return rgb_profile((red, green, blue), white, gamma)
    except (ArithmeticError, struct.error, np.linalg.LinAlgError, ValueError):  # not valid colours
        return None


def _by_code(primaries: int, transfer: int) -> bytes | None:
    if transfer in _HDR_TRANSFERS:
        raise SourceUnreadable(f"HDR pictures ({_HDR_TRANSFERS[transfer]}) are not supported; convert it to SDR first")
    return rgb_profile(_CODES[primaries]) if primaries in _CODES else None


def _points(numbers: bytes) -> list[Chromaticity]:
    values = [value / 100_000 for value in struct.unpack(">8I", numbers)]
    return list(zip(values[0::2], values[1::2], strict=True))
