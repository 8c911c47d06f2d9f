"""The pictures for the quality benchmark: sources with their ground truth, and sources with text."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

import server.models.basicsr_shim  # noqa: F401 - before basicsr
from benchmarks import pages
from server.pipeline.preview import most_detailed
from training.dataset import SCALE, Pixels
from training.degrade import second_order

from basicsr.utils.matlab_functions import imresize  # isort: skip

PHOTOS = ("clean", "web", "degraded")
KINDS = (*PHOTOS, "screens", "drawings")
LETTERS = ("rendered", "screens", "scanned", "real screens")
CROP = 480
"""Longest side of a ground truth: five of NIQE's blocks of 96."""
PUBLISHED = ("Set5", "Set14", "Kodak24")
DEGRADED_SETS = ("Kodak24", "Set14")
DEGRADED_SEED = 2028
COVER = "img_013"
"""A book cover in Set14: no photograph."""
WEB_QUALITIES = (70, 80, 90)
PHOTO_CATEGORIES = ("animal", "food", "object", "people", "photo", "vehicle")
ENGLISH = ("text_0553", "text_0561", "text_0562", "text_0563")
"""English pages of the training set, the language that tesseract has."""
CHARTS = ("graphic_0126", "graphic_0127", "graphic_0128", "graphic_0129")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Pair:
    """A source and the ground truth that it was made from, of four times its size."""

    name: str
    lr: Pixels
    hr: Pixels


@dataclass(frozen=True)
class Reading:
    """A source with text."""

    name: str
    source: Pixels
    lines: tuple[pages.Line, ...]
    """The lines of text; empty if only `original` is known."""
    original: Pixels | None = None
    """The same at twice the size: the text that is read in it is the ground truth."""


def pairs(kind: str, root: Path, count: int, crop: int = CROP) -> Iterator[Pair]:
    """So many of KINDS, evenly spread over all; deterministic."""
    if kind == "degraded":
        yield from _degraded(root, count, crop)
    elif kind == "screens":
        for name, path in spread(_trained_on(root, ("text", "ui"), CHARTS), count):
            yield _reduced(name, _busiest(_open(path), (crop, crop)))
    elif kind == "drawings":
        for name, path in spread(_trained_on(root, ("graphic", "lineart", "illustration"), (), CHARTS), count):
            yield _reduced(name, _busiest(_open(path), (crop, crop)))
    else:
        for number, (name, path) in enumerate(spread(_photos(root), count)):
            hr = centre(_open(path), crop)
            quality = WEB_QUALITIES[number % len(WEB_QUALITIES)]
            yield _reduced(name, hr) if kind == "clean" else Pair(name, web_quarter(hr, quality), hr)


def readings(group: str, root: Path, count: int) -> Iterator[Reading]:
    """So many of LETTERS; deterministic."""
    if group == "real screens":
        for name, path in spread(_trained_on(root, ("ui",), ENGLISH), count):
            original = _busiest(_open(path), (480, 192))
            h, w = original.shape[:2]
            half = Image.fromarray(original).resize((w // 2, h // 2), Image.Resampling.LANCZOS)
            yield Reading(name, np.asarray(half), (), original)
        return
    for number in range(count):
        rng = np.random.default_rng((2030, LETTERS.index(group), number))
        if group == "rendered":
            page = pages.paragraphs(rng, (240, 96), text_size=7 + number % 4)
        elif group == "screens":
            page = _screen(rng, number)
        else:
            draw = pages.scan if number % 2 else pages.photographed
            page = draw(rng, (300, 110), text_size=9 + number % 3)
        yield Reading(f"{group} {number}", page.pixels, page.lines)


def _screen(rng: np.random.Generator, number: int) -> pages.Page:
    if number % 2:
        return pages.part(pages.code(rng, text_size=8 + number % 4), (0, 0, 300, 96))
    return pages.part(pages.window(rng, text_size=8 + number % 4), (186, 62, 470, 160))


def degraded_pair(picture: Pixels, number: int, crop: int = CROP) -> tuple[Pixels, Pixels]:
    """(lr, hr) of the picture's centre; the degradation depends only on the number."""
    hr = centre(picture, crop)
    return second_order(hr, np.random.default_rng((DEGRADED_SEED, number))), hr


def degraded_pairs(pictures: Iterable[Pixels]) -> list[tuple[Pixels, Pixels]]:
    return [degraded_pair(picture, number) for number, picture in enumerate(pictures)]


def load_set(folder: Path) -> list[Pixels]:
    """All PNG files by name, as RGB; a grey one gets three equal channels."""
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise SystemExit(f"no PNG pictures in {folder}")
    return [_open(path) for path in paths]


def sets_folder(root: Path) -> Path:
    return root / "test" if (root / "test").is_dir() else root


def bicubic(pixels: Pixels) -> Pixels:
    """MATLAB's imresize, which published figures use; Pillow's differs in the third digit."""
    return matlab_resize(pixels, SCALE)


def matlab_resize(pixels: Pixels, scale: float) -> Pixels:
    resized = imresize(pixels.astype(np.float32) / 255, scale)
    return np.asarray(np.clip(np.rint(resized * 255), 0, 255), np.uint8)


def web_quarter(pixels: Pixels, quality: int) -> Pixels:
    """As pictures on web sites: Lanczos, then JPEG with 4:2:0."""
    h, w = pixels.shape[0] // SCALE, pixels.shape[1] // SCALE
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((w, h), Image.Resampling.LANCZOS).save(buffer, "jpeg", quality=quality)
    return np.asarray(Image.open(buffer))


def centre(pixels: Pixels, crop: int = CROP) -> Pixels:
    h, w = (min(crop, side - side % SCALE) for side in pixels.shape[:2])
    y, x = (pixels.shape[0] - h) // 2, (pixels.shape[1] - w) // 2
    return np.ascontiguousarray(pixels[y : y + h, x : x + w])


def spread(items: Sequence[_T], count: int) -> list[_T]:
    """So many items, evenly from first to last."""
    if count >= len(items):
        return list(items)
    return [items[k * len(items) // count] for k in range(count)]


def _photos(root: Path) -> list[tuple[str, Path]]:
    """Kodak24, the photographs of Set14, and the training's held-out ones, alternating."""
    folders = [[each for each in _tested(root, name) if each[1].stem != COVER] for name in DEGRADED_SETS]
    rows = [row for row in _manifest(root) if row["split"] == "val" and row["category"] in PHOTO_CATEGORIES]
    folders.append([(Path(row["file"]).stem, root / "train" / row["file"]) for row in rows])
    return [each for each in chain.from_iterable(zip_longest(*folders)) if each is not None]


def _tested(root: Path, name: str) -> list[tuple[str, Path]]:
    return [(f"{name}/{path.stem}", path) for path in sorted((sets_folder(root) / name).glob("*.png"))]


def _reduced(name: str, hr: Pixels) -> Pair:
    return Pair(name, matlab_resize(hr, 1 / SCALE), hr)


def _degraded(root: Path, count: int, crop: int) -> Iterator[Pair]:
    numbered = list(enumerate(each for name in DEGRADED_SETS for each in _tested(root, name)))
    for number, (name, path) in spread([each for each in numbered if each[1][1].stem != COVER], count):
        yield Pair(name, *degraded_pair(_open(path), number, crop))


def _trained_on(
    root: Path, categories: Sequence[str], names: Sequence[str], without: Sequence[str] = ()
) -> list[tuple[str, Path]]:
    """Pictures of the training set of these categories or names."""
    found = [(Path(row["file"]).stem, row["category"], root / "train" / row["file"]) for row in _manifest(root)]
    return [
        (name, path) for name, group, path in found if name in names or (group in categories and name not in without)
    ]


def _busiest(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    w, h = (min(wanted, side - side % SCALE) for wanted, side in zip(size, pixels.shape[1::-1], strict=True))
    left, top, right, bottom = most_detailed(pixels, (w, h))
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def _manifest(root: Path) -> list[dict[str, str]]:
    path = root / "train" / "manifest.csv"
    return list(csv.DictReader(path.read_text("utf-8").splitlines())) if path.is_file() else []


def _open(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
