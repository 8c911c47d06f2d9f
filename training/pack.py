"""Pack a folder of pictures into one file for another machine: crops of pictures, synthetic crops, validation pairs.

    python -m training.pack --pictures ../shared/images/train --out training/runs/pictures.npz --mib 60 \
        --large training/runs/x4plus.pt

Every picture gives the same number of crops. They are chosen at random, with a higher probability for areas with more
detail. Half of them come from the picture at half its size, which has denser detail and no compression artefacts. The
compressed size differs by picture, so crops are added until the budget is used up.

`--large` writes RealESRGAN_x4plus too, on whose results the refiner is trained, in a form that torch reads alone: the
other machine lacks the package that has it.
"""

import argparse
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training.conditions import large_state, packaged
from training.dataset import HR_SIZE, Pixels
from training.packed import Packed, filtered
from training.pictures import load_folder, make_validation
from training.synthetic import Pages

SYNTHETIC_SHARE = 0.1
"""Of the bytes."""
RESERVE = 0.01
"""Share of the budget that stays free: crops are measured one at a time, and together can take a little more."""


def choose(pictures: list[Pixels], budget: int, seed: int) -> Pixels:
    """Crops, N×HR_SIZE×HR_SIZE×3, of at most about `budget` bytes together once compressed."""
    rng = np.random.default_rng(seed)
    queues = [_by_chance(picture, rng) for picture in pictures]
    crops: list[Pixels] = []
    while queues:
        for queue in list(queues):
            crop = next(queue, None)
            if crop is None:
                queues.remove(queue)
                continue
            budget -= len(zlib.compress(filtered(crop[None]).tobytes(), 6))
            if budget < 0:
                return np.stack(crops)
            crops.append(crop)
    return np.stack(crops)


def _by_chance(picture: Pixels, rng: np.random.Generator) -> Iterator[Pixels]:
    """All cells of two grids, at whole and half size, in a random order that prefers cells with more detail."""
    h, w = picture.shape[:2]
    half = np.asarray(Image.fromarray(picture).resize((w // 2, h // 2), Image.Resampling.LANCZOS))
    cells: list[list[Pixels]] = []
    for source in (picture, half):
        top, left = ((length % HR_SIZE) // 2 for length in source.shape[:2])
        grid = [
            source[y : y + HR_SIZE, x : x + HR_SIZE]
            for y in range(top, source.shape[0] - HR_SIZE + 1, HR_SIZE)
            for x in range(left, source.shape[1] - HR_SIZE + 1, HR_SIZE)
        ]
        # Weighted sampling without replacement: Efraimidis and Spirakis, IPL 2006.
        keys = [rng.random() ** (1 / (_texture(cell) + 0.1)) for cell in grid]
        cells.append([grid[i] for i in np.argsort(keys)[::-1]])
    for i in range(max(map(len, cells))):
        yield from (each[i] for each in cells if i < len(each))


def _texture(cell: Pixels) -> float:
    """Mean difference between neighbouring pixels, in levels."""
    levels = cell.astype(np.int16)
    return float(np.abs(np.diff(levels, axis=0)).mean() + np.abs(np.diff(levels, axis=1)).mean())


def save_large(source: Path, path: Path) -> None:
    """Weights in fp16, which is what the package has, biases in fp32."""
    state = {name: value.half() if value.ndim == 4 else value for name, value in large_state(source).items()}
    torch.save({"params": state}, path)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder with manifest.csv and the pictures")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--mib", type=float, default=60, help="its largest size")
    parser.add_argument("--large", type=Path, help="also write RealESRGAN_x4plus to this file, 34 MB")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.large:
        save_large(packaged(), args.large)
    validation = make_validation(load_folder(args.pictures, "val"))
    kept = sum(len(zlib.compress(filtered(hr[None]).tobytes(), 6)) + 3 * lr.size for lr, hr in validation.clean)
    budget = int((args.mib * 2**20 - kept) * (1 - RESERVE))
    synthetic = choose(list(Pages(args.seed)), int(budget * SYNTHETIC_SHARE), args.seed)
    train = choose(load_folder(args.pictures, "train"), int(budget * (1 - SYNTHETIC_SHARE)), args.seed)
    Packed(train, synthetic, validation).save(args.out)
    size = args.out.stat().st_size
    print(f"{args.out}: {len(train)} crops of pictures, {len(synthetic)} synthetic, {size / 2**20:.1f} MiB")
    if size > args.mib * 2**20:
        raise SystemExit(f"{args.out} is larger than {args.mib} MiB; ask for less")


if __name__ == "__main__":
    main()
