"""Write a picture, whose rows libvips computes on demand, to a file of the requested format. The encoders' settings are
measured by benchmarks/codecs.py.

JPEG, PNG and TIFF are written row by row. The encoder of progressive JPEG holds all coefficients, those of WebP, AVIF
and GIF hold the whole picture: server/job/formats.py limits their size. animation.py writes animations.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyvips

from server.images.metadata import colour, exif, resolution, texts, xmp
from server.images.metadata.cicp import CodePoints
from server.images.metadata.fields import (
    CODE_POINTS,
    EXIF,
    GAIN_MAP,
    GAIN_MAP_ANNOUNCED,
    GAIN_MAP_IN_XMP,
    IPTC,
    RESOLUTION,
    TEXTS,
    XMP,
    get_field,
    kept,
    with_field,
)
from server.images.metadata.metadata import as_srgb, photoshop_block
from server.images.read import gif, jpeg
from server.images.write import gain_map, heif_properties
from server.images.write.png import save_png
from server.job.formats import FORMATS, check_fits, check_hdr
from server.job.job import Params

FULL_CHROMA_FROM = 90
"""JPEG quality from which chroma is not subsampled (4:4:4). In AVIF it never is, at no cost in bytes; in lossy WebP it
always is (RFC 6386)."""
_RGB, _BT601 = 0, 6
"""How libheif stores colours in lossless and in lossy AVIF (matrix coefficients of ITU-T H.273, table 4)."""
_CLASSIC_TIFF_BYTES = 3_900_000_000
"""Size of the samples, before compression, beyond which the 32-bit offsets of classic TIFF may not be enough."""


def save(image: pyvips.Image, path: Path, params: Params) -> None:
    """Write `image` (8 or 16 bits, of the result's size, with the metadata that metadata.py attaches) to `path`, in the
    format and with the options of `params`. The image is read once, from top to bottom.

    Raises ResultImpossible if the format can't hold it, pyvips.Error if it can't be computed or written, and OSError.
    """
    check_image(image, params)
    if (codes := CodePoints.unpack(get_field(image, CODE_POINTS))) is not None:
        check_hdr(codes.kind, FORMATS[params.format])
    _SAVERS[params.format](converted(image, params), path, params)


def check_image(image: pyvips.Image, params: Params) -> None:
    """Raises ResultImpossible if the format can't hold a picture of that size."""
    size = image.width, image.height
    check_fits(size, FORMATS[params.format], lossless=params.lossless, progressive=params.progressive)


def converts(params: Params, profile: bytes | None, *, grey: bool) -> bool:
    """Whether `converted` will convert the colours of a picture with that profile: samples that were rounded to 8 bits
    before would be rounded twice."""
    form = FORMATS[params.format]
    # A profile for grey does not apply to grey that is stored as RGB.
    return profile is not None and (params.colour == "srgb" or not form.profile or (grey and not form.grey))


def converted(image: pyvips.Image, params: Params) -> pyvips.Image:
    """The image with the colours, transparency and depth that the format can hold."""
    form = FORMATS[params.format]
    if converts(params, colour.profile(image), grey=image.bands < 3):
        image = as_srgb(colour.to_srgb(image))
    if image.hasalpha() and not form.alpha:
        image = flattened(image, params.background)
    if image.format == "ushort" and (not form.deep or params.depth == 8):
        image = _to_8_bits(image)
    if form.profile and not form.resolution:
        image = _with_resolution_in_exif(image)
    return image


def gif_metadata(image: pyvips.Image) -> tuple[bytes, int]:
    """The extensions of a GIF file with comments and XMP, and its pixel aspect ratio, as `gif.complete` takes them."""
    stated = resolution.unpack(get_field(image, RESOLUTION))
    packet = get_field(image, XMP)
    blocks = [gif.comment(each) for each in texts.unpack(get_field(image, TEXTS)).as_comments()]
    blocks += [gif.xmp(packet)] if packet else []
    return b"".join(blocks), 0 if stated is None else resolution.aspect(stated)


def _with_resolution_in_exif(image: pyvips.Image) -> pyvips.Image:
    stated = resolution.unpack(get_field(image, RESOLUTION))
    if stated is None or stated.unit == "none":
        return image
    tags = exif.parse(get_field(image, EXIF) or b"").with_resolution(resolution.tags(stated))
    return with_field(image, EXIF, exif.serialise(tags))


def quality_of(params: Params) -> int | None:
    return params.quality or FORMATS[params.format].default_quality


def _save_jpeg(image: pyvips.Image, path: Path, params: Params) -> None:
    quality = quality_of(params)
    full_chroma = quality is not None and quality >= FULL_CHROMA_FROM
    iptc = get_field(image, IPTC)
    image = with_field(image, IPTC, iptc and photoshop_block(iptc))
    options = {"Q": quality, "subsample_mode": "off" if full_chroma else "on", "interlace": params.progressive}
    added = [jpeg.comment(each) for each in texts.unpack(get_field(image, TEXTS)).as_comments()]
    stated = resolution.jfif(resolution.unpack(get_field(image, RESOLUTION)))
    if (beside := get_field(image, GAIN_MAP)) is not None:
        added += [get_field(image, GAIN_MAP_ANNOUNCED) or b"", gain_map.TABLE]
        if get_field(image, GAIN_MAP_IN_XMP) is not None:
            image = with_field(image, XMP, xmp.with_gain_map(get_field(image, XMP), len(beside)))
    if added or stated:
        with path.open("wb") as file:
            end = jpeg.write(
                lambda target: image.jpegsave_target(target, keep=kept(image), **options), file, stated or b"", added
            )
            if beside is not None:
                gain_map.append(file, end, beside)
    else:
        image.jpegsave(_name(path), keep=kept(image), **options)


def _save_png(image: pyvips.Image, path: Path, _: Params) -> None:
    save_png(image, path)


def _save_webp(image: pyvips.Image, path: Path, params: Params) -> None:
    # NOTE: efforts below 2 fail on large lossy pictures ("partition 0 overflow"). For lossless files 0 is enough:
    # 2 takes twice the time for files that are a tenth smaller.
    effort = 0 if params.lossless else 2
    image.webpsave(_name(path), Q=quality_of(params), lossless=params.lossless, effort=effort, keep=kept(image))


def _save_avif(image: pyvips.Image, path: Path, params: Params) -> None:
    bits = 10 if image.format == "ushort" else 8
    if bits == 10:  # libvips truncates to the high bits: they are rounded here
        image = ((image * (1023 / 65535)).rint() * 64).cast("ushort")
    options: dict[str, Any] = {"Q": quality_of(params), "lossless": params.lossless, "bitdepth": bits, "effort": 0}
    options |= {"compression": "av1", "subsample_mode": "off", "keep": kept(image)}
    if (codes := CodePoints.unpack(get_field(image, CODE_POINTS))) is None:
        image.heifsave(_name(path), **options)
    else:  # libvips can't state them
        boxes = codes.heif_boxes(_RGB if params.lossless else _BT601)
        path.write_bytes(heif_properties.added(image.heifsave_buffer(**options), boxes))


def _save_gif(image: pyvips.Image, path: Path, _: Params) -> None:
    image.gifsave(_name(path), keep="none")
    gif.complete(path, *gif_metadata(image))


def _save_tiff(image: pyvips.Image, path: Path, _: Params) -> None:
    samples = image.width * image.height * image.bands
    large = samples * (2 if image.format == "ushort" else 1) > _CLASSIC_TIFF_BYTES
    image.tiffsave(_name(path), compression="deflate", level=3, predictor="horizontal", bigtiff=large, keep=kept(image))
    # libvips writes no EXIF, only a quarter of IPTC, and a resolution even if none is known.
    tags, stated = exif.parse(get_field(image, EXIF) or b""), resolution.unpack(get_field(image, RESOLUTION))
    exif.append(path, tags, get_field(image, IPTC), resolution.tags(stated))


_SAVERS: dict[str, Callable[[pyvips.Image, Path, Params], None]] = {
    "jpeg": _save_jpeg,
    "png": _save_png,
    "webp": _save_webp,
    "avif": _save_avif,
    "tiff": _save_tiff,
    "gif": _save_gif,
}


def _name(path: Path) -> bytes:
    """The file system's own bytes: pyvips encodes a text as UTF-8, and not every name is UTF-8."""
    return os.fsencode(path)


def flattened(image: pyvips.Image, background: tuple[int, int, int]) -> pyvips.Image:
    """Without transparency, on `background` (8-bit sRGB). Depth stays, and grey stays grey."""
    patch = pyvips.Image.new_from_list([list(background)]).bandfold(factor=3).cast("uchar").copy(interpretation="srgb")
    return image.flatten(background=patch.colourspace(image.interpretation)(0, 0))


def _to_8_bits(image: pyvips.Image) -> pyvips.Image:
    narrow = (image * (255 / 65535)).rint().cast("uchar")
    return narrow.copy(interpretation="b-w" if image.bands < 3 else "srgb")
