"""Colours that a file describes in numbers or names instead of a profile: the profile that says the same."""

import struct

import numpy as np

from server.errors import SourceUnreadable
from server.images import chunks
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
"""Of ITU-T H.273, table 2. The others that occur are as good as sRGB's."""
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
"""Of its table 3. All others are shown with sRGB's curve, by browsers too, and so they are read."""

_BOXES = 1 << 20
"""Bytes at a HEIF file's start in which the box is looked for."""
_SRGB_GAMMA = 0.45455
_USUAL_GAMMA = 2.2
"""Of colours of which only the primaries are said (TIFF 6.0, section 20)."""
_SAME_GAMMA, _SAME_CHROMATICITY = 0.02, 0.005
"""Differences that are only rounding: many programs write the numbers of sRGB instead of its name."""


def from_png(data: bytes, *, grey: bool) -> bytes | None:
    """A profile by the chunks before the samples: cICP counts before iCCP, that before sRGB, and that before gAMA with
    cHRM (PNG, third edition, section 4.3). None where they say sRGB, nothing, or nonsense, or libvips has the profile
    already. Raises SourceUnreadable for HDR."""
    found = _chunks(data)
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
    """A profile by the box `colr` of type `nclx` (ISO/IEC 14496-12, section 12.1.5), or None where it says sRGB or is
    missing. Raises SourceUnreadable for HDR."""
    place = data.find(b"colrnclx", 0, _BOXES)
    if place < 0 or len(data) < place + 12:
        return None
    primaries, transfer = struct.unpack_from(">HH", data, place + 8)
    return _by_code(primaries, transfer)


def from_exif(exif: Exif) -> bytes | None:
    """A profile of what EXIF or TIFF tags say, or None where that is sRGB or nothing."""
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
    """The file's own format says what its colours are, be it sRGB: then EXIF is not asked."""
    if mime == "image/png":
        return bool({b"cICP", b"sRGB", b"gAMA"} & set(_chunks(data)))
    return mime in ("image/avif", "image/heic") and b"colrnclx" in data[:_BOXES]


def _by_points(points: list[Chromaticity], gamma: float | None) -> bytes | None:
    white, red, green, blue = points
    try:
        return rgb_profile((red, green, blue), white, gamma)
    except (ArithmeticError, struct.error, np.linalg.LinAlgError, ValueError):  # these are no colours
        return None


def _by_code(primaries: int, transfer: int) -> bytes | None:
    if transfer in _HDR_TRANSFERS:
        raise SourceUnreadable(f"HDR pictures ({_HDR_TRANSFERS[transfer]}) are not read; convert it to SDR first")
    return rgb_profile(_CODES[primaries]) if primaries in _CODES else None


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """Of a PNG file, up to its samples."""
    found: dict[bytes, bytes] = {}
    for name, start, end in chunks.places(data):
        if name == b"IDAT":
            break
        found[name] = data[start:end]
    return found


def _points(numbers: bytes) -> list[Chromaticity]:
    values = [value / 100_000 for value in struct.unpack(">8I", numbers)]
    return list(zip(values[0::2], values[1::2], strict=True))
