"""The cost of encoders: time, size, PSNR and memory, for the settings in server/images/write/save.py and alternatives.

    python -m benchmarks.codecs [--json FILE]

Two pictures of 12 megapixels: an enlarged photo, which is like a result, and the same with noise, the worst case for
most encoders. CPU seconds, of one thread if the encoder has such an option; PSNR of lossy formats; peak memory above
the memory before, each in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyvips

from server.images.read.open import Samples
from server.images.write.png import save_png

PHOTO = Path(__file__).parents[1] / "demo" / "photo.jpg"
SIZE = (4200, 2800)

Encode = Callable[[pyvips.Image, str], None]

ENCODERS: dict[str, Encode] = {
    "png: ours": lambda image, path: save_png(image, Path(path)),
    **{
        f"png: libpng, level {level}, {name}": lambda image, path, level=level, name=name: image.pngsave(  # type: ignore[misc]
            path, compression=level, filter=name
        )
        for level, name in ((1, "up"), (2, "up"), (3, "up"), (6, "up"), (6, "all"))
    },
    **{
        f"tiff: deflate {level}": lambda image, path, level=level: image.tiffsave(  # type: ignore[misc]
            path, compression="deflate", predictor="horizontal", level=level
        )
        for level in (1, 3, 6)
    },
    "tiff: lzw": lambda image, path: image.tiffsave(path, compression="lzw", predictor="horizontal"),
    **{
        f"jpeg: 95{name}": lambda image, path, options=options: image.jpegsave(path, Q=95, **options)  # type: ignore[misc]
        for name, options in (
            (", 4:2:0", {"subsample_mode": "on"}),
            (", 4:4:4", {"subsample_mode": "off"}),
            (", 4:4:4, optimised", {"subsample_mode": "off", "optimize_coding": True}),
            (", 4:4:4, progressive", {"subsample_mode": "off", "interlace": True}),
        )
    },
    **{
        f"webp: 90, effort {effort}": lambda image, path, effort=effort: image.webpsave(path, Q=90, effort=effort)  # type: ignore[misc]
        for effort in (2, 4)
    },
    "webp: lossless, effort 0": lambda image, path: image.webpsave(path, lossless=True, effort=0),
    **{
        f"avif: 80, effort {effort}": lambda image, path, effort=effort: image.heifsave(  # type: ignore[misc]
            path, compression="av1", Q=80, effort=effort, subsample_mode="off"
        )
        for effort in (0, 2)
    },
}


def picture(kind: str) -> pyvips.Image:
    photo = pyvips.Image.new_from_file(str(PHOTO))
    image = photo.resize(SIZE[0] / photo.width, vscale=SIZE[1] / photo.height, kernel="lanczos3")
    if kind == "noise":
        samples: Samples = image.numpy()
        noise = np.random.default_rng(0).normal(0, 12, samples.shape)
        return pyvips.Image.new_from_array(np.clip(samples + noise, 0, 255).astype(np.uint8), interpretation="srgb")
    return image.copy_memory()


def peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def measure(name: str, kind: str) -> dict[str, float]:
    """Measure in this process, which must be a new one."""
    image = picture(kind)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak after drawing it
    before = peak_kib()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "result"
        cpu, wall = time.process_time(), time.perf_counter()
        ENCODERS[name](image, str(path))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        peak = (peak_kib() - before) * 1024
        pixels = image.width * image.height
        error = ((pyvips.Image.new_from_file(str(path)) - image) ** 2).avg()
        return {
            "cpu_s": round(cpu, 3),
            "wall_s": round(wall, 3),
            "bits_per_pixel": round(path.stat().st_size * 8 / pixels, 3),
            "psnr_db": round(10 * np.log10(255**2 / error), 2) if error else float("inf"),
            "bytes_held_per_pixel": round(peak / pixels, 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure encoders and their settings.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one)))
        return
    rows: dict[str, dict[str, dict[str, float]]] = {}
    print(
        "| encoder | picture | CPU s | wall s | bit/pixel | PSNR dB | held, byte/pixel |\n|---|---|--:|--:|--:|--:|--:|"
    )
    for name in ENCODERS:
        for kind in ("photo", "noise"):
            command = [sys.executable, "-m", "benchmarks.codecs", "--one", name, kind]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            row = rows.setdefault(name, {})[kind] = json.loads(run.stdout)
            print(f"| {name} | {kind} | " + " | ".join(f"{value:g}" for value in row.values()) + " |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
