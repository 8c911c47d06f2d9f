"""Open picture files safely, and read their headers. Used by both halves; needs neither torch nor FastAPI.

libvips is lazy: opening reads only the header, so a file that states 100,000 × 100,000 pixels is refused before memory
is allocated. A file's first bytes decide which loader reads it; no other loader runs. Of files with several frames or
pages this module opens the first; animation.py reads all frames.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from server.errors import SourceTooLarge, SourceUnreadable
from server.images.metadata import cicp, colour, exif, metadata
from server.images.metadata.fields import CODE_POINTS, EXIF, ICC, IPTC, get_field, with_field
from server.images.read import apng, fallback, gain_map, gif, heif_gain_map, jpeg, png, tiff, unsupported
from server.images.read.sniff import READABLE, sniff
from server.job.formats import Hdr

pyvips.block_untrusted_set(True)
# Every source is different: a cache of operations would only use memory.
pyvips.cache_set_max(0)


def _decode_leniently(text: Any) -> str:
    return "" if text == pyvips.ffi.NULL else bytes(pyvips.ffi.string(text)).decode("utf-8", "replace")


# NOTE: libvips copies names from files into its error messages, in any encoding. pyvips decodes these strictly, and if
# that fails, it never empties libvips' buffer: every later error in this process would fail in the same way.
pyvips.error._to_string = _decode_leniently

Samples = NDArray[np.uint8] | NDArray[np.uint16]
"""H × W × channels (grey, grey + alpha, RGB, RGB + alpha), 0 … 255 or 0 … 65535 by the type."""

_LOADERS = {
    "image/jpeg": "jpegload_buffer",
    "image/png": "pngload_buffer",
    "image/webp": "webpload_buffer",
    "image/gif": "gifload_buffer",
    "image/tiff": "tiffload_buffer",
    "image/avif": "heifload_buffer",
}
_HEIF = ("image/heic", "image/avif")
_RGB = ("srgb", "rgb16", "rgb")
_MONOCHROME = 0x10
_GIF_END = b"\0;"
"""The end of a picture and of the file (GIF89a). Some programs leave it out."""
_GIF_FILLER = b"\xfa" + bytes(each * 167 % 256 for each in range(1, 251))
"""A sub-block of pixels."""

_REASONS = (
    (
        "samples out of range",
        "TIFF with samples of this kind is not supported; convert it to 8 or 16 bits, or 32-bit floats",
    ),
)
"""A part of libvips' message, and the message for the caller, who can do something about it."""


@dataclass(frozen=True)
class Header:
    width: int
    """Pixels, after the orientation has been applied; also `height`."""
    height: int
    mime: str
    frames: int = 1
    """More than 1 for an animation; its frames may still prove to be damaged when they are decoded."""
    hdr: Hdr | None = None
    """None for the standard range. A gain map may still prove to be damaged when it is decoded."""

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


def read_header(data: bytes, max_pixels: int) -> Header:
    """Size and kind, without decoding. Raises SourceUnreadable, and SourceTooLarge above `max_pixels`."""
    header = _find(data, max_pixels)[0]
    if (codes := cicp.code_points(data, header.mime)) is not None:
        return replace(header, hdr=codes.kind)
    if header.mime in _HEIF and find_gain_map(data, header.mime, header.size) is not None:
        return replace(header, hdr="gain map")
    return header


def find_gain_map(data: bytes, mime: str, size: tuple[int, int]) -> gain_map.GainMap | None:
    """The gain map of a picture that `open_picture` opens with that width and height; None if it has none that can be
    used. It may still prove to be damaged when it is decoded."""
    if mime == "image/jpeg":
        return gain_map.find(data, jpeg.look(data), size)
    return heif_gain_map.find(data, mime, size) if mime in _HEIF else None


def open_picture(data: bytes, max_pixels: int) -> pyvips.Image:
    """The picture as stored: its orientation is not applied. It can be read once, from top to bottom. Nothing larger
    than `max_pixels` is decoded. Raises SourceUnreadable and SourceTooLarge, and pyvips.Error when its rows are
    read."""
    image = _find(data, max_pixels)[1]()
    mime = sniff(data) or ""
    if (codes := cicp.code_points(data, mime)) is not None:  # they count more than a profile, which can't state HDR
        image = with_field(image, CODE_POINTS, codes.pack())
        image.remove(ICC)
        return image
    if image.interpretation not in _RGB or cicp.are_stated(data, mime) or colour.profile(image) is not None:
        return image
    return with_field(image, ICC, cicp.from_exif(exif.parse(get_field(image, EXIF) or b"")))


def why(error: pyvips.Error) -> SourceUnreadable:
    """The error for the caller, for a picture that libvips could not read."""
    said = str(error)
    reason = next((reason for words, reason in _REASONS if words in said), fallback.reason(said))
    return SourceUnreadable(reason)


def _find(data: bytes, max_pixels: int) -> tuple[Header, Callable[[], pyvips.Image]]:
    if not data:
        raise SourceUnreadable("the file is empty")
    mime = sniff(data)
    if mime is None:
        known = unsupported.message(data)
        if known is not None:
            raise SourceUnreadable(f"{known}; this server reads {READABLE}")
        raise SourceUnreadable(f"the file is not a picture of a kind this server reads: {READABLE}")
    if mime == "image/jpeg":
        return _find_jpeg(data, max_pixels)
    if mime == "image/gif" and not data.endswith(_GIF_END):
        return _find_ended(mime, data + _GIF_END, data + _GIF_FILLER + _GIF_END, max_pixels)
    if mime == "image/png" and data[12:16] == b"CgBI":
        raise SourceUnreadable(
            "PNG in Apple's own form (CgBI, for iPhone apps) is not supported; convert it to ordinary PNG"
        )
    if mime == "image/png":
        png.check(data)
    find = _fallback_finder(data, mime)
    if find is not None:
        found = find(data)
        check_size(found.width, found.height, max_pixels)
        return Header(found.width, found.height, mime), found.load
    image = _open_tiff(data, max_pixels) if mime == "image/tiff" else _open(data, mime, max_pixels)
    if image.bands > (5 if image.interpretation == "cmyk" else 4):
        raise SourceUnreadable(f"the picture has {image.bands} channels; this server reads at most RGB with alpha")
    header = _header(image, mime, _frames(image, data, mime))
    if mime == "image/png" and png.lacks_its_end(data):
        return header, lambda: _open(png.completed(data) or data, mime, max_pixels)
    return header, lambda: image


def _header(image: pyvips.Image, mime: str, frames: int = 1) -> Header:
    turned = metadata.read_orientation(image) >= 5
    width, height = (image.height, image.width) if turned else (image.width, image.height)
    return Header(width, height, mime, frames)


def _find_jpeg(data: bytes, max_pixels: int) -> tuple[Header, Callable[[], pyvips.Image]]:
    found = jpeg.look(data)
    if found.has_too_many_parts:
        raise SourceUnreadable(
            f"the JPEG has more than {jpeg.MAX_SCANS} scans, which would keep a decoder busy for too long"
        )
    if (reason := jpeg.unsupported(found)) is not None:
        raise SourceUnreadable(reason)
    if found.ends or not found.has_all_scans:
        image = _open(data, "image/jpeg", max_pixels)
        beside = gain_map.find(data, found, (image.width, image.height))
        return replace(_header(image, "image/jpeg"), hdr="gain map" if beside else None), lambda: image
    return _find_ended("image/jpeg", jpeg.completed(data), jpeg.completed(data, jpeg.FILLER), max_pixels)


def _find_ended(mime: str, ended: bytes, filled: bytes, max_pixels: int) -> tuple[Header, Callable[[], pyvips.Image]]:
    """For a file that lacks its end: `ended` has one, `filled` has more data before it. If pixels are missing too, the
    two decode to different pixels."""

    def load() -> pyvips.Image:
        image = _open(ended, mime, max_pixels)
        if (image - _open(filled, mime, max_pixels)).abs().max() > 0:
            raise SourceUnreadable("the picture file is damaged")
        return _open(ended, mime, max_pixels)

    image = _open(ended, mime, max_pixels)
    return _header(image, mime, _frames(image, ended, mime)), load


def _open(data: bytes, mime: str, max_pixels: int, **options: int) -> pyvips.Image:
    try:
        # NOTE: without fail_on, a truncated file decodes to a picture that is grey at the bottom; with "truncated", an
        # uncompressed TIFF still does.
        image = getattr(pyvips.Image, _LOADERS[mime])(data, access="sequential", fail_on="error", **options)
    except pyvips.Error as error:
        raise why(error) from error
    check_size(image.width, image.height, max_pixels)
    return _completed(image, data, mime)


def _open_tiff(data: bytes, max_pixels: int) -> pyvips.Image:
    found = tiff.look(data)
    main = found.main
    image = _open(tiff.readable(data, main), "image/tiff", max_pixels, page=main.page, subifd=main.sub)
    colours, alpha = image[: main.colours], main.alpha
    if main.is_lab:
        image = colour.from_lab(colours, signed=main.photometric == tiff.CIELAB)
    else:
        if main.luma is not None:
            colours = colour.from_ycbcr(colours, main.luma, main.black_white)
        if image.bands > main.colours or main.luma is not None:
            image = colours if alpha is None or alpha >= image.bands else colours.bandjoin(image[alpha])
    # A TIFF file has the same tags as EXIF.
    image = with_field(image, EXIF, exif.serialise(exif.parse(data, found.tags)))
    # NOTE: libvips reads only a quarter of IPTC's bytes if their type is not LONG, as it once was.
    return with_field(image, IPTC, exif.iptc_of_tiff(data, main.offset))


def _frames(image: pyvips.Image, data: bytes, mime: str) -> int:
    pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
    if mime == "image/gif" and pages > 1:
        return max(1, len(gif.read(data).frames))
    if mime == "image/png" and (found := apng.read(data)) is not None:
        return max(1, len(found.frames))
    return pages if mime == "image/webp" else 1


def _fallback_finder(data: bytes, mime: str) -> Callable[[bytes], fallback.Fallback] | None:
    """The decoder for a file that libvips can't read, or reads wrongly; None if libvips reads it."""
    if mime == "image/heic":
        return fallback.find_heic
    if mime == "image/avif" and (data[8:12] == b"avis" or _is_monochrome(data)):
        return fallback.find_avif
    return fallback.find_bmp if mime == "image/bmp" else None


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises SourceTooLarge."""
    if width * height > max_pixels:
        raise SourceTooLarge(f"the picture has {width}×{height} pixels; this server takes at most {max_pixels}")


def _completed(image: pyvips.Image, data: bytes, mime: str) -> pyvips.Image:
    """With profile and EXIF that libvips does not read from the file."""
    if mime == "image/png":
        image = with_field(image, ICC, cicp.from_png(data, grey=image.bands < 3))
        if get_field(image, EXIF) is None:  # ImageMagick and older programs store it as a text
            names = (name for name in image.get_fields() if name.endswith(("profile type exif", "profile type APP1")))
            return next((with_field(image, EXIF, _from_hex(str(image.get(name)))) for name in names), image)
    if mime == "image/avif":
        profile = cicp.from_heif(data)
        image = image if get_field(image, ICC) else with_field(image, ICC, profile)
        return metadata.upright(image)
    return image


def _from_hex(text: str) -> bytes:
    """An ImageMagick "raw profile": name, length, and hexadecimal digits in lines."""
    digits = "".join(text.split()[2:])
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return b""


def _is_monochrome(data: bytes) -> bool:
    """Whether all AV1 streams are monochrome, as an alpha plane always is. libheif decodes these as RGB, and does not
    expand the range 16 … 235."""
    flags = fallback.av1_flags(data)
    return bool(flags) and all(flag & _MONOCHROME for flag in flags)
