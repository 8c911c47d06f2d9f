"""Seamless textures, enlarged with and without `wrap`: do the opposite sides of the result still fit together?

    python -m benchmarks.wrap [--side N] [--factor F] [--model NAME] [--creativity C …] [--sheets DIR] [--json FILE]

Twenty textures that repeat in both directions are made by formulas. The step across the border is the mean difference
between the last and the first row or column; the steps inside are those between all neighbouring rows or columns.
`worst` is the step across compared with the largest step inside, of all textures in both directions: at most 1 where it
is one of them. `bend` is the same for the second difference, which is zero on a straight ramp. `over` counts, of the
twenty, those with more than 1. Steps and bends are taken of the grey mean. A texture has no beginning: it is cut where
its own step is the median one, not at its hardest edge.

`--sheets`: two by two copies of each result side by side, at 1:1, to be looked at.

The table is Markdown; the last line of stdout is the same as JSON.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.ours import Ours
from training.dataset import Pixels

CREATIVITIES = (-2.0, 0.0, 2.0)
COUNT = 20
_FINER = 4
"""How much larger textures are drawn than they are; then they are reduced, as a camera's pixels collect light."""


def texture(number: int, width: int, height: int) -> Pixels:
    """H × W × 3, the same as its copies beside it go on. `number` 0 … 19: five kinds, each in four variants."""
    w, h = width * _FINER, height * _FINER
    kind, variant = number % 5, number // 5
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:h, :w] / np.array([h, w])[:, None, None]
    grain = _clouds(rng, w, h, 0.6)
    if kind == 0:  # clouds, plaster, granite
        grey = _clouds(rng, w, h, 2.2 - 0.5 * variant)
    elif kind == 1:  # bricks
        rows, columns = 6 + 2 * variant, 4 + variant
        row = np.floor(y * rows)
        across, down = (x * columns + row % 2 / 2) % 1, y * rows % 1
        mortar = (np.minimum(across, 1 - across) < 0.05) | (np.minimum(down, 1 - down) < 0.1)
        tone = rng.normal(0, 0.5, (rows, columns))[
            row.astype(int), np.floor(x * columns + row % 2 / 2).astype(int) % columns
        ]
        grey = np.where(mortar, 1.6, tone) + 0.3 * grain
    elif kind == 2:  # cloth
        threads = 12 + 5 * variant
        warp, weft = np.sin(2 * np.pi * threads * x), np.sin(2 * np.pi * threads * y)
        over = np.sin(np.pi * 2 * (threads // 2) * x) * np.sin(np.pi * 2 * (threads // 2) * y) > 0
        grey = np.where(over, warp, weft) + 0.4 * grain
    elif kind == 3:  # stones
        points = rng.random((20 + 15 * variant, 2))
        first = second = np.full((h, w), 9.0)
        for px, py in points:
            dx, dy = np.abs(x - px), np.abs(y - py)
            distance = np.hypot(np.minimum(dx, 1 - dx), np.minimum(dy, 1 - dy) * h / w)
            second = np.minimum(second, np.maximum(first, distance))
            first = np.minimum(first, distance)
        grey = np.clip((second - first) * 30, 0, 2) - first * 4 + 0.3 * grain
    else:  # wood, waves
        bent = 0.15 * _clouds(rng, w, h, 2.5)
        grey = np.sin(2 * np.pi * ((2 + variant) * x + (5 + 3 * variant) * y + bent * 2)) + 0.3 * grain
    grey = (grey - grey.mean()) / grey.std()
    tint = rng.uniform(0.6, 1.0, 3)
    colours = 128 + 48 * grey[..., None] * tint + 20 * (tint - tint.mean()) / tint.std() + 6 * grain[..., None]
    small = colours.reshape(height, _FINER, width, _FINER, 3).mean(axis=(1, 3))
    picture = np.clip(np.rint(small), 0, 255).astype(np.uint8)
    for axis in (0, 1):
        steps = np.abs(picture - np.roll(picture, 1, axis).astype(float)).mean(axis=(1 - axis, 2))
        picture = np.roll(picture, -int(np.argsort(steps)[len(steps) // 2]), axis)
    return picture


def _clouds(rng: np.random.Generator, w: int, h: int, power: float) -> NDArray[np.float64]:
    """Noise that repeats: the amplitude of each frequency is its inverse to this power. Mean 0, deviation 1."""
    across, down = np.fft.rfftfreq(w) * w, np.fft.fftfreq(h) * h
    frequency = np.hypot(across, down[:, None])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(h, w))) / frequency**power, (h, w))
    return np.asarray((noise - noise.mean()) / noise.std())


def across(result: NDArray[Any]) -> dict[str, float]:
    """Of the step and of the bend at the border: compared with the largest inside, the larger of both directions."""
    grey = result[..., :3].astype(np.float64).mean(axis=2)
    found = {"step": 0.0, "bend": 0.0}
    for picture in (grey, grey.T):
        # From each column to the next one, which after the last is the first.
        steps = np.roll(picture, -1, axis=1) - picture
        # Each has both of its neighbours on one side of the border, or the border on one of its own sides.
        bends = np.abs(np.roll(steps, -1, axis=1) - steps).mean(axis=0)
        sizes = np.abs(steps).mean(axis=0)
        found["step"] = max(found["step"], float(sizes[-1] / sizes[:-1].max()))
        found["bend"] = max(found["bend"], float(bends[-2:].max() / bends[:-2].max()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=96, help="of the textures, in pixels; their height is 5/6 of it")
    parser.add_argument("--factor", type=float, default=4.0)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--creativity", type=float, nargs="*", default=CREATIVITIES)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()

    ours = Ours()
    rows: list[dict[str, Any]] = []
    print("| creativity | wrap | worst step | over | worst bend | over | seconds |\n|---|---|---|---|---|---|---|")
    for creativity in wanted.creativity:
        for wrap in ("xy", "none"):
            row = _row(ours, creativity, wrap, wanted)
            rows.append(row)
            shown = "| {creativity:+g} | {wrap} | {step} | {steps_over} | {bend} | {bends_over} | {seconds} |"
            print(shown.format(**row), flush=True)
    text = json.dumps({"side": wanted.side, "factor": wanted.factor, "model": wanted.model, "rows": rows})
    print(text)
    if wanted.json:
        wanted.json.write_text(text + "\n")


def _row(ours: Ours, creativity: float, wrap: str, wanted: argparse.Namespace) -> dict[str, Any]:
    found, seconds = [], 0.0
    for number in range(COUNT):
        picture = texture(number, wanted.side, wanted.side * 5 // 6)
        started = time.perf_counter()
        result = ours(picture, scale=wanted.factor, creativity=creativity, wrap=wrap, model=wanted.model, seed=1)
        seconds += time.perf_counter() - started
        found.append(across(result))
        if wanted.sheets:
            wanted.sheets.mkdir(parents=True, exist_ok=True)
            sheet = Image.fromarray(np.tile(result, (2, 2, 1)))
            sheet.save(wanted.sheets / f"{number:02}{creativity:+g}-{wrap}.png")
    return {
        "creativity": creativity,
        "wrap": wrap,
        "step": round(max(each["step"] for each in found), 3),
        "bend": round(max(each["bend"] for each in found), 3),
        "steps_over": sum(each["step"] > 1 for each in found),
        "bends_over": sum(each["bend"] > 1 for each in found),
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
