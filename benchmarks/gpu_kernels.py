"""What can be said of the Triton kernels without a GPU: `python -m benchmarks.gpu_kernels --json FILE`.

It compiles every kernel of both networks for several GPUs with Triton's own compiler and assembler, and reads the
machine code: registers, spilled bytes, matrix instructions. It counts the bytes that each network moves, ours and
torch's. From bytes and operations it predicts milliseconds on an H200. **Nothing of this is measured.**
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import weakref
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
import triton
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from server.engine.backends.base import Tile
from server.engine.backends.eager import overflowed, to_image, to_samples
from server.engine.memory import GIB, tile_bytes
from server.engine.tile import cut
from server.job.tiling import Geometry, tile_size
from server.kernels.cuda import launches
from server.kernels.cuda.network import HOPPER, Block, Network, Step, Weights, block_of, constants
from server.models import ARCHS, ModelInfo
from server.models.base import StateDict
from server.models.basicsr_shim import RRDBNet, SRVGGNetCompact

TARGETS = (80, 89, 90, 120)
H200 = {"tflops": 790.0, "memory_tb_s": 4.3, "cache_tb_s": 5.5, "shared_tb_s": 29.6}
"""fp16 with fp32 sums, as measured by others with cuBLAS; memory, 90 % of 4.8; L2 to the multiprocessors, as
measured by others on an H100; shared memory, 128 bytes a cycle of each of 132 multiprocessors at 1.75 GHz."""
PCIE_GB_S = 25.0
"""Of PCIe 4.0 with 16 lanes, as measured by others."""
CROSSING = ((1920, 1080, 8192), (1920, 1080, 2048))
"""Width and height of a source, and the long edge of its result."""
_MATRIX = ("HGMMA", "HMMA", "LDGSTS", "LDSM")
_SPILLS = ("LDL", "STL")
_WIDE_ENOUGH = 1280
"""Of a map: narrow ones have other blocks."""
_ROWS = 16
"""Of a program, in the predictions."""
_POINTERS = {"*fp16", "*fp32", "*u8", "*i32"}


def compiled(kernel: Any, signature: dict[str, str], fixed: dict[str, Any], target: int, **options: int) -> Any:
    """`kernel`, as Triton compiles it when it is launched: memory begins at multiples of 16 bytes."""
    attributes = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind in _POINTERS}
    signature = signature | dict.fromkeys(fixed, "constexpr")
    places = {(kernel.arg_names.index(name),): value for name, value in fixed.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=options | {"enable_fp_fusion": True})


def machine_code(cubin: bytes) -> dict[str, Any]:
    """Registers, bytes of the stack, and how often some instructions occur."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        code = subprocess.run([tools / "nvdisasm", file.name], capture_output=True, text=True, check=True).stdout
        usage = subprocess.run(
            [tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    used = dict(re.findall(r"(REG|STACK):(\d+)", usage.stdout + usage.stderr))
    counts = {name: len(re.findall(rf"\b{name}\b", code)) for name in (*_MATRIX, *_SPILLS)}
    return {"registers": int(used["REG"]), "stack": int(used["STACK"]), **counts}


def convolution(step: Step, network: Network, target: int, block: Block | None = None) -> dict[str, Any]:
    block = block or block_of(step.weights, _WIDE_ENOUGH, divmod(target, 10))
    result = "*fp32" if network.buffers[step.target].floats else "*fp16"
    kinds = dict.fromkeys(("x", "weight", "bias", "slope", "near", "far"), "*fp16")
    kinds |= {"bias": "*fp32", "slope": "*fp32", "y": result}
    made = compiled(
        launches.convolve,
        {**kinds, "height": "i32", "width": "i32", "rows": "i32", "steps": "i32"},
        constants(step, network.buffers, block),
        target,
        num_warps=block.warps,
        num_stages=block.stages,
    )
    return {**machine_code(made.asm["cubin"]), "shared": made.metadata.shared}


def tail(network: Network, target: int) -> dict[str, Any]:
    numbers = ("n", "height", "width", "top", "left", "columns")
    features = "*fp16" if network.kind == "srvgg" else "*fp32"
    fixed = {
        "SCALE": network.scale,
        "PITCH": network.buffers["result"].pitch,
        "SHUFFLED": network.kind == "srvgg",
        "CHANNELS": 3,
        "TOP": 255,
        "OUT_TOP": 255,
        "COLUMNS": 128,
    }
    kinds = {"features": features, "samples": "*u8", "out": "*u8", "seen": "*i32"} | dict.fromkeys(numbers, "i32")
    made = compiled(launches.finish, kinds, fixed, target, num_warps=4)
    return {**machine_code(made.asm["cubin"]), "shared": made.metadata.shared}


def different(network: Network) -> dict[str, Step]:
    """The steps that are compiled separately, by what they compute."""
    found = {}
    for step in network.steps:
        weights = step.weights
        sums = (step.near is not None) + (step.far is not None)
        name = f"{weights.channels}→{weights.kept}" + (", active" if weights.slope is not None else "")
        name += f", {sums} sums" if sums else ""
        enlarged = network.buffers[step.target].level // network.buffers[step.source].level
        found.setdefault(name + (", enlarged" if enlarged > 1 else ""), step)
    return found


def moved(network: Network) -> dict[str, float]:
    """For a source pixel: bytes between memory and the chip, if each launch reads and writes each pixel once; bytes
    between the cache and the multiprocessors, if none is kept in a multiprocessor; operations; launches."""
    memory = cache = work = 0.0
    for step in network.steps:
        source, target, weights = network.buffers[step.source], network.buffers[step.target], step.weights
        pixels = target.level**2 / network.unshuffle**2
        itemsize = 4 if target.floats else 2
        enlarged = (target.level // source.level) ** 2
        beside = sum(weights.kept * 2 for name in (step.near, step.far) if name)
        written = weights.kept * itemsize
        memory += pixels * (weights.channels * 2 / enlarged + beside + written)
        loaded, _ = _loaded(weights)
        cache += pixels * (loaded + beside + written)
        work += pixels * 2 * 9 * weights.channels * weights.width
    samples = 3 + 2 * network.buffers["source"].pitch / network.unshuffle**2
    result = network.buffers["result"]
    read = result.pitch * (4 if result.floats else 2) * result.level**2 / network.unshuffle**2
    ending = 3 + read + 3 * network.scale**2
    return {
        "memory": round(memory + samples + ending),
        "of it the tail": round(ending),
        "cache": round(cache + samples + ending),
        "operations": round(work),
        "launches": len(network.steps) + 2,
    }


def _loaded(weights: Weights) -> tuple[float, float]:
    """For a pixel of the result, with what is loaded twice: bytes from the L2 to the multiprocessors, where the weights
    are loaded for each row, and each pixel once, or for each of three shifts where it does not go through the first
    cache; bytes that pass the first cache and shared memory, which are one memory: what is loaded, into shared memory
    and out of it, where 64 pixels share what they read of the weights."""
    block, twice = block_of(weights, _WIDE_ENOUGH, (9, 0)), (_ROWS + 2) / _ROWS
    pixels, factors = 6 * weights.channels, 18 * weights.channels * weights.width
    loaded = pixels + factors / block.columns
    spared = pixels - 2 * weights.channels * (block.columns + 2) / block.columns if block.cached else 0
    hits = pixels if block.cached else 0
    return twice * (loaded - spared), twice * (hits + loaded + pixels + factors / 64)


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.launches = self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if func.is_view or name in ("detach", "empty", "_reshape_alias"):
            return out
        self.launches += 1
        for each in tree_leaves((args, kwargs, out)):
            if isinstance(each, torch.Tensor):
                self.bytes[name] += each.untyped_storage().nbytes()
        for each in tree_leaves(out):
            if not isinstance(each, torch.Tensor):
                continue
            storage = each.untyped_storage()
            if storage._cdata not in self._seen:
                self._seen.add(storage._cdata)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return out

    def _gone(self, key: int, size: int) -> None:
        self.live -= size
        self._seen.discard(key)


def moved_by_torch(arch: Any, facts: ModelInfo, state: StateDict, side: int = 256) -> dict[str, float]:
    """The same for torch's launches, with the engine's tail: what each reads and writes, counted on tensors without
    content."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        empty = {name: torch.empty(each.shape, dtype=torch.float16, device="cuda") for name, each in state.items()}
        with torch.device("cuda"):
            net = arch.build(empty, facts).eval()
        samples = torch.empty(1, side, side, 3, dtype=torch.uint8, device="cuda")
        count = _Count()
        with count:
            image = to_image(samples)
            result = arch.forward(net, facts, image, torch.float16)
            before = sum(count.bytes.values())
            overflowed(image, result)
            part = slice(0, side * facts.scale)
            kept = SimpleNamespace(rows=part, columns=part, samples=samples[0], dtype=np.dtype(np.uint8))
            to_samples(result[0], cast(Tile, kept))
    pixels = side * side
    total = sum(count.bytes.values())
    return {
        "memory": round(total / pixels),
        "of it the tail": round((total - before) / pixels),
        "launches": count.launches,
        "peak": round(count.peak / pixels),
    }


def predicted(network: Network, width: int, height: int) -> dict[str, float]:
    """Milliseconds on an H200, if each launch takes as long as the slowest of its matrix products, its memory and its
    cache at their usual best; `floor`: the products alone, with no channel that is only filled up."""
    pixels, total, floor = width * height, 0.0, 0.0
    for step in network.steps:
        source, target, weights = network.buffers[step.source], network.buffers[step.target], step.weights
        here = pixels * target.level**2 / network.unshuffle**2
        products = here * 2 * 9 * weights.channels * weights.width * (_ROWS + 2) / _ROWS
        floor += here * 2 * 9 * weights.channels * min(weights.width, weights.kept)
        beside = 2 * weights.kept * sum(1 for name in (step.near, step.far) if name)
        written = weights.kept * (4 if target.floats else 2)
        loaded, shared = _loaded(weights)
        read = 2 * weights.channels / (target.level // source.level) ** 2
        seconds = (
            products / H200["tflops"] / 1e12,
            here * (read + beside + written) / H200["memory_tb_s"] / 1e12,
            here * (loaded + beside + written) / H200["cache_tb_s"] / 1e12,
            here * shared / H200["shared_tb_s"] / 1e12,
        )
        total += max(seconds)
    total += pixels * moved(network)["of it the tail"] / H200["memory_tb_s"] / 1e12
    return {"ms": round(total * 1000, 1), "floor_ms": round(floor / H200["tflops"] / 1e9, 1)}


def crossed(info: ModelInfo, size: tuple[int, int], edge: int, network_ms: float) -> dict[str, Any]:
    """MB from the device for a picture of `size` (width, height) whose result's long edge is `edge`, with 16 bits,
    which the colour lock needs; and milliseconds by PCIe 4.0, beside the network's. Tiles are those of a card of 24 GB.
    """
    (w, h), scale = size, info.scale
    pixels = tile_bytes(24 * GIB, 20 * GIB) * 2 // info.pixel_bytes
    width, height = tile_size(size, Geometry("", scale, math.isqrt(pixels) // 64 * 64, info.halo, step=64))
    rows, columns = (
        cut(length, side, info.halo, info.blend, info.multiple) for length, side in ((h, height), (w, width))
    )
    kept = sum(
        (row.keep_stop - row.keep_start) * (each.keep_stop - each.keep_start) for row in rows for each in columns
    )
    samples = {
        "floats of each tile": (kept * scale**2, 4),
        "integers of each tile, as it is": (kept * scale**2, 2),
        "integers, blended on the device": (w * h * scale**2, 2),
        "integers, blended and resized there": (edge * round(edge * h / w), 2),
    }
    megabytes = {name: round(count * 3 * itemsize / 1e6, 1) for name, (count, itemsize) in samples.items()}
    return {
        "tiles": [len(columns), len(rows)],
        "megabytes": megabytes,
        "ms": {name: round(each / PCIE_GB_S, 1) for name, each in megabytes.items()},
        "network_ms": network_ms,
    }


def networks() -> dict[str, tuple[Any, ModelInfo, StateDict, Network, tuple[int, int]]]:
    """Each with the size of the picture that is predicted. Random weights: only shapes matter."""
    made = {}
    for name, net, size in (
        ("SRVGG-32", SRVGGNetCompact(num_conv=32), (1920, 1080)),
        ("RRDBNet-23", RRDBNet(3, 3), (1280, 720)),
    ):
        net = net.eval().requires_grad_(False)
        arch, facts = next((arch, facts) for arch in ARCHS if (facts := arch.detect(net.state_dict())))
        network = Network(arch.layers(net, facts), torch.float16, torch.device("cpu"))
        made[name] = arch, facts, net.state_dict(), network, size
    return made


def report(targets: tuple[int, ...], only: str = "") -> dict[str, Any]:
    facts: dict[str, Any] = {
        "note": "computed, not measured: no GPU was there",
        "versions": {"torch": torch.__version__, "triton": triton.__version__},
        "assumed": H200,
        "blocks": {str(width): vars(block) for width, block in HOPPER.items()},
    }
    for name, (arch, info, state, network, size) in networks().items():
        ours, theirs = moved(network), moved_by_torch(arch, info, state)
        facts[name] = {
            "bytes_and_launches_per_source_pixel": {"ours": ours, "torch": theirs},
            f"predicted_{size[0]}x{size[1]}": predicted(network, *size),
            "from_the_device": {
                f"{w}x{h} to {edge}": crossed(info, (w, h), edge, predicted(network, w, h)["ms"])
                for w, h, edge in CROSSING
            },
            "kernels": {},
        }
        kernels: dict[str, Any] = {
            label: lambda target, step=step, network=network: convolution(step, network, target)
            for label, step in different(network).items()
        }
        kernels["tail"] = lambda target, network=network: tail(network, target)
        for label, run in kernels.items():
            if only in label:
                facts[name]["kernels"][label] = {f"sm_{target}": run(target) for target in targets}
                print(name, label, json.dumps(facts[name]["kernels"][label]), flush=True)
    return facts


def interpreted() -> dict[str, Any]:
    """Errors of small networks in Triton's interpreter, from the dry run of `gpu_first`: a process of its own, because
    in this one kernels are compiled."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "facts.json"
        command = [sys.executable, "-m", "benchmarks.gpu_first", "--json", str(path)]
        env = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run(command, check=True, capture_output=True, env=env)
        facts = json.loads(path.read_text("utf-8"))
    largest = {name: max(way["error"] for way in tried.values()) for name, tried in facts["triton, rrdbnet"].items()}
    networks = {name: facts[f"right, {name}"] for name in ("srvgg", "rrdbnet")}
    return networks | {"largest_errors": {name: each for name, each in largest.items() if each >= 0}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--targets", type=int, nargs="+", default=TARGETS)
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    args = parser.parse_args()
    facts = report(tuple(args.targets), args.only) | {"interpreter": interpreted()}
    if args.json:
        args.json.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
