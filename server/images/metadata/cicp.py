"""Colours that files state as code points (CICP), chromaticities or names: of the standard range as a colour profile,
of HDR (ITU-R BT.2100) as the code points themselves."""

import struct
from dataclasses import dataclass

import numpy as np

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
from server.images.read import heif
from server.job.formats import Hdr

_CODES: dict[int, Primaries] = {9: BT2020, 12: DISPLAY_P3}
"""ITU-T H.273, table 2. All others are read as sRGB's."""
_HDR_TRANSFERS: dict[int, Hdr] = {16: "PQ", 18: "HLG"}
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
    itself; also None for HDR."""
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
    """The profile that the box `colr` of type `nclx` describes (ISO/IEC 14496-12, section 12.1.5); None for sRGB, for
    HDR, or if there is no such box."""
    codes = _nclx(data)
    return None if codes is None else _by_code(*codes)


def _nclx(data: bytes) -> tuple[int, int] | None:
    """Primaries and transfer."""
    stated = [each for each in heif.of_main(data, b"colr") if each[:4] == b"nclx"]
    if not stated and next(heif.properties(data, b"colr"), None) is None:  # of a track
        place = data.find(b"colrnclx", 0, _BOXES)
        stated = [data[place + 4 : place + 12]] if place >= 0 else []
    return next((struct.unpack_from(">HH", each, 4) for each in stated if len(each) >= 8), None)


def primaries_of(box: bytes) -> bytes | None:
    """The profile of the primaries that a box `colr` states, whatever its transfer; None for sRGB's."""
    primaries = int.from_bytes(box[4:6], "big") if box[:4] == b"nclx" else 0
    return rgb_profile(_CODES[primaries]) if primaries in _CODES else None


@dataclass(frozen=True)
class CodePoints:
    """The colours of an HDR picture."""

    primaries: int
    """ITU-T H.273, table 2."""
    transfer: int
    """16 (PQ) or 18 (HLG)."""
    light: tuple[int, int] = (0, 0)
    """MaxCLL and MaxFALL in cd/m² (CTA-861.3): the brightest pixel, and the mean of all; 0: unknown."""
    mastering: bytes = b""
    """The display that it was made on, as the PNG chunk mDCV has it; empty: unknown."""

    @property
    def kind(self) -> Hdr:
        return _HDR_TRANSFERS[self.transfer]

    @property
    def chromaticities(self) -> Primaries:
        """Of red, green and blue."""
        return _CODES.get(self.primaries, SRGB)

    def pack(self) -> bytes:
        return struct.pack(">BBHH", self.primaries, self.transfer, *self.light) + self.mastering

    @classmethod
    def unpack(cls, data: bytes | None) -> "CodePoints | None":
        if not data:
            return None
        primaries, transfer, *light = struct.unpack_from(">BBHH", data)
        return cls(primaries, transfer, (light[0], light[1]), data[6:])

    def png_chunks(self) -> list[tuple[bytes, bytes]]:
        """PNG, third edition, sections 11.3.2.6 to 11.3.2.8: names and contents. The samples are RGB, of full range."""
        chunks = [(b"cICP", bytes([self.primaries, self.transfer, 0, 1]))]
        chunks += [(b"mDCV", self.mastering)] if self.mastering else []
        return chunks + (
            [(b"cLLI", struct.pack(">II", *(each * _UNIT for each in self.light)))] if any(self.light) else []
        )

    def heif_boxes(self, matrix: int) -> list[bytes]:
        """The properties `colr`, `mdcv` and `clli` (ISO/IEC 14496-12, sections 12.1.5 to 12.1.7). `matrix`: how the
        encoder has made luma and chroma (ITU-T H.273, table 4); they are of full range."""
        boxes = [(b"colr", b"nclx" + struct.pack(">HHHB", self.primaries, self.transfer, matrix, 0x80))]
        if self.mastering:
            boxes.append((b"mdcv", self.mastering[4:12] + self.mastering[:4] + self.mastering[12:]))
        if any(self.light):
            boxes.append((b"clli", struct.pack(">HH", *self.light)))
        return [struct.pack(">I", 8 + len(content)) + name + content for name, content in boxes]


_UNIT, _MASTERING_BYTES = 10_000, 24
"""PNG states light in units of 0.0001 cd/m². Chromaticities and units of mDCV and `mdcv` are the same; the former has
red first, the latter green."""


def code_points(data: bytes, mime: str) -> CodePoints | None:
    """Of a file that is HDR; None for the standard range."""
    if mime == "image/png":
        found = before_pixels(data)
        coded = found.get(b"cICP", b"")
        codes = (coded[0], coded[1]) if len(coded) == 4 else None
        level, mastering = found.get(b"cLLI", b""), found.get(b"mDCV", b"")
        light = tuple(each // _UNIT for each in struct.unpack(">II", level)) if len(level) == 8 else (0, 0)
    elif mime in ("image/avif", "image/heic"):
        codes = _nclx(data)
        level = next(iter(heif.of_main(data, b"clli")), b"")
        light = struct.unpack_from(">HH", level) if len(level) >= 4 else (0, 0)
        mastering = next(iter(heif.of_main(data, b"mdcv")), b"")
        mastering = mastering[8:12] + mastering[:8] + mastering[12:]
    else:
        return None
    if codes is None or codes[1] not in _HDR_TRANSFERS or codes[0] > 0xFF:
        return None
    light = min(light[0], 0xFFFF), min(light[1], 0xFFFF)
    return CodePoints(*codes, light, mastering if len(mastering) == _MASTERING_BYTES else b"")


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
    return mime in ("image/avif", "image/heic") and _nclx(data) is not None


def _by_points(points: list[Chromaticity], gamma: float | None) -> bytes | None:
    white, red, green, blue = points
    try:
        return rgb_profile((red, green, blue), white, gamma)
    except (ArithmeticError, struct.error, np.linalg.LinAlgError, ValueError):  # not valid colours
        return None


def _by_code(primaries: int, transfer: int) -> bytes | None:
    return rgb_profile(_CODES[primaries]) if primaries in _CODES and transfer not in _HDR_TRANSFERS else None


def _points(numbers: bytes) -> list[Chromaticity]:
    values = [value / 100_000 for value in struct.unpack(">8I", numbers)]
    return list(zip(values[0::2], values[1::2], strict=True))
