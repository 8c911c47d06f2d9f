"""How pictures are degraded: the second-order degradation of Real-ESRGAN, and milder kinds.

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data" (arXiv:2107.10833),
section 3: blur, resize, noise and JPEG, twice, with sinc filters for ringing. Kernels are the package's own
(`basicsr.data.degradations`); the rest is written on numpy so that one `Generator` decides everything and the same
seed gives the same pair on every machine.

All pictures here are uint8 RGB, H×W×3. `rng` is never shared between pairs.
"""

import io
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import server.models.basicsr_shim  # noqa: F401  (basicsr cannot be imported before it)
from training.dataset import SCALE, Mix, Pixels

from basicsr.data.degradations import (  # isort: skip
    bivariate_Gaussian,
    bivariate_generalized_Gaussian,
    bivariate_plateau,
    circular_lowpass_kernel,
)

Floats = NDArray[np.float32]
Damage = Callable[[Pixels, np.random.Generator], Pixels]
"""A high-resolution picture → its low-resolution partner, a quarter of its size."""

_KERNEL_SIZES = tuple(range(7, 22, 2))
_INTERPOLATIONS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)


def choose(mix: Mix, rng: np.random.Generator) -> Damage:
    """A random kind of degradation, with the probabilities of `mix`."""
    draw = rng.random()
    shares = ((mix.clean, clean), (mix.light, light), (mix.recompressed, recompressed), (mix.screenshot, screenshot))
    for share, damage in shares:
        if draw < share:
            return damage
        draw -= share
    return second_order


def clean(hr: Pixels, rng: np.random.Generator | None = None) -> Pixels:
    """Antialiased bicubic, as in the classic benchmarks; it is not random."""
    h, w = hr.shape[:2]
    return np.asarray(Image.fromarray(hr).resize((w // SCALE, h // SCALE), Image.Resampling.BICUBIC))


def light(hr: Pixels, rng: np.random.Generator) -> Pixels:
    """As most pictures today: resized, compressed once at good quality, sometimes with a little noise."""
    h, w = hr.shape[:2]
    filters = (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BILINEAR, Image.Resampling.BOX)
    small = Image.fromarray(hr).resize((w // SCALE, h // SCALE), filters[rng.integers(len(filters))])
    image = np.asarray(small).astype(np.float32)
    if rng.random() < 0.3:
        image = _gaussian_noise(image, rng, 1, 6)
    return _compress(image, rng, 60, 98)


def recompressed(hr: Pixels, rng: np.random.Generator) -> Pixels:
    """A small copy that was shared: compressed, cropped at other block borders, and compressed again."""
    image = light(hr, rng)
    h, w = image.shape[:2]
    top, left = (int(offset) for offset in rng.integers(8, size=2))  # shifts the grid of 8×8 blocks
    wider = np.pad(image, ((top, 0), (left, 0), (0, 0)), "reflect")
    if rng.random() < 0.25:
        quality = int(rng.integers(40, 91))
        again = _through(
            wider, lambda picture, file: picture.save(file, "AVIF", quality=quality, speed=10, max_threads=1)
        )
    else:
        again = _compress(wider.astype(np.float32), rng, 40, 95)
    return np.ascontiguousarray(again[top : top + h, left : left + w])


def screenshot(hr: Pixels, rng: np.random.Generator) -> Pixels:
    """Reduced without antialiasing, by nearest or bilinear sampling; half of them compressed as JPEG."""
    h, w = hr.shape[:2]
    if rng.random() < 0.5:
        offset = int(rng.integers(1, 3))  # 1.5 is the middle
        image = hr[offset::SCALE, offset::SCALE]
    else:
        image = np.asarray(cv2.resize(hr, (w // SCALE, h // SCALE), interpolation=cv2.INTER_LINEAR), np.uint8)
    if rng.random() < 0.5:
        return _compress(image.astype(np.float32), rng, 60, 98)
    return np.ascontiguousarray(image)


def second_order(hr: Pixels, rng: np.random.Generator) -> Pixels:
    """The paper's pipeline with its published ranges (options/train_realesrgan_x4plus.yml)."""
    h, w = hr.shape[:2]
    image = hr.astype(np.float32)

    image = _blur(image, rng, sigma=(0.2, 3.0), sinc_share=0.1)
    image = _random_resize(image, rng, (h, w), down=(0.15, 1.0), up=(1.0, 1.5), shares=(0.7, 0.2))
    image = _noise(image, rng, sigma=(1, 30), poisson=(0.05, 3.0))
    image = _compress(image, rng, 30, 95).astype(np.float32)

    if rng.random() < 0.8:
        image = _blur(image, rng, sigma=(0.2, 1.5), sinc_share=0.1)
    image = _random_resize(image, rng, (h // SCALE, w // SCALE), down=(0.3, 1.0), up=(1.0, 1.2), shares=(0.4, 0.3))
    image = _noise(image, rng, sigma=(1, 25), poisson=(0.05, 2.5))

    # The last resize and sinc filter come before or after the last compression, at random, as in the paper.
    def finish(image: Floats) -> Floats:
        image = _resize(image, (h // SCALE, w // SCALE), rng)
        return _filter(image, _sinc_kernel(rng)) if rng.random() < 0.8 else image

    if rng.random() < 0.5:
        return _compress(finish(image), rng, 30, 95)
    return _to_pixels(finish(_compress(image, rng, 30, 95).astype(np.float32)))


def _blur(image: Floats, rng: np.random.Generator, sigma: tuple[float, float], sinc_share: float) -> Floats:
    if rng.random() < sinc_share:
        return _filter(image, _sinc_kernel(rng))
    return _filter(image, _gaussian_kernel(rng, sigma))


def _gaussian_kernel(rng: np.random.Generator, sigma: tuple[float, float]) -> Floats:
    size = int(rng.choice(_KERNEL_SIZES))
    sigma_x, isotropic = rng.uniform(*sigma), rng.random() < 0.5
    sigma_y = sigma_x if isotropic else rng.uniform(*sigma)
    angle = 0.0 if isotropic else rng.uniform(-np.pi, np.pi)
    kind = rng.random()
    if kind < 0.70:
        kernel = bivariate_Gaussian(size, sigma_x, sigma_y, angle, isotropic=isotropic)
    elif kind < 0.85:
        kernel = bivariate_generalized_Gaussian(size, sigma_x, sigma_y, angle, rng.uniform(0.5, 4), isotropic=isotropic)
    else:
        kernel = bivariate_plateau(size, sigma_x, sigma_y, angle, rng.uniform(1, 2), isotropic=isotropic)
    return np.asarray(kernel / kernel.sum(), np.float32)


def _sinc_kernel(rng: np.random.Generator) -> Floats:
    size = int(rng.choice(_KERNEL_SIZES))
    # With a low cut-off a small kernel would become a box, hence the paper's two ranges.
    cutoff = rng.uniform(np.pi / 3, np.pi) if size < 13 else rng.uniform(np.pi / 5, np.pi)
    kernel = circular_lowpass_kernel(cutoff, size, pad_to=False)
    return np.asarray(kernel / kernel.sum(), np.float32)


def _filter(image: Floats, kernel: Floats) -> Floats:
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101), np.float32)


def _random_resize(
    image: Floats,
    rng: np.random.Generator,
    base: tuple[int, int],
    down: tuple[float, float],
    up: tuple[float, float],
    shares: tuple[float, float],
) -> Floats:
    draw = rng.random()
    factor = 1.0
    if draw < shares[0]:
        factor = rng.uniform(*down)
    elif draw < sum(shares):
        factor = rng.uniform(*up)
    return _resize(image, (max(8, round(base[0] * factor)), max(8, round(base[1] * factor))), rng)


def _resize(image: Floats, size: tuple[int, int], rng: np.random.Generator) -> Floats:
    interpolation = int(rng.choice(_INTERPOLATIONS))
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=interpolation), np.float32)


def _noise(image: Floats, rng: np.random.Generator, sigma: tuple[float, float], poisson: tuple[float, float]) -> Floats:
    if rng.random() < 0.5:
        return _gaussian_noise(image, rng, *sigma)
    return _poisson_noise(image, rng, *poisson)


def _gaussian_noise(image: Floats, rng: np.random.Generator, low: float, high: float) -> Floats:
    shape = _noise_shape(image, rng)
    noise = rng.standard_normal(shape, np.float32) * np.float32(rng.uniform(low, high))
    return np.asarray(image + noise, np.float32)


def _poisson_noise(image: Floats, rng: np.random.Generator, low: float, high: float) -> Floats:
    signal = np.clip(image, 0, 255)
    if _noise_shape(image, rng)[2] == 1:
        signal = signal.mean(axis=2, keepdims=True)
    noise = rng.poisson(signal).astype(np.float32) - signal
    return np.asarray(image + noise * np.float32(rng.uniform(low, high)), np.float32)


def _noise_shape(image: Floats, rng: np.random.Generator) -> tuple[int, int, int]:
    h, w, channels = image.shape
    return (h, w, 1 if rng.random() < 0.4 else channels)  # grey noise in 40 % of the pictures


def _compress(image: Floats, rng: np.random.Generator, low: int, high: int) -> Pixels:
    """Encoded and decoded by a real codec: mostly JPEG, sometimes WebP."""
    quality = int(rng.integers(low, high + 1))
    if rng.random() < 0.85:
        sampling = int(rng.choice((0, 2, 2)))  # 4:4:4 in a third of the files, else 4:2:0
        return _through(image, lambda picture, file: picture.save(file, "JPEG", quality=quality, subsampling=sampling))
    return _through(image, lambda picture, file: picture.save(file, "WEBP", quality=quality, method=0))


def _through(image: Floats | Pixels, save: Callable[[Image.Image, io.BytesIO], None]) -> Pixels:
    file = io.BytesIO()
    save(Image.fromarray(_to_pixels(image)), file)
    return np.asarray(Image.open(file).convert("RGB"))


def _to_pixels(image: Floats | Pixels) -> Pixels:
    return np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)
