"""The source of the pictures: a folder with a manifest, or a packed file (`packed.py`).

Only a folder needs Pillow, OpenCV and basicsr, which a bare GPU machine lacks; hence the imports in functions.
"""

import csv
from pathlib import Path

import numpy as np

from training.dataset import Pixels
from training.packed import Packed
from training.validation import Validation, niqe

LARGE_SIDE = 480
"""Five of NIQE's blocks of 96."""
LARGE = 8
"""NIQE is made for photographs; for other kinds of pictures it has no meaning."""


def load_training(path: Path) -> list[Pixels]:
    """All training pictures: whole ones in the manifest's order, or a packed file's crops."""
    return load_folder(path, "train") if path.is_dir() else list(Packed.load(path).train)


def load_validation(path: Path) -> Validation:
    """The fixed pairs of the held-out pictures, which a packed file contains."""
    return make_validation(load_folder(path, "val")) if path.is_dir() else Packed.load(path).validation


def load_folder(folder: Path, split: str) -> list[Pixels]:
    """The pictures of a split ("train" or "val")."""
    from PIL import Image

    with (folder / "manifest.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file) if row["split"] == split]
    if not names:
        raise SystemExit(f"{folder}/manifest.csv has no pictures of split {split!r}")
    return [np.asarray(Image.open(folder / name).convert("RGB")) for name in names]


def make_validation(pictures: list[Pixels]) -> Validation:
    """Two crops of each picture, and the middle of the most natural ones. The seeds are fixed, so that scores
    compare."""
    from training import degrade
    from training.cpu import crop

    crops = []
    for i in range(2 * len(pictures)):
        rng = np.random.default_rng((2026, i))
        crops.append(crop(pictures[i % len(pictures)], rng))
    middles = sorted((_middle(picture) for picture in pictures), key=niqe)[:LARGE]
    return Validation(
        clean=[(degrade.clean(hr), hr) for hr in crops],
        degraded=[(degrade.second_order(hr, np.random.default_rng((2027, i))), hr) for i, hr in enumerate(crops)],
        large=[degrade.second_order(hr, np.random.default_rng((2029, i))) for i, hr in enumerate(middles)],
    )


def _middle(picture: Pixels) -> Pixels:
    side = min(LARGE_SIDE, *(length - length % 4 for length in picture.shape[:2]))
    y, x = ((length - side) // 2 for length in picture.shape[:2])
    return np.ascontiguousarray(picture[y : y + side, x : x + side])
