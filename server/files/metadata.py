"""What a picture file says beside its pixels: colour profile, EXIF, XMP, IPTC, resolution. Read once, carried past the
network, and put on the result."""

import struct
from dataclasses import dataclass

import pyvips

from server.files import colour, exif, xmp
from server.files.exif import Exif
from server.files.fields import EXIF, ICC, IPTC, XMP, get_field, with_field
from server.job import Metadata as Policy

DEFAULT_PIXELS_PER_MM = 72 / 25.4
"""What is written where the source says nothing: the resolution that JFIF, PNG and TIFF readers assume themselves."""
_LIBVIPS_UNSET = 1.0
_MOST_PIXELS_PER_MM = 1e6
"""libvips' limit; PNG's is a little above it."""


@dataclass(frozen=True)
class Metadata:
    icc: bytes | None = None
    """The profile that the samples are in, or None for sRGB, and for grey with sRGB's curve."""
    exif: Exif = Exif()
    xmp: bytes | None = None
    iptc: bytes | None = None
    """IIM records (IPTC-NAA), without what JPEG wraps around them."""
    pixels_per_mm: tuple[float, float] | None = None
    """Across and down, as stored: before the orientation is applied."""

    @property
    def orientation(self) -> int:
        """1 … 8 as in EXIF. XMP is asked where EXIF is silent or says 1, as Pillow does; browsers only ask EXIF."""
        if self.exif.orientation == 1 and self.xmp is not None:
            return xmp.orientation(self.xmp)
        return self.exif.orientation


def read(image: pyvips.Image) -> Metadata:
    """Of a picture that libvips has opened; costs no pixels. What is damaged is left out."""
    tags, packet = _tags(image), _packet(image)
    resolution = image.xres, image.yres
    if min(resolution) <= 0 or resolution == (_LIBVIPS_UNSET, _LIBVIPS_UNSET):
        # WebP, AVIF and HEIC have no place for it but EXIF.
        resolution = tags.pixels_per_mm or (0, 0)
    if not all(0 < each <= _MOST_PIXELS_PER_MM for each in resolution):
        resolution = DEFAULT_PIXELS_PER_MM, DEFAULT_PIXELS_PER_MM
    return Metadata(
        icc=colour.profile(image),
        exif=tags,
        xmp=packet,
        iptc=_iim(get_field(image, IPTC)),
        pixels_per_mm=resolution,
    )


def read_orientation(image: pyvips.Image) -> int:
    """The same, of all that only what a header needs: a profile, for one, is not tried."""
    return Metadata(exif=_tags(image), xmp=_packet(image)).orientation


def dress(image: pyvips.Image, metadata: Metadata, policy: Policy = "keep") -> pyvips.Image:
    """`image`, upright and of its final size, with what `policy` leaves of `metadata`: keep: all; copyright: author and
    rights in EXIF and XMP; strip: none. The profile stays in any case: without it the colours would be others."""
    across = down = DEFAULT_PIXELS_PER_MM
    if policy == "keep" and metadata.pixels_per_mm is not None:
        across, down = metadata.pixels_per_mm
        if metadata.orientation >= 5:
            across, down = down, across
    image = image.copy(xres=across, yres=down)
    for name in image.get_fields():
        if name == "orientation" or name.endswith("-data") or name.startswith("exif-"):
            image.remove(name)
    tags, packet, iptc = _left(metadata, policy, image.width, image.height)
    block = exif.serialise(tags) if tags else None
    for name, data in ((ICC, metadata.icc), (EXIF, block), (XMP, packet), (IPTC, iptc)):
        image = with_field(image, name, data)
    return image


def _tags(image: pyvips.Image) -> Exif:
    return exif.parse(get_field(image, EXIF) or b"")


def _packet(image: pyvips.Image) -> bytes | None:
    packet = get_field(image, XMP)
    return packet if packet and len(packet) <= xmp.MAX_BYTES else None


def upright(image: pyvips.Image) -> pyvips.Image:
    """Of a HEIF file, whose own boxes rotate it, which its decoder has done: what EXIF and XMP say of it does not count
    (ISO/IEC 23008-12, A.2)."""
    tags, packet = get_field(image, EXIF), get_field(image, XMP)
    if tags is not None:
        straight = exif.parse(tags).upright(image.width, image.height)
        image = with_field(image, EXIF, exif.serialise(straight))
    if packet is not None:
        image = with_field(image, XMP, xmp.upright(packet, image.width, image.height))
    return image


def _left(metadata: Metadata, policy: Policy, width: int, height: int) -> tuple[Exif, bytes | None, bytes | None]:
    """EXIF, XMP and IPTC."""
    if policy == "strip":
        return Exif(), None, None
    if policy == "copyright":
        return metadata.exif.only(exif.ARTIST, exif.COPYRIGHT), xmp.rights(metadata.xmp or b""), None
    packet = metadata.xmp and xmp.upright(metadata.xmp, width, height)
    return metadata.exif.upright(width, height), packet, metadata.iptc


# --- IPTC: bare in TIFF; in JPEG in an "Image Resource Block" of Adobe's Photoshop File Formats ---

_PHOTOSHOP = b"Photoshop 3.0\0"
_IIM_RESOURCE = 0x0404


def photoshop_block(iim: bytes) -> bytes:
    """How JPEG wants IIM records wrapped."""
    return _PHOTOSHOP + b"8BIM" + struct.pack(">HHI", _IIM_RESOURCE, 0, len(iim)) + iim + b"\0" * (len(iim) % 2)


def _iim(block: bytes | None) -> bytes | None:
    if block is None or not block.startswith(_PHOTOSHOP):
        return block if block and block[0] == 0x1C else None
    place = len(_PHOTOSHOP)
    while block[place : place + 4] == b"8BIM":
        (kind,) = struct.unpack_from(">H", block.ljust(place + 7, b"\0"), place + 4)
        named = place + 6 + (block[place + 6] + 2) // 2 * 2 if place + 6 < len(block) else len(block)
        length = int.from_bytes(block[named : named + 4], "big")
        if kind == _IIM_RESOURCE:
            return block[named + 4 : named + 4 + length] or None
        place = named + 4 + length + length % 2
    return None
