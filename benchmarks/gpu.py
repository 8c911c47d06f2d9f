"""Every check and figure that waits for a GPU, in one call: `python -m benchmarks.gpu --json FILE`.

benchmarks/gpu_todo.md says what each part is for. Without a GPU the same runs on the CPU, smaller and without any
meaning as a figure: that only shows that the script works. Speeds are medians of interleaved runs, so that a noisy
moment hits all contenders alike; what is compared is compared in one process.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from server import device as devices
from server.engine import Engine
from server.models import Model, load_model, load_state
from server.shim import RRDBNet, SRVGGNetCompact
from server.upscaler import torch_versions
from server.weights.catalog import FOLDER

Samples = NDArray[np.uint8]
FLOP_PER_PIXEL = {"SRVGG-32": 2_418_048, "RRDBNet-23": 35_853_696}
"""Multiply and add counted as two, per source pixel."""


def make_networks(folder: Path, small: bool) -> dict[str, tuple[nn.Module, Path]]:
    """The compact network with the bundled weights, and the large one with seeded ones: their speed is right, but what
    they say of half precision is not what trained weights would."""
    torch.manual_seed(0)
    compact = SRVGGNetCompact(num_conv=32)
    compact.load_state_dict(load_state(FOLDER / "bundled" / "fidelity-x4.safetensors"))
    nets: dict[str, nn.Module] = {"SRVGG-32": compact, "RRDBNet-23": RRDBNet(3, 3, num_block=2 if small else 23)}
    made = {}
    for name, net in nets.items():
        path = folder / f"{name}.pth"
        torch.save({"params_ema": net.state_dict()}, path)
        made[name] = net, path
    return made


def picture(width: int, height: int) -> Samples:
    """Waves and edges; constant input would run faster than real pictures do."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / 64
    image = np.stack([np.sin(x * k) * np.cos(y / k) + ((x + y) % 2 > 1) for k in (1.0, 1.7, 2.3)], -1)
    return np.clip(image * 60 + 100 + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def ours(model: Model, samples: Samples, tile: int = 0) -> Samples:
    """Through the engine, to 8 bits, as a job does it."""
    return np.concatenate(list(Engine(model.device).upscale(model, samples, dtype=np.uint8, tile=tile)))


def correctness(path: Path, device: torch.device, samples: Samples) -> dict[str, Any]:
    """Half precision and tiles on the device against fp32 without tiles on the CPU."""
    reference = ours(load_model(path, name="cpu", sha256=None, device=torch.device("cpu")), samples, tile=4096)
    result: dict[str, Any] = {}
    dtypes = ("fp32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16")
    for dtype in dtypes:
        model = load_model(path, name=dtype, sha256=None, device=device, dtype=devices.DTYPES[dtype])
        for tile in (4096, 0, 160):
            error = ours(model, samples, tile).astype(float) - reference
            psnr = 10 * np.log10(255**2 / max(1e-12, np.square(error).mean()))
            result[f"{dtype}, tile {tile or 'default'}"] = {"psnr": round(psnr, 1), "max": int(np.abs(error).max())}
    return result


def out_of_memory(path: Path, device: torch.device) -> dict[str, Any]:
    """A real one: most of the device is taken, and the engine must get through with smaller tiles."""
    if device.type != "cuda":
        return {"skipped": "needs a GPU"}
    model = load_model(path, name="oom", sha256=None, device=device, dtype=torch.float16)
    samples = picture(640, 480)
    expected = ours(model, samples)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    ballast = torch.empty(free - 400 * 2**20, dtype=torch.uint8, device=device)
    engine = Engine(device)
    result = np.concatenate(list(engine.upscale(model, samples, dtype=np.uint8))).astype(float)
    del ballast
    return {"tile": engine._tiles.get("oom"), "max_error": int(np.abs(result - expected).max())}


def speed(name: str, net: nn.Module, path: Path, device: torch.device, size: tuple[int, int], runs: int) -> Any:
    """Seconds per picture, ours beside the package's own helper in fp32 and, on CUDA, in half precision."""
    from realesrgan import RealESRGANer

    samples = picture(*size)
    dtype = devices.pick_dtype("auto", device)
    model = load_model(path, name=name, sha256=None, device=device, dtype=dtype)

    def package(half: bool) -> Callable[[], object]:
        helper = RealESRGANer(4, str(path), model=net, tile=512, pre_pad=0, half=half, device=device)
        return lambda: helper.enhance(samples)

    contenders: dict[str, Callable[[], object]] = {"ours": lambda: ours(model, samples), "RealESRGANer": package(False)}
    if device.type == "cuda":
        contenders["RealESRGANer half"] = package(True)
    taken: dict[str, list[float]] = {label: [] for label in contenders}
    for round_ in range(runs + 1):
        for label, run in contenders.items():
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if round_:  # the first warms up
                taken[label].append(time.perf_counter() - started)
    medians = {label: statistics.median(times) for label, times in taken.items()}
    work = FLOP_PER_PIXEL[name] * size[0] * size[1]
    return {
        "seconds": {label: round(value, 4) for label, value in medians.items()},
        "times_faster": {label: round(value / medians["ours"], 2) for label, value in medians.items()},
        # On the CPU the large network is a small one, see make_networks.
        "tflops_of_ours": round(work / medians["ours"] / 1e12, 2) if device.type == "cuda" else None,
    }


def matmul_peak(device: torch.device) -> float:
    """TFLOP/s of a large half-precision product on random data: the ceiling to compare with, of this run."""
    n = 8192 if device.type == "cuda" else 1024
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return round(2 * n**3 / best / 1e12, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = devices.pick_device(args.device)
    gpu = device.type == "cuda"
    sizes, runs = ([(512, 512), (1280, 720)], 5) if gpu else ([(64, 64)], 2)
    facts: dict[str, Any] = {
        "device": devices.describe(device),
        **torch_versions(),
        "matmul_tflops": matmul_peak(device),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, (net, path) in make_networks(Path(folder), small=not gpu).items():
            part: dict[str, Any] = {
                "correctness": correctness(path, device, picture(300, 260) if gpu else picture(90, 70))
            }
            part["out_of_memory"] = out_of_memory(path, device)
            if gpu:
                torch.cuda.reset_peak_memory_stats(device)
            part["speed"] = {f"{w}x{h}": speed(name, net, path, device, (w, h), runs) for w, h in sizes}
            if gpu:
                part["peak_memory_mib"] = torch.cuda.max_memory_allocated(device) // 2**20
            facts[name] = part
            print(json.dumps({name: part}), flush=True)
    if args.json:
        args.json.write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
