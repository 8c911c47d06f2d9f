"""Resizing and rounding to an exact size and depth, antialiased in both directions (libvips, Lanczos-3)."""

import numpy as np
import pyvips

from server.files.picture import Samples
from server.plan import Size

Depth = type[np.uint8] | type[np.uint16]


def resample(samples: Samples, size: Size) -> Samples:
    """`samples`: H × W × channels (1…4; 2 and 4 have alpha last) → the same kind at `size` (width, height), exactly."""
    h, w, _ = samples.shape
    if (w, h) == size:
        return samples
    image = pyvips.Image.new_from_array(samples, interpretation=_interpretation(samples.shape[2], samples.dtype.type))
    return to_samples(resampled(image, size, samples.dtype.type))


def resampled(image: pyvips.Image, size: Size, depth: Depth) -> pyvips.Image:
    """The same for a picture that libvips computes as it goes, in the depth that the result shall have. `image`: 8 or
    16 bits, of libvips' matching interpretation; alpha, where there is one, is the last band."""
    same = (image.width, image.height) == size
    shallow = image.format == "uchar"
    if same and shallow == (depth is np.uint8):
        return image
    # Colours under transparent pixels are arbitrary and must not bleed into visible ones.
    alpha = image.hasalpha() and not same
    result = image.premultiply() if alpha else image
    # NOTE: on integers vips computes with coarse fixed-point coefficients: white of 16 bits comes out 160 levels short.
    # Floats cost little, as they exist only for the rows that are being worked on.
    result = result.cast("float")
    if not same:
        result = result.resize(size[0] / image.width, vscale=size[1] / image.height, kernel="lanczos3")
    if alpha:
        result = result.unpremultiply()
    if shallow != (depth is np.uint8):
        result = result * (257 if shallow else 1 / 257)
    assert (result.width, result.height) == size, f"vips made {result.width}×{result.height} of {size}"
    # NOTE: its cast cuts the fraction off.
    result = result.rint().cast("uchar" if depth is np.uint8 else "ushort")
    return result.copy(interpretation=_interpretation(image.bands, depth))


def to_samples(image: pyvips.Image) -> Samples:
    """All of it, in memory."""
    samples: Samples = image.numpy().reshape(image.height, image.width, image.bands)
    return samples


def _interpretation(channels: int, depth: Depth) -> str:
    """premultiply takes the top value of alpha from it."""
    return {(False, False): "srgb", (False, True): "rgb16", (True, False): "b-w", (True, True): "grey16"}[
        channels < 3, depth is np.uint16
    ]
