"""Kinds of picture files that libvips, as its wheel is built, can't read, or not rightly: BMP, HEIC, some AVIF.

HEIC needs an HEVC decoder, which pi-heif brings (libheif and libde265, LGPL; its sibling pillow-heif also has x265,
which is GPL). Each function looks at the header only; what it returns decodes when called.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pi_heif  # type: ignore[import-untyped]
import pyvips
from numpy.typing import NDArray
from PIL import AvifImagePlugin, BmpImagePlugin, Image, ImageOps

from server.errors import SourceUnreadable
from server.files import metadata, primaries
from server.files.fields import EXIF, ICC, XMP, with_field

_BOXES = 1 << 20
"""Bytes at a file's start in which its boxes are looked for. They come before the pictures, and are small."""
_HIGH_BITDEPTH = 0x40

_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, IndexError)
"""What Pillow and pi-heif raise for damaged files, at their headers as well as later."""


@dataclass(frozen=True)
class Foreign:
    width: int
    """Pixels, as stored; likewise height."""
    height: int
    load: Callable[[], pyvips.Image]
    """All of the first picture, with its metadata where libvips' own loaders put them. Raises SourceUnreadable."""


def find_bmp(data: bytes) -> Foreign:
    return _find(lambda: BmpImagePlugin.BmpImageFile(io.BytesIO(data)), _from_pillow)


def find_avif(data: bytes) -> Foreign:
    """For those that are animated or grey. Raises SourceUnreadable also for more than 8 bits, which Pillow cuts."""
    primaries.from_heif(data)
    if any(flag & _HIGH_BITDEPTH for flag in av1_flags(data)):
        raise SourceUnreadable("animated or grey AVIF of more than 8 bits is not read; convert it to PNG")
    return _find(lambda: AvifImagePlugin.AvifImageFile(io.BytesIO(data)), _from_pillow)


def find_heic(data: bytes) -> Foreign:
    described = primaries.from_heif(data)
    return _find(
        lambda: pi_heif.open_heif(data, convert_hdr_to_8bit=False), lambda opened: _from_heif(opened, described)
    )


def av1_flags(data: bytes) -> list[int]:
    """Of each AV1 stream in a HEIF file: depth, monochrome, subsampling (AV1 in ISOBMFF, section 2.3.3: the third byte
    of a box `av1C`)."""
    return [part[1] for part in data[:_BOXES].split(b"av1C\x81")[1:] if len(part) > 1]


def _find(open_: Callable[[], "Image.Image | pi_heif.HeifFile"], convert: Callable[..., pyvips.Image]) -> Foreign:
    # NOTE: not Image.open, which would try every format that Pillow knows, and has a size limit of its own.
    def guarded(do: Callable[[], Any]) -> Any:
        try:
            return do()
        except _DAMAGED as error:
            raise SourceUnreadable("the picture file is damaged") from error

    opened = guarded(open_)
    width, height = opened.size
    return Foreign(width, height, lambda: guarded(lambda: convert(opened)))


def _from_pillow(opened: Image.Image) -> pyvips.Image:
    """8 bits: neither kind that comes here has more."""
    opened = ImageOps.exif_transpose(opened)
    grey = opened.mode in ("1", "L")
    alpha = opened.has_transparency_data
    image = _to_vips(np.asarray(opened.convert("L" if grey else "RGBA" if alpha else "RGB")), 8)
    across, down = opened.info.get("dpi", (0, 0))
    return image.copy(xres=across / 25.4, yres=down / 25.4) if across > 0 and down > 0 else image


def _from_heif(opened: "pi_heif.HeifFile", described: bytes | None) -> pyvips.Image:
    # NOTE: a copy. What it gives is a view of memory that goes away with `opened`, whoever still looks at it.
    image = _to_vips(np.array(opened), opened.info["bit_depth"])
    found = opened.info
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
