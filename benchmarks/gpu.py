"""All checks and measurements that need a GPU, in one call: `python -m benchmarks.gpu --json FILE`.

benchmarks/gpu_todo.md describes the purpose of each part. Without a GPU a smaller version runs on the CPU, which only
shows that the script works. Speeds are medians of alternating runs in one process, so that other work on the machine
slows all candidates alike.

Each part's figures are printed and written at once. A part that fails reports its error and does not stop the others.
After `--minutes` no further part is started.
"""

import argparse
import copy
import hashlib
import json
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks import pipeline
from server import refiners
from server.engine import device as devices
from server.engine.backends.fused import problem as fused_problem
from server.engine.backends.graphs import Graphs
from server.engine.engine import Engine
from server.models import Model, load_model, load_state
from server.models.basicsr_shim import RRDBNet, SRVGGNetCompact
from server.weights.catalog import FOLDER, Catalog
from server.weights.refiner import refiner_weights
from server.worker.upscaler import torch_versions

Samples = NDArray[np.uint8]
FLOP_PER_PIXEL = {"SRVGG-32": 2_418_048, "RRDBNet-23": 35_853_696}
"""Operations per source pixel; a multiplication and an addition count as two."""


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
    """Waves and edges; constant input would run faster than real pictures."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / 64
    image = np.stack([np.sin(x * k) * np.cos(y / k) + ((x + y) % 2 > 1) for k in (1.0, 1.7, 2.3)], -1)
    return np.clip(image * 60 + 100 + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def ours(
    model: Model, samples: NDArray[Any], tile: int = 0, *, engine: Engine | None = None, deep: bool = False
) -> Any:
    """Through the engine, to 8 or 16 bits, as in a job."""
    engine = engine or Engine(model.device)
    return np.concatenate(list(engine.upscale(model, samples, dtype=np.uint16 if deep else np.uint8, tile=tile)))


def correctness(path: Path, device: torch.device, samples: Samples) -> dict[str, Any]:
    """Half precision and tiles on the device, compared with fp32 without tiles on the CPU."""
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


def deep_and_grey(path: Path, device: torch.device, samples: Samples) -> dict[str, int]:
    """Largest errors of the other kinds of samples on the device, in fp32, against the CPU: 16 bits go there and back
    as other bits, grey as one channel."""
    here, there = (load_model(path, name=str(each), sha256=None, device=each) for each in (torch.device("cpu"), device))
    worst = {}
    for name, picture_ in (
        ("16 bits", samples.astype(np.uint16) * 257),
        ("grey", np.ascontiguousarray(samples[..., :1])),
    ):
        results = [ours(each, picture_, 160, deep=True).astype(int) for each in (here, there)]
        worst[name] = int(np.abs(results[0] - results[1]).max())
    return worst


def graphs(path: Path, device: torch.device, runs: int) -> dict[str, Any]:
    """Seconds of a batch of small tiles with single launches and as a CUDA graph, and whether the results agree."""
    model = load_model(path, name="graphs", sha256=None, device=device, dtype=devices.pick_dtype("auto", device))
    result: dict[str, Any] = {}
    for n, side in ((1, 64), (16, 64), (2, 256)) if device.type == "cuda" else ((1, 32),):
        recorder = Graphs(device)
        image = torch.rand(n, 3, side, side, device=device)
        taken: dict[str, list[float]] = {"eager": [], "graph": []}
        with torch.inference_mode():
            for _ in range(5):  # until the graph is recorded
                recorder.run("x", model, image, n * side * side)
            expected, got = model(image).clone(), recorder.run("x", model, image, n * side * side).clone()
            for _ in range(runs):
                for name, run in (
                    ("eager", model),
                    ("graph", partial(recorder.run, "x", model, pixels=n * side * side)),
                ):
                    started = time.perf_counter()
                    run(image)
                    synchronize(device)
                    taken[name].append(time.perf_counter() - started)
        result[f"{n}x{side}x{side}"] = {
            "recorded": len(recorder),
            "ms": {name: round(statistics.median(times) * 1000, 3) for name, times in taken.items()},
            "max_difference": float((expected - got).abs().max()),
        }
    return result


def same_bytes(path: Path, device: torch.device, samples: Samples) -> dict[str, Any]:
    """A job alone and the same job beside three others must give the same bytes, and batches must have been full."""
    model = load_model(path, name="same", sha256=None, device=device, dtype=devices.pick_dtype("auto", device))
    parts = [np.ascontiguousarray(np.roll(samples, 13 * i, 0)) for i in range(4)]
    digests = [hashlib.sha256(ours(model, each, 96).tobytes()).hexdigest() for each in parts]
    engine = Engine(device)
    with ThreadPoolExecutor(4) as pool:
        beside = list(pool.map(lambda each: ours(model, each, 96, engine=engine), parts))
    counted = engine.counters()
    return {
        "same": [hashlib.sha256(each.tobytes()).hexdigest() for each in beside] == digests,
        "tiles_per_batch": round(counted["tiles"] / counted["batches"], 2),
        "graphs": counted["graphs"],
    }


def refiner(device: torch.device, small: bool) -> dict[str, Any]:
    """The bundled diffusion network in half precision, compared with fp32, and its seconds per tile."""
    weights = refiner_weights(Catalog(FOLDER), "bundled", "cuda" if device.type == "cuda" else "cpu")
    side = 64 if small else 768
    torch.manual_seed(0)
    noisy, picture_ = torch.randn(1, 3, side, side, device=device), torch.rand(1, 3, side, side, device=device)
    reference = None
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        for dtype in ("fp32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16"):
            net = refiners.load(weights, device, devices.DTYPES[dtype], Path(cache))
            step = torch.tensor(300.0, device=device)
            taken = []
            for _ in range(3):
                started = time.perf_counter()
                answer = net.denoise(noisy, picture_, step, net.settings(0.0))
                synchronize(device)
                taken.append(time.perf_counter() - started)
            reference = answer if reference is None else reference
            error = float((answer - reference).square().mean() / reference.square().mean())
            result[dtype] = {"seconds": round(min(taken), 4), "snr_db": round(-10 * np.log10(max(error, 1e-12)), 1)}
    return result


def memory(path: Path, device: torch.device) -> dict[str, Any]:
    """The device's peak for an 8k result; the host's is what benchmarks.memory measures."""
    if device.type != "cuda":
        return {"skipped": "needs a GPU"}
    model = load_model(path, name="memory", sha256=None, device=device, dtype=torch.float16)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    for _ in Engine(device).upscale(model, picture(2048, 1152), dtype=np.uint8):
        pass
    return {"peak_mib": torch.cuda.max_memory_reserved(device) // 2**20}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def out_of_memory(path: Path, device: torch.device) -> dict[str, Any]:
    """Real memory shortage: most of the device's memory is occupied, and the engine must succeed with smaller tiles."""
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
    counted = {name: value for name, value in engine.counters().items() if name.endswith("retries")}
    return {"tile": engine.geometry(model).tile, "max_error": int(np.abs(result - expected).max()), **counted}


def contenders(net: nn.Module, path: Path, device: torch.device, samples: Samples) -> dict[str, Callable[[], object]]:
    """Ways to enlarge a picture, from samples to samples, each with an engine or a session of its own that stays.
    Calling one may fail: what is not installed says so."""
    from realesrgan import RealESRGANer

    dtype = devices.pick_dtype("auto", device)
    made: dict[str, Callable[[], object]] = {}

    def engine(fused: bool) -> Callable[[], object]:
        own = Engine(device, dtype=dtype, fused=fused)
        model = own.load([(path, 1.0)], name=str(fused), sha256=None)
        return lambda: ours(model, samples, engine=own)

    def package(half: bool) -> Callable[[], object]:
        helper = RealESRGANer(4, str(path), model=copy.deepcopy(net), tile=512, pre_pad=0, half=half, device=device)
        return lambda: helper.enhance(samples)

    def direct(run: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], object]:
        def whole() -> NDArray[Any]:
            image = torch.from_numpy(samples).to(device).permute(2, 0, 1)[None].to(dtype) / 255
            with torch.inference_mode():
                result = run(image)[0].float().permute(1, 2, 0)
            found: NDArray[Any] = result.mul(255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
            return found

        return whole

    def ready() -> nn.Module:
        return copy.deepcopy(net).eval().to(device, dtype, memory_format=torch.channels_last)

    def spandrel() -> Callable[[], object]:
        from spandrel import ModelLoader

        return direct(ModelLoader(device=device).load_from_file(str(path)).model.to(dtype))

    def tensorrt() -> Callable[[], object]:
        import torch_tensorrt

        h, w = samples.shape[:2]
        shape = torch_tensorrt.Input((1, 3, h, w), dtype=dtype)
        return direct(torch_tensorrt.compile(ready(), ir="dynamo", inputs=[shape], enabled_precisions={dtype}))

    def onnx() -> Callable[[], object]:
        import onnxruntime

        file = path.with_suffix(".onnx")
        image = torch.zeros(1, 3, *samples.shape[:2], device=device, dtype=dtype)
        torch.onnx.export(ready(), (image,), str(file), input_names=["image"], output_names=["result"])
        session = onnxruntime.InferenceSession(str(file), providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
        return direct(lambda image: torch.from_numpy(session.run(None, {"image": image.cpu().numpy()})[0]))

    made["ours"] = engine(False)
    made["RealESRGANer"] = package(False)
    made["package's network alone"] = direct(ready())
    makers = {"spandrel": spandrel, "TensorRT": tensorrt, "onnxruntime": onnx}
    if device.type == "cuda":
        makers |= {"RealESRGANer half": lambda: package(True), "torch.compile": lambda: direct(torch.compile(ready()))}
        if fused_problem(device, dtype) is None:
            makers["ours, Triton"] = lambda: engine(True)
    for label, make in makers.items():
        try:
            made[label] = make()
        except Exception as error:
            made[label] = partial(_unusable, error)
    return made


def _unusable(error: Exception) -> None:
    raise error


def speed(name: str, net: nn.Module, path: Path, device: torch.device, size: tuple[int, int], runs: int) -> Any:
    """Seconds per picture of the server's code and of others."""
    taken: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    ways = contenders(net, path, device, picture(*size))
    for round_ in range(runs + 4):
        for label, run in ways.items():
            if label in failed:
                continue
            try:
                started = time.perf_counter()
                run()
                synchronize(device)
            except Exception as error:
                failed[label] = f"{type(error).__name__}: {str(error)[:200]}"
                continue
            if round_ >= 4 or device.type == "cpu":  # before, plans are made and graphs are recorded
                taken.setdefault(label, []).append(time.perf_counter() - started)
    medians = {label: statistics.median(times) for label, times in taken.items() if label not in failed}
    work = FLOP_PER_PIXEL[name] * size[0] * size[1]
    return {
        "seconds": {label: round(value, 4) for label, value in medians.items()},
        "times_faster": {label: round(value / medians["ours"], 2) for label, value in medians.items()},
        "not_measured": failed,
        # On the CPU the large network is a small one, see make_networks.
        "tflops_of_ours": round(work / medians["ours"] / 1e12, 2) if device.type == "cuda" else None,
    }


def matmul_peak(device: torch.device) -> float:
    """TFLOP/s of a large half-precision matrix product on random data: the upper limit for comparison."""
    n = 8192 if device.type == "cuda" else 1024
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return round(2 * n**3 / best / 1e12, 2)


class Report:
    """Collects the figures, and prints and writes them after each part."""

    def __init__(self, path: Path | None, minutes: float) -> None:
        self.facts: dict[str, Any] = {}
        self._path = path
        self._until = time.monotonic() + minutes * 60

    def add(self, name: str, part: Callable[[], Any]) -> None:
        started = time.monotonic()
        if started > self._until:
            self.facts[name] = {"skipped": "no time left"}
            return
        try:
            self.facts[name] = part()
        except Exception:
            self.facts[name] = {"failed": traceback.format_exc().splitlines()[-8:]}
        print(f"{name} ({time.monotonic() - started:.1f} s): {json.dumps(self.facts[name])}", flush=True)
        if self._path:
            self._path.write_text(json.dumps(self.facts, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=8.5)
    args = parser.parse_args()
    device = devices.pick_device(args.device)
    gpu = device.type == "cuda"
    sizes, runs = ([(512, 512), (1280, 720)], 5) if gpu else ([(64, 64)], 2)
    checked = picture(300, 260) if gpu else picture(90, 70)
    report = Report(args.json, args.minutes)
    report.add("machine", lambda: {"device": devices.describe(device), **torch_versions()})
    report.add("matmul_tflops", lambda: matmul_peak(device))
    with tempfile.TemporaryDirectory() as folder:
        networks = make_networks(Path(folder), small=not gpu)
        # Correctness first, then speed.
        for name, (_, path) in networks.items():
            report.add(f"{name} correctness", lambda path=path: correctness(path, device, checked))
            report.add(f"{name} 16 bits and grey", lambda path=path: deep_and_grey(path, device, checked))
            report.add(f"{name} graphs", lambda path=path: graphs(path, device, runs * 4))
            report.add(f"{name} same bytes", lambda path=path: same_bytes(path, device, checked))
            report.add(f"{name} out of memory", lambda path=path: out_of_memory(path, device))
            report.add(f"{name} memory at 8k", lambda path=path: memory(path, device))
        report.add("refiner", lambda: refiner(device, not gpu))
        for name, (net, path) in networks.items():
            for size in sizes:
                report.add(
                    f"{name} speed {size[0]}x{size[1]}",
                    lambda name=name, net=net, path=path, size=size: speed(name, net, path, device, size, runs),
                )
        report.add("pipeline", lambda: pipeline.measure(args.device, pipeline.FULL if gpu else pipeline.TINY))


if __name__ == "__main__":
    main()
