"""Training pairs: a sliding window over an endless, numbered stream.

Pair number i is a pure function of (seed, i), so a run that stops and resumes, or one with other worker counts, sees
the same data. Degrading a pair costs about as much CPU as training on it once, so each pair stays in a window of
`WINDOW` pairs and is met about four times, each time as another crop, flip and rotation.
"""

import csv
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from training.degrade import SCALE, SHARES, Pixels, Shares, degrade

HR_SIZE = 256
LR_SIZE = HR_SIZE // SCALE
WINDOW = 512
"""Pairs that are live at any time."""

Batch = tuple[torch.Tensor, torch.Tensor]
"""(lr, hr): float32 NCHW in [0, 1], RGB, hr four times the size."""


def load_pictures(folder: Path, split: str) -> list[Pixels]:
    """All pictures of a split ("train" or "val") as uint8 RGB, in the manifest's order."""
    with (folder / "manifest.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file) if row["split"] == split]
    if not names:
        raise SystemExit(f"{folder}/manifest.csv has no pictures of split {split!r}")
    return [np.asarray(Image.open(folder / name).convert("RGB")) for name in names]


class Pairs(Dataset[tuple[NDArray[np.uint8], NDArray[np.uint8]]]):
    """Random access to the numbered stream."""

    def __init__(self, pictures: list[Pixels], seed: int, first: int, count: int, shares: Shares = SHARES) -> None:
        self.pictures = pictures
        self.shares = shares
        self.seed = seed
        self.first = first
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Pixels, Pixels]:
        rng = np.random.default_rng((self.seed, self.first + index))
        picture = self.pictures[rng.integers(len(self.pictures))]
        hr = crop(picture, rng)
        return degrade(hr, rng, self.shares), hr


def crop(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """A random HR_SIZE² cut; two in five are taken larger and reduced, which also hides the source's compression."""
    h, w = picture.shape[:2]
    size = HR_SIZE if rng.random() < 0.6 else int(HR_SIZE * rng.uniform(1.0, 2.0))
    size = min(size, h, w)
    y, x = rng.integers(h - size + 1), rng.integers(w - size + 1)
    cut = picture[y : y + size, x : x + size]
    if size == HR_SIZE:
        return np.ascontiguousarray(cut)
    return np.asarray(Image.fromarray(cut).resize((HR_SIZE, HR_SIZE), Image.Resampling.LANCZOS))


def batches(
    pictures: list[Pixels],
    seed: int,
    step: int,
    batch: int,
    lr_crop: int,
    fresh: int,
    workers: int,
    shares: Shares = SHARES,
) -> Iterator[Batch]:
    """Endless batches from training step `step` on; `fresh` pairs enter the window at every step."""
    numbers = window_at(step, fresh)
    stream: Iterator[tuple[Pixels, Pixels]] = iter(
        DataLoader(
            Pairs(pictures, seed, first=0, count=1 << 40, shares=shares),
            batch_size=None,
            sampler=_Numbers(numbers, WINDOW + step * fresh),
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=64 if workers else None,
            worker_init_fn=lambda _: cv2.setNumThreads(0),
        )
    )
    window = [next(stream) for _ in numbers]
    while True:
        rng = np.random.default_rng((seed, step, 1))
        lr = np.empty((batch, lr_crop, lr_crop, 3), np.uint8)
        hr = np.empty((batch, lr_crop * SCALE, lr_crop * SCALE, 3), np.uint8)
        for i, chosen in enumerate(rng.choice(WINDOW, batch, replace=False)):
            lr[i], hr[i] = _vary(*window[int(chosen)], lr_crop, rng)
        yield to_tensor(lr), to_tensor(hr)
        step += 1
        for i in range(fresh):
            window[(step * fresh + i) % WINDOW] = next(stream)


def window_at(step: int, fresh: int) -> list[int]:
    """Numbers of the pairs in the window's places before training step `step`, as an unbroken run would have them."""
    numbers = list(range(WINDOW))
    entered = step * fresh
    for i in range(max(0, entered - WINDOW), entered):
        numbers[(fresh + i) % WINDOW] = WINDOW + i
    return numbers


def _as_it_is(pair: Any) -> Any:
    return pair  # torch's default would wrap arrays that are not its own to write


def _vary(lr: Pixels, hr: Pixels, size: int, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    y, x = rng.integers(LR_SIZE - size + 1, size=2)
    lr = lr[y : y + size, x : x + size]
    hr = hr[y * SCALE : (y + size) * SCALE, x * SCALE : (x + size) * SCALE]
    turns, flip = int(rng.integers(4)), rng.random() < 0.5
    lr, hr = np.rot90(lr, turns), np.rot90(hr, turns)
    return (lr[:, ::-1], hr[:, ::-1]) if flip else (lr, hr)


def to_tensor(pixels: Pixels) -> torch.Tensor:
    """N×H×W×3 uint8 → float NCHW (channels-last in memory) in [0, 1]."""
    return torch.tensor(pixels).permute(0, 3, 1, 2).float().div_(255)


class _Numbers(Sampler[int]):
    """The given numbers, then `following`, + 1, + 2, … without the list that torch's samplers would need."""

    def __init__(self, given: list[int], following: int) -> None:
        self.given = given
        self.following = following

    def __iter__(self) -> Iterator[int]:
        return chain(self.given, count(self.following))
