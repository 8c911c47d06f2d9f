"""How fast the networks run here, beside what else could run them: `python -m benchmarks.speed [--quick]`.

Every contender has a process of its own, with the environment that its users would have: ours that of a worker, the
others none. All hold the same weights and are given the same picture, 8 bits in, 8 bits out; in each round all run
once, in a random order, so that a noisy moment hits all alike, and the medians are compared. What is not installed,
does not fit into memory or fails is left out, and named with the reason.

Contenders named AVX2 do without AVX-512, RealESRGANer too, as on a processor that lacks it. `--kernels` runs only ours
and RealESRGANer, both ways.

`seconds` is what a clock says; `cpu` what the process used of all cores, which other work on the machine changes less.
`times_faster` is against RealESRGANer in fp32 by the clock, `times_less_cpu` by CPU time; for AVX2 against it on AVX2.
TFLOP/s are those of the
plain convolutions, whatever arithmetic was done in their place. Errors are against our fp32 on torch, of 255.

OMP_NUM_THREADS, if set, is the number of threads of all but ncnn and OpenVINO, which are told it.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.memory import peak_mib
from server.engine import device as devices
from server.engine.engine import Engine
from server.kernels import Kernel
from server.kernels import load as load_kernel
from server.kernels.cpu.build import Wanted
from server.launch import MALLOC_ENV
from server.models import load_model, load_state
from server.models.shim import RRDBNet, SRVGGNetCompact
from server.weights.catalog import FOLDER

Samples = NDArray[np.uint8]
Run = Callable[[Samples], Samples]

FLOP_PER_PIXEL = {"SRVGG-32": 2_418_048, "RRDBNet-23": 35_853_696}
"""Multiply and add counted as two, per source pixel."""
STOCK = "RealESRGANer fp32"
OWN = "ours, own kernels"
AVX2 = ", AVX2"
"""Ends the names of contenders that do without AVX-512."""
_AVX2_ENV = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
"""Of torch, and what it stands on."""
REFERENCE = "ours, torch fp32"
_LEAST_FREE = 3 << 30
"""Bytes that must be free before another contender is started."""
_TILE = 512
"""Of RealESRGANer, for pictures of more pixels than this squared: whole, RRDBNet takes 24 kB per pixel."""


class LeftOut(Exception):
    """This contender can't run here; the text says why."""


def module(name: str, path: Path) -> nn.Module:
    net: nn.Module = SRVGGNetCompact(num_conv=32) if name.startswith("SRVGG") else RRDBNet(3, 3, num_block=23)
    net.load_state_dict(load_state(path))
    return net.eval().requires_grad_(False)


def make_weights(folder: Path) -> dict[str, Path]:
    """The compact network with the bundled weights; the large one with seeded ones, scaled so that pictures come out:
    their speed is right, but their errors say little about trained weights."""
    torch.manual_seed(0)
    large = RRDBNet(3, 3, num_block=23).eval()
    with torch.no_grad():
        result = large(torch.rand(1, 3, 32, 32))
        large.conv_last.weight.div_(result.std() * 4)
        large.conv_last.bias.add_(0.5 - result.mean() / (result.std() * 4))
    torch.save({"params_ema": large.state_dict()}, folder / "RRDBNet-23.pth")
    bundled = load_state(FOLDER / "bundled" / "fidelity-x4.safetensors")
    torch.save({"params_ema": bundled}, folder / "SRVGG-32.pth")
    return {name: folder / f"{name}.pth" for name in FLOP_PER_PIXEL}


def picture(width: int, height: int) -> Samples:
    """Waves, edges and grain; constant input would run faster than real pictures do."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / 64
    image = np.stack([np.sin(x * k) * np.cos(y / k) + ((x + y) % 2 > 1) for k in (1.0, 1.7, 2.3)], -1)
    return np.clip(image * 60 + 100 + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


# --- contenders: weights → a function from samples to samples ---


def ours(path: Path, device: torch.device, dtype: torch.dtype, kernel: Kernel | None = None) -> Run:
    model = load_model(path, name="x", sha256=None, device=device, dtype=dtype, kernel=kernel)
    engine = Engine(device)
    return lambda samples: np.concatenate(list(engine.upscale(model, samples, dtype=np.uint8)))


def own_kernels(name: str, path: Path, device: torch.device, folder: Path, wanted: Wanted = "auto") -> Run:
    kernel = load_kernel(wanted=wanted)
    if not isinstance(kernel, Kernel) or device.type != "cpu":
        raise LeftOut(f"{kernel}" if device.type == "cpu" else "for the CPU")
    return ours(path, device, torch.float32, kernel)


def own_avx2(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    return own_kernels(name, path, device, folder, "avx2")


def torch_fp32(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    return ours(path, device, torch.float32)


def torch_half(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    return ours(path, device, torch.float16 if device.type == "cuda" else torch.bfloat16)


def stock(name: str, path: Path, device: torch.device, folder: Path, half: bool = False) -> Run:
    from realesrgan import RealESRGANer

    def run(samples: Samples) -> Samples:
        helper.tile_size = _TILE if samples.shape[0] * samples.shape[1] > _TILE**2 else 0
        result: Samples = helper.enhance(samples[:, :, ::-1])[0][:, :, ::-1]
        return result

    helper = RealESRGANer(4, str(path), model=module(name, path), pre_pad=0, half=half, device=device)
    return run


def stock_avx2(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    if device.type != "cpu":
        raise LeftOut("for the CPU")
    return stock(name, path, device, folder)


def stock_half(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    if device.type != "cuda":
        raise LeftOut("needs a GPU")
    return stock(name, path, device, folder, half=True)


def plain(net: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> Run:
    """A network that takes the whole picture at once."""

    @torch.inference_mode()
    def run(samples: Samples) -> Samples:
        image = torch.from_numpy(samples.copy()).to(device).permute(2, 0, 1)[None].float() / 255
        result = net(image)[0].float().mul(255).round_().clamp_(0, 255).to(torch.uint8)
        return np.asarray(result.permute(1, 2, 0).cpu())

    return run


def spandrel(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    from spandrel import ModelLoader

    return plain(ModelLoader(device).load_from_file(path).model.eval(), device)


def compiled(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    dtype = torch.float16 if device.type == "cuda" else devices.pick_dtype("auto", device)
    net = module(name, path).to(device, dtype).to(memory_format=torch.channels_last)
    fast = torch.compile(net)
    return plain(lambda image: fast(image.to(dtype, memory_format=torch.channels_last)), device)


def onnx_file(name: str, path: Path, folder: Path) -> Path:
    target = folder / f"{name}.onnx"
    if not target.exists():
        axes = {"image": {2: "h", 3: "w"}}
        example = (torch.rand(1, 3, 32, 32),)
        torch.onnx.export(
            module(name, path), example, str(target), input_names=["image"], dynamic_axes=axes, dynamo=False
        )
    return target


def onnxruntime(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    providers = ["CUDAExecutionProvider"] if device.type == "cuda" else ["CPUExecutionProvider"]
    if not set(providers) <= set(onnxruntime.get_available_providers()):
        raise LeftOut("this build has no CUDA")
    session = onnxruntime.InferenceSession(str(onnx_file(name, path, folder)), options, providers=providers)
    return plain(lambda image: torch.from_numpy(session.run(None, {"image": image.cpu().numpy()})[0]), device)


def openvino(name: str, path: Path, device: torch.device, folder: Path, precision: str = "f32") -> Run:
    if device.type != "cpu":
        raise LeftOut("for the CPU")
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    net = openvino.Core().compile_model(onnx_file(name, path, folder), "CPU", settings)
    return plain(lambda image: torch.from_numpy(net(image.numpy())[0].copy()), device)


def openvino_bf16(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    return openvino(name, path, device, folder, "bf16")


def ncnn(name: str, path: Path, device: torch.device, folder: Path) -> Run:
    if device.type != "cpu":
        raise LeftOut("for the CPU here")
    import ncnn
    import pnnx

    base = folder / f"{name}-ncnn.pt"
    pnnx.export(module(name, path), str(base), (torch.rand(1, 3, 64, 64),), (torch.rand(1, 3, 96, 80),))
    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.load_param(str(folder / f"{name}-ncnn.ncnn.param"))
    net.load_model(str(folder / f"{name}-ncnn.ncnn.bin"))

    def run(image: torch.Tensor) -> torch.Tensor:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image[0].numpy()).clone())
        return torch.from_numpy(np.array(extractor.extract("out0")[1]))[None]

    return plain(run, device)


Contender = Callable[[str, Path, torch.device, Path], Run]
CONTENDERS: dict[str, Contender] = {
    OWN: own_kernels,
    OWN + AVX2: own_avx2,
    "ours, torch half": torch_half,
    REFERENCE: torch_fp32,
    STOCK: stock,
    STOCK + AVX2: stock_avx2,
    "RealESRGANer half": stock_half,
    "spandrel": spandrel,
    "torch.compile, half": compiled,
    "onnxruntime": onnxruntime,
    "OpenVINO f32": openvino,
    "OpenVINO bf16": openvino_bf16,
    "ncnn": ncnn,
}
"""`half`: fp16 on CUDA; on the CPU bf16, torch.compile's only where `dtype: auto` is."""


def serve(label: str, name: str, path: Path, size: tuple[int, int], folder: Path, device: torch.device) -> None:
    """A contender's process: a line of JSON when ready, then one for each line that is read."""
    samples = picture(*size)
    try:
        run = CONTENDERS[label](name, path, device, folder)
        loaded = peak_mib()
        result = run(samples)  # the first warms up
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
    """A contender's process, seen from outside."""

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
        """The next line of JSON; what libraries print in between is passed over. Raises LeftOut."""
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
    """All contenders with one network and one picture size."""
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
            if other in running:  # round by round: what slows one down slows both
                for key, measured in (("times_faster", "seconds"), ("times_less_cpu", "cpu")):
                    pairs = zip(running[other].taken, child.taken, strict=True)
                    facts[label][key] = round(statistics.median(a[measured] / b[measured] for a, b in pairs), 2)
    return {"contenders": facts, "left_out": left_out, "rounds": rounds}


def error_of(result: Path, reference: Child | None) -> dict[str, float]:
    """How far two results are apart, in 8 bits; PSNR of equal ones is that of a single level in all samples."""
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
    """What the kernel could give, its cache of files included."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024


def peaks(device: torch.device) -> dict[str, float]:
    """TFLOP/s of large matrix products on random data, in all threads: the ceiling of plain arithmetic, in this run."""
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
    """What tiles cost (halo, copies, blending) over the network on the whole picture, in this process."""
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
    parser.add_argument("--contender", action="append", choices=list(CONTENDERS))
    parser.add_argument("--kernels", action="store_true", help="only our own kernels and RealESRGANer, both ways")
    parser.add_argument("--no-tiling", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # what a contender's process is told
    args = parser.parse_args()
    if args.serve:
        label, name, path, size, folder, device = json.loads(args.serve)
        serve(label, name, Path(path), tuple(size), Path(folder), torch.device(device))
        return
    labels = args.contender or ([OWN, STOCK, OWN + AVX2, STOCK + AVX2] if args.kernels else list(CONTENDERS))
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
