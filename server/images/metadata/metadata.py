"""The metadata of a picture file: colour profile, EXIF, XMP, IPTC, texts, resolution. Read from the source, and
attached to the result."""

import struct
from dataclasses import dataclass, replace

import pyvips

from server.images.metadata import colour, exif, provenance, texts, xmp
from server.images.metadata.cicp import CodePoints
from server.images.metadata.exif import Exif
from server.images.metadata.fields import CODE_POINTS, EXIF, ICC, IPTC, RESOLUTION, TEXTS, XMP, get_field, with_field
from server.images.metadata.placement import Placement
from server.images.metadata.provenance import Origin
from server.images.metadata.resolution import Resolution, of_libvips, of_tags, pack, tags
from server.images.metadata.resolution import read as read_resolution
from server.images.metadata.texts import Texts
from server.images.read import gif
from server.images.read.sniff import sniff
from server.job.job import Metadata as Policy

UNKNOWN_PIXELS_PER_MM = 72 / 25.4
"""EXIF's value for an unknown resolution (EXIF 2.32, XResolution), which libvips writes with any EXIF."""


@dataclass(frozen=True)
class Metadata:
    icc: bytes | None = None
    """The profile of the samples; None for sRGB, and for grey with sRGB's curve."""
    code_points: CodePoints | None = None
    """Of the samples, if they are HDR; they then have no profile."""
    exif: Exif = Exif()
    xmp: bytes | None = None
    iptc: bytes | None = None
    """IIM records (IPTC-NAA), without the block that JPEG wraps around them."""
    texts: Texts = Texts()
    resolution: Resolution | None = None
    """As stored: before the orientation is applied."""
    size: tuple[int, int] | None = None
    """Width and height, as stored."""

    @property
    def pixels_per_mm(self) -> tuple[float, float] | None:
        """Horizontal and vertical, as stored; None if the file does not state them."""
        return None if self.resolution is None else self.resolution.pixels_per_mm

    @property
    def orientation(self) -> int:
        """1 … 8 as in EXIF. XMP counts only if EXIF has no orientation, as in Pillow and libvips; browsers read only
        EXIF."""
        stated = self.exif.orientation
        if stated is None:
            return 1 if self.xmp is None else xmp.orientation(self.xmp)
        return stated


def read(image: pyvips.Image, data: bytes | None = None) -> Metadata:
    """The metadata of a picture that libvips has opened from the file `data`. No pixels are decoded. Damaged parts are
    left out."""
    found = _tags(image)
    return Metadata(
        icc=colour.profile(image),
        code_points=CodePoints.unpack(get_field(image, CODE_POINTS)),
        exif=found,
        xmp=packet_of(image, data),
        iptc=_iim(get_field(image, IPTC)),
        texts=Texts() if data is None else texts.read(data),
        resolution=(
            of_tags(found.image) or of_libvips(image.xres, image.yres)
            if data is None
            else read_resolution(data, sniff(data) or "", found)
        ),
        size=(image.width, image.height),
    )


def read_orientation(image: pyvips.Image) -> int:
    """The orientation alone, which is faster: profiles are not tried."""
    return Metadata(exif=_tags(image), xmp=packet_of(image)).orientation


def attach_metadata(
    image: pyvips.Image, metadata: Metadata, policy: Policy = "keep", origin: Origin | None = None
) -> pyvips.Image:
    """`image`, upright and of its final size, with the part of `metadata` that `policy` allows. keep: all; copyright:
    author and rights in EXIF, XMP and texts; strip: none. The profile always stays: the colours depend on it. So does
    the label that `origin` gives; without it, only the source's statements about its own origin are removed."""
    resolution = metadata.resolution if policy == "keep" else None
    if resolution is not None and metadata.orientation >= 5:
        resolution = resolution.turned()
    across, down = (resolution and resolution.pixels_per_mm) or (UNKNOWN_PIXELS_PER_MM,) * 2
    image = image.copy(xres=across, yres=down)
    for name in image.get_fields():
        if name == "orientation" or name.endswith("-data") or name.startswith(("exif-", "png-comment-")):
            image.remove(name)
    left = _left(metadata, policy, (image.width, image.height))
    if exif.X_RESOLUTION in left.exif.image:
        left = replace(left, exif=left.exif.with_resolution(tags(resolution) if resolution else {}))
    block = exif.serialise(left.exif) if left.exif else None
    if origin is not None:
        left = replace(left, xmp=provenance.labelled(left.xmp, origin))
    elif left.xmp is not None:
        left = replace(left, xmp=provenance.without_claims(left.xmp))
    for name, data in (
        (ICC, metadata.icc),
        (CODE_POINTS, metadata.code_points.pack() if metadata.code_points else None),
        (EXIF, block),
        (XMP, left.xmp),
        (IPTC, left.iptc),
        (TEXTS, left.texts.pack()),
        (RESOLUTION, pack(resolution)),
    ):
        image = with_field(image, name, data)
    return image


def as_srgb(image: pyvips.Image) -> pyvips.Image:
    """A picture with metadata attached whose colours were converted to sRGB → with metadata that say so."""
    block, packet = get_field(image, EXIF), get_field(image, XMP)
    if block is not None:
        image = with_field(image, EXIF, exif.serialise(exif.parse(block).as_srgb()))
    return image if packet is None else with_field(image, XMP, xmp.as_srgb(packet))


def _tags(image: pyvips.Image) -> Exif:
    return exif.parse(get_field(image, EXIF) or b"")


def packet_of(image: pyvips.Image, data: bytes | None = None) -> bytes | None:
    """The XMP of a picture from the file `data`, without which that of a GIF is not found."""
    packet = get_field(image, XMP) or (gif.packet(data) if data is not None and data[:4] == b"GIF8" else None)
    return packet if packet and len(packet) <= xmp.MAX_BYTES else None


def upright(image: pyvips.Image) -> pyvips.Image:
    """A picture from a HEIF file, which its decoder has rotated by the file's own boxes: the orientation in EXIF and
    XMP does not count (ISO/IEC 23008-12, A.2), and is removed."""
    block, packet = get_field(image, EXIF), get_field(image, XMP)
    size = image.width, image.height
    if block is not None:
        image = with_field(image, EXIF, exif.serialise(exif.parse(block).upright(Placement(1, size, size))))
    if packet is not None:
        image = with_field(image, XMP, xmp.straight(packet, size) or b"")
    return image


def _left(metadata: Metadata, policy: Policy, size: tuple[int, int]) -> Metadata:
    """The part of the metadata that the policy allows, changed for a result of that size."""
    if policy == "strip":
        return Metadata()
    if policy == "copyright":
        tags_left = metadata.exif.only(exif.ARTIST, exif.COPYRIGHT)
        return Metadata(exif=tags_left, xmp=xmp.rights(metadata.xmp or b""), texts=metadata.texts.rights())
    # If the source's size is not known, nothing is scaled.
    turned = size[::-1] if metadata.orientation >= 5 else size
    placement = Placement(metadata.orientation, metadata.size or (turned[0], turned[1]), size)
    packet = xmp.upright(metadata.xmp, placement) if metadata.xmp else None
    return replace(metadata, exif=metadata.exif.upright(placement), xmp=packet)


# --- IPTC: in TIFF as it is; in JPEG in an "Image Resource Block" (Adobe Photoshop File Formats) ---

_PHOTOSHOP = b"Photoshop 3.0\0"
_IIM_RESOURCE = 0x0404


def photoshop_block(iim: bytes) -> bytes:
    """IIM records in the block that JPEG needs around them."""
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
