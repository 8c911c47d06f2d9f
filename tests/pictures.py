"""Pictures for tests, drawn so that any turn, mirroring or mix-up of channels shows; and how far colours are apart."""

import io
import itertools
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image

from server.images.read.open import Samples
from server.rows.stream import Stream
from tests.paths import ROOT

FILES = ROOT / "tests" / "images"
"""What no library that we depend on can write: HEIC, drawn like `scene` and encoded once with pillow-heif."""

Floats = NDArray[np.float64]


def scene(width: int = 48, height: int = 32, channels: int = 3, dtype: type[np.generic] = np.uint8) -> NDArray[Any]:
    """H × W × channels: smooth, different in each corner and each channel; alpha runs from 0 to opaque."""
    x, y = np.linspace(0, 1, width)[None, :], np.linspace(0, 1, height)[:, None]
    red, green, blue = 0.15 + 0.7 * x + 0 * y, 0.2 + 0.6 * y + 0 * x, 0.9 - 0.5 * x * y
    alpha = np.clip(1.4 * x + 0.6 * y - 0.4, 0, 1)
    planes = {1: [green], 2: [green, alpha], 3: [red, green, blue], 4: [red, green, blue, alpha]}[channels]
    return np.rint(np.stack(planes, axis=-1) * np.iinfo(dtype).max).astype(dtype)  # type: ignore[type-var]


def noise(h: int, w: int, channels: int, dtype: type[Any] = np.uint8) -> Samples:
    """The same at every call."""
    top = np.iinfo(dtype).max
    return np.random.default_rng((h, w, channels)).integers(0, top, (h, w, channels), dtype, endpoint=True)


def streamed(samples: Samples, *cuts: int) -> Stream:
    """In bands that end at these rows."""
    h, w, channels = samples.shape
    edges = [0, *sorted(min(cut, h) for cut in cuts), h]
    bands = (samples[top:bottom] for top, bottom in itertools.pairwise(edges) if bottom > top)
    return Stream(w, h, channels, samples.dtype.type, bands)


def to_vips(samples: NDArray[Any]) -> pyvips.Image:
    grey, deep = samples.shape[2] < 3, samples.dtype == np.uint16
    space = ("grey16" if deep else "b-w") if grey else ("rgb16" if deep else "srgb")
    return pyvips.Image.new_from_array(samples, interpretation=space)


def encoded(samples: NDArray[Any], kind: str, **options: Any) -> bytes:
    """By Pillow, which does not share an encoder with what is tested."""
    buffer = io.BytesIO()
    Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples).save(buffer, kind, **options)
    return buffer.getvalue()


def lab(samples: NDArray[Any]) -> Floats:
    """sRGB or grey samples, without alpha → CIELAB."""
    from skimage.color import rgb2lab  # here, because it imports scipy, and all processes import this module

    rgb = samples.astype(np.float64) / np.iinfo(samples.dtype).max
    result: Floats = rgb2lab(np.broadcast_to(rgb, (*rgb.shape[:2], 3)))
    return result


def far(ours: NDArray[Any], theirs: NDArray[Any]) -> Floats:
    """ΔE (CIEDE2000) pixel by pixel."""
    from skimage.color import deltaE_ciede2000

    result: Floats = deltaE_ciede2000(lab(ours), lab(theirs))
    return result


def over(samples: NDArray[Any], background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """What one sees: RGBA or grey with alpha on a background of 8-bit sRGB."""
    top = np.iinfo(samples.dtype).max
    colours, alpha = samples[..., :-1] / top, samples[..., -1:] / top
    seen = colours * alpha + np.array(background) / 255 * (1 - alpha)
    return np.rint(seen * 255).astype(np.uint8)
