"""The pictures in README.md and docs/creativity.md, made anew from the demo's photo: `python -m docs.pictures`.

Each comes from a command that anyone can run, `python -m server upscale`, with the network named, so that a slow
machine makes the same pictures as a fast one. Takes a minute or two on two cores.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from demo.__main__ import PHOTO, PLACES, side_by_side

FOLDER = Path(__file__).parent
NETWORK = "RealESRGAN_x4plus"
SEEN = (232, 72, 408, 248)
"""What the sheet of creativities is made of, in pixels of the photo: fur, a leaf and lichen, which `--sweep` finds."""
QUALITY = 90


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="upscale-pictures-") as folder:
        after = _upscaled(PHOTO, Path(folder) / "after.png", "--target", "2k")
        # The first part only: with it, the first screen of README.md has room for the commands.
        before_after = side_by_side(Image.open(PHOTO).convert("RGB"), after, NETWORK, PLACES[:1])
        before_after.save(FOLDER / "before_after.jpg", quality=QUALITY, subsampling=0, optimize=True)

        part = Path(folder) / "part.png"
        Image.open(PHOTO).convert("RGB").crop(SEEN).save(part)
        sheet = _upscaled(part, Path(folder) / "sheet.png", "--scale", "4", "--sweep")
        sheet.save(FOLDER / "creativity.jpg", quality=QUALITY, subsampling=0, optimize=True)


def _upscaled(source: Path, result: Path, *options: str) -> Image.Image:
    command = [sys.executable, "-m", "server", "upscale", str(source), "-o", str(result), "--model", NETWORK, *options]
    subprocess.run(command, check=True)
    return Image.open(result).convert("RGB")


if __name__ == "__main__":
    main()
