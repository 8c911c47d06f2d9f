"""The effect of creativity on pictures, measured.

    python -m benchmarks.refine [--pictures DIR] [--json FILE] [--quick]

acts: for each picture of Set14 and half of Kodak24, reduced to a quarter and enlarged again at creativity −2 … 2.
`distance`: RMS to the enlarged source; `energy`: of the result, of what is finer than the source's pixels;
`to_balanced`: RMS to the result at 0; all in levels of 255. `rank` is Spearman's correlation with creativity, of the
means, `share` that of the pictures whose own is at least 0.9. `benchmarks.quality` measures the same on more kinds of
pictures.

strict: at −2, how far the result, reduced again, is from the source, mean and 99th percentile in levels of 255.

pass: at 1, with the diffusion pass, against 0, the network alone: NIQE of the real pictures (lower looks more natural),
HaarPSI and RGB PSNR on the degraded set of `benchmarks.quality`.

seams: how much steeper the added detail is at the borders of tiles and regions than at lines nearby, in standard
deviations of the latter; without seams the mean would be within `expected_within` in 95 of 100 cases.
flat: standard deviation of grey, sky and gradient. tilings: the largest difference between results whose tiles have
other sizes. colour: mean CIEDE2000 to the result at 0, by creativity.

time: the pass at creativity 1 compared with fidelity-x4, 1920×1080 → 4k, in one process, median of the ratios.

The tables are Markdown; the last line of stdout is the same as JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
import torch
from PIL import Image

from benchmarks.measures import fine, haarpsi, niqe, psnr, rms
from benchmarks.ours import Ours
from benchmarks.sets import CROP, DEGRADED_SETS, bicubic, degraded_pairs, load_set
from server.detailnet import STRIDE
from server.images.read.open import Samples
from server.pipeline.refine import step
from training.dataset import SCALE, Pixels

CREATIVITIES = (-2.0, -1.0, 0.0, 1.0, 2.0)
BORDER = 8


def acts(ours: Ours, pictures: list[Pixels]) -> dict[str, Any]:
    energy, distance, to_balanced, colour = ([[] for _ in pictures] for _ in range(4))
    for number, hr in enumerate(pictures):
        lr = _reduced(hr)
        enlarged = bicubic(lr)
        results = {creativity: ours(lr, creativity=creativity) for creativity in CREATIVITIES}
        for result in results.values():
            energy[number].append(fine(result))
            distance[number].append(rms(result, enlarged))
            to_balanced[number].append(rms(result, results[0.0]))
            colour[number].append(_colour_difference(result, results[0.0]))
    return {
        "creativity": CREATIVITIES,
        "energy": _means(energy),
        "distance": _means(distance),
        "to_balanced": _means(to_balanced),
        "colour": _means(colour),
        "rank_energy": _rank(_means(energy)),
        "rank_distance": _rank(_means(distance)),
        "share_energy": float(np.mean([_rank(each) >= 0.9 for each in energy])),
        "share_distance": float(np.mean([_rank(each) >= 0.9 for each in distance])),
    }


def strict(ours: Ours, pictures: list[Pixels]) -> dict[str, float]:
    means, worst = [], []
    for hr in pictures:
        lr = _reduced(hr)
        again = _reduced(ours(lr, creativity=-2.0))
        error = np.abs(again.astype(float) - lr)
        means.append(float(error.mean()))
        worst.append(float(np.percentile(error, 99)))
    return {"mean": max(means), "p99": max(worst), "pictures": len(pictures)}


def passed(ours: Ours, real: list[Pixels], degraded: list[tuple[Pixels, Pixels]]) -> dict[str, dict[str, float]]:
    figures = {}
    for name, creativity in (("creativity 0, without", 0.0), ("creativity 1, with", 1.0)):
        looks = [niqe(ours(picture, creativity=creativity)) for picture in real]
        results = [(ours(lr, creativity=creativity), hr) for lr, hr in degraded]
        figures[name] = {
            "niqe_real": _mean(looks),
            "niqe_degraded": _mean([niqe(result) for result, _ in results]),
            "haarpsi": _mean([haarpsi(result, hr) for result, hr in results]),
            "psnr_rgb": _mean([psnr(result, hr)["psnr_rgb"] for result, hr in results]),
        }
    return figures


def seams(ours: Ours, picture: Pixels, target: str) -> dict[str, dict[str, float]]:
    """In the added detail: the mean steepness across each line, compared with lines nearby."""
    plain = ours(picture, target=target, creativity=0.0)
    detail = ours(picture, target=target, creativity=2.0).astype(np.float32) - plain
    h, w = detail.shape[:2]
    rows, columns = step.borders(w, h, ours.grid_of_refiner)
    return {"rows": _excess(detail, rows, axis=0), "columns": _excess(detail, columns, axis=1)}


def flat(ours: Ours) -> dict[str, float]:
    """The largest standard deviation along lines that are constant in the source, in levels of 255, at creativity 0, 1
    and 2."""
    h = w = 96
    grey = np.full((h, w, 3), 128, np.uint8)
    sky = np.broadcast_to(np.array((130, 170, 220), np.uint8), (h, w, 3)).copy()
    ramp = np.repeat(np.linspace(40, 220, w).round().astype(np.uint8)[None, :, None], h, axis=0).repeat(3, axis=2)
    figures = {}
    for name, picture in (("grey", grey), ("sky", sky), ("gradient", ramp)):
        for creativity in (0.0, 1.0, 2.0):
            result = ours(picture, creativity=creativity).astype(float)[BORDER:-BORDER, BORDER:-BORDER]
            figures[f"{name} at {creativity:g}"] = float(result.std(axis=0).max())
    return figures


def tilings(ours: Ours, picture: Pixels) -> dict[str, float]:
    """The largest and the 99.99th percentile of differences between tilings, in levels of 255, at creativity 1."""
    sides = (768, 512, 384)
    results = []
    for side in sides:
        ours.with_tiles_of(side)
        results.append(ours(picture, creativity=1.0).astype(int))
    ours.with_tiles_of(sides[0])
    differences = [np.abs(result - results[0]) for result in results[1:]]
    return {
        "max": float(max(each.max() for each in differences)),
        "p99.99": float(max(np.percentile(each, 99.99) for each in differences)),
    }


def timing(ours: Ours, size: tuple[int, int], scale: float, rounds: int) -> dict[str, float]:
    """Seconds of the network and of the pass, medians; `ratio` is the median of pass / network within a run."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    ours(picture[:64, :64], model="fidelity-x4", creativity=1.0)  # loads the networks
    network, passes, ratios = [], [], []
    for _ in range(rounds):
        seconds = ours.timed(picture, scale=scale, model="fidelity-x4", creativity=1.0)[1]
        network.append(seconds["upscale"])
        passes.append(seconds["refine"])
        ratios.append(seconds["refine"] / seconds["upscale"])
    return {
        "width": size[0],
        "height": size[1],
        "scale": scale,
        "network_s": statistics.median(network),
        "pass_s": statistics.median(passes),
        "ratio": statistics.median(ratios),
        "rounds": rounds,
    }


def _reduced(pixels: Pixels) -> Pixels:
    """To a quarter, antialiased bicubic."""
    h, w = pixels.shape[0] // SCALE, pixels.shape[1] // SCALE
    return np.asarray(Image.fromarray(pixels[: h * SCALE, : w * SCALE]).resize((w, h), Image.Resampling.BICUBIC))


def _colour_difference(one: Pixels, other: Pixels) -> float:
    images = [pyvips.Image.new_from_array(each).colourspace("lab") for each in (one, other)]
    return float(images[0].dE00(images[1]).avg())


def _mean(values: list[float | None] | list[float]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def _excess(detail: Samples | Any, borders: Iterable[int], axis: int) -> dict[str, float]:
    steepness = np.abs(np.diff(detail, axis=axis)).mean(axis=(1 - axis, 2))
    lines = set(borders)
    scores = []
    for line in lines:
        # Against its own neighbourhood, because the picture itself is not alike everywhere; and in the same place of
        # the network's own grid, which borders lie on too.
        around = [line + STRIDE * k for k in range(-6, 7) if line + STRIDE * k not in lines]
        around = [each for each in around if 0 < each < len(steepness)]
        if 0 < line < len(steepness) and len(around) >= 6:
            others = steepness[np.array(around) - 1]
            scores.append(float((steepness[line - 1] - others.mean()) / others.std()))
    return {"mean": float(np.mean(scores)), "expected_within": float(2 / np.sqrt(len(scores))), "lines": len(scores)}


def _rank(values: list[float]) -> float:
    """Spearman's correlation of the values with their order."""
    ranks = np.argsort(np.argsort(values))
    return float(np.corrcoef(ranks, np.arange(len(values)))[0, 1])


def _means(rows: list[list[float]]) -> list[float]:
    return [round(float(value), 4) for value in np.mean(rows, axis=0)]


def tables(results: dict[str, Any]) -> str:
    found = results["acts"]
    lines = ["| creativity | " + " | ".join(f"{c:g}" for c in CREATIVITIES) + " |", "|---" * 6 + "|"]
    for name in ("energy", "distance", "to_balanced", "colour"):
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in found[name]) + " |")
    lines += ["", "| | NIQE real | NIQE degraded | HaarPSI | PSNR |", "|---|---|---|---|---|"]
    for name, each in results["pass"].items():
        cells = (
            f"{each['niqe_real']:.2f} | {each['niqe_degraded']:.2f} | {each['haarpsi']:.4f} | {each['psnr_rgb']:.2f}"
        )
        lines.append(f"| {name} | {cells} |")
    lines.append("")
    for name in ("strict", "seams", "flat", "tilings", "time"):
        lines.append(f"{name}: {json.dumps(results[name])}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, default=Path("../shared/images"), help="has test/ and real_inputs/")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="a few pictures, one round, no 8k: to try it out")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)
    few = 3 if args.quick else None
    test = args.pictures / "test"
    pictures = (load_set(test / "Set14") + load_set(test / "Kodak24")[::2])[:few]
    pairs = degraded_pairs(picture for name in DEGRADED_SETS for picture in load_set(test / name))[:few]
    real = [_at_most(picture, CROP // 2) for picture in _real(args.pictures / "real_inputs")][:few]
    large = load_set(test / "Kodak24")[0]

    ours = Ours(args.device)
    started = time.monotonic()
    results: dict[str, Any] = {
        "device": ours.device,
        "torch": torch.__version__,
        "acts": acts(ours, pictures),
        "strict": strict(ours, pictures),
        "pass": passed(ours, real, pairs),
        "seams": {each: seams(ours, large, each) for each in (("2k",) if args.quick else ("4k", "8k"))},
        "flat": flat(ours),
        "tilings": tilings(ours, large[:256, :384]),
        "time": timing(ours, (480, 270) if args.quick else (1920, 1080), 4096 / 1920, 1 if args.quick else 5),
    }
    results["minutes"] = round((time.monotonic() - started) / 60, 1)
    print(tables(results))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    print(json.dumps(results))


def _real(folder: Path) -> list[Pixels]:
    paths = sorted(path for path in (folder / "real-esrgan").iterdir() if path.suffix in (".png", ".jpg"))
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def _at_most(pixels: Pixels, side: int) -> Pixels:
    """The centre of a larger picture: NIQE needs no more."""
    h, w = (min(side, each) for each in pixels.shape[:2])
    y, x = (pixels.shape[0] - h) // 2, (pixels.shape[1] - w) // 2
    return np.ascontiguousarray(pixels[y : y + h, x : x + w])


if __name__ == "__main__":
    main()
