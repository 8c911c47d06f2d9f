"""The speed of the networks, in this server and in other programs: `python -m benchmarks.speed [--quick]`.

Every candidate (candidates.py) has a process of its own, with the environment that its users have: that of a worker for
this server, none for the others. All have the same weights and get the same picture, 8 bits in, 8 bits out. In each
round all run once, in a random order, so that other work on the machine slows all alike; medians are compared. A
candidate that is not installed, does not fit in memory or fails is left out, with the reason.

Candidates named AVX2, RealESRGANer too, do not use AVX-512, as on a processor without it. `--kernels` runs only this
server and RealESRGANer, with and without AVX-512.

`seconds` is wall time; `cpu` is the process's time on all cores, which other work on the machine changes less.
`times_faster` compares the wall time with RealESRGANer in fp32, `times_less_cpu` the CPU time; AVX2 with AVX2. TFLOP/s
are those of plain convolutions, even if another algorithm was used. Errors are differences to this server's fp32 on
torch, in levels.

OMP_NUM_THREADS, if set, is the number of threads for all candidates.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.candidates import (
    AVX2,
    CANDIDATES,
    FLOP_PER_PIXEL,
    OWN,
    REFERENCE,
    STOCK,
    LeftOut,
    make_weights,
    picture,
    plain,
)
from benchmarks.memory import peak_mib
from server.engine import device as devices
from server.engine.engine import Engine
from server.kernels.cpu import Kernel
from server.kernels.cpu import load as load_kernel
from server.malloc import MALLOC_ENV
from server.models import load_model

_AVX2_ENV = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
"""For torch and the libraries that it uses."""
_LEAST_FREE = 3 << 30
"""Bytes that must be free before another candidate is started."""


def serve(label: str, name: str, path: Path, size: tuple[int, int], folder: Path, device: torch.device) -> None:
    """A candidate's process: writes a line of JSON when it is ready, then one for each line that it reads."""
    samples = picture(*size)
    try:
        run = CANDIDATES[label](name, path, device, folder)
        loaded = peak_mib()
        result = run(samples)  # the first is a warm-up
    except (LeftOut, ImportError) as error:
        print(json.dumps({"left_out": str(error)}), flush=True)
        return
    np.save(folder / "result.npy", result)
    print(json.dumps({"loaded_mib": round(loaded), "threads": torch.get_num_threads()}), flush=True)
    for _ in sys.stdin:
        started, used = time.perf_counter(), time.process_time()
        run(samples)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        answer = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - used}
        gpu = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0
        print(json.dumps(answer | {"peak_mib": peak_mib(), "gpu_mib": gpu}), flush=True)


class Child:
    """The parent's side of a candidate's process."""

    def __init__(self, label: str, name: str, path: Path, size: tuple[int, int], device: str) -> None:
        self.folder = path.parent / label.replace(" ", "_").replace(",", "") / f"{size[0]}x{size[1]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        job = json.dumps([label, name, str(path), size, str(self.folder), device])
        clean = {key: value for key, value in os.environ.items() if key not in MALLOC_ENV}
        env = clean | MALLOC_ENV if label.startswith("ours") else clean
        env |= _AVX2_ENV if label.endswith(AVX2) else {}
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.speed", "--serve", job]
        self.log = (self.folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.taken: list[dict[str, float]] = []

    def answer(self) -> dict[str, Any]:
        """The next line of JSON; other output of libraries is ignored. Raises LeftOut."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                if "left_out" in answer:
                    raise LeftOut(answer["left_out"])
                return answer
        self.log.seek(0)
        lines = self.log.read().strip().splitlines() or [f"ended with {self.process.wait()}"]
        raise LeftOut(lines[-1][:200])

    def run(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.taken.append(self.answer())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def children() -> Iterator[dict[str, Child]]:
    found: dict[str, Child] = {}
    try:
        yield found
    finally:
        for child in found.values():
            child.end()


def race(
    name: str, path: Path, size: tuple[int, int], labels: list[str], rounds: int, device: str, peak: dict[str, float]
) -> dict[str, Any]:
    """All candidates with one network and one picture size."""
    facts: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    with children() as running:
        for label in labels:
            if available_bytes() < _LEAST_FREE:
                left_out[label] = "too little memory is free"
                continue
            child = Child(label, name, path, size, device)
            try:
                facts[label] = child.answer()
                running[label] = child
            except LeftOut as error:
                left_out[label] = str(error)
                child.end()
        for _ in range(rounds):
            for label in random.Random(len(facts)).sample(sorted(running), len(running)):
                running[label].run()
        work = FLOP_PER_PIXEL[name] * size[0] * size[1] / 1e12
        for label, child in running.items():
            seconds, cpu, memory, gpu = (
                statistics.median(each[key] for each in child.taken)
                for key in ("seconds", "cpu", "peak_mib", "gpu_mib")
            )
            own = facts[label]
            own |= {"seconds": round(seconds, 4), "cpu": round(cpu, 4), "peak_mib": round(memory)}
            own |= {"gpu_mib": round(gpu)} if gpu else {}
            own["tflops"] = round(work / (seconds if device != "cpu" else cpu / own["threads"]), 3)
            own["share_of_peak"] = round(
                own["tflops"] / peak["half" if "half" in label or "bf16" in label else "fp32"], 2
            )
            own |= error_of(child.folder / "result.npy", running.get(REFERENCE))
        for label, child in running.items():
            other = STOCK + AVX2 if label.endswith(AVX2) else STOCK
            if other in running:  # round by round, so that other work slows both
                for key, measured in (("times_faster", "seconds"), ("times_less_cpu", "cpu")):
                    pairs = zip(running[other].taken, child.taken, strict=True)
                    facts[label][key] = round(statistics.median(a[measured] / b[measured] for a, b in pairs), 2)
    return {"contenders": facts, "left_out": left_out, "rounds": rounds}


def error_of(result: Path, reference: Child | None) -> dict[str, float]:
    """The difference of two results, in 8 bits; the PSNR of equal ones is that of one level in all samples."""
    if reference is None:
        return {}
    one, other = (np.load(path).astype(np.float64) for path in (result, reference.folder / "result.npy"))
    difference = np.abs(one - other)
    psnr = 10 * np.log10(255**2 / max(np.square(difference).mean(), 1 / difference.size))
    return {"psnr": round(float(psnr), 1), "max_error": float(difference.max())}


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def available_bytes() -> int:
    """Memory that the operating system can give, its file cache included."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024


def peaks(device: torch.device) -> dict[str, float]:
    """TFLOP/s of large matrix products on random data, in all threads: the upper limit for comparison."""
    found = {}
    for name, dtype in (("fp32", torch.float32), ("half", torch.float16 if device.type == "cuda" else torch.bfloat16)):
        n = 8192 if device.type == "cuda" else 1024
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        best = float("inf")
        for _ in range(8):
            started = time.perf_counter() if device.type == "cuda" else time.process_time()
            a @ b
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            now = time.perf_counter() if device.type == "cuda" else time.process_time()
            best = min(best, (now - started) / (1 if device.type == "cuda" else torch.get_num_threads()))
        found[name] = round(2 * n**3 / best / 1e12, 3)
    return found


def tiling(
    name: str, path: Path, size: tuple[int, int], tile: int, rounds: int, device: torch.device
) -> dict[str, Any]:
    """The cost of tiles (halo, copies, blending) compared with the network on the whole picture, in this process."""
    kernel = load_kernel() if device.type == "cpu" else None
    kernel = kernel if isinstance(kernel, Kernel) else None
    dtype = devices.pick_dtype("auto", device, native=kernel is not None)
    model = load_model(path, name=name, sha256=None, device=device, dtype=dtype, kernel=kernel)
    samples = picture(*size)
    runs = {
        "whole": plain(model, device),
        "tiles": lambda each: np.concatenate(list(Engine(device).upscale(model, each, dtype=np.uint8, tile=tile))),
    }
    taken: dict[str, list[float]] = {label: [] for label in runs}
    for round_ in range(rounds + 1):
        for label, run in runs.items():
            started = time.perf_counter() if device.type == "cuda" else time.process_time()
            run(samples)
            now = time.perf_counter() if device.type == "cuda" else time.process_time()
            if round_:
                taken[label].append(now - started)
    whole, tiles = (statistics.median(taken[label]) for label in runs)
    side = tile or model.facts.tile
    return {
        "size": size,
        "tile": side,
        "whole": round(whole, 3),
        "tiles": round(tiles, 3),
        "ratio": round(tiles / whole, 3),
    }


def table(facts: dict[str, Any]) -> str:
    keys = (
        "times_faster",
        "times_less_cpu",
        "seconds",
        "cpu",
        "tflops",
        "share_of_peak",
        "peak_mib",
        "psnr",
        "max_error",
    )
    lines = ["| | " + " | ".join(keys) + " |", "|---|" + "--:|" * len(keys)]
    for label, own in facts["contenders"].items():
        lines.append(f"| {label} | " + " | ".join(str(own.get(key, "")) for key in keys) + " |")
    return "\n".join([*lines, *(f"{label}: left out, {reason}" for label, reason in facts["left_out"].items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="small pictures, two rounds: only shows that all runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--network", action="append", choices=list(FLOP_PER_PIXEL))
    parser.add_argument("--size", action="append", help="WIDTHxHEIGHT; may be repeated")
    parser.add_argument("--contender", dest="candidate", action="append", choices=list(CANDIDATES))
    parser.add_argument("--kernels", action="store_true", help="only our own kernels and RealESRGANer, both ways")
    parser.add_argument("--no-tiling", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # for a candidate's process
    args = parser.parse_args()
    if args.serve:
        label, name, path, size, folder, device = json.loads(args.serve)
        serve(label, name, Path(path), tuple(size), Path(folder), torch.device(device))
        return
    labels = args.candidate or ([OWN, STOCK, OWN + AVX2, STOCK + AVX2] if args.kernels else list(CANDIDATES))
    device = devices.pick_device(args.device)
    rounds = 2 if args.quick else args.rounds
    sizes = [
        tuple(map(int, each.split("x"))) for each in args.size or (["64x48"] if args.quick else ["256x256", "1280x720"])
    ]
    peak = peaks(device)
    figures: dict[str, Any] = {
        "device": devices.describe(device),
        "processor": processor(),
        "torch": torch.__version__,
        "peak_tflops": peak,
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = make_weights(Path(folder))
        for name in args.network or FLOP_PER_PIXEL:
            for size in sizes:
                facts = race(name, paths[name], size, labels, rounds, str(device), peak)
                figures[f"{name} {size[0]}x{size[1]}"] = facts
                print(f"\n{name}, {size[0]} × {size[1]}\n\n{table(facts)}", flush=True)
            if not args.no_tiling:
                # A quarter of 1080p in tiles of half the side: the same proportions, except that halos weigh double.
                small = args.quick or (device.type == "cpu" and name != "SRVGG-32")
                figures[f"{name} tiling"] = tiling(
                    name, paths[name], (240, 136) if small else (1920, 1080), 136 if small else 0, rounds, device
                )
                print(f"\n{name}, tiles: {figures[f'{name} tiling']}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
