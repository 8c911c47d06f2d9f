"""Training pairs on the CPU: a sliding window over an endless, numbered stream.

Pair number i is a pure function of (seed, i), so a run that stops and resumes, or has another number of workers, uses
the same data. Degrading a pair takes about as much CPU time as training on it once, so each pair stays in a window of
`WINDOW` pairs and is used about four times, each time with another crop, flip and rotation. The distillation target of
a pair is computed when it enters the window.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, count
from typing import Any

import cv2
import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from training import degrade, plain
from training.dataset import HR_SIZE, LR_SIZE, Batch, Mix, Pixels, Teacher, to_pixels, to_tensor
from training.synthetic import Pages
from training.window import window_at

WINDOW = 512
"""Pairs in the window."""


class Pairs(Dataset[tuple[Pixels, Pixels, bool]]):
    """Random access to the numbered stream: (lr, hr, whether the degradation is second-order)."""

    def __init__(self, pictures: Sequence[Pixels], mix: Mix, seed: int) -> None:
        self.pictures = pictures
        self.pages = Pages(seed)
        self.mix = mix
        self.seed = seed

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, number: int) -> tuple[Pixels, Pixels, bool]:
        rng = np.random.default_rng((self.seed, number))
        # A share of 0 uses no random number, so that older streams stay the same.
        if self.mix.plain and rng.random() < self.mix.plain:
            return *plain.pair(rng), False
        source = self.pages if rng.random() < self.mix.synthetic else self.pictures
        hr = crop(source[int(rng.integers(len(source)))], rng)
        if self.mix.grey and rng.random() < self.mix.grey:
            hr = plain.without_colour(hr)
        damage = degrade.choose(self.mix, rng)
        return damage(hr, rng), hr, damage is degrade.second_order


def crop(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """A random crop of HR_SIZE²; two of five are cut larger and reduced, which also removes compression artefacts."""
    h, w = picture.shape[:2]
    size = HR_SIZE if rng.random() < 0.6 else int(HR_SIZE * rng.uniform(1.0, 2.0))
    size = min(size, h, w)
    y, x = rng.integers(h - size + 1), rng.integers(w - size + 1)
    cut = picture[y : y + size, x : x + size]
    if size == HR_SIZE:
        return np.ascontiguousarray(cut)
    return np.asarray(Image.fromarray(cut).resize((HR_SIZE, HR_SIZE), Image.Resampling.LANCZOS))


def batches(
    pictures: Sequence[Pixels],
    mix: Mix,
    seed: int,
    step: int,
    *,
    batch: int,
    lr_crop: int,
    fresh: int,
    workers: int,
    teacher: Teacher | None = None,
) -> Iterator[Batch]:
    """Endless batches from training step `step` on; `fresh` pairs enter the window at every step."""
    numbers = window_at(step, fresh, WINDOW)
    following = max(numbers) + 1
    stream: Iterator[tuple[Pixels, Pixels, bool]] = iter(
        DataLoader(
            Pairs(pictures, mix, seed),
            batch_size=None,
            sampler=_Numbers(numbers, following),
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=64 if workers else None,
            worker_init_fn=lambda _: cv2.setNumThreads(0),
        )
    )

    def enter() -> tuple[Pixels, Pixels, Pixels]:
        lr, hr, second_order = next(stream)
        if teacher is None:
            return lr, hr, hr
        return lr, hr, to_pixels(teacher(to_tensor(lr[None]), to_tensor(hr[None]), second_order))[0]

    window = [enter() for _ in numbers]
    while True:
        rng = np.random.default_rng((seed, step, 1))
        chosen = rng.choice(WINDOW, batch, replace=False)
        varied = zip(*(_vary(window[int(place)], lr_crop, rng) for place in chosen), strict=True)
        yield Batch(*(to_tensor(np.stack(pictures)) for pictures in varied))
        step += 1
        for number in range(following, following + fresh):
            window[number % WINDOW] = enter()
        following += fresh


def _as_it_is(pair: Any) -> Any:
    return pair  # torch's default would convert read-only arrays to tensors, with a warning


def _vary(pair: Sequence[Pixels], size: int, rng: np.random.Generator) -> list[Pixels]:
    """The same crop, rotation and flip of a low-resolution picture and of its partners; `size`: of the former."""
    y, x = rng.integers(LR_SIZE - size + 1, size=2)
    turns, flip = int(rng.integers(4)), rng.random() < 0.5
    varied = []
    for picture in pair:
        scale = len(picture) // LR_SIZE
        cut = np.rot90(picture[y * scale : (y + size) * scale, x * scale : (x + size) * scale], turns)
        varied.append(cut[:, ::-1] if flip else cut)
    return varied


class _Numbers(Sampler[int]):
    """The given numbers, then `following`, + 1, + 2, …, without the list that torch's samplers need."""

    def __init__(self, given: list[int], following: int) -> None:
        self.given = given
        self.following = following

    def __iter__(self) -> Iterator[int]:
        return chain(self.given, count(self.following))
