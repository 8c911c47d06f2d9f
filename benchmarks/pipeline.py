"""The time of whole jobs, compared with the time of the network alone.

    python -m benchmarks.pipeline [--quick] [--json FILE] [--plot FILE]

All steps of a worker (decode, plan, network, resize, encode), in this process, without the server. The source is
synthetic, with much detail, so that encoders have work; the network is the bundled one.

* `large`: one picture to 8k, as JPEG and as PNG, alternating with the network alone on the same tiles; the median of
the ratios, and the time of each step.
* `thumbnails`: small pictures of mixed sizes, one at a time and several at a time, alternating.
* `mix`: thumbnails that arrive while a large picture is computed: the delay compared with an idle worker, in batches.
* `scaling`: seconds by source pixels, of a job and of the network; `--plot` draws them.

`busy` is the share of the time in which the device had work. `--quick` is a smaller set with the same measurements; the
figures of a CPU are from it. Times are only valid on an idle machine: `load` is the machine's load.
"""

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import draw
from server.config import Config
from server.job.job import FormatName, Params
from server.launch import MALLOC_ENV
from server.pipeline import Context
from server.weights.catalog import Catalog
from server.worker.upscaler import Upscaler


@dataclass(frozen=True)
class Sizes:
    large: tuple[int, int]
    large_scale: float
    rounds: int
    thumbnails: int
    scaling: tuple[tuple[int, int], ...]


FULL = Sizes((1920, 1080), 8192 / 1920, 5, 200, ((160, 90), (320, 180), (640, 360), (1280, 720), (1920, 1080)))
QUICK = Sizes((480, 270), 8192 / 1920, 3, 24, ((80, 45), (160, 90), (320, 180), (480, 270)))
TINY = Sizes((96, 64), 8192 / 1920, 1, 4, ((32, 24), (64, 48)))
"""For tests of this script."""
_FORMATS: tuple[FormatName, ...] = ("jpeg", "png")
_THUMBNAILS = ((64, 64), (96, 64), (128, 128), (160, 120), (64, 96), (128, 128))


class Bench:
    def __init__(self, device: str, folder: Path) -> None:
        self._config = Config(data_dir=folder, device=device)
        self._folder = folder
        self.upscaler = Upscaler(self._config, Catalog(self._config.weights_path))
        self.model = self.upscaler.load(Params(scale=4.0)).model

    def job(self, data: bytes, scale: float, format_: FormatName) -> tuple[float, Context]:
        target = self._folder / f"result-{threading.get_ident()}"
        started = time.perf_counter()
        ctx = self.upscaler.run(self.upscaler.prepare(Params(scale=scale, format=format_), data, target))
        return time.perf_counter() - started, ctx

    def network(self, width: int, height: int) -> float:
        """The network alone on the same tiles; the results are discarded."""
        samples = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
        started = time.perf_counter()
        for _ in self.upscaler.prepare(Params(scale=4.0), b"", self._folder / "x").engine.upscale(
            self.model, samples, dtype=np.uint16
        ):
            pass
        return time.perf_counter() - started

    def busy(self, work: Callable[[], Any]) -> tuple[float, float]:
        """Its seconds, and the share of them in which the device had work."""
        before, started = self.upscaler.counters()["busy_seconds"], time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        return seconds, (self.upscaler.counters()["busy_seconds"] - before) / seconds


def large(bench: Bench, sizes: Sizes) -> dict[str, Any]:
    w, h = sizes.large
    data = draw(w, h)
    taken: dict[str, list[float]] = {"network": [], "jpeg": [], "png": []}
    steps: dict[str, dict[str, float]] = {}
    shares: dict[str, list[float]] = {"jpeg": [], "png": []}
    bench.job(draw(256, 256), 4.0, "jpeg")  # warm-up
    for _ in range(sizes.rounds):
        taken["network"].append(bench.network(w, h))
        for format_ in _FORMATS:

            def work(format_: FormatName) -> None:
                seconds, ctx = bench.job(data, sizes.large_scale, format_)
                taken[format_].append(seconds)
                steps[format_] = ctx.seconds

            shares[format_].append(bench.busy(functools.partial(work, format_))[1])
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(taken[name], taken["network"], strict=True)), 3)
        for name in ("jpeg", "png")
    }
    return {
        "source": f"{w}x{h}",
        "scale": round(sizes.large_scale, 3),
        "seconds": {name: round(statistics.median(values), 3) for name, values in taken.items()},
        "times_network_alone": ratios,
        "busy": {name: round(statistics.median(values), 3) for name, values in shares.items()},
        "steps_of_last": steps,
    }


def thumbnails(bench: Bench, sizes: Sizes, in_hand: int) -> dict[str, Any]:
    pictures = [draw(*_THUMBNAILS[i % len(_THUMBNAILS)]) for i in range(len(_THUMBNAILS))]
    jobs = [pictures[i % len(pictures)] for i in range(sizes.thumbnails)]

    def run(threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda data: bench.job(data, 4.0, "jpeg"), jobs))

    run(1)
    seconds: dict[int, list[float]] = {1: [], in_hand: []}
    shares: dict[int, list[float]] = {1: [], in_hand: []}
    before = bench.upscaler.counters()
    for _ in range(sizes.rounds):
        for threads in seconds:
            taken, share = bench.busy(lambda threads=threads: run(threads))  # type: ignore[misc]
            seconds[threads].append(taken)
            shares[threads].append(share)
    after = bench.upscaler.counters()
    return {
        "pictures": len(jobs),
        "in_hand": in_hand,
        "seconds": {str(n): round(statistics.median(values), 3) for n, values in seconds.items()},
        "times_faster": round(statistics.median(a / b for a, b in zip(seconds[1], seconds[in_hand], strict=True)), 3),
        "busy": {str(n): round(statistics.median(values), 3) for n, values in shares.items()},
        "tiles_per_batch": round((after["tiles"] - before["tiles"]) / (after["batches"] - before["batches"]), 2),
    }


def mix(bench: Bench, sizes: Sizes) -> dict[str, Any]:
    """Thumbnails one after the other while a large picture is computed."""
    w, h = sizes.large
    small, data = draw(128, 128), draw(w, h)
    alone = statistics.median(bench.job(small, 4.0, "jpeg")[0] for _ in range(5))
    before = bench.upscaler.counters()
    bench.job(data, sizes.large_scale, "jpeg")
    after = bench.upscaler.counters()
    batch_s = (after["busy_seconds"] - before["busy_seconds"]) / (after["batches"] - before["batches"])
    beside: list[float] = []

    def both() -> None:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(bench.job, data, sizes.large_scale, "jpeg")
            while not running.done():
                beside.append(bench.job(small, 4.0, "jpeg")[0])
            running.result()

    _, share = bench.busy(both)
    waits = [(each - alone) / batch_s for each in beside]
    return {
        "thumbnails": len(beside),
        "alone_s": round(alone, 4),
        "batch_of_the_large_s": round(batch_s, 4),
        "beside_s": {"median": round(statistics.median(beside), 4), "max": round(max(beside), 4)},
        "waited_batches": {"median": round(statistics.median(waits), 2), "max": round(max(waits), 2)},
        "busy": round(share, 3),
    }


def scaling(bench: Bench, sizes: Sizes) -> list[dict[str, Any]]:
    rows = []
    for w, h in sizes.scaling:
        data = draw(w, h)
        jobs, networks = [], []
        for _ in range(sizes.rounds):
            networks.append(bench.network(w, h))
            jobs.append(bench.job(data, 4.0, "jpeg")[0])
        job, network = statistics.median(jobs), statistics.median(networks)
        row = {"pixels": w * h, "job_s": round(job, 4), "network_s": round(network, 4)}
        rows.append(row | {"us_per_pixel": round(job / (w * h) * 1e6, 3)})
    return rows


def plot(rows: list[dict[str, Any]], title: str) -> str:
    """Seconds by source pixels on two logarithmic axes, as SVG."""
    width, height, left, top, right, bottom = 640, 400, 70, 40, 610, 350
    values = [row[name] for row in rows for name in ("job_s", "network_s")]
    x0, x1 = np.log10([rows[0]["pixels"], rows[-1]["pixels"]])
    y0, y1 = np.floor(np.log10(min(values))), np.ceil(np.log10(max(values)))

    def at(pixels: float, seconds: float) -> str:
        x = left + (np.log10(pixels) - x0) / (x1 - x0) * (right - left)
        y = bottom - (np.log10(seconds) - y0) / (y1 - y0) * (bottom - top)
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">',
        f'<style>text{{font-size:13px}}</style><rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="24">{title}</text>',
    ]
    for power in range(int(y0), int(y1) + 1):
        y = at(rows[0]["pixels"], 10.0**power).split(",")[1]
        parts.append(f'<path d="M{left} {y}H{right}" stroke="#ddd"/><text x="8" y="{y}">{10.0**power:g} s</text>')
    for row in rows:
        x = at(row["pixels"], 1.0).split(",")[0]
        parts.append(f'<text x="{x}" y="{bottom + 20}" text-anchor="middle">{row["pixels"] / 1e6:.3g}</text>')
    parts.append(f'<text x="{right}" y="{height - 8}" text-anchor="end">millions of source pixels</text>')
    for name, colour, label in (("network_s", "#999", "network alone"), ("job_s", "#0a58ca", "job, JPEG")):
        line = " ".join(at(row["pixels"], row[name]) for row in rows)
        x, y = at(rows[-1]["pixels"], rows[-1][name]).split(",")
        shift = 18 if name == "network_s" else -8
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{x}" y="{float(y) + shift:.1f}" text-anchor="end" fill="{colour}">{label}</text>')
    return "\n".join([*parts, "</svg>\n"])


def measure(device: str, sizes: Sizes) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, Path(folder))
        in_hand = 4 if bench.upscaler.kind == "cuda" else 2
        facts: dict[str, Any] = {"device": bench.upscaler.describe(), "load": round(os.getloadavg()[0], 1)}
        for name, part in (
            ("large", lambda: large(bench, sizes)),
            ("thumbnails", lambda: thumbnails(bench, sizes, in_hand)),
            ("mix", lambda: mix(bench, sizes)),
            ("scaling", lambda: scaling(bench, sizes)),
        ):
            facts[name] = part()
            print(json.dumps({name: facts[name]}), flush=True)
        facts["counters"] = dict(bench.upscaler.counters())
        return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)  # tests
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="also draw `scaling` into this SVG file")
    args = parser.parse_args()
    facts = measure(args.device, TINY if args.tiny else QUICK if args.quick else FULL)
    if args.json:
        args.json.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    if args.plot:
        args.plot.write_text(plot(facts["scaling"], f"Cost by size, {facts['device']}"), "utf-8")


if __name__ == "__main__":
    if not MALLOC_ENV.items() <= os.environ.items():  # read at the start of a process; `serve` sets them for workers
        os.execve(sys.executable, sys.orig_argv, os.environ | MALLOC_ENV)
    main()
