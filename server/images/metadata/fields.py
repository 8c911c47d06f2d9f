"""The places of a libvips picture where what its file says beside the pixels lies, as bytes."""

import pyvips

ICC, EXIF, XMP, IPTC = "icc-profile-data", "exif-data", "xmp-data", "iptc-data"


RESOLUTION, TEXTS = "our-resolution", "our-texts"
"""Those that libvips knows nothing of; resolution.py and texts.py say what is in them."""


def get_field(image: pyvips.Image, name: str) -> bytes | None:
    """None where there is nothing."""
    if not image.get_typeof(name):
        return None
    try:
        return bytes(image.get(name))
    except RuntimeError:  # pyvips on a field of no bytes
        return None


def with_field(image: pyvips.Image, name: str, data: bytes | None) -> pyvips.Image:
    """`image` with another value in that place; as it is, if `data` is None."""
    if data is None:
        return image
    image = image.copy()
    image.set_type(pyvips.GValue.blob_type, name, data)
    return image


def kept(image: pyvips.Image) -> int:
    """What libvips' encoders shall write, which would make up EXIF where there is none: what the picture has. The rest
    is the resolution."""
    keep = pyvips.enums.ForeignKeep
    flags = {ICC: keep.ICC, EXIF: keep.EXIF, XMP: keep.XMP, IPTC: keep.IPTC}
    return int(keep.OTHER + sum(flag for name, flag in flags.items() if get_field(image, name) is not None))
