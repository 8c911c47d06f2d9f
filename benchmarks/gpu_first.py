"""The first minutes on a GPU: `python -m benchmarks.gpu_first --json FILE`. It needs only torch and Triton.

It answers, in this order: does torch work here; how fast are products and copies at best; are our Triton kernels right,
and do they give the same bytes in any batch; how fast is cuDNN layer by layer, and Triton with several divisions of the
work; is a graph's result safe while it is copied; how fast are the whole networks in four ways; what does the server's
engine make of them (benchmarks/gpu_engine.py; it alone needs the server's packages, and is left out without them); what
do errors look like when memory runs out. At the end it says what follows for the kernels.

Weights are seeded: speeds are right, and errors are those of rounding. Each step is printed, and written to the file at
once; one that fails does not stop the others. Each has a number of seconds, and is not started when fewer are left; all
together they are less than nine minutes. Without a GPU it runs in small in Triton's interpreter, which only shows that
it works.
"""

import argparse
import json
import os
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported

import triton

from server.kernels import Layer, Layers
from server.kernels.cuda.network import Block, Network, block_of

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
CANDIDATES = {
    32: (
        Block(128, 32, 8, 3),
        Block(128, 32, 8, 3, cached=False),
        Block(128, 32, 4, 3),
        Block(256, 32, 8, 3),
        Block(256, 32, 16, 3),
        Block(128, 32, 8, 1),
        Block(64, 32, 4, 4),
    ),
    64: (
        Block(128, 32, 8, 3),
        Block(128, 32, 8, 3, cached=False),
        Block(128, 16, 8, 4),
        Block(64, 32, 4, 3),
        Block(64, 32, 8, 3),
        Block(128, 32, 8, 1),
        Block(256, 32, 16, 2),
    ),
}
"""Divisions of a convolution's work to try, by the result's channels; `BLOCKS` in server/kernels/cuda/network.py has
those that are used. With one stage, loads go through the first cache."""


def _layer(source: int, out: int, generator: torch.Generator, slope: float | None) -> Layer:
    """He's noise keeps the signal's size."""
    weight = torch.randn(out, source, 3, 3, generator=generator) * (2 / (9 * source)) ** 0.5
    bias = torch.randn(out, generator=generator) * 0.01
    return weight, bias, None if slope is None else torch.full((out,), slope)


def srvgg(features: int = 64, depth: int = 32) -> Layers:
    generator = torch.Generator().manual_seed(0)
    sizes = [3, *[features] * (depth + 1), 48]
    layers = [
        _layer(source, out, generator, 0.1 if out != 48 else None)
        for source, out in zip(sizes, sizes[1:], strict=False)
    ]
    layers[-1] = layers[-1][0] * 0.05, layers[-1][1], None
    return Layers("srvgg", layers, 4)


def rrdbnet(features: int = 64, growth: int = 32, blocks: int = 23) -> Layers:
    generator = torch.Generator().manual_seed(0)
    layers = [_layer(3, features, generator, None)]
    for _ in range(3 * blocks):
        layers += [_layer(features + index * growth, growth, generator, 0.2) for index in range(4)]
        layers.append(_layer(features + 4 * growth, features, generator, None))
        layers[-1] = layers[-1][0] * 0.2, layers[-1][1], None
    layers.append(_layer(features, features, generator, None))
    layers += [_layer(features, features, generator, 0.2) for _ in range(3)]
    layers.append(_layer(features, 3, generator, None))
    layers[-1] = layers[-1][0] * 0.1, layers[-1][1] + 0.5, None
    return Layers("rrdbnet", layers, 4, growth)


class Eager:
    """The same networks in torch, as the packages write them."""

    def __init__(self, layers: Layers, dtype: torch.dtype) -> None:
        self.layers, self.dtype = layers, dtype
        self.weights = [
            (
                weight.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last),
                bias.to(DEVICE, dtype),
                None if slope is None else slope.to(DEVICE, dtype),
            )
            for weight, bias, slope in layers.convolutions
        ]

    def __call__(self, samples: Tensor) -> Tensor:
        """N × H × W × 3 uint8 → N × 4H × 4W × 3 uint8."""
        image = samples.permute(0, 3, 1, 2).float().div_(255)
        x = image.to(self.dtype, memory_format=torch.channels_last)
        result = self._chain(x).float() + _twice(image, 4) if self.layers.kind == "srvgg" else self._dense(x).float()
        return result.mul_(255).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def _conv(self, index: int, x: Tensor) -> Tensor:
        weight, bias, slope = self.weights[index]
        y = functional.conv2d(x, weight, bias, padding=1)
        if slope is None:
            return y
        return functional.prelu(y, slope) if self.layers.kind == "srvgg" else functional.leaky_relu_(y, 0.2)

    def _chain(self, x: Tensor) -> Tensor:
        for index in range(len(self.weights)):
            x = self._conv(index, x)
        return functional.pixel_shuffle(x, 4)

    def _dense(self, x: Tensor) -> Tensor:
        first = x = self._conv(0, x)
        index = 1
        for _ in range((len(self.weights) - 6) // 15):
            entry = x
            for _ in range(3):
                parts = [x]
                for _ in range(4):
                    parts.append(self._conv(index, torch.cat(parts, 1)))
                    index += 1
                x = self._conv(index, torch.cat(parts, 1)) * 0.2 + x
                index += 1
            x = x * 0.2 + entry
        x = first + self._conv(index, x)
        x = self._conv(index + 1, _twice(x))
        x = self._conv(index + 2, _twice(x))
        return self._conv(index + 4, self._conv(index + 3, x))


def _twice(x: Tensor, scale: int = 2) -> Tensor:
    return functional.interpolate(x, scale_factor=scale, mode="nearest")


def by_triton(network: Network, samples: Tensor) -> Tensor:
    n, h, w, _ = samples.shape
    seen, features = torch.zeros(n, 3, dtype=torch.int32, device=DEVICE), network(samples)
    whole = slice(0, h * network.scale), slice(0, w * network.scale)
    return torch.stack([network.finish(features, samples, i, *whole, torch.uint8, seen) for i in range(n)])


def picture(n: int, h: int, w: int) -> Tensor:
    """Waves and noise; constant input would run faster than real pictures."""
    y, x = torch.meshgrid(torch.arange(h) / 32, torch.arange(w) / 32, indexing="ij")
    waves = torch.stack([torch.sin(x * k) * torch.cos(y / k) for k in (1.0, 1.7, 2.3)], -1) * 60 + 120
    noise = torch.randn(n, h, w, 1, generator=torch.Generator().manual_seed(0)) * 6
    return (waves + noise).clamp(0, 255).to(torch.uint8).to(DEVICE)


def ms(run: Callable[[], object], least: int = 5, most_s: float = 2.0) -> float:
    """The median of several runs, after two to warm up; without a GPU, of one."""
    for _ in range(2 if GPU else 0):
        run()
    synchronize()
    taken: list[float] = []
    until = time.monotonic() + most_s
    while len(taken) < least or (time.monotonic() < until and len(taken) < 30):
        started = time.perf_counter()
        run()
        synchronize()
        taken.append((time.perf_counter() - started) * 1000)
        if not GPU:
            break
    return round(statistics.median(taken), 4)


def synchronize() -> None:
    if GPU:
        torch.cuda.synchronize()


def psnr(found: Tensor, wanted: Tensor) -> float:
    error = (found.float() - wanted.float()).square().mean().item()
    return round(10 * torch.log10(torch.tensor(255.0**2 / max(error, 1e-9))).item(), 1)


# --- the steps ------------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    facts: dict[str, Any] = {"torch": torch.__version__, "triton": triton.__version__, "cuda": torch.version.cuda}
    if GPU:
        free, total = torch.cuda.mem_get_info()
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "processors": properties.multi_processor_count,
            "free_gib": round(free / 2**30, 1),
            "total_gib": round(total / 2**30, 1),
            "code_for": torch.cuda.get_arch_list(),
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts


def ceilings() -> dict[str, float]:
    n = 8192 if GPU else 64
    a, b = (torch.randn(n, n, device=DEVICE).half() for _ in range(2))
    large = torch.empty((1 << 30) if GPU else 1 << 16, dtype=torch.uint8, device=DEVICE)
    other = torch.empty_like(large)
    host = torch.empty(len(large) // 4, dtype=torch.uint8, pin_memory=GPU)
    part = large[: len(host)]
    return {
        "matmul_tflops": round(2 * n**3 / ms(lambda: a @ b) / 1e9, 1),
        "copy_tb_s": round(2 * len(large) / ms(lambda: other.copy_(large)) / 1e9, 3),
        "to_host_gb_s": round(len(host) / ms(lambda: host.copy_(part, non_blocking=True)) / 1e6, 1),
        "to_device_gb_s": round(len(host) / ms(lambda: part.copy_(host, non_blocking=True)) / 1e6, 1),
    }


def right(layers: Layers) -> dict[str, Any]:
    """Triton against torch: both in fp16, compared with torch in fp32."""
    samples = picture(3, 61, 75) if GPU else picture(2, 3, 4)
    network, half, exact = (
        Network(layers, torch.float16, DEVICE),
        Eager(layers, torch.float16),
        Eager(layers, torch.float32),
    )
    wanted, found = exact(samples), by_triton(network, samples)
    alone = torch.cat([by_triton(network, samples[i : i + 1]) for i in range(len(samples))])
    return {
        "triton_psnr": psnr(found, wanted),
        "torch_psnr": psnr(half(samples), wanted),
        "largest_error": int((found.int() - wanted.int()).abs().max()),
        "same_bytes_alone": bool(torch.equal(found, alone)),
        "same_bytes_again": bool(torch.equal(found, by_triton(network, samples))),
    }


def layers_of(network: Network) -> dict[str, Any]:
    """The steps that are most of the work, by their channels."""
    wanted = {}
    for step in network.steps:
        wanted.setdefault((step.weights.channels, step.weights.kept, step.near is not None), step)
    return {f"{source}→{out}{'+' if sums else ''}": step for (source, out, sums), step in wanted.items()}


def cudnn_layers(network: Network, size: tuple[int, int]) -> dict[str, Any]:
    """Without bias and activation. `pitched`: the first channels of pixels that have 192, as without concatenation."""
    h, w = size
    result = {}
    for name, step in layers_of(network).items():
        source, out = step.weights.channels, max(8, step.weights.kept)
        weight = torch.randn(out, source, 3, 3, device=DEVICE).half().contiguous(memory_format=torch.channels_last)
        wide = torch.randn(1, h, w, max(192, source), device=DEVICE).half()
        pitched = wide[..., :source].permute(0, 3, 1, 2)
        whole = pitched.contiguous(memory_format=torch.channels_last)
        work = 18 * h * w * source * step.weights.kept
        times = {
            label: ms(lambda x=x, weight=weight: functional.conv2d(x, weight, padding=1))
            for label, x in (("whole", whole), ("pitched", pitched))
        }
        result[name] = {"ms": times, "tflops": round(work / times["whole"] / 1e9, 1)}
    return result


def triton_layers(network: Network, size: tuple[int, int], most_s: float) -> dict[str, Any]:
    """Each division of the work, with bias, activation and residuals; the error against torch in fp32."""
    h, w = size
    until = time.monotonic() + most_s  # compiling takes seconds for each
    result: dict[str, Any] = {}
    for name, step in layers_of(network).items():
        level = network.buffers[step.target].level
        if level > 1:
            continue
        kept: dict[str, Tensor] = {}
        for buffer in {step.source, step.near, step.far} - {None}:
            assert isinstance(buffer, str)
            kept[buffer] = torch.randn(1, h, w, network.buffers[buffer].pitch, device=DEVICE).half()
        source = kept[step.source][..., : step.weights.channels].clone()
        work = 18 * h * w * step.weights.channels * step.weights.kept
        tried = {}
        usual = block_of(step.weights, w, network.capability)
        candidates = [usual, *CANDIDATES.get(step.weights.width, ())] if GPU else [Block(16, usual.channels, 4, 2)]
        for block in dict.fromkeys(candidates):
            if step.weights.channels % block.channels or time.monotonic() > until:
                continue
            label = f"{block.columns}×{block.channels}, {block.warps} warps, {block.stages} stages" + (
                ", L2 only" if not block.cached else ""
            )
            try:
                taken = ms(lambda step=step, block=block, kept=kept: network.launch(step, kept, 1, h, w, block))
            except Exception as error:
                tried[label] = {"failed": str(error)[:200]}
                continue
            tried[label] = {"ms": taken, "tflops": round(work / taken / 1e9, 1), "error": _error(step, source, kept)}
        result[name] = tried
    return result


def _error(step: Any, source: Tensor, kept: dict[str, Tensor]) -> float:
    """Largest difference of the plain convolution from torch's in fp32; only where no residual hides it."""
    if step.near is not None:
        return -1.0
    weights = step.weights
    matrix = weights.weight.float().reshape(3, 3, weights.channels, weights.width).permute(3, 2, 0, 1)
    part = source[:, :64, :64].permute(0, 3, 1, 2).float()
    wanted = functional.conv2d(part, matrix, weights.bias, padding=1)
    if weights.slope is not None:
        wanted = functional.prelu(wanted, weights.slope)
    inner = slice(0, max(1, part.shape[2] - 1)), slice(0, max(1, part.shape[3] - 1))
    found = kept[step.target][0, inner[0], inner[1], step.first : step.first + weights.kept].float()
    return round((wanted[0, : weights.kept].permute(1, 2, 0)[inner] - found).abs().max().item(), 5)


def whole(layers: Layers, size: tuple[int, int], compile_it: bool) -> dict[str, Any]:
    """Milliseconds for a picture, samples to samples on the device."""
    samples = picture(1, *size)
    eager, network = Eager(layers, torch.float16), Network(layers, torch.float16, DEVICE)
    ways: dict[str, Callable[[], Tensor]] = {
        "eager": lambda: eager(samples),
        "triton": lambda: by_triton(network, samples),
    }
    if GPU:
        ways["eager, graph"] = _recorded(lambda: eager(samples))
        ways["triton, graph"] = _recorded(lambda: by_triton(network, samples))
        if compile_it:
            compiled = torch.compile(eager, mode="max-autotune-no-cudagraphs")
            ways["torch.compile"] = lambda: compiled(samples)
    result: dict[str, Any] = {}
    for name, run in ways.items():
        try:
            result[name] = ms(run, most_s=4.0)
        except Exception as error:
            result[name] = {"failed": str(error)[:300]}
    if GPU:
        result["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return result


def _recorded(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    graph: list[Any] = []

    def replay() -> Tensor:
        if not graph:
            for _ in range(3):
                run()
            made = torch.cuda.CUDAGraph()
            with torch.cuda.graph(made):
                result = run()
            graph.extend((made, result))
        graph[0].replay()
        result = graph[1]
        assert isinstance(result, Tensor)
        return result

    return replay


def race() -> dict[str, Any]:
    """50 MB of a graph's result are copied to the host on another stream while the graph runs again. `unsafe`: from the
    graph's own memory, as this project once did it: it should be wrong. `safe`: from a copy, as it does it now."""
    if not GPU:
        return {"skipped": "needs a GPU"}
    source = torch.zeros(50 << 20, dtype=torch.uint8, device=DEVICE)
    run = _recorded(lambda: source + 1)
    run()
    side = torch.cuda.Stream()
    wrong = {"unsafe": 0, "safe": 0}
    for way in wrong:
        for value in range(20):
            source.fill_(value)
            result = run()
            taken = result if way == "unsafe" else result.clone()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                host = torch.empty(taken.shape, dtype=taken.dtype, pin_memory=True)
                host.copy_(taken, non_blocking=True)
            taken.record_stream(side)
            source.fill_(200)
            run()
            torch.cuda.synchronize()
            wrong[way] += int(bool((host != value + 1).any()))
    return {"wrong_of_20": wrong}


def engine(most_s: float) -> dict[str, Any]:
    try:
        from benchmarks import gpu_engine
    except ImportError as error:
        return {"skipped": f"needs the server's packages: {error}"}
    return gpu_engine.measure(most_s)


def shortage() -> dict[str, Any]:
    """The errors when memory runs out: at once, in cuDNN's workspace, and while a graph is recorded."""
    if not GPU:
        return {"skipped": "needs a GPU"}
    result: dict[str, Any] = {}

    def note(name: str, run: Callable[[], object]) -> None:
        try:
            run()
            result[name] = "no error"
        except Exception as error:
            result[name] = {"class": type(error).__name__, "text": str(error)[:300]}

    note("plain", lambda: torch.empty(1 << 50, dtype=torch.uint8, device=DEVICE))
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    ballast = torch.empty(max(0, free - (300 << 20)), dtype=torch.uint8, device=DEVICE)
    weight = torch.randn(64, 64, 3, 3, device=DEVICE).half()
    x = torch.randn(1, 64, 600, 600, device=DEVICE).half()
    note("convolution", lambda: [functional.conv2d(x, weight, padding=1) for _ in range(3)])
    note("convolutions that are kept", lambda: [[functional.conv2d(x, weight, padding=1)] for _ in range(9)])

    def record() -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            torch.empty(1 << 40, dtype=torch.uint8, device=DEVICE)

    note("recording", record)
    del ballast
    torch.cuda.empty_cache()
    note("afterwards", lambda: torch.ones(64, device=DEVICE).sum().item())
    note("another recording", lambda: _recorded(lambda: torch.ones(64, device=DEVICE) + 1)())
    return result


def verdict(facts: dict[str, Any]) -> dict[str, Any]:
    """What follows, by the rules that were set before anything was measured."""
    said: dict[str, Any] = {}
    wrong = [name for name in ("right, srvgg", "right, rrdbnet") if not facts[name].get("same_bytes_alone")]
    said["triton"] = f"wrong: {', '.join(wrong)}" if wrong else "right"
    ways = {name: way["same bytes"] for name, way in facts["engine"].items() if "same bytes" in way}
    different = [name for name, found in ways.items() if not found.get("same", True)]
    said["engine"] = (
        f"other bytes beside others: {', '.join(different)}" if different else "right" if ways else "not run"
    )
    theirs, ours = facts.get("cudnn, rrdbnet", {}), facts.get("triton, rrdbnet", {})
    best = {
        name: max((way for way in tried.items() if "tflops" in way[1]), key=lambda way: way[1]["tflops"], default=None)
        for name, tried in ours.items()
        if isinstance(tried, dict)
    }
    said["best"] = {name: way[0] for name, way in best.items() if way is not None}
    said["times_cudnn"] = {
        name: round(way[1]["tflops"] / theirs[name]["tflops"], 2)
        for name, way in best.items()
        if way is not None and name in theirs and theirs[name]["tflops"]
    }
    dense = theirs.get("64→32", {}).get("tflops", 0)
    if dense > 450:
        said["next"] = "cuDNN is above 450 TFLOP/s at 64→32: only pitched buffers and fused ends are worth it"
    elif said["times_cudnn"] and min(said["times_cudnn"].values()) < 1.15:
        said["next"] = "Triton is below 1.15 × cuDNN: CUDA C++ with wgmma, or cuDNN where it is faster"
    else:
        said["next"] = "make UPSCALE_KERNELS=auto use Triton on this capability; put `best` into BLOCKS"
    return said


def steps(facts: dict[str, Any]) -> dict[str, tuple[float, Callable[[], Any]]]:
    """Each with the seconds that it takes at most, as estimated. `facts`: what was found so far."""
    large = rrdbnet() if GPU else rrdbnet(16, 16, 1)
    small = srvgg() if GPU else srvgg(16, 1)
    layer_size, full, compact = ((720, 1280), (720, 1280), (1080, 1920)) if GPU else ((2, 20), (2, 3), (2, 3))
    return {
        "machine": (5, machine),
        "ceilings": (20, ceilings),
        "right, srvgg": (25, lambda: right(small)),
        "right, rrdbnet": (45, lambda: right(large)),
        "cudnn, rrdbnet": (30, lambda: cudnn_layers(Network(large, torch.float16, DEVICE), layer_size)),
        "triton, rrdbnet": (130, lambda: triton_layers(Network(large, torch.float16, DEVICE), layer_size, 115)),
        "triton, srvgg": (45, lambda: triton_layers(Network(small, torch.float16, DEVICE), layer_size, 35)),
        "race": (10, race),
        "whole, rrdbnet 720p": (25, lambda: whole(large, full, compile_it=False)),
        "engine": (75, lambda: engine(60)),
        "whole, srvgg 1080p": (90, lambda: whole(small, compact, compile_it=True)),
        "shortage": (15, shortage),  # last: what it breaks may stay broken
        "verdict": (1, lambda: verdict(facts)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--minutes", type=float, default=9.0, help="a step that needs more than is left is not started")
    args = parser.parse_args()
    until = time.monotonic() + args.minutes * 60
    facts: dict[str, Any] = {}
    for name, (seconds, step) in steps(facts).items():
        begun = time.monotonic()
        if begun + seconds > until:
            facts[name] = {"skipped": "no time left"}
        else:
            try:
                with torch.inference_mode():
                    facts[name] = step()
            except Exception:
                facts[name] = {"failed": traceback.format_exc().splitlines()[-8:]}
        print(f"{name} ({time.monotonic() - begun:.1f} s): {json.dumps(facts[name], ensure_ascii=False)}", flush=True)
        if args.json:
            args.json.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
