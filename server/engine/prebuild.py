"""`python -m server.engine.prebuild`: compile the GPU kernels ahead, so that no worker waits for a compiler.

It takes every network that is installed and those of Real-ESRGAN, and launches their kernels for each compute
capability as jobs do, with Triton's driver replaced by one that launches nothing. Neither a GPU nor its driver is
needed. A checkpoint of another shape has kernels of its own: Triton compiles those when they are needed.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import torch

from server.config import load_config
from server.kernels import Layers
from server.kernels.cuda.ahead import BUILT, SHARED_BYTES, CompileOnly
from server.kernels.cuda.network import Network
from server.models import load_model, rrdbnet
from server.models.basicsr_shim import RRDBNet
from server.weights.catalog import Catalog

_CPU = torch.device("cpu")
_WIDTHS = (16, 80)
"""Of pictures. Maps of at most 64 pixels have other blocks; the enlarged ones of an RRDBNet are four times as wide."""
_SAMPLES = (torch.uint8, torch.int16)
_RESULTS = (torch.uint8, torch.int16, torch.float32)


def networks(catalog: Catalog) -> Iterator[Network]:
    """In fp16, as on a GPU: those that are installed, and RealESRGAN_x2plus, which is the one of Real-ESRGAN's with
    kernels that those have not."""
    for name in catalog.names():
        checkpoint = catalog.get(name)
        path, _ = checkpoint.files[0]
        model = load_model(
            path,
            name=name,
            sha256=None,
            device=_CPU,
            dtype=torch.float16,
            fused=True,
            scale=checkpoint.stated_scale,
        )
        if model.fused is not None:
            yield model.fused
    net = RRDBNet(3, 3, scale=2, num_feat=64, num_block=1, num_grow_ch=32)
    facts = rrdbnet.detect(net.state_dict())
    assert facts is not None
    layers = rrdbnet.layers(net.requires_grad_(False), facts)
    assert isinstance(layers, Layers)
    yield Network(layers, torch.float16, _CPU)


def launch_all(network: Network, capability: int) -> None:
    """Every kernel of it with every signature that a job can give it. Triton's driver must be a `CompileOnly`.

    Triton compiles anew where memory does not begin at a multiple of 16 bytes. What a job gives a kernel is allocated
    as a whole, as here, and never a part of something.
    """
    network.capability = divmod(capability, 10)
    for channels, kind, width in product((1, 3), _SAMPLES, _WIDTHS):
        samples = torch.zeros(1, 4 * network.unshuffle, width, channels, dtype=kind)
        features = network(samples)
        seen = torch.zeros(1, 3, dtype=torch.int32)
        for result in _RESULTS:
            network.finish(features, samples, 0, slice(0, 1), slice(0, 1), result, seen)


def prebuild(capability: int) -> float:
    """All kernels for one compute capability, such as 90 for 9.0, into Triton's cache folder. Returns the seconds."""
    from triton.runtime import driver

    started = time.monotonic()
    torch.set_num_threads(1)
    driver.set_active(CompileOnly(capability))
    with torch.inference_mode():
        for network in networks(Catalog.of(load_config())):
            launch_all(network, capability)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m server.engine.prebuild", description=__doc__)
    known = sorted(SHARED_BYTES)
    parser.add_argument(
        "--capabilities", type=int, nargs="+", choices=known, default=known, help="90 for 9.0; default: all"
    )
    parser.add_argument("--folder", type=Path, default=BUILT, help="where to; default: beside the code")
    args = parser.parse_args()
    os.environ |= {"TRITON_CACHE_DIR": str(args.folder.resolve()), "TRITON_STORE_BINARY_ONLY": "1"}
    os.environ.pop("TRITON_CACHE_MANAGER", None)
    args.folder.mkdir(mode=0o755, parents=True, exist_ok=True)  # read by other users than its builder
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for capability, seconds in zip(args.capabilities, pool.map(prebuild, args.capabilities), strict=True):
            sys.stdout.write(f"compute capability {capability / 10}: {seconds:.0f} s\n")
    files = [each for each in args.folder.rglob("*") if each.is_file()]
    size = sum(each.stat().st_size for each in files)
    kernels = sum(each.suffix == ".cubin" for each in files)
    sys.stdout.write(f"{kernels} kernels, {size / 1e6:.1f} MB: {args.folder}\n")


if __name__ == "__main__":
    main()
