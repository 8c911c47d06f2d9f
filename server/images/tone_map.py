"""HDR pictures (ITU-R BT.2100, PQ and HLG): their samples as the networks get them, and tone-mapping to sRGB.

Standard white is 203 cd/m² (ITU-R BT.2408). Brighter parts are compressed by the curve of ITU-R BT.2390 (EETF), applied
to the largest of red, green and blue, so that hues stay. Colours outside of sRGB's gamut are clipped.
"""

import functools

import numpy as np
import pyvips
from numpy.typing import NDArray

from server.images.metadata.cicp import CodePoints
from server.images.metadata.fields import CODE_POINTS
from server.images.metadata.icc import SRGB, to_xyz

_Curve = NDArray[np.float64]

WHITE_NITS = 203.0
_HLG_NITS, _HLG_GAMMA = 1000.0, 1.2
"""The reference display of BT.2100."""
_HLG_LUMA = [[0.2627, 0.6780, 0.0593]]
_HLG_A, _HLG_B, _HLG_C = 0.17883277, 0.28466892, 0.55991073
_PQ_NITS = 10_000.0
_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_USUAL_PEAK_NITS = 1000.0
"""Of pictures that don't state their brightest pixel."""
_STEPS = 65536


def coded(image: pyvips.Image) -> pyvips.Image:
    """8 or 16 bits, grey or RGB, with or without alpha → RGB of 16 bits with the same signal."""
    if image.format == "uchar":
        image = (image * 257).cast("ushort")
    if image.bands < 3:
        image = image[0].bandjoin([image[0], image[0], *([image[1]] if image.bands == 2 else [])])
    return image.copy(interpretation="rgb16")


def tone_mapped(image: pyvips.Image, codes: CodePoints) -> pyvips.Image:
    """The same picture → sRGB of 16 bits, as a display of the standard range shows it."""
    image = coded(image)
    light = _light(image[:3], codes)
    peak = max(WHITE_NITS, float(codes.light[0]) or _USUAL_PEAK_NITS) if codes.kind == "PQ" else _HLG_NITS
    largest = light[0].maxpair(light[1]).maxpair(light[2])
    # Steps are finer where it is dark.
    step = ((largest * (1 / _PQ_NITS)) ** 0.25 * (_STEPS - 1)).rint().cast("ushort")
    standard = light * step.maplut(_table("compression", peak)) * (1 / WHITE_NITS)
    matrix = np.linalg.solve(to_xyz(SRGB), to_xyz(codes.chromaticities))
    result = standard.recomb(matrix.tolist()).copy(interpretation="scrgb").colourspace("rgb16")
    result = result.bandjoin(image[3]) if image.bands == 4 else result
    result = result.copy(interpretation="rgb16")
    result.remove(CODE_POINTS)
    return result


def pq_light(signal: _Curve) -> _Curve:
    """0 … 1 → cd/m² (SMPTE ST 2084)."""
    root = np.power(signal, 1 / _M2)
    return _PQ_NITS * np.power(np.maximum(root - _C1, 0) / (_C2 - _C3 * root), 1 / _M1)


def pq_signal(light: _Curve) -> _Curve:
    """cd/m² → 0 … 1."""
    power = np.power(light / _PQ_NITS, _M1)
    return np.power((_C1 + _C2 * power) / (1 + _C3 * power), _M2)


def hlg_light(signal: _Curve) -> _Curve:
    """0 … 1 → light of the scene, 0 … 1 (ARIB STD-B67)."""
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - _HLG_C) / _HLG_A) + _HLG_B) / 12)


def compressed(light: _Curve, peak: float) -> _Curve:
    """cd/m² up to `peak` → up to WHITE_NITS."""
    top = pq_signal(np.array(peak))
    most = pq_signal(np.array(WHITE_NITS)) / top
    if most >= 1:
        return np.minimum(light, WHITE_NITS)
    signal = np.minimum(pq_signal(light) / top, 1)
    knee = 1.5 * most - 0.5
    t = np.maximum(signal - knee, 0) / (1 - knee)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return pq_light(np.where(signal < knee, signal, bent) * top)


def _light(image: pyvips.Image, codes: CodePoints) -> pyvips.Image:
    """The light of a display in cd/m²."""
    if codes.kind == "PQ":
        return image.maplut(_table("PQ"))
    scene = image.maplut(_table("HLG"))
    return scene * (scene.recomb(_HLG_LUMA) ** (_HLG_GAMMA - 1)) * _HLG_NITS


@functools.lru_cache(maxsize=8)
def _table(name: str, peak: float = 0.0) -> pyvips.Image:
    """A value for each of 65,536 steps."""
    steps = np.arange(_STEPS) / (_STEPS - 1)
    if name == "compression":
        light = np.maximum(steps, 1e-4) ** 4 * _PQ_NITS
        values = compressed(light, peak) / light
    else:
        values = pq_light(steps) if name == "PQ" else hlg_light(steps)
    return pyvips.Image.new_from_array(values.astype(np.float32)[None])
