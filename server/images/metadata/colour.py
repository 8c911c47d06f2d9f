"""Colour spaces of picture files. The network works on samples as they are stored, in the space of their own profile:
grey or RGB, 8 or 16 bits, gamma-encoded. Other pictures are converted to this when they are read."""

import functools
from collections.abc import Sequence

import pyvips

from server.errors import SourceUnreadable
from server.images import tone_map
from server.images.metadata.cicp import CodePoints
from server.images.metadata.fields import CODE_POINTS, ICC, get_field, with_field

_SPACES = {(True, "uchar"): "b-w", (True, "ushort"): "grey16", (False, "uchar"): "srgb", (False, "ushort"): "rgb16"}
"""libvips' names, by (grey, number format)."""
_SIGNATURES = {"b-w": b"GRAY", "grey16": b"GRAY", "srgb": b"RGB ", "rgb16": b"RGB ", "scrgb": b"RGB ", "cmyk": b"CMYK"}
"""The names of ICC.1:2022, in bytes 16 … 19 of a profile. Bytes 36 … 39 of every profile are "acsp"."""


def profile(image: pyvips.Image) -> bytes | None:
    """The embedded profile if it is valid and fits the picture's kind of colours; else None."""
    data = get_field(image, ICC) or b""
    signature = _SIGNATURES.get(image.interpretation)
    fits = signature is not None and data[36:40] == b"acsp" and data[16:20] == signature
    return data if fits and _is_usable(data, signature) else None


@functools.lru_cache(maxsize=16)
def _is_usable(data: bytes, signature: bytes) -> bool:
    """Whether littleCMS can use it: many damaged profiles have a valid header."""
    bands = {b"GRAY": 1, b"RGB ": 3, b"CMYK": 4}[signature]
    space = {b"GRAY": "b-w", b"RGB ": "srgb", b"CMYK": "cmyk"}[signature]
    pixel = with_field(pyvips.Image.black(1, 1, bands=bands).copy(interpretation=space), ICC, data)
    try:
        pixel.icc_transform("srgb", embedded=True, intent="relative").avg()
    except pyvips.Error:
        return False
    return True


def to_rgb(image: pyvips.Image, *, keep_hdr: bool = False) -> pyvips.Image:
    """Any picture of libvips → grey or RGB, with or without alpha, 8 or 16 bits, with libvips' matching interpretation.

    HDR (PQ, HLG) is tone-mapped to sRGB in 16 bits; with `keep_hdr` its samples stay, as RGB in 16 bits.
    CMYK becomes sRGB through its profile, or without one through libvips' default profile for coated paper. Lab and XYZ
    become sRGB. Floats are clipped to 0 (black) … 1 (white); they are in the space of their profile, or without one
    proportional to light. Raises SourceUnreadable.
    """
    deep = image.format != "uchar"
    if image.interpretation == "cmyk":
        return _through_profile(image, "cmyk", deep)
    if image.interpretation in ("lab", "labq", "labs", "xyz", "lch"):
        shallow = image.get_typeof("bits-per-sample") and image.get("bits-per-sample") == 8
        return image.colourspace("srgb" if shallow else "rgb16")
    if image.format in ("float", "double"):
        return _from_floats(image)
    if image.format == "ushort" and image.get_typeof("bits-per-sample") and image.get("bits-per-sample") < 16:
        # AVIF and HEIC of 10 and 12 bits: their decoders set the low bits to 0, so that white is less than 65535.
        unused = 16 - image.get("bits-per-sample")
        image = (image * (65535 / (65536 - 2**unused))).rint().cast("ushort")
    if image.format == "uint":
        image = (image * (65535 / (2**32 - 1))).rint().cast("ushort")
    if image.format not in ("uchar", "ushort"):
        raise SourceUnreadable("the picture has negative samples, which do not state black and white")
    codes = CodePoints.unpack(get_field(image, CODE_POINTS))
    if codes is not None:
        return tone_map.coded(image) if keep_hdr else tone_map.tone_mapped(image, codes)
    return image.copy(interpretation=_SPACES[image.bands < 3, image.format])


def from_lab(image: pyvips.Image, *, signed: bool) -> pyvips.Image:
    """Lab colours as TIFF stores them, in 8 or 16 bits, loaded as unsigned numbers → libvips' Lab. `signed`: a and b
    are signed numbers (CIELAB); if not, their zero is in the middle of the range (ICCLab, TIFF Technical Note 4)."""
    deep = image.format == "ushort"
    light = image[0] * (100 / (65280 if deep else 255))
    others = image[1:3]
    others = (others > 127).ifthenelse(others - 256, others) if signed else others / (256 if deep else 1) - 128
    return light.bandjoin(others).cast("float").copy(interpretation="lab")


def from_ycbcr(image: pyvips.Image, luma: Sequence[float], black_white: Sequence[float]) -> pyvips.Image:
    """YCbCr of 8 or 16 bits, loaded as three bands → RGB of the same depth (TIFF 6.0, section 21). `luma`: the shares
    of red, green and blue in Y; `black_white`: the codes of Y, Cb and Cr, in 8 bits, that mean 0 and 255 or 0 and
    127."""
    white = 65535 if image.format == "ushort" else 255
    lows, highs, ranges = black_white[::2], black_white[1::2], (255, 127, 127)
    scales = [range_ / (high - low) * 255 / white for low, high, range_ in zip(lows, highs, ranges, strict=True)]
    y, cb, cr = image.linear(scales, [-low * scale * white / 255 for low, scale in zip(lows, scales, strict=True)])
    red, blue = cr * (2 - 2 * luma[0]) + y, cb * (2 - 2 * luma[2]) + y
    green = (y - red * luma[0] - blue * luma[2]) / luma[1]
    result = red.bandjoin([green, blue]) * (white / 255)
    return result.rint().cast(image.format).copy(interpretation=image.interpretation)


def to_srgb(image: pyvips.Image) -> pyvips.Image:
    """From the space of its profile to sRGB, in the same depth. Grey stays grey, with sRGB's curve."""
    if profile(image) is None:
        return image
    grey = image.bands < 3
    result = _through_profile(image, "srgb", image.format == "ushort")
    if grey:
        alpha = [result[3]] if image.bands == 2 else []
        result = result[0].bandjoin(alpha) if alpha else result[0]
        result = result.copy(interpretation=_SPACES[True, image.format])
        result.remove(ICC)
    return result


def _through_profile(image: pyvips.Image, otherwise: str, deep: bool) -> pyvips.Image:
    """To sRGB. `otherwise`: libvips' name of the profile for pictures without one."""
    known = profile(image) is not None
    return image.icc_transform(
        "srgb", embedded=known, input_profile=otherwise, intent="relative", depth=16 if deep else 8
    )


def _from_floats(image: pyvips.Image) -> pyvips.Image:
    colours = 1 if image.bands < 3 else 3
    if profile(image) is None:
        light = image[:colours] if colours == 3 else image[0].bandjoin([image[0], image[0]])
        encoded = light.copy(interpretation="scrgb").colourspace("rgb16")[:colours]
    else:
        encoded = _to_ushort(image[:colours])
    if image.bands > colours:
        encoded = encoded.bandjoin(_to_ushort(image[colours:]))
    return encoded.copy(interpretation=_SPACES[colours == 1, "ushort"])


def _to_ushort(image: pyvips.Image) -> pyvips.Image:
    return (image * 65535).rint().cast("ushort")
