"""The quality of results, measured: detail, colour, mesh, letters.

    python -m benchmarks.quality [--pictures DIR] [--official DIR] [--row NAME …] [--json FILE]
                                 [--count SET=N …] [--crop SET=PIXELS …]

Rows are methods of enlarging by four. The server's own use the same code as jobs (`Upscaler.prepare` and `run`);
"x4plus bare" is the engine's result alone, without the colour lock. A row whose weights are not installed is left out,
with a note. The default takes about 25 minutes on two idle cores.

Sets: centre crops of pictures, the ground truth, reduced to a quarter and enlarged again.
  clean      as MATLAB's imresize reduces: antialiased bicubic
  web        Lanczos, then JPEG at 70, 80 or 90: as on web sites
  degraded   the training's second-order degradation, with fixed seeds
  screens    the crop of screens and pages with the most detail, reduced like clean
  drawings   the same of graphics, line art and illustrations
For each result: PSNR of Y, Cb, Cr and RGB, and HaarPSI, to the ground truth; NIQE; the mesh of source pixels in Y, Cb
and Cr; colour drift against the enlarged source, mean and local; energy finer than the source's pixels; distance to
bicubic. benchmarks/measures.py defines each.

Letters: synthetic sources whose text is known, read by tesseract from the results: lines of prose, screens, and lines
as from a scanner or a camera (synthetic too: blurred, rotated, unevenly lit and compressed). Also real screens at half
their size, for which the text that tesseract reads in the original is the ground truth.

Published: Set5, Set14 and Kodak24 by the protocol of nearly every super-resolution paper: PSNR and SSIM on the Y of
BT.601, without a border of four pixels; bicubic is 28.42 dB on Set5 and 26.1 on Set14 (26.0 in papers that do not
convert its grey picture to Y). It measures fidelity only, in which networks trained with a GAN are worse by design.

Flat: the results of flat pictures: black, white, greys, colours and a grey ramp. `shift`: the largest difference of
mean brightness, `texture`: the largest standard deviation around the right value, in levels.

A network must not be chosen by luma alone: the checks at the end use all measures. Figures of every picture are in the
JSON, which is written again after each picture; the tables are Markdown; the last line of stdout is the JSON.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import measures, ocr
from benchmarks.checks import BICUBIC, GENERAL, LADDER, UNASKED, checks, ladder, summary
from benchmarks.measures import BORDER
from benchmarks.ours import Ours
from benchmarks.sets import (
    CROP,
    KINDS,
    LETTERS,
    PUBLISHED,
    Pair,
    Reading,
    bicubic,
    load_set,
    matlab_resize,
    pairs,
    readings,
    sets_folder,
    spread,
)
from server.models import load_model
from server.weights.catalog import sha256_of
from training.dataset import SCALE, Pixels, to_tensor

from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_ssim  # isort: skip  (only after server.models.basicsr_shim)

BARE, ANIME = "x4plus bare", "anime_6B"
X4PLUS = "RealESRGAN_x4plus"
NAMED = {"fidelity-x4": "fidelity-x4", GENERAL: "realesr-general-x4v3", ANIME: "RealESRGAN_x4plus_anime_6B"}
"""Rows of a single network, and its name in requests."""
ROWS = (BICUBIC, "fidelity-x4", *LADDER, BARE, GENERAL, ANIME)
COUNTS = {"clean": 14, "web": 14, "degraded": 14, "screens": 6, "drawings": 6, "letters": 4, "published": 14}
"""Pictures of each set; of `letters` in each group, of `published` in each of its three sets."""
FLAT = 96
"""Side of a flat source."""

Upscale = Callable[[Pixels], Pixels]
"""H×W×3 uint8 RGB → four times the size."""
Figures = dict[str, float | None]


@dataclass
class Results:
    """All measurements so far."""

    pictures: dict[str, dict[str, dict[str, Figures]]] = field(default_factory=dict)
    """Set, row, picture, measure."""
    letters: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """Group, row, page: share of the characters that were read right."""
    published: dict[str, dict[str, Figures]] = field(default_factory=dict)
    """Set, row, measure."""
    flat: dict[str, Figures] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    """Weights, versions, and rows that were left out with the reason."""

    def to_dict(self) -> dict[str, Any]:
        over: dict[str, Callable[..., Any]] = {"means": np.mean, "medians": np.median}
        found = {
            name: {kind: {row: summary(each, by) for row, each in rows.items()} for kind, rows in self.pictures.items()}
            for name, by in over.items()
        }
        read = {
            group: {row: round(float(np.mean(list(each.values()))), 4) for row, each in rows.items()}
            for group, rows in self.letters.items()
        }
        return {
            "clean": self.published,
            "degraded": found["means"].get("degraded", {}),
            "flat": self.flat,
            **found,
            "letters": read,
            "ladder": ladder(self.pictures),
            "checks": [each.to_dict() for each in checks(self.pictures, self.letters)],
            **self.about,
            "pictures": self.pictures,
            "pages": self.letters,
        }

    def write(self, path: Path) -> None:
        """Atomic, so that the file can always be read."""
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", "utf-8")
        os.replace(part, path)


def lanczos(pixels: Pixels) -> Pixels:
    h, w = pixels.shape[:2]
    return np.asarray(Image.fromarray(pixels).resize((w * SCALE, h * SCALE), Image.Resampling.LANCZOS))


def network(path: Path, device: torch.device) -> Upscale:
    """The checkpoint as a function: safetensors, a release's .pth, or a training run's .pt (its average)."""
    model = load_model(path, name=path.name, sha256=None, device=device)
    if model.facts.scale != SCALE:
        raise SystemExit(f"{path} is a network for ×{model.facts.scale}; these figures are for ×{SCALE}")

    def upscale(pixels: Pixels) -> Pixels:
        output = model(to_tensor(pixels[None]).to(device))[0]
        return np.asarray(output.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu())

    return upscale


def rows_of(ours: Ours) -> dict[str, Upscale]:
    """Those of ROWS whose weights are installed."""
    here = set(ours.catalog.names())
    rows: dict[str, Upscale] = {BICUBIC: bicubic}
    for row in ROWS[1:]:
        if row in NAMED and NAMED[row] in here:
            rows[row] = partial(ours, model=ours.model(NAMED[row]))
        elif row in LADDER and X4PLUS in here:
            rows[row] = partial(ours, creativity=float(LADDER.index(row) - 2))
        elif row == BARE and X4PLUS in here:
            rows[row] = partial(ours.bare, model=ours.model(X4PLUS))
    return rows


def measure(result: Pixels, pair: Pair) -> Figures:
    """All measures of one result."""
    enlarged = bicubic(pair.lr)
    return {
        **measures.psnr(result, pair.hr),
        "haarpsi": measures.haarpsi(result, pair.hr),
        "niqe": measures.niqe(result),
        **measures.mesh(result),
        **measures.drift(result, enlarged),
        "energy": measures.fine(result),
        "distance": measures.rms(result, enlarged),
    }


def measure_reading(results: Mapping[str, Pixels], reading: Reading) -> dict[str, float]:
    """By row, the share of characters that are read right."""
    if reading.original is None:
        return {row: ocr.accuracy(result, reading.lines, SCALE) for row, result in results.items()}
    h, w = reading.original.shape[:2]
    wanted = ocr.read_whole(
        np.asarray(Image.fromarray(reading.original).resize((2 * w, 2 * h), Image.Resampling.LANCZOS))
    )
    return {row: ocr.likeness(ocr.read_whole(result), wanted) for row, result in results.items()}


def measure_clean(pictures: Iterable[Pixels], upscale: Upscale) -> Figures:
    """Mean PSNR-Y in dB and SSIM-Y over the pictures, as in papers."""
    psnr, ssim = [], []
    for picture in pictures:
        hr = _mod_crop(picture)
        output = upscale(matlab_resize(hr, 1 / SCALE))
        psnr.append(calculate_psnr(_y(output), _y(hr), BORDER))
        ssim.append(calculate_ssim(_y(output), _y(hr), BORDER))
    return {"psnr_y": float(np.mean(psnr)), "ssim_y": float(np.mean(ssim))}


def measure_flat(upscale: Upscale) -> Figures:
    """The largest shift of the mean and the largest deviation from the right values, in levels."""
    colours = [(0, 0, 0), (255, 255, 255), (128, 128, 128), (20, 20, 20), (235, 64, 52), (20, 90, 200), (250, 240, 210)]
    sources = [np.broadcast_to(np.array(colour, np.uint8), (FLAT, FLAT, 3)) for colour in colours]
    shift, texture = [], []
    for source in sources:
        error = upscale(np.ascontiguousarray(source)).astype(float) - source[0, 0]
        shift.append(np.abs(error.mean(axis=(0, 1))).max())
        texture.append(error.std(axis=(0, 1)).max())
    ramp = np.repeat(np.linspace(0, 255, FLAT).round().astype(np.uint8)[None, :, None], FLAT, axis=0).repeat(3, axis=2)
    error = upscale(ramp).astype(float) - lanczos(ramp)
    inner = error[:, BORDER * SCALE : -BORDER * SCALE]
    shift.append(np.abs(inner.mean(axis=(0, 1))).max())
    texture.append(inner.std(axis=0).max())  # down the columns, which are flat
    return {"shift": float(max(shift)), "texture": float(max(texture))}


def run(
    results: Results,
    rows: Mapping[str, Upscale],
    published: Mapping[str, Upscale],
    root: Path,
    counts: Mapping[str, int],
    crops: Mapping[str, int],
    unasked: Upscale | None,
) -> Iterator[str]:
    """Fills `results`; yields a line after each picture. The sets alternate, so that partial results cover all."""
    sets = [_labelled(kind, pairs(kind, root, counts[kind], crops[kind])) for kind in KINDS]
    if reason := ocr.missing():
        results.about["no_letters"] = reason
        yield reason
    else:
        sets += [_labelled(group, readings(group, root, counts["letters"])) for group in LETTERS]
    for name, task in (each for each in chain.from_iterable(zip_longest(*sets)) if each is not None):
        if isinstance(task, Pair):
            for row, upscale in rows.items():
                of_row = results.pictures.setdefault(name, {}).setdefault(row, {})
                of_row[task.name] = _rounded(measure(upscale(task.lr), task))
        else:
            enlarged = {row: upscale(task.source) for row, upscale in rows.items()}
            if unasked is not None:
                enlarged[UNASKED] = unasked(task.source)
            for row, share in measure_reading(enlarged, task).items():
                results.letters.setdefault(name, {}).setdefault(row, {})[task.name] = round(share, 4)
        yield f"{name}: {task.name}"
    for row, upscale in (dict(published) | dict(rows)).items():
        results.flat[row] = _rounded(measure_flat(upscale))
        yield f"flat: {row}"
    if counts["published"]:
        for name in PUBLISHED:
            chosen = spread(load_set(sets_folder(root) / name), counts["published"])
            for row, upscale in published.items():
                results.published.setdefault(name, {})[row] = _rounded(measure_clean(chosen, upscale))
                yield f"{name}: {row}"


def _labelled(name: str, tasks: Iterator[Pair] | Iterator[Reading]) -> Iterator[tuple[str, Pair | Reading]]:
    for each in tasks:
        yield name, each


def tables(results: Mapping[str, Any]) -> str:
    """The results as Markdown tables."""
    lines: list[str] = []
    for kind, rows in results["means"].items():
        count = len(next(iter(results["pictures"][kind].values())))
        lines += [
            f"| {kind} ({count} pictures, means) | Y | Cb | Cr | RGB dB | HaarPSI | NIQE | mesh Y | Cb | Cr "
            "| drift | local | energy | distance |",
            "|---" + "|--:" * 13 + "|",
        ]
        for row, each in rows.items():
            lines.append(f"| {row} | " + " | ".join(_cell(each.get(name), form) for name, form in COLUMNS) + " |")
        lines.append("")
    if results["letters"]:
        groups = [group for group in LETTERS if group in results["letters"]]
        lines += ["| letters read right, % | " + " | ".join(groups) + " |", "|---" + "|--:" * len(groups) + "|"]
        for row in dict.fromkeys(row for group in groups for row in results["letters"][group]):
            shares = (results["letters"][group].get(row) for group in groups)
            cells = (_cell(None if share is None else 100 * share, "{:.1f}") for share in shares)
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
        lines.append("")
    clean = results["clean"]
    if clean:
        lines += ["| published: PSNR-Y dB / SSIM-Y | " + " | ".join(clean) + " |", "|---" * (1 + len(clean)) + "|"]
        for row in next(iter(clean.values())):
            found = (each[row] for each in clean.values() if row in each)
            lines.append(
                f"| {row} | " + " | ".join(f"{each['psnr_y']:.2f} / {each['ssim_y']:.4f}" for each in found) + " |"
            )
        lines.append("")
    lines += ["| flat | shift | texture |", "|---|--:|--:|"]
    lines += [f"| {row} | {each['shift']:.2f} | {each['texture']:.2f} |" for row, each in results["flat"].items()]
    words = {True: "pass", False: "**miss**", None: "not measured"}
    lines += ["", "| asked | found | |", "|---|---|---|"]
    lines += [f"| {each['asked']} | {each['found']} | {words[each['passed']]} |" for each in results["checks"]]
    return "\n".join(lines)


COLUMNS = (
    *((f"psnr_{name}", "{:.2f}") for name in ("y", "cb", "cr", "rgb")),
    ("haarpsi", "{:.3f}"),
    ("niqe", "{:.2f}"),
    *((f"mesh_{name}", "{:.2f}") for name in ("y", "cb", "cr")),
    ("drift", "{:.2f}"),
    ("drift_local", "{:.1f}"),
    ("energy", "{:.1f}"),
    ("distance", "{:.1f}"),
)
"""Of the tables: measure and form."""


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _rounded(figures: Mapping[str, float | None]) -> Figures:
    return {name: None if value is None else round(value, 4) for name, value in figures.items()}


def _mod_crop(pixels: Pixels) -> Pixels:
    h, w = pixels.shape[:2]
    return pixels[: h - h % SCALE, : w - w % SCALE]


def _y(pixels: Pixels) -> Pixels:
    """As MATLAB's rgb2ycbcr of 8 bits: 16 to 235, rounded."""
    return np.asarray(np.rint(16 + pixels @ np.array([65.481, 128.553, 24.966]) / 255), np.uint8)


def _named_numbers(values: list[str], known: Mapping[str, int], parser: argparse.ArgumentParser) -> dict[str, int]:
    """ "clean=3" and so on over the defaults; "all=1" sets every one."""
    found = dict(known)
    for value in values:
        name, _, number = value.partition("=")
        if not number.isdigit() or name not in (*known, "all"):
            parser.error(f"{value!r} is not NAME=NUMBER with a name of all, {', '.join(known)}")
        found.update(dict.fromkeys(known if name == "all" else (name,), int(number)))
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, default=Path("../shared/images"), help="has train/ and test/")
    parser.add_argument("--official", type=Path, default=Path("../shared/weights/official"), help="downloaded weights")
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], help="a further row; may be repeated")
    parser.add_argument("--row", action="append", default=[], help="these rows only; may be repeated")
    parser.add_argument(
        "--count", action="append", default=[], metavar="SET=N", help="pictures of a set; all=N of each"
    )
    parser.add_argument(
        "--crop", action="append", default=[], metavar="SET=N", help="longest side of its truths, pixels"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures to this file, anew after each picture")
    args = parser.parse_args(argv)
    counts = _named_numbers(args.count, COUNTS, parser)
    crops = _named_numbers(args.crop, dict.fromkeys(KINDS, CROP), parser)

    device = torch.device(args.device)
    ours = Ours(args.device, args.official)
    given: dict[str, Upscale] = {f"{path.parent.name}/{path.name}": network(path, device) for path in args.checkpoint}
    rows = rows_of(ours) | given
    present = [
        checkpoint for checkpoint in map(ours.catalog.get, ours.catalog.names()) if checkpoint.geometry.scale == SCALE
    ]
    published: dict[str, Upscale] = {BICUBIC: bicubic, "Lanczos": lanczos}
    published |= {each.name: partial(ours.bare, model=ours.model(each.name)) for each in present} | given
    absent = [row for row in ROWS if row not in rows]
    if args.row:
        unknown = [name for name in args.row if name not in (*rows, *published, *absent, UNASKED)]
        if unknown:
            parser.error(
                f"there is no row {unknown[0]!r}; there are {', '.join(dict.fromkeys((*rows, *published, UNASKED)))}"
            )
        rows, published = ({name: each[name] for name in each if name in args.row} for each in (rows, published))
        absent = [name for name in absent if name in args.row]
    results = Results(
        about={
            "weights": {each.name: sha256_of(each.path) for each in present}
            | {name: sha256_of(path) for name, path in zip(given, args.checkpoint, strict=True)},
            "device": ours.device,
            "torch": torch.__version__,
            "absent": absent,
        }
    )
    if absent:
        print(f"left out, because their weights are not here: {', '.join(absent)}", flush=True)
    unasked = ours if not args.row or UNASKED in args.row else None
    started = time.monotonic()
    for done in run(results, rows, published, args.pictures, counts, crops, unasked):
        results.about["minutes"] = round((time.monotonic() - started) / 60, 1)
        print(f"{results.about['minutes']:.1f} min  {done}", flush=True)
        if args.json:
            results.write(args.json)
    found = results.to_dict()
    print(tables(found))
    print(json.dumps(found, ensure_ascii=False))


if __name__ == "__main__":
    main()
