"""Training pairs on the GPU: the degradations of `degrade.py` in batches, with torch alone.

Kinds and ranges are the same as on the CPU, except that pairs are made in groups which share their kind, sizes and
filters, and differ in kernels, noise and JPEG qualities. JPEG is computed here as libjpeg does it; it also replaces
WebP and AVIF.

Images are N×3×H×W float32, 0 … 255, RGB. One `Generator` on the CPU makes all random choices, and the seed of the
noise: the same seed gives the same pairs on the same kind of device.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from training import plain
from training.dataset import LR_SIZE, SCALE, Batch, Mix, Pixels, Teacher
from training.jpeg import jpeg
from training.window import window_at

GROUP = 8
"""Pairs that are degraded together."""
WINDOW = 256
"""Groups in the window: 2,048 pairs, 0.8 GB with their distillation targets."""
KERNEL = 21

Damage = Callable[[Tensor, Generator], Tensor]


def batches(
    pictures: Pixels,
    synthetic: Pixels,
    mix: Mix,
    seed: int,
    step: int,
    *,
    batch: int,
    lr_crop: int,
    fresh: int,
    device: torch.device,
    teacher: Teacher | None = None,
) -> Iterator[Batch]:
    """As `cpu.batches`, from crops of HR_SIZE. `fresh` counts groups, that is, GROUP pairs each."""
    sources = [torch.from_numpy(each).to(device) for each in (pictures, synthetic)]

    def enter(number: int) -> tuple[Tensor, Tensor, Tensor]:
        g = torch.Generator().manual_seed(hash_of(seed, number))
        if mix.plain and uniform(g) < mix.plain:
            rng = np.random.default_rng((seed, number))
            small, large = (np.stack(each) for each in zip(*(plain.pair(rng) for _ in range(GROUP)), strict=True))
            lr, hr = (torch.from_numpy(each).to(device).permute(0, 3, 1, 2) for each in (small, large))
            return lr, hr, hr if teacher is None else _distilled(teacher, lr.float(), hr.float(), False)
        source = sources[1] if len(synthetic) and uniform(g) < mix.synthetic else sources[0]
        hr = source[torch.randint(len(source), (GROUP,), generator=g).to(device)]
        image = hr.permute(0, 3, 1, 2).float()
        if mix.grey and uniform(g) < mix.grey:
            image = without_colour(image)
        damage = choose(mix, g)
        lr = damage(image, g).round().clamp(0, 255)
        target = image.byte() if teacher is None else _distilled(teacher, lr, image, damage is second_order)
        return lr.byte(), image.byte(), target

    numbers = window_at(step, fresh, WINDOW)
    following = max(numbers) + 1
    window = [torch.cat(parts) for parts in zip(*map(enter, numbers), strict=True)]
    while True:
        g = torch.Generator().manual_seed(hash_of(seed, step, 1))
        yield Batch(*(part.float() / 255 for part in _vary(window, batch, lr_crop, g)))
        step += 1
        for number in range(following, following + fresh):
            place = number % WINDOW * GROUP
            for part, new in zip(window, enter(number), strict=True):
                part[place : place + GROUP] = new
        following += fresh


def _distilled(teacher: Teacher, lr: Tensor, hr: Tensor, damaged: bool) -> Tensor:
    return (teacher(lr / 255, hr / 255, damaged) * 255).round().clamp(0, 255).byte()


def without_colour(image: Tensor) -> Tensor:
    """Grey, as three equal channels."""
    luma = torch.einsum("c,nchw->nhw", torch.tensor(plain.LUMA, device=image.device), image)
    return luma.round()[:, None].expand_as(image)


def choose(mix: Mix, g: Generator) -> Damage:
    """A kind of damage, as often as `mix` says."""
    draw = uniform(g)
    shares = ((mix.clean, clean), (mix.light, light), (mix.recompressed, recompressed), (mix.screenshot, screenshot))
    for share, damage in shares:
        if draw < share:
            return damage
        draw -= share
    return second_order


def clean(hr: Tensor, g: Generator) -> Tensor:
    return functional.interpolate(hr, scale_factor=1 / SCALE, mode="bicubic", antialias=True)


def light(hr: Tensor, g: Generator) -> Tensor:
    size = (hr.shape[2] // SCALE, hr.shape[3] // SCALE)
    mode = _one_of(g, "bicubic", "bilinear", "area")
    image = functional.interpolate(hr, size, mode=mode, **({} if mode == "area" else {"antialias": True}))
    if uniform(g) < 0.3:
        image = _gaussian_noise(image, g, 1, 6)
    return _compress(image, g, 60, 98)


def recompressed(hr: Tensor, g: Generator) -> Tensor:
    image = light(hr, g)
    h, w = image.shape[2:]
    top, left = (int(uniform(g) * 8) for _ in range(2))
    wider = functional.pad(image, (left, 0, top, 0), "reflect")
    return _compress(wider, g, 40, 95)[..., top : top + h, left : left + w]


def screenshot(hr: Tensor, g: Generator) -> Tensor:
    if uniform(g) < 0.5:
        offset = 1 if uniform(g) < 0.5 else 2
        image = hr[..., offset::SCALE, offset::SCALE]
    else:
        image = functional.interpolate(hr, scale_factor=1 / SCALE, mode="bilinear")
    return _compress(image, g, 60, 98) if uniform(g) < 0.5 else image


def second_order(hr: Tensor, g: Generator) -> Tensor:
    h, w = hr.shape[2:]
    small = (h // SCALE, w // SCALE)
    image = _filter(hr, _blur_kernels(len(hr), g, (0.2, 3.0)))
    image = _random_resize(image, g, (h, w), down=(0.15, 1.0), up=(1.0, 1.5), shares=(0.7, 0.2))
    image = _noise(image, g, sigma=(1, 30), poisson=(0.05, 3.0))
    image = _compress(image, g, 30, 95)
    if uniform(g) < 0.8:
        image = _filter(image, _blur_kernels(len(image), g, (0.2, 1.5)))
    image = _random_resize(image, g, small, down=(0.3, 1.0), up=(1.0, 1.2), shares=(0.4, 0.3))
    image = _noise(image, g, sigma=(1, 25), poisson=(0.05, 2.5))

    def finish(image: Tensor) -> Tensor:
        image = _resize(image, small, g)
        return _filter(image, _sinc_kernels(len(image), g)) if uniform(g) < 0.8 else image

    if uniform(g) < 0.5:
        return _compress(finish(image), g, 30, 95)
    return finish(_compress(image, g, 30, 95))


def uniform(g: Generator, low: float = 0.0, high: float = 1.0) -> float:
    return float(torch.rand((), generator=g)) * (high - low) + low


def hash_of(*numbers: int) -> int:
    """A generator's seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _spread(n: int, g: Generator, low: float, high: float) -> Tensor:
    """N×1×1 values."""
    return torch.rand(n, 1, 1, generator=g) * (high - low) + low


def _one_of(g: Generator, *choices: str) -> str:
    return choices[int(uniform(g) * len(choices))]


def _blur_kernels(n: int, g: Generator, sigma: tuple[float, float]) -> Tensor:
    """N×K×K: 70 % Gaussian, 15 % generalised, 15 % plateau-shaped; a tenth of all are sinc. Half are isotropic."""
    a, b, angle = _spread(n, g, *sigma), _spread(n, g, *sigma), _spread(n, g, -math.pi, math.pi)
    b = torch.where(_spread(n, g, 0, 1) < 0.5, a, b)
    y, x = _grid()
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    distance = (along / a) ** 2 + (across / b) ** 2
    kind = _spread(n, g, 0, 1)
    gaussian = (-0.5 * distance).exp()
    generalised = (-0.5 * distance ** _spread(n, g, 0.5, 4)).exp()
    plateau = 1 / (distance ** _spread(n, g, 1, 2) + 1)
    kernel = torch.where(kind < 0.70, gaussian, torch.where(kind < 0.85, generalised, plateau))
    # The paper draws the kernel's size, too; a random window does the same to the tails.
    kernel = kernel * _window(n, g)
    kernel = kernel / kernel.sum((1, 2), keepdim=True)
    return torch.where(_spread(n, g, 0, 1) < 0.1, _sinc_kernels(n, g), kernel)


def _sinc_kernels(n: int, g: Generator) -> Tensor:
    """N×K×K circular low-pass filters, which ring."""
    cutoff = _spread(n, g, math.pi / 3, math.pi)
    y, x = _grid()
    radius = torch.hypot(x, y).clamp_min(1e-6)
    wave: Tensor = torch.special.bessel_j1(cutoff * radius)
    kernel = cutoff * wave / (2 * math.pi * radius) * _window(n, g)
    return kernel / kernel.sum((1, 2), keepdim=True)


def _grid() -> tuple[Tensor, Tensor]:
    steps = torch.arange(KERNEL) - KERNEL // 2.0
    return steps[:, None], steps[None, :]


def _window(n: int, g: Generator) -> Tensor:
    """N×K×K of zeros around a square of ones, 7 to 21 wide."""
    half = torch.randint(3, KERNEL // 2 + 1, (n, 1, 1), generator=g)
    y, x = _grid()
    return (torch.maximum(y.abs(), x.abs()) <= half).float()


def _filter(image: Tensor, kernels: Tensor) -> Tensor:
    """Each image by its own kernel."""
    n, channels, h, w = image.shape
    pad = KERNEL // 2
    # A picture may be smaller than what reflection needs.
    mode = "reflect" if min(h, w) > pad else "replicate"
    padded = functional.pad(image, (pad, pad, pad, pad), mode).reshape(1, n * channels, h + 2 * pad, w + 2 * pad)
    weight = kernels.to(image.device).repeat_interleave(channels, 0)[:, None]
    filtered: Tensor = functional.conv2d(padded, weight, groups=n * channels)
    return filtered.reshape(n, channels, h, w)


def _random_resize(
    image: Tensor,
    g: Generator,
    base: tuple[int, int],
    down: tuple[float, float],
    up: tuple[float, float],
    shares: tuple[float, float],
) -> Tensor:
    draw, factor = uniform(g), 1.0
    if draw < shares[0]:
        factor = uniform(g, *down)
    elif draw < sum(shares):
        factor = uniform(g, *up)
    return _resize(image, (max(8, round(base[0] * factor)), max(8, round(base[1] * factor))), g)


def _resize(image: Tensor, size: tuple[int, int], g: Generator) -> Tensor:
    """Area, bilinear or bicubic; as OpenCV's, the latter two do not antialias."""
    return functional.interpolate(image, size, mode=_one_of(g, "area", "bilinear", "bicubic"))


def _noise(image: Tensor, g: Generator, sigma: tuple[float, float], poisson: tuple[float, float]) -> Tensor:
    return _gaussian_noise(image, g, *sigma) if uniform(g) < 0.5 else _poisson_noise(image, g, *poisson)


def _gaussian_noise(image: Tensor, g: Generator, low: float, high: float) -> Tensor:
    noise = torch.randn(image.shape, generator=_on_device(image, g), device=image.device)
    grey = (_spread(len(image), g, 0, 1) < 0.4).to(image.device)[..., None]
    strength = _spread(len(image), g, low, high).to(image.device)[..., None]
    return image + torch.where(grey, noise[:, :1], noise) * strength


def _poisson_noise(image: Tensor, g: Generator, low: float, high: float) -> Tensor:
    signal = image.clamp(0, 255)
    grey = (_spread(len(image), g, 0, 1) < 0.4).to(image.device)[..., None]
    signal = torch.where(grey, signal.mean(1, keepdim=True), signal)
    noise = torch.poisson(signal, _on_device(image, g)) - signal
    strength = _spread(len(image), g, low, high).to(image.device)[..., None]
    return image + torch.where(grey, noise[:, :1], noise) * strength


def _on_device(image: Tensor, g: Generator) -> Generator:
    seed = int(torch.randint(2**62, (), generator=g))
    return torch.Generator(image.device).manual_seed(seed)


def _compress(image: Tensor, g: Generator, low: int, high: int) -> Tensor:
    quality = torch.randint(low, high + 1, (len(image),), generator=g)
    return jpeg(image, quality, halve_chroma=uniform(g) < 2 / 3)


def _vary(window: list[Tensor], batch: int, size: int, g: Generator) -> Iterator[Tensor]:
    """Random samples, each with a cut, turn and flip of its own: `batch`×3×… of every part of the window."""
    device = window[0].device
    chosen = torch.randperm(len(window[0]), generator=g)[:batch, None, None].to(device)
    y, x = torch.randint(LR_SIZE - size + 1, (2, batch, 1), generator=g)
    turned, upside_down, mirrored = torch.rand(3, batch, 1, generator=g) < 0.5
    for part in window:
        scale = part.shape[-1] // LR_SIZE
        steps = torch.arange(size * scale)
        rows = torch.where(upside_down, steps.flip(0), steps) + y * scale
        columns = torch.where(mirrored, steps.flip(0), steps) + x * scale
        index = (rows[:, :, None].expand(-1, -1, size * scale), columns[:, None, :].expand(-1, size * scale, -1))
        i, j = (torch.where(turned[..., None], each.mT, each).to(device) for each in index)
        yield part.permute(0, 2, 3, 1)[chosen, i, j].permute(0, 3, 1, 2)  # channels-last in memory
