"""Opening picture files safely, and reading their headers. Shared by both halves; needs neither torch nor FastAPI.

libvips reads lazily: opening costs the header only, so a file that claims 100,000 × 100,000 pixels is refused before
anything is allocated. Which loader gets a file is decided by its first bytes, so that no others ever run. Of
animated files and those with several pages the first picture is taken; animation.py has the others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from server.errors import SourceTooLarge, SourceUnreadable
from server.images import chunks
from server.images.metadata import cicp as primaries
from server.images.metadata import colour, exif, metadata
from server.images.metadata.fields import EXIF, ICC, IPTC, get_field, with_field
from server.images.read import apng, bounds, gif, jpeg, tiff
from server.images.read import fallback as foreign
from server.images.read import unsupported as unread
from server.images.read.sniff import READABLE, sniff

pyvips.block_untrusted_set(True)
# Every source is another picture: a cache of decoded ones would only hold memory.
pyvips.cache_set_max(0)


def _lenient(text: Any) -> str:
    return "" if text == pyvips.ffi.NULL else bytes(pyvips.ffi.string(text)).decode("utf-8", "replace")


# NOTE: libvips puts names out of files into its errors, in any encoding. pyvips decodes them strictly, and where that
# fails never empties libvips' buffer: every later error of the process would fail in the same way.
pyvips.error._to_string = _lenient

Samples = NDArray[np.uint8] | NDArray[np.uint16]
"""H × W × channels (grey, grey + alpha, RGB, RGB + alpha), 0 … 255 or 0 … 65535: the type tells, never the values."""

_LOADERS = {
    "image/jpeg": "jpegload_buffer",
    "image/png": "pngload_buffer",
    "image/webp": "webpload_buffer",
    "image/gif": "gifload_buffer",
    "image/tiff": "tiffload_buffer",
    "image/avif": "heifload_buffer",
}
_RGB = ("srgb", "rgb16", "rgb")
_MONOCHROME = 0x10
_GIF_END = b"\0;"
"""Of a picture and of the file (GIF89a). Some programs leave it out."""
_GIF_FILLER = b"\xfa" + bytes(each * 167 % 256 for each in range(1, 251))
"""Some more of a picture."""

_REASONS = (
    ("not a whole number of bytes", "TIFF with 12 bits per sample is not read; convert it to 16"),
    (
        "samples out of range",
        "TIFF with samples of this kind is not read; convert it to 8 or 16 bits, or 32-bit floats",
    ),
)
"""Of what libvips says, and of what a caller can do something about."""


@dataclass(frozen=True)
class Header:
    width: int
    """Pixels, after the orientation has been applied; likewise height."""
    height: int
    mime: str
    frames: int = 1
    """More than one: it is an animation that can be upscaled whole, if no frame turns out to be damaged."""

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


def read_header(data: bytes, max_pixels: int) -> Header:
    """Size and kind, without decoding. Raises SourceUnreadable, or SourceTooLarge beyond `max_pixels`."""
    return _find(data, max_pixels)[0]


def open_picture(data: bytes, max_pixels: int) -> pyvips.Image:
    """The picture as libvips sees it, orientation not yet applied; to be read once, from top to bottom. Nothing larger
    than `max_pixels` is decoded. Raises SourceUnreadable, SourceTooLarge; and pyvips.Error when its rows are read."""
    image = _find(data, max_pixels)[1]()
    mime = sniff(data) or ""
    if image.interpretation not in _RGB or primaries.are_stated(data, mime) or colour.profile(image) is not None:
        return image
    return with_field(image, ICC, primaries.from_exif(exif.parse(get_field(image, EXIF) or b"")))


def why(error: pyvips.Error) -> SourceUnreadable:
    """What to tell the caller when libvips could not read a picture."""
    said = str(error)
    reason = next((reason for words, reason in _REASONS if words in said), foreign.reason(said))
    return SourceUnreadable(reason)


def _find(data: bytes, max_pixels: int) -> tuple[Header, Callable[[], pyvips.Image]]:
    mime = sniff(data)
    if mime is None:
        known = unread.words(data)
        if known is not None:
            raise SourceUnreadable(f"{known}; this server reads {READABLE}")
        raise SourceUnreadable(f"the file is not a picture of a kind this server reads: {READABLE}")
    if mime == "image/jpeg":
        return _find_jpeg(data, max_pixels)
    if mime == "image/gif" and not data.endswith(_GIF_END):
        return _find_ended(mime, data + _GIF_END, data + _GIF_FILLER + _GIF_END, max_pixels)
    if mime == "image/png" and data[12:16] == b"CgBI":
        raise SourceUnreadable(
            "PNG in Apple's own form (CgBI, for iPhone apps) is not read; convert it to ordinary PNG"
        )
    if mime == "image/png":
        bounds.check_png(data)
    find = _foreign_finder(data, mime)
    if find is not None:
        found = find(data)
        check_size(found.width, found.height, max_pixels)
        return Header(found.width, found.height, mime), found.load
    image = _open_tiff(data, max_pixels) if mime == "image/tiff" else _open(data, mime, max_pixels)
    if image.bands > (5 if image.interpretation == "cmyk" else 4):
        raise SourceUnreadable(f"the picture has {image.bands} channels; this server reads up to RGB with alpha")
    header = _header(image, mime, _frames(image, data, mime))
    if mime == "image/png" and chunks.lacks_its_end(data):
        return header, lambda: _open(chunks.ended(data) or data, mime, max_pixels)
    return header, lambda: image


def _header(image: pyvips.Image, mime: str, frames: int = 1) -> Header:
    turned = metadata.read_orientation(image) >= 5
    width, height = (image.height, image.width) if turned else (image.width, image.height)
    return Header(width, height, mime, frames)


def _find_jpeg(data: bytes, max_pixels: int) -> tuple[Header, Callable[[], pyvips.Image]]:
    found = jpeg.look(data)
    if found.is_tiresome:
        raise SourceUnreadable(
            f"the JPEG has more than {jpeg.MAX_SCANS} scans, which only serve to keep a decoder busy"
        )
    if (reason := jpeg.unread(found)) is not None:
        raise SourceUnreadable(reason)
    if found.ends or not found.has_all_scans:
        image = _open(data, "image/jpeg", max_pixels)
        return _header(image, "image/jpeg"), lambda: image
    return _find_ended("image/jpeg", jpeg.ended(data), jpeg.ended(data, jpeg.FILLER), max_pixels)


def _find_ended(mime: str, ended: bytes, filled: bytes, max_pixels: int) -> tuple[Header, Callable[[], pyvips.Image]]:
    """Of a file that lacked its end: `ended` has one, `filled` has something more before it. Where pixels are missing
    too, what decoders make of the rest depends on what follows."""

    def load() -> pyvips.Image:
        image = _open(ended, mime, max_pixels)
        if (image - _open(filled, mime, max_pixels)).abs().max() > 0:
            raise SourceUnreadable("the picture file is damaged")
        return _open(ended, mime, max_pixels)

    image = _open(ended, mime, max_pixels)
    return _header(image, mime, _frames(image, ended, mime)), load


def _open(data: bytes, mime: str, max_pixels: int, **options: int) -> pyvips.Image:
    try:
        # NOTE: without fail_on, a truncated file decodes into a picture that is grey at the bottom; with "truncated"
        # one of uncompressed TIFF still does.
        image = getattr(pyvips.Image, _LOADERS[mime])(data, access="sequential", fail_on="error", **options)
    except pyvips.Error as error:
        raise why(error) from error
    check_size(image.width, image.height, max_pixels)
    return _completed(image, data, mime)


def _open_tiff(data: bytes, max_pixels: int) -> pyvips.Image:
    found = tiff.look(data)
    meant = found.meant
    image = _open(tiff.readable(data, meant), "image/tiff", max_pixels, page=meant.page, subifd=meant.sub)
    colours, alpha = image[: meant.colours], meant.alpha
    if meant.is_lab:
        image = colour.from_lab(colours, signed=meant.photometric == tiff.CIELAB)
    elif image.bands > meant.colours:
        image = colours if alpha is None or alpha >= image.bands else colours.bandjoin(image[alpha])
    # The tags of a TIFF file are those of EXIF.
    image = with_field(image, EXIF, exif.serialise(exif.parse(data, found.tags)))
    # NOTE: libvips takes a quarter of IPTC's bytes, where its type is not the LONG of old.
    return with_field(image, IPTC, exif.iptc_of_tiff(data, meant.offset))


def _frames(image: pyvips.Image, data: bytes, mime: str) -> int:
    pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
    if mime == "image/gif" and pages > 1:
        return max(1, len(gif.read(data).frames))
    if mime == "image/png" and (found := apng.read(data)) is not None:
        return max(1, len(found.frames))
    return pages if mime == "image/webp" else 1


def _foreign_finder(data: bytes, mime: str) -> Callable[[bytes], foreign.Foreign] | None:
    """Who reads what libvips does not, or not rightly."""
    if mime == "image/heic":
        return foreign.find_heic
    if mime == "image/avif" and (data[8:12] == b"avis" or _is_monochrome(data)):
        return foreign.find_avif
    return foreign.find_bmp if mime == "image/bmp" else None


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises SourceTooLarge."""
    if width * height > max_pixels:
        raise SourceTooLarge(f"the picture has {width}×{height} pixels; this server takes at most {max_pixels}")


def _completed(image: pyvips.Image, data: bytes, mime: str) -> pyvips.Image:
    """With what the file tells and libvips does not."""
    if mime == "image/png":
        image = with_field(image, ICC, primaries.from_png(data, grey=image.bands < 3))
        if get_field(image, EXIF) is None:  # ImageMagick and older programs put it into a text
            names = (name for name in image.get_fields() if name.endswith(("profile type exif", "profile type APP1")))
            return next((with_field(image, EXIF, _from_hex(str(image.get(name)))) for name in names), image)
    if mime == "image/avif":
        profile = primaries.from_heif(data)
        image = image if get_field(image, ICC) else with_field(image, ICC, profile)
        return metadata.upright(image)
    return image


def _from_hex(text: str) -> bytes:
    """A "raw profile" of ImageMagick's: name, length, and hexadecimal digits in lines."""
    digits = "".join(text.split()[2:])
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return b""


def _is_monochrome(data: bytes) -> bool:
    """Whether all AV1 streams in it are, as a plane of alpha always is.
    libheif gives them in 16 … 235, where that is how they are coded, and as RGB."""
    flags = foreign.av1_flags(data)
    return bool(flags) and all(flag & _MONOCHROME for flag in flags)
