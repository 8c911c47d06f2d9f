"""Encoded bytes → samples: orientation applied, CMYK through its profile, palette and odd spaces to RGB."""

import pyvips

from server.errors import SourceUnreadable
from server.picture import open_picture, read_header
from server.pipeline.base import Context

_KEPT_SPACES = {"b-w", "srgb", "rgb16", "grey16"}


def run(ctx: Context) -> None:
    read_header(ctx.data, ctx.max_source_pixels)  # raises before anything large is allocated
    try:
        _decode(ctx)
    except pyvips.Error as error:
        raise SourceUnreadable("the picture file is damaged") from error


def _decode(ctx: Context) -> None:
    image = open_picture(ctx.data).autorot()
    if image.interpretation == "cmyk":
        image = image.icc_transform("srgb", embedded=True, intent="relative")
    elif image.get_typeof("icc-profile-data"):
        ctx.icc = bytes(image.get("icc-profile-data"))
    if image.interpretation not in _KEPT_SPACES:
        image = image.colourspace("rgb16" if image.format == "ushort" else "srgb")
    if image.format not in ("uchar", "ushort"):
        image = image.cast("uchar")
    ctx.deep = image.format == "ushort"
    samples = image.numpy()
    ctx.samples = samples.reshape(image.height, image.width, image.bands)
