"""How much of each pixel is the kept result: from a caller's mask to rows of the result.

All is done at the size of the source, in one byte a pixel. Around what is kept lies a soft edge, so that what is inside
is exact and no border shows.
"""

from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from server.errors import UpscaleError
from server.images.metadata import colour
from server.images.metadata.metadata import read_orientation
from server.images.read.open import open_picture, why
from server.images.samples import Floats
from server.job.job import Wrap
from server.job.mask import Mask, of_mask
from server.job.tiling import Size
from server.pipeline.decode import upright

Shares = NDArray[np.uint8]
"""Height × width of the source: 255 for the kept result alone, 0 for the other alone."""

ALL = 255
_BLACK, _WHITE = 8, 247
"""What is darker or brighter in a mask's picture counts as black or white: JPEG rarely keeps these exactly."""
_SOLID = 1
"""Source pixels next to what is kept that are kept too: so rows of the result, which are interpolated, are exact in all
of what is kept."""
_RADIUS = 3
"""Of the mean that makes the edge soft: it is twice as wide, in source pixels."""
EDGE = _SOLID + 2 * _RADIUS
"""Beyond so many source pixels from what is kept, the result is the other one alone."""


def shares(mask: Mask, image: bytes, size: Size, max_pixels: int) -> Shares:
    """Without the soft edge. `image`: the mask's file, if it has one; `size`: of the upright source, (width, height).
    Raises BadSource for a bad picture, with the field `mask`."""
    covered = _boxes(mask, size) if mask.boxes is not None else _stretched(_read(image, max_pixels), size)
    return covered if mask.keep == "inside" else ALL - covered


def softened(kept: Shares, wrap: Wrap = "none") -> Shares:
    """With the soft edge, which lies outside: 255 stays 255. `wrap`: the sides of the picture that fit together."""
    wide = _over_both(kept, _SOLID + _RADIUS, np.maximum, np.uint8, wrap)
    total = _over_both(wide, _RADIUS, np.add, np.uint16, wrap)
    total //= (2 * _RADIUS + 1) ** 2
    return total.astype(np.uint8)


def rows(soft: Shares, result: Size, start: int, stop: int) -> Floats:
    """Those of the result: (stop − start) × width × 1, in 0…1. Exactly 1 where the middle of the result's pixel lies in
    a source pixel that is kept."""
    top, bottom, down = _between(np.arange(start, stop), soft.shape[0], result[1])
    left, right, across = _between(np.arange(result[0]), soft.shape[1], result[0])
    above, below = soft[top].astype(np.float32), soft[bottom].astype(np.float32)
    above += (below - above) * down[:, None]  # not two products: equal values must stay exactly as they are
    found: Floats = above[:, left]
    found += (above[:, right] - found) * across
    found /= ALL
    return found[..., None]


def _boxes(mask: Mask, size: Size) -> Shares:
    covered: Shares = np.zeros((size[1], size[0]), np.uint8)
    for left, top, width, height in mask.boxes or ():
        covered[top : top + height, left : left + width] = ALL
    return covered


def _read(data: bytes, max_pixels: int) -> Shares:
    """Upright and grey, of any size."""
    try:
        image = open_picture(data, max_pixels)
        turned = read_orientation(image)
        image = colour.to_rgb(image)
        if image.hasalpha():
            image = image.flatten()  # onto black
        grey = image.colourspace("b-w")
        read: Shares = np.array(grey.numpy().reshape(grey.height, grey.width))
    except pyvips.Error as error:
        raise of_mask(why(error)) from error
    except UpscaleError as error:
        raise of_mask(error) from error
    read[read < _BLACK] = 0
    read[read > _WHITE] = ALL
    return np.asarray(upright(read, turned), np.uint8)


def _stretched(mask: Shares, size: Size) -> Shares:
    """Each source pixel takes the mask's pixel at its middle."""
    (w, h), (mask_h, mask_w) = size, mask.shape
    across, down = ((np.arange(w) + 0.5) * mask_w / w).astype(int), ((np.arange(h) + 0.5) * mask_h / h).astype(int)
    stretched: Shares = mask[down[:, None], across]
    return stretched


_Places = NDArray[np.int64]


def _between(places: _Places, source: int, result: int) -> tuple[_Places, _Places, Floats]:
    """The two source pixels around the middle of each of these pixels of the result, and the share of the second."""
    centres = np.clip((places + 0.5) * (source / result) - 0.5, 0, source - 1)
    first = centres.astype(np.int64)
    return first, np.minimum(first + 1, source - 1), (centres - first).astype(np.float32)


def _over_both(
    values: Shares, radius: int, join: np.ufunc, dtype: type[np.unsignedinteger[Any]], wrap: Wrap
) -> NDArray[Any]:
    """Joined with the neighbours up to `radius` along both sides; beyond the borders the last ones are repeated, or it
    goes on at the other side."""
    for axis in (0, 1):
        pad = [(radius, radius) if each == axis else (0, 0) for each in (0, 1)]
        padded = np.pad(values, pad, "wrap" if "yx"[axis] in wrap else "edge").swapaxes(0, axis)
        size = values.shape[axis]
        joined = padded[:size].astype(dtype)
        for offset in range(1, 2 * radius + 1):
            join(joined, padded[offset : offset + size], out=joined)
        values = joined.swapaxes(0, axis)
    return values
