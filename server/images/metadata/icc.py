"""Colour profiles made from numbers: primaries, white point and a tone curve (ICC.1:2022).

PNG and HEIF files can state these numbers instead of a profile. As a profile they can be written to any format.
"""

import struct

import numpy as np
from numpy.typing import NDArray

Chromaticity = tuple[float, float]
"""CIE 1931 x and y."""
Primaries = tuple[Chromaticity, Chromaticity, Chromaticity]
"""Of red, green and blue."""

D65: Chromaticity = (0.3127, 0.3290)
SRGB: Primaries = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
ADOBE_RGB: Primaries = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
ADOBE_RGB_GAMMA = 563 / 256
"""Adobe RGB (1998) Color Image Encoding, 4.3."""
DISPLAY_P3: Primaries = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
BT2020: Primaries = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))

_D50 = np.array([0.9642, 1.0, 0.8249])
"""White of the profile connection space, rounded as in the standard."""
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""IEC 61966-2-1, as parameters of a parametric curve of type 3."""


def rgb_profile(primaries: Primaries, white: Chromaticity = D65, gamma: float | None = None) -> bytes:
    """`gamma`: the exponent from samples to light, or None for sRGB's curve."""
    adapted = _adaptation(_xyz(white))
    matrix = adapted @ to_xyz(primaries, white)
    curve = _curve(gamma)
    tags = {b"chad": b"sf32" + bytes(4) + _fixed(*adapted.ravel())}
    for letter, column in zip((b"r", b"g", b"b"), matrix.T, strict=True):
        tags[letter + b"XYZ"] = _point(*column)
        tags[letter + b"TRC"] = curve
    return _profile(b"RGB ", tags)


def to_xyz(primaries: Primaries, white: Chromaticity = D65) -> NDArray[np.float64]:
    """The matrix from RGB, proportional to light, to XYZ; white has Y = 1."""
    colorants = np.array([_xyz(each) for each in primaries]).T
    matrix: NDArray[np.float64] = colorants * np.linalg.solve(colorants, _xyz(white))
    return matrix


def grey_profile(gamma: float | None = None) -> bytes:
    return _profile(b"GRAY", {b"kTRC": _curve(gamma)})


def _xyz(chromaticity: Chromaticity) -> NDArray[np.float64]:
    x, y = chromaticity
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _adaptation(white: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix that adapts colours from `white` to D50."""
    cones = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    result: NDArray[np.float64] = np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD
    return result


def _curve(gamma: float | None) -> bytes:
    kind, parameters = (3, _SRGB_CURVE) if gamma is None else (0, (gamma,))
    return b"para" + struct.pack(">IHH", 0, kind, 0) + _fixed(*parameters)


def _fixed(*numbers: float) -> bytes:
    """s15Fixed16."""
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _point(x: float, y: float, z: float) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(x, y, z)


def _text(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">IIIHHII", 0, 1, 12, 0x656E, 0x5553, len(data), 28) + data


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Of class display, version 4.3."""
    tags = {b"desc": _text("as described in the file"), b"cprt": _text("no copyright"), b"wtpt": _point(*_D50)} | tags
    table, values = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(values), len(value))
        values += value + bytes(-len(value) % 4)
    head = struct.pack(">I4xI4s4s4s12x4s", start + len(values), 0x04300000, b"mntr", space, b"XYZ ", b"acsp")
    head = head.ljust(68, b"\0") + _fixed(*_D50)
    return head.ljust(128, b"\0") + table + values
