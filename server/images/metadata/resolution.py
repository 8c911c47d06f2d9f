"""The resolution in print, or only the pixel aspect ratio: read from the source's file and written to the result.
libvips has pixels per millimetre alone, and turns an aspect ratio into a wrong resolution.
"""

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from server.images.chunks import before_pixels
from server.images.metadata.exif import RESOLUTION_UNIT, X_RESOLUTION, Y_RESOLUTION, Exif, Tags, Value
from server.images.read import jpeg

Unit = Literal["inch", "cm", "metre", "none"]

_MM: dict[Unit, float] = {"inch": 25.4, "cm": 10, "metre": 1000}
_MOST_PIXELS_PER_MM = 1e6
"""libvips' limit; PNG's is a little higher."""
_LIBVIPS_UNSET = 1.0
_TIFF_UNITS: dict[int, Unit] = {1: "none", 2: "inch", 3: "cm"}
_JFIF = b"JFIF\0"
_JFIF_UNITS: dict[int, Unit] = {0: "none", 1: "inch", 2: "cm"}
_MOST_JFIF, _MOST_RATIONAL = 0xFFFF, 0xFFFFFFFF
_CLOSE = 0.002
"""The largest relative error of rounding: 2835 pixels per metre were 72 per inch."""


@dataclass(frozen=True)
class Resolution:
    across: Fraction
    """Pixels per unit, horizontally; `down` vertically. Both are more than 0."""
    down: Fraction
    unit: Unit
    """If "none", only the ratio of the two numbers has a meaning."""

    @property
    def pixels_per_mm(self) -> tuple[float, float] | None:
        if self.unit == "none":
            return None
        return float(self.across) / _MM[self.unit], float(self.down) / _MM[self.unit]

    def turned(self) -> "Resolution":
        return Resolution(self.down, self.across, self.unit)

    def in_unit(self, unit: Unit) -> "Resolution":
        if "none" in (unit, self.unit) or unit == self.unit:
            return self
        factor = Fraction(str(_MM[unit])) / Fraction(str(_MM[self.unit]))
        return Resolution(self.across * factor, self.down * factor, unit)


def pack(resolution: Resolution | None) -> bytes | None:
    """As bytes, for a field of a libvips picture."""
    if resolution is None:
        return None
    numbers = resolution.across.limit_denominator(10**6), resolution.down.limit_denominator(10**6)
    return " ".join([*map(str, numbers), resolution.unit]).encode()


def unpack(data: bytes | None) -> Resolution | None:
    if data is None:
        return None
    across, down, unit = data.decode().split()
    return Resolution(Fraction(across), Fraction(down), unit)  # type: ignore[arg-type]


# --- read from files ---


def read(data: bytes, mime: str, exif: Exif) -> Resolution | None:
    """Stated in the format's own field, else in EXIF; None if neither states a valid resolution."""
    own = {"image/jpeg": _of_jpeg, "image/png": _of_png, "image/bmp": _of_bmp, "image/gif": _of_gif}.get(mime)
    found = own(data) if own else None
    stated = of_tags(exif.image, unset="none" if mime == "image/tiff" else "inch")
    if found is None or (found.unit == "none" and stated is not None):
        return stated
    return found


def of_libvips(across: float, down: float) -> Resolution | None:
    """From libvips' fields, in pixels per millimetre."""
    if (across, down) == (_LIBVIPS_UNSET, _LIBVIPS_UNSET):
        return None
    return _sensible(Fraction(across) * 1000, Fraction(down) * 1000, "metre")


def of_tags(tags: Tags, unset: Unit = "inch") -> Resolution | None:
    """`unset`: the unit for a number that the standard does not define."""
    x, y, unit = (tags.get(tag) for tag in (X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT))
    numbers = (unit.numbers if unit is not None else ()) or (2,)
    named = _TIFF_UNITS.get(numbers[0], unset)
    return _sensible(_fraction(x), _fraction(y), named)


def _of_jpeg(data: bytes) -> Resolution | None:
    for part in jpeg.application(data, jpeg.look(data), 0, _JFIF):
        if len(part) >= 7:
            unit, across, down = struct.unpack_from(">BHH", part, 2)
            return _sensible(Fraction(across), Fraction(down), _JFIF_UNITS.get(unit, "none"))
    return None


def _of_png(data: bytes) -> Resolution | None:
    stated = before_pixels(data).get(b"pHYs", b"")
    if len(stated) != 9:
        return None
    across, down, unit = struct.unpack(">IIB", stated)
    return _sensible(Fraction(across), Fraction(down), "metre" if unit == 1 else "none")


def _of_bmp(data: bytes) -> Resolution | None:
    if len(data) < 46 or int.from_bytes(data[14:18], "little") < 40:
        return None
    across, down = struct.unpack_from("<ii", data, 38)
    return _sensible(Fraction(across), Fraction(down), "metre")


def _of_gif(data: bytes) -> Resolution | None:
    """The pixel aspect ratio, width by height, in 64ths (GIF89a, section 18)."""
    stated = data[12] if len(data) > 12 else 0
    # The wider a pixel, the fewer pixels per unit horizontally.
    return _sensible(Fraction(64), Fraction(stated + 15), "none") if stated else None


def _sensible(across: Fraction, down: Fraction, unit: Unit) -> Resolution | None:
    if across <= 0 or down <= 0 or max(across, down) > (_MM.get(unit) or 1) * _MOST_PIXELS_PER_MM:
        return None
    # Encoders write 1:1 without a unit if they know no resolution.
    return None if unit == "none" and across == down else Resolution(across, down, unit)


def _fraction(value: Value | None) -> Fraction:
    if value is None:
        return Fraction(0)
    if value.numbers:
        return Fraction(value.numbers[0])
    if value.type != 5:
        return Fraction(0)
    numerator, denominator = struct.unpack("<II", value.data[:8])
    return Fraction(numerator, denominator) if denominator else Fraction(0)


# --- written to files ---


def phys(resolution: Resolution) -> bytes | None:
    """The contents of PNG's chunk pHYs; None if its numbers are too small for the resolution."""
    found = resolution.in_unit("metre")
    numbers = _ratio(found, 2**31 - 1) if found.unit == "none" else (round(found.across), round(found.down))
    if not all(0 < number < 2**31 for number in numbers):
        return None
    return struct.pack(">IIB", *numbers, int(found.unit != "none"))


def jfif(resolution: Resolution | None) -> bytes | None:
    """JPEG's JFIF segment, which libvips does not write; None without a resolution, or if it can't hold it."""
    if resolution is None:
        return None
    if resolution.unit == "none":
        unit, numbers = 0, _ratio(resolution, _MOST_JFIF)
    else:
        inch, cm = resolution.in_unit("inch"), resolution.in_unit("cm")
        by_cm = _error(cm) < _error(inch) and _error(inch) > _CLOSE
        found = cm if by_cm else inch
        unit, numbers = 2 if by_cm else 1, (round(found.across), round(found.down))
    if not all(0 < number <= _MOST_JFIF for number in numbers):
        return None
    return b"\xff\xe0\0\x10" + _JFIF + struct.pack(">HBHHBB", 0x0101, unit, *numbers, 0, 0)


def tags(resolution: Resolution | None) -> dict[int, Value]:
    """TIFF's tags, which are required: without a unit if the resolution is None."""
    found = resolution or Resolution(Fraction(1), Fraction(1), "none")
    if found.unit == "metre":
        inch = found.in_unit("inch")
        rounded = Resolution(Fraction(round(inch.across)), Fraction(round(inch.down)), "inch")
        found = rounded if _error(inch) <= _CLOSE else found.in_unit("cm")
    unit = next(number for number, name in _TIFF_UNITS.items() if name == found.unit)
    x, y = (_rational(each) for each in (found.across, found.down))
    return {X_RESOLUTION: x, Y_RESOLUTION: y, RESOLUTION_UNIT: Value(3, struct.pack("<H", unit))}


def aspect(resolution: Resolution) -> int:
    """GIF's byte for the pixel aspect ratio; 0 if the ratio is 1 or can't be held."""
    number = round(resolution.down / resolution.across * 64) - 15
    return number if 1 <= number <= 255 and resolution.across != resolution.down else 0


def _rational(number: Fraction) -> Value:
    nearest = number.limit_denominator(10_000)
    return Value(5, struct.pack("<II", min(nearest.numerator, _MOST_RATIONAL), nearest.denominator))


def _ratio(resolution: Resolution, most: int) -> tuple[int, int]:
    """The ratio as two whole numbers, if possible the source's own."""
    across, down = resolution.across, resolution.down
    if across.denominator == down.denominator == 1 and max(across, down) <= most:
        return int(across), int(down)
    nearest = (across / down).limit_denominator(255)
    return min(most, nearest.numerator) or 1, nearest.denominator


def _error(resolution: Resolution) -> float:
    """The larger of the two relative errors of rounding to whole numbers."""
    return max(abs(float(Fraction(round(each)) / each) - 1) for each in (resolution.across, resolution.down))
