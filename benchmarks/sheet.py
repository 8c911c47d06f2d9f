"""Results beside each other, for eyes: a row for each picture, a column for each way of enlarging it.

    python -m benchmarks.sheet PICTURES… -o SHEET.png [--checkpoint PATH …] [--crop 96]

The crop is the part of the picture with the most detail, the same for all columns. The first column is bicubic, the
second the bundled network, then the checkpoints in the order given.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks.quality import Upscale, network
from benchmarks.sets import bicubic
from server.pipeline.preview import telling
from server.weights.catalog import Catalog
from training.dataset import SCALE, Pixels

MARGIN, TITLE = 6, 18


def busiest(pixels: Pixels, side: int) -> Pixels:
    """The most telling square of that side, or less where the picture is smaller."""
    h, w = pixels.shape[:2]
    left, top, right, bottom = telling(pixels, (min(side, w), min(side, h)))
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def draw_sheet(pictures: list[Pixels], ways: dict[str, Upscale], side: int) -> Image.Image:
    cell = side * SCALE + MARGIN
    sheet = Image.new("RGB", (cell * len(ways) + MARGIN, cell * len(pictures) + TITLE + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for column, (name, upscale) in enumerate(ways.items()):
        pen.text((MARGIN + column * cell, 3), name, fill="black")
        for row, picture in enumerate(pictures):
            result = Image.fromarray(upscale(busiest(picture, side)))
            sheet.paste(result, (MARGIN + column * cell, TITLE + row * cell))
    return sheet


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], help="a further column")
    parser.add_argument("--crop", type=int, default=96, help="side of what is enlarged, pixels")
    args = parser.parse_args(argv)
    cpu = torch.device("cpu")
    bundled = Catalog(Path("none"))
    paths = [bundled.get(name).path for name in bundled.names()] + args.checkpoint
    ways: dict[str, Upscale] = {"bicubic": bicubic} | {path.stem: network(path, cpu) for path in paths}
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in args.pictures]
    draw_sheet(pictures, ways, args.crop).save(args.output)


if __name__ == "__main__":
    main()
