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
from server.files import apng, bounds, exif, foreign, gif, metadata, primaries
from server.files.fields import EXIF, ICC, IPTC, get_field, with_field
from server.files.jpeg import MAX_SCANS, is_tiresome
from server.formats import READABLE, sniff

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
_MONOCHROME = 0x10

_REASONS = (
    ("data precision 12", "JPEG with 12 bits per sample is not read; convert it to PNG or TIFF of 16 bits"),
    ("not a whole number of bytes", "TIFF with 12 bits per sample is not read; convert it to 16"),
    (
        "samples out of range",
        "TIFF with samples of this kind is not read; convert it to 8 or 16 bits, or 32-bit floats",
    ),
    ("bad labq format", "TIFF with 8-bit Lab colours is not read; convert it to RGB"),
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
    return _find(data, max_pixels)[1]()


def why(error: pyvips.Error) -> SourceUnreadable:
    """What to tell the caller when libvips could not read a picture."""
    reason = next((reason for words, reason in _REASONS if words in str(error)), "the picture file is damaged")
    return SourceUnreadable(reason)


def _find(data: bytes, max_pixels: int) -> tuple[Header, Callable[[], pyvips.Image]]:
    mime = sniff(data)
    if mime is None:
        raise SourceUnreadable(f"the file is not a picture of a kind this server reads: {READABLE}")
    if mime == "image/jpeg" and is_tiresome(data):
        raise SourceUnreadable(f"the JPEG has more than {MAX_SCANS} scans, which only serve to keep a decoder busy")
    if mime == "image/png":
        bounds.check_png(data)
    find = _foreign_finder(data, mime)
    if find is not None:
        found = find(data)
        check_size(found.width, found.height, max_pixels)
        return Header(found.width, found.height, mime), found.load
    try:
        # NOTE: without fail_on, a truncated file decodes into a picture that is grey at the bottom; with "truncated"
        # one of uncompressed TIFF still does.
        image = getattr(pyvips.Image, _LOADERS[mime])(data, access="sequential", fail_on="error")
    except pyvips.Error as error:
        raise why(error) from error
    width, height = image.width, image.height
    check_size(width, height, max_pixels)
    if image.bands > (5 if image.interpretation == "cmyk" else 4):
        raise SourceUnreadable(f"the picture has {image.bands} channels; this server reads up to RGB with alpha")
    image = _completed(image, data, mime)
    if metadata.read_orientation(image) >= 5:
        width, height = height, width
    return Header(width, height, mime, _frames(image, data, mime)), lambda: image


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
    if mime == "image/tiff":  # its tags are those of EXIF
        image = with_field(image, EXIF, exif.serialise(exif.parse(data)))
        # NOTE: libvips takes a quarter of IPTC's bytes, where its type is not the LONG of old.
        return with_field(image, IPTC, exif.iptc_of_tiff(data))
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
