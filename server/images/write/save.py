"""A picture that libvips computes as it goes → a file of the asked format. Settings are measured: benchmarks/codecs.py.

JPEG, PNG and TIFF are written row by row. Progressive JPEG keeps the whole picture's coefficients, WebP, AVIF and GIF
the whole picture: formats.py says how large these may be. Animations are film.py's.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import pyvips

from server.images.metadata import colour, exif, resolution, texts
from server.images.metadata.fields import EXIF, IPTC, RESOLUTION, TEXTS, get_field, kept, with_field
from server.images.metadata.metadata import as_srgb, photoshop_block
from server.images.read import gif, jpeg
from server.images.write.png import save_png
from server.job.formats import FORMATS, check_fits
from server.job.job import Params

FULL_CHROMA_FROM = 90
"""Quality of JPEG from which colour has as many samples as brightness (4:4:4). In AVIF it always has, which costs no
bytes there; in WebP with loss it never has (RFC 6386)."""
_CLASSIC_TIFF_BYTES = 3_900_000_000
"""Of samples, before compression, beyond which 32 bits might not be enough for places in a TIFF file."""


def save(image: pyvips.Image, path: Path, params: Params) -> None:
    """Write `image` (8 or 16 bits, of the result's size, dressed by metadata.py) to `path`, in the format and with the
    options of `params`. It is read once, from top to bottom.

    Raises ResultImpossible when the format can't hold it, pyvips.Error when it can't be computed, or written.
    """
    form = FORMATS[params.format]
    check_image(image, params)
    image = converted(image, params)
    quality = params.quality or form.default_quality
    if form.name == "jpeg":
        _save_jpeg(image, path, quality, params.progressive)
    elif form.name == "png":
        save_png(image, path)
    elif form.name == "webp":
        # NOTE: efforts below 2 fail on large lossy pictures ("partition 0 overflow"). Without loss 0 is as small as it
        # pays: 2 takes twice the time for a tenth less.
        effort = 0 if params.lossless else 2
        image.webpsave(_name(path), Q=quality, lossless=params.lossless, effort=effort, keep=kept(image))
    elif form.name == "avif":
        _save_avif(image, path, quality, params.lossless)
    elif form.name == "gif":
        image.gifsave(_name(path), keep="none")
        gif.complete(path, *gif_words(image))
    else:
        _save_tiff(image, path)


def check_image(image: pyvips.Image, params: Params) -> None:
    """Raises ResultImpossible when the format can't hold it."""
    size = image.width, image.height
    check_fits(size, FORMATS[params.format], lossless=params.lossless, progressive=params.progressive)


def converts(params: Params, profile: bytes | None, *, grey: bool) -> bool:
    """The colours of a picture with that profile are going to be others: samples of it that were rounded to 8 bits
    before would be rounded twice."""
    form = FORMATS[params.format]
    # To what has been made colourful, a profile for grey does not apply.
    return profile is not None and (params.colour == "srgb" or not form.profile or (grey and not form.grey))


def converted(image: pyvips.Image, params: Params) -> pyvips.Image:
    """As the format can hold it: colours, transparency, depth."""
    form = FORMATS[params.format]
    if converts(params, colour.profile(image), grey=image.bands < 3):
        image = as_srgb(colour.to_srgb(image))
    if image.hasalpha() and not form.alpha:
        image = _flattened(image, params.background)
    if image.format == "ushort" and (not form.deep or params.depth == 8):
        image = _to_8_bits(image)
    if form.name in ("webp", "avif"):  # they have no other place for it
        image = _with_resolution_in_exif(image)
    return image


def gif_words(image: pyvips.Image) -> tuple[Sequence[bytes], int]:
    """What a GIF file says beside its pixels: comments, and how wide these are."""
    stated = resolution.unpack(get_field(image, RESOLUTION))
    return texts.unpack(get_field(image, TEXTS)).as_comments(), 0 if stated is None else resolution.aspect(stated)


def _with_resolution_in_exif(image: pyvips.Image) -> pyvips.Image:
    stated = resolution.unpack(get_field(image, RESOLUTION))
    if stated is None or stated.unit == "none":
        return image
    tags = exif.parse(get_field(image, EXIF) or b"").with_resolution(resolution.tags(stated))
    return with_field(image, EXIF, exif.serialise(tags))


def _save_jpeg(image: pyvips.Image, path: Path, quality: int | None, progressive: bool) -> None:
    full_chroma = quality is not None and quality >= FULL_CHROMA_FROM
    iptc = get_field(image, IPTC)
    image = with_field(image, IPTC, iptc and photoshop_block(iptc))
    options = {"Q": quality, "subsample_mode": "off" if full_chroma else "on", "interlace": progressive}
    comments = texts.unpack(get_field(image, TEXTS)).as_comments()
    stated = resolution.jfif(resolution.unpack(get_field(image, RESOLUTION)))
    if comments or stated:
        with path.open("wb") as file:
            jpeg.write(
                lambda target: image.jpegsave_target(target, keep=kept(image), **options), file, stated or b"", comments
            )
    else:
        image.jpegsave(_name(path), keep=kept(image), **options)


def _save_avif(image: pyvips.Image, path: Path, quality: int | None, lossless: bool) -> None:
    bits = 10 if image.format == "ushort" else 8
    if bits == 10:  # libvips cuts the low bits off
        image = ((image * (1023 / 65535)).rint() * 64).cast("ushort")
    image.heifsave(
        _name(path), compression="av1", Q=quality, lossless=lossless, bitdepth=bits, effort=0,
        subsample_mode="off", keep=kept(image),
    )  # fmt: skip


def _save_tiff(image: pyvips.Image, path: Path) -> None:
    samples = image.width * image.height * image.bands
    large = samples * (2 if image.format == "ushort" else 1) > _CLASSIC_TIFF_BYTES
    image.tiffsave(_name(path), compression="deflate", level=3, predictor="horizontal", bigtiff=large, keep=kept(image))
    # libvips leaves EXIF out, and three quarters of IPTC; and it makes up a resolution.
    tags, stated = exif.parse(get_field(image, EXIF) or b""), resolution.unpack(get_field(image, RESOLUTION))
    exif.append(path, tags, get_field(image, IPTC), resolution.tags(stated))


def _name(path: Path) -> bytes:
    """As the file system has it: not every name is UTF-8, which pyvips would make of a text."""
    return os.fsencode(path)


def _flattened(image: pyvips.Image, background: tuple[int, int, int]) -> pyvips.Image:
    """On `background`, in the picture's own depth, and as grey if it is."""
    patch = pyvips.Image.new_from_list([list(background)]).bandfold(factor=3).cast("uchar").copy(interpretation="srgb")
    return image.flatten(background=patch.colourspace(image.interpretation)(0, 0))


def _to_8_bits(image: pyvips.Image) -> pyvips.Image:
    narrow = (image * (255 / 65535)).rint().cast("uchar")
    return narrow.copy(interpretation="b-w" if image.bands < 3 else "srgb")
