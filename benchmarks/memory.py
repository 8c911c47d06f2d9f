"""The memory of a worker for large results, which must not grow with their size.

    python -m benchmarks.memory [--case WIDTHxHEIGHT:SCALE:FORMAT …] [--json FILE]

Each case runs in a process of its own, as in a worker: the bundled network, tiles, bands, encoder, and the C library's
memory settings that `serve` sets for its workers. The peak is the kernel's count of resident memory (VmHWM) for the
whole process, Python, torch and libvips included; `loaded` is the same before the picture is read. The source is
synthetic, with much detail, so that encoders have work. For comparison: the size of the result's samples (width ×
height × 3), which simple upscalers hold several times.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from server.malloc import MALLOC_ENV

CASES = ("2048x2048:4:jpeg", "2560x1440:10:jpeg", "2560x1440:10:png", "2560x1440:10:tiff")


def run_case(source: Path, scale: float, format_: str) -> dict[str, Any]:
    """Upscale one picture in this process, and measure it."""
    from server.config import Config
    from server.job.job import Params
    from server.weights.catalog import Catalog
    from server.worker.upscaler import Upscaler

    with tempfile.TemporaryDirectory() as folder:
        config = Config(data_dir=Path(folder))
        upscaler = Upscaler(config, Catalog(config.weights_path))
        upscaler.load(Params(scale=4.0))
        loaded = peak_mib()
        target = Path(folder) / "result"
        started = time.perf_counter()
        ctx = upscaler.run(upscaler.prepare(Params(scale=scale, format=format_), source.read_bytes(), target))  # type: ignore[arg-type]
        seconds = time.perf_counter() - started
        assert ctx.plan is not None
        w, h = ctx.plan.result
        image = pyvips.Image.new_from_file(str(target))
        assert (image.width, image.height) == (w, h)
        return {
            "source": "{}x{}".format(*ctx.plan.source),
            "networks": list(ctx.plan.networks),
            "result": f"{w}x{h}",
            "format": format_,
            "peak_mib": round(peak_mib()),
            "loaded_mib": round(loaded),
            "samples_mib": round(w * h * 3 / 2**20),
            "file_mib": round(target.stat().st_size / 2**20),
            "seconds": round(seconds, 1),
            "steps": ctx.seconds,
            "device": upscaler.describe(),
        }


def in_own_process(case: str) -> dict[str, Any]:
    width, height = map(int, case.split(":")[0].split("x"))
    with tempfile.NamedTemporaryFile(suffix=".png") as source:
        source.write(draw(width, height))
        source.flush()
        command = [sys.executable, "-m", "benchmarks.memory", "--case", case, "--source", source.name]
        output = subprocess.run(
            command, env=os.environ | MALLOC_ENV, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def draw(width: int, height: int) -> bytes:
    """Waves, edges and grain, as PNG; deterministic."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    shapes = np.stack(
        [np.sin(x / (9 + 7 * c)) * np.cos(y / (13 + 5 * c)) + ((x + 3 * y) % 97 > 48) for c in range(3)], 2
    )
    grain = np.random.default_rng(0).normal(0, 8, shapes.shape)
    pixels = np.clip(128 + 50 * shapes + grain, 0, 255).astype(np.uint8)
    return bytes(pyvips.Image.new_from_array(pixels).pngsave_buffer(compression=1))


def peak_mib() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| result | format | peak MiB | loaded | w × h × 3 | file | seconds |", "|---|---|---|---|---|---|---|"]
    keys = ("result", "format", "peak_mib", "loaded_mib", "samples_mib", "file_mib", "seconds")
    return "\n".join([*lines, *("| " + " | ".join(str(row[key]) for key in keys) + " |" for row in rows)])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", help="WIDTHxHEIGHT:SCALE:FORMAT of a source; may be repeated")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)  # for the processes that measure
    args = parser.parse_args(argv)
    if args.source:
        _, scale, format_ = args.case[0].split(":")
        print(json.dumps(run_case(args.source, float(scale), format_)))
        return
    rows = [in_own_process(case) for case in args.case or CASES]
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
