"""The fields of a libvips picture that hold its file's metadata, as bytes."""

import pyvips

ICC, EXIF, XMP, IPTC = "icc-profile-data", "exif-data", "xmp-data", "iptc-data"


RESOLUTION, TEXTS, CODE_POINTS = "our-resolution", "our-texts", "our-code-points"
"""Fields of this server's own; resolution.py, texts.py and cicp.py define their content."""
GAIN_MAP, GAIN_MAP_ANNOUNCED, GAIN_MAP_IN_XMP = "our-gain-map", "our-gain-map-announced", "our-gain-map-in-xmp"
"""For the encoder of JPEG: the gain map's file, segments that go with it, and a byte if XMP must state its place."""


def get_field(image: pyvips.Image, name: str) -> bytes | None:
    """None if the field is missing or empty."""
    if not image.get_typeof(name):
        return None
    try:
        return bytes(image.get(name))
    except RuntimeError:  # pyvips raises it for an empty field
        return None


def with_field(image: pyvips.Image, name: str, data: bytes | None) -> pyvips.Image:
    """`image` with that value in the field; `image` itself if `data` is None."""
    if data is None:
        return image
    image = image.copy()
    image.set_type(pyvips.GValue.blob_type, name, data)
    return image


def kept(image: pyvips.Image) -> int:
    """The `keep` option for libvips' encoders: exactly the fields that the picture has (they would add EXIF of their
    own), and the resolution (OTHER)."""
    keep = pyvips.enums.ForeignKeep
    flags = {ICC: keep.ICC, EXIF: keep.EXIF, XMP: keep.XMP, IPTC: keep.IPTC}
    return int(keep.OTHER + sum(flag for name, flag in flags.items() if get_field(image, name) is not None))
