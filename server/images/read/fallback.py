"""Fallback decoders for files that libvips, as built in its wheel, can't read or reads wrongly: BMP, HEIC, some AVIF.

HEIC needs an HEVC decoder, which pi-heif contains (libheif and libde265, LGPL; pillow-heif also contains x265, which is
GPL). Each function reads only the header; the function that it returns decodes the pixels.
"""

import io
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pi_heif  # type: ignore[import-untyped]
import pyvips
from numpy.typing import NDArray
from PIL import AvifImagePlugin, BmpImagePlugin, Image, ImageOps

from server.errors import SourceUnreadable
from server.images.metadata import cicp, metadata
from server.images.metadata.fields import EXIF, ICC, XMP, with_field

_BOXES = 1 << 20
"""Boxes are searched in so many bytes at the file's start. They are small, and come before the pictures."""
HIGH_BITDEPTH = 0x40

_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    TypeError,
    struct.error,
)
"""What Pillow and pi-heif raise for damaged files, both for headers and for pixels."""

_UNSUPPORTED = ("nsupported", "not supported", "not configured", "not implemented", "not been built in")
"""Parts of the libraries' messages about valid files that they can't decode."""


@dataclass(frozen=True)
class Fallback:
    width: int
    """Pixels, as stored; likewise height."""
    height: int
    load: Callable[[], pyvips.Image]
    """Decodes the first picture, with its metadata in the same fields as libvips' own loaders. Raises
    SourceUnreadable."""


def find_bmp(data: bytes) -> Fallback:
    return _find(lambda: BmpImagePlugin.BmpImageFile(io.BytesIO(data)), lambda opened: _from_pillow(opened, None))


def find_avif(data: bytes) -> Fallback:
    """For animated or grey AVIF. Raises SourceUnreadable also for more than 8 bits, which Pillow would truncate."""
    described = cicp.from_heif(data)
    if any(flag & HIGH_BITDEPTH for flag in av1_flags(data)):
        raise SourceUnreadable("animated or grey AVIF of more than 8 bits is not supported; convert it to PNG")
    return _find(
        lambda: AvifImagePlugin.AvifImageFile(io.BytesIO(data)), lambda opened: _from_pillow(opened, described)
    )


def find_heic(data: bytes) -> Fallback:
    _check_items(data)
    described = cicp.from_heif(data)
    return _find(
        lambda: pi_heif.open_heif(data, convert_hdr_to_8bit=False), lambda opened: _from_heif(opened, described)
    )


def _check_items(data: bytes) -> None:
    """NOTE: an item's type, name or content type (boxes `infe`, ISO/IEC 14496-12, section 8.11.6) that is not UTF-8
    crashes pi_heif and the process."""
    for found in re.finditer(rb"(....)infe([\2\3])", data[:_BOXES], re.DOTALL):
        start = found.end() + 3 + (4 if found[2] == b"\2" else 6)  # flags, the item's number, a protection index
        try:
            data[start : found.start() + int.from_bytes(found[1], "big")].decode()
        except UnicodeDecodeError as error:
            raise SourceUnreadable("the picture file is damaged") from error


def av1_flags(data: bytes) -> list[int]:
    """For each AV1 stream in a HEIF file the byte with depth, monochrome and subsampling (AV1 in ISOBMFF, section
    2.3.3: the third byte of a box `av1C`)."""
    return [part[1] for part in data[:_BOXES].split(b"av1C\x81")[1:] if len(part) > 1]


def reason(said: str) -> str:
    """The message for the caller, given a library's message."""
    if any(words in said for words in _UNSUPPORTED):
        return "this kind of picture file is not supported; convert it to PNG, JPEG or TIFF"
    return "the picture file is damaged"


def _find(open_: Callable[[], "Image.Image | pi_heif.HeifFile"], convert: Callable[..., pyvips.Image]) -> Fallback:
    # NOTE: not Image.open, which tries every format of Pillow and has a size limit of its own.
    def guarded(do: Callable[[], Any]) -> Any:
        try:
            return do()
        except _DAMAGED as error:
            raise SourceUnreadable(reason(str(error))) from error

    def look() -> tuple[Any, int, int]:
        found = open_()
        return found, *found.size

    opened, width, height = guarded(look)
    return Fallback(width, height, lambda: guarded(lambda: convert(opened)))


def _from_pillow(opened: Image.Image, described: bytes | None) -> pyvips.Image:
    """8 bits: BMP and the AVIF that come here have no more."""
    found = dict(opened.info)
    opened = ImageOps.exif_transpose(opened)
    grey = opened.mode in ("1", "L")
    alpha = opened.has_transparency_data
    image = _to_vips(np.asarray(opened.convert("L" if grey else "RGBA" if alpha else "RGB")), 8)
    across, down = found.get("dpi", (0, 0))
    if across > 0 and down > 0:
        image = image.copy(xres=across / 25.4, yres=down / 25.4)
    return _with_metadata(image, found, described)


def _from_heif(opened: "pi_heif.HeifFile", described: bytes | None) -> pyvips.Image:
    # NOTE: a copy, because the array is a view of memory that is freed with `opened`.
    image = _to_vips(np.array(opened), opened.info["bit_depth"])
    return _with_metadata(image, opened.info, described)


def _with_metadata(image: pyvips.Image, found: Mapping[Any, Any], described: bytes | None) -> pyvips.Image:
    """`found`: the `info` of Pillow and pi-heif. `described`: a profile made from the file's colour numbers."""
    profile = found.get("icc_profile") or described
    for name, data in ((ICC, profile), (EXIF, found.get("exif")), (XMP, found.get("xmp"))):
        image = with_field(image, name, data or None)
    return metadata.upright(image)


def _to_vips(samples: NDArray[Any], depth: int) -> pyvips.Image:
    grey, deep = samples.ndim == 2 or samples.shape[2] < 3, samples.dtype == np.uint16
    space = ("grey16" if deep else "b-w") if grey else ("rgb16" if deep else "srgb")
    image = pyvips.Image.new_from_array(np.ascontiguousarray(samples), interpretation=space).copy()
    image.set_type(pyvips.GValue.gint_type, "bits-per-sample", depth)
    return image
