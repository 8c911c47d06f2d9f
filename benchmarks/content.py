"""How well the rule of `server/pipeline/content.py` distinguishes screens, charts and prints from photographs.

    python -m benchmarks.content [--pictures DIR] [--few N] [--json FILE]

Photographs: all of the folder, paintings included, as they are and after common changes: JPEG, reduced, enlarged, grey,
sharpened, with a white border or a line of caption, in few colours. A photograph that is classified as text is a false
alarm. Text: the folder's screens and pages, and synthetic ones (`benchmarks.pages` and `training.synthetic`), as they
are and after JPEG, reduced, enlarged, grey, and a small crop with one line of text. Drawings: flat graphics, line art,
digital paintings. A mistake between drawing and photo costs little.

The rule's weights were fitted to pictures from the same folder; the synthetic pages here have other numbers than those
of the fit. The last line of stdout is JSON; it lists all false alarms and all texts that were missed.
"""

import argparse
import csv
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks import pages
from server.pipeline.content import kind
from training import synthetic

PHOTOGRAPHS = ("animal", "artwork", "food", "object", "people", "photo", "texture", "vehicle")
"""Categories of train/manifest.csv."""
CHARTS = ("graphic_0126", "graphic_0127", "graphic_0128", "graphic_0129")
NO_PHOTOGRAPHS = {"test/Set14/img_013.png", "real_inputs/real-esrgan/0014.jpg", "real_inputs/real-esrgan/0030.jpg"}
"""A book cover and two cartoons."""
FIRST_PAGE, PAGES = 100, 12
SIDE = 1000
"""Longest side for the treatments that take long."""

Treatment = Callable[[Image.Image], Image.Image]
Picture = tuple[str, Image.Image]


def photographs(root: Path) -> Iterator[Picture]:
    for row in _manifest(root / "train"):
        if row["category"] in PHOTOGRAPHS:
            yield row["file"], _open(root / "train" / row["file"])
    others = [path.relative_to(root).as_posix() for path in sorted((root / "test").glob("*/*.png"))]
    for folder in ("faces", "real_inputs"):
        others += [f"{folder}/{row['file']}" for row in _manifest(root / folder)]
    for name in others:
        if name not in NO_PHOTOGRAPHS and (root / name).is_file():
            yield name, _open(root / name)


def texts(root: Path, photos: list[Picture], most: int) -> Iterator[tuple[str, str, Image.Image]]:
    """Class, name, picture."""
    last = FIRST_PAGE + min(most, PAGES)
    for row in _manifest(root / "train"):
        name = Path(row["file"]).stem
        if row["category"] in ("text", "ui") or name in CHARTS:
            yield "chart" if name in CHARTS else row["category"], name, _open(root / "train" / row["file"])
    for each in pages.KINDS:
        for number in range(FIRST_PAGE, last):
            yield f"drawn {each}", f"{each} {number}", Image.fromarray(pages.draw(each, number).pixels)
    for number in range(FIRST_PAGE, last if photos else FIRST_PAGE):
        photo = np.asarray(photos[number * 7 % len(photos)][1])
        page = pages.article(np.random.default_rng(number), photo)
        yield "drawn article with a photo", f"article {number}", Image.fromarray(page.pixels)
    for draw in (synthetic.text, synthetic.interface, synthetic.chart):
        for number in range(FIRST_PAGE, min(last, FIRST_PAGE + PAGES // 2)):
            picture = Image.fromarray(draw(np.random.default_rng(number)))
            yield "training's drawn", f"{draw.__name__} {number}", picture


def drawings(root: Path) -> Iterator[tuple[str, str, Image.Image]]:
    for row in _manifest(root / "train"):
        name = Path(row["file"]).stem
        if row["category"] in ("graphic", "lineart", "illustration") and name not in CHARTS:
            yield row["category"], name, _open(root / "train" / row["file"])


def jpeg(quality: int) -> Treatment:
    def treat(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, "jpeg", quality=quality)
        return Image.open(buffer).convert("RGB")

    return treat


def scaled(by: float, how: Image.Resampling = Image.Resampling.BICUBIC) -> Treatment:
    def treat(picture: Image.Image) -> Image.Image:
        return picture.resize((max(1, round(picture.width * by)), max(1, round(picture.height * by))), how)

    return treat


def bordered(picture: Image.Image) -> Image.Image:
    k = max(1, picture.width // 10)
    sheet = Image.new("RGB", (picture.width + 2 * k, picture.height + 2 * k), "white")
    sheet.paste(picture, (k, k))
    return sheet


def captioned(picture: Image.Image) -> Image.Image:
    """With a line of text below it, as in a newspaper."""
    strip = max(14, picture.height // 18)
    sheet = Image.new("RGB", (picture.width, picture.height + strip), "white")
    sheet.paste(picture, (0, 0))
    font = ImageFont.truetype(synthetic.fonts()[0], max(8, strip * 7 // 10))
    ImageDraw.Draw(sheet).text((strip // 2, picture.height), "A caption below the picture, 12 May 2024", "black", font)
    return sheet


def contrasted(picture: Image.Image) -> Image.Image:
    levels = (np.asarray(picture).astype(float) - 128) * 2 + 128
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def _middle(side: int) -> Treatment:
    def treat(picture: Image.Image) -> Image.Image:
        x, y = max(0, picture.width - side) // 2, max(0, picture.height - side) // 2
        return picture.crop((x, y, min(picture.width, x + side), min(picture.height, y + side)))

    return treat


def _grey(picture: Image.Image) -> Image.Image:
    return picture.convert("L")


_LANCZOS, _NEAREST = Image.Resampling.LANCZOS, Image.Resampling.NEAREST
ON_PHOTOGRAPHS: dict[str, Treatment] = {
    "as it is": lambda each: each,
    "JPEG 75": jpeg(75),
    "JPEG 40": jpeg(40),
    "JPEG 20": jpeg(20),
    "half": scaled(0.5),
    "quarter": scaled(0.25),
    "×2": lambda each: scaled(2)(_middle(600)(each)),
    "×3, pixels repeated": lambda each: scaled(3, _NEAREST)(_middle(400)(each)),
    "grey": _grey,
    "white border": bordered,
    "caption": captioned,
    "256 colours": lambda each: each.quantize(256).convert("RGB"),
    "32 colours": lambda each: each.quantize(32, dither=Image.Dither.NONE).convert("RGB"),
    "sharpened": lambda each: each.filter(ImageFilter.UnsharpMask(2, 200, 0)),
    "twice the contrast": contrasted,
}
ON_TEXT: dict[str, Treatment] = {
    "as it is": lambda each: each,
    "JPEG 90": jpeg(90),
    "JPEG 75": jpeg(75),
    "×1.5": scaled(1.5),
    "×0.75": scaled(0.75, _LANCZOS),
    "half, JPEG 85": lambda each: jpeg(85)(scaled(0.5, _LANCZOS)(each)),
    "grey": _grey,
}


def measured(root: Path, few: int | None) -> dict[str, Any]:
    """{"photographs" | "text" | "drawings": {row: {"photo" | "text" | "drawing": count}}}, and the names of the
    mistakes."""
    found: dict[str, dict[str, Counter[str]]] = {"photographs": {}, "text": {}, "drawings": {}}
    mistakes: dict[str, list[str]] = {"false alarms": [], "missed": []}
    seconds, megapixels = 0.0, 0.0

    def look(group: str, row: str, name: str, picture: Image.Image) -> None:
        nonlocal seconds, megapixels
        samples = np.asarray(picture)
        started = time.process_time()
        answer = kind(samples)
        seconds += time.process_time() - started
        megapixels += samples.shape[0] * samples.shape[1] / 1e6
        found[group].setdefault(row, Counter())[answer] += 1
        if group == "photographs" and answer == "text":
            mistakes["false alarms"].append(f"{name}, {row}")
        if group == "text" and answer != "text":
            mistakes["missed"].append(f"{name}, {row.partition(': ')[2]}: {answer}")

    photos: list[Picture] = []
    for name, picture in photographs(root):
        if few is not None and len(photos) == few:
            break
        smaller = picture.copy()
        smaller.thumbnail((SIDE, SIDE))
        photos.append((name, smaller))
        for treatment, treat in ON_PHOTOGRAPHS.items():
            look("photographs", treatment, name, treat(picture if treatment in ("as it is", "caption") else smaller))
    counts: Counter[str] = Counter()
    for group, name, picture in texts(root, photos, PAGES if few is None else few):
        counts[group] += 1
        if few is None or counts[group] <= few:
            for treatment, treat in ON_TEXT.items():
                look("text", f"{group}: {treatment}", name, treat(picture))
    for group, name, picture in drawings(root):
        counts[group] += 1
        if few is None or counts[group] <= few:
            for treatment in ("as it is", "JPEG 75", "half"):
                look("drawings", f"{group}: {treatment}", name, ON_PHOTOGRAPHS[treatment](picture))
    return {**found, "mistakes": mistakes, "ms_per_megapixel": round(1000 * seconds / max(megapixels, 0.01), 1)}


def table(results: dict[str, Any]) -> str:
    lines = ["| | pictures | photo | text | drawing |", "|---|--:|--:|--:|--:|"]
    for group, wanted in (("photographs", "photo"), ("text", "text"), ("drawings", "drawing")):
        sums: Counter[str] = Counter()
        for row, counts in results[group].items():
            sums.update(counts)
            lines.append(_row(f"{group}: {row}" if group == "photographs" else row, counts))
        total = sum(sums.values())
        if total:
            lines.append(_row(f"**{group}, all**", sums))
            share = sums["text" if group == "photographs" else wanted] / total
            what = "false alarms" if group == "photographs" else "found"
            lines.append(f"| *{what}* | {100 * share:.2f} % | | | |")
    return "\n".join(lines)


def _row(name: str, counts: dict[str, int]) -> str:
    cells = (str(counts.get(each, 0)) for each in ("photo", "text", "drawing"))
    return f"| {name} | {sum(counts.values())} | " + " | ".join(cells) + " |"


def _manifest(folder: Path) -> list[dict[str, str]]:
    path = folder / "manifest.csv"
    return list(csv.DictReader(path.read_text("utf-8").splitlines())) if path.is_file() else []


def _open(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, default=Path("../shared/images"), help="has train/, test/, faces/ …")
    parser.add_argument("--few", type=int, help="at most so many pictures of each class, for a quick run")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)
    results = measured(args.pictures, args.few)
    print(table(results))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(json.dumps(results, ensure_ascii=False))


if __name__ == "__main__":
    main()
