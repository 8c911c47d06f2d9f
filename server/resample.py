"""Resizing finished samples to an exact size, antialiased in both directions (libvips, Lanczos-3)."""

import numpy as np
import pyvips

from server.picture import Samples
from server.plan import Size


def resample(samples: Samples, size: Size) -> Samples:
    """`samples`: H × W × channels (1…4; 2 and 4 have alpha last) → the same kind at `size` (width, height), exactly."""
    h, w, channels = samples.shape
    if (w, h) == size:
        return samples
    image = pyvips.Image.new_from_array(samples)
    alpha = channels in (2, 4)
    if alpha:
        # Colours under transparent pixels are arbitrary and must not bleed into visible ones.
        image = image.copy(interpretation=_interpretation(samples)).premultiply()
    # NOTE: on integers vips computes with coarse fixed-point coefficients: white of 16 bits comes out 160 levels short.
    # Floats cost little, as they exist only for the rows that are being worked on.
    image = image.cast("float").resize(size[0] / w, vscale=size[1] / h, kernel="lanczos3")
    if alpha:
        image = image.unpremultiply()
    # NOTE: its cast cuts the fraction off.
    image = image.rint().cast("uchar" if samples.dtype == np.uint8 else "ushort")
    result: Samples = image.numpy().reshape(image.height, image.width, channels)
    assert (image.width, image.height) == size, f"vips made {image.width}×{image.height} of {size}"
    return result


def _interpretation(samples: Samples) -> str:
    """premultiply takes the top value of alpha from it."""
    grey, deep = samples.shape[2] == 2, samples.dtype == np.uint16
    return {(False, False): "srgb", (False, True): "rgb16", (True, False): "b-w", (True, True): "grey16"}[grey, deep]
