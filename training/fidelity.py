"""Train the fidelity network: SRVGGNetCompact 64×32 ×4, L1 plus a frequency loss.

    python -m training.fidelity --pictures ../shared/images/train --out training/runs/fidelity

Resumes from OUT/latest.pt by itself. The learning rate is warm-up, constant, linear to zero over the last fifth
(`--steps` says where that ends): the constant part can be extended by a later session, because the state just before
the decay is kept as OUT/stable.pt. OUT/log.jsonl has a line every 100 steps and a validation every 1,000.
"""

import argparse
import copy
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from server.shim import SRVGGNetCompact
from training import degrade
from training.data import Batch, Pairs, batches, load_pictures, to_tensor
from training.degrade import Pixels

ARCHITECTURE: dict[str, Any] = {
    "num_in_ch": 3,
    "num_out_ch": 3,
    "num_feat": 64,
    "num_conv": 32,
    "upscale": 4,
    "act_type": "prelu",
}
DECAY_SHARE = 0.2
WARMUP_STEPS = 500
EMA = 0.999


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm-up, stable, decay: see the module's docstring."""
    decay = max(1, round(steps * DECAY_SHARE))
    return peak * min(1.0, (step + 1) / WARMUP_STEPS, max(0.0, (steps - step) / decay))


def loss_of(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1, plus L1 between the spectra, which stops the network from settling for the blurred mean.

    The frequency term follows Cho et al. (MIMO-UNet, arXiv:2108.05054), on the real FFT with orthonormal scaling.
    """
    spectra = torch.fft.rfft2(output, norm="ortho") - torch.fft.rfft2(target, norm="ortho")
    return functional.l1_loss(output, target) + 0.02 * torch.view_as_real(spectra).abs().mean()


@torch.no_grad()
def initialise(net: nn.Module) -> None:
    """Body layers start as the identity plus a tenth of He's noise, the last layer near zero.

    NOTE: the network is 34 plain layers without a skip between them. With torch's default the signal shrinks by 0.6 a
    layer, with He's alone every feature ends up saying the same: either stayed at nearest-neighbour for a thousand
    steps. Starting at the identity is a residual network with the skip folded into the weights (DiracNets,
    arXiv:1706.00388); it passes nearest-neighbour within 160 steps.
    """
    first, *body, last = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    for convolution in (first, *body, last):
        nn.init.kaiming_normal_(convolution.weight, a=0.25)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    for convolution in body:
        identity = nn.init.dirac_(torch.empty_like(convolution.weight))
        convolution.weight.mul_(0.1).add_(identity)
    last.weight.mul_(0.02)


@torch.no_grad()
def psnr(net: nn.Module, pairs: list[tuple[Pixels, Pixels]], device: torch.device) -> float:
    """Mean RGB PSNR in dB, 4 pixels of border left out, in fp32."""
    values = []
    for lr, hr in pairs:
        output = net(to_tensor(lr[None]).to(device)).clamp(0, 1).mul(255).round()
        error = (output - to_tensor(hr[None]).to(device) * 255)[..., 4:-4, 4:-4].square().mean()
        values.append(10 * np.log10(255**2 / max(1e-9, error.item())))
    return float(np.mean(values))


def validation_sets(pictures: list[Pixels]) -> dict[str, list[tuple[Pixels, Pixels]]]:
    """Fixed pairs of the held-out pictures: clean bicubic, and second-order damage."""
    sets: dict[str, list[tuple[Pixels, Pixels]]] = {"clean": [], "degraded": []}
    for i in range(2 * len(pictures)):
        pair = Pairs([pictures[i % len(pictures)]], seed=2026, first=i, count=1)
        hr = pair[0][1]
        sets["clean"].append((degrade.clean(hr), hr))
        sets["degraded"].append((degrade.second_order(hr, np.random.default_rng((2027, i))), hr))
    return sets


def save(state: dict[str, Any], path: Path) -> None:
    """Write beside, then rename: a killed run leaves the old file, never half a new one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    net = SRVGGNetCompact(**ARCHITECTURE)
    initialise(net)
    net.to(device, memory_format=torch.channels_last)
    ema = copy.deepcopy(net).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0, fused=True)
    step = 0
    if (out / "latest.pt").exists():
        state = torch.load(out / "latest.pt", map_location=device, weights_only=True)
        net.load_state_dict(state["params"])
        ema.load_state_dict(state["params_ema"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        print(f"resuming at step {step}", flush=True)

    def checkpoint() -> dict[str, Any]:
        return {
            "params": net.state_dict(),
            "params_ema": ema.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "architecture": ARCHITECTURE,
        }

    validation = validation_sets(load_pictures(args.pictures, "val"))
    pictures = load_pictures(args.pictures, "train")
    shares = (args.clean, args.light)
    stream = batches(pictures, args.seed, step, args.batch, args.crop, args.fresh, args.workers, shares)
    losses: list[float] = []
    started = time.monotonic()
    decay_from = args.steps - round(args.steps * DECAY_SHARE)
    while step < args.steps:
        lr, hr = (tensor.to(device, memory_format=torch.channels_last) for tensor in next(stream))
        rate = learning_rate(step, args.steps, args.lr)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses.append(_step(net, optimizer, (lr, hr)))
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - min(EMA, step / (step + 10)))
        if step % 100 == 0:
            line: dict[str, Any] = {"step": step, "loss": round(float(np.mean(losses)), 6), "lr": round(rate, 7)}
            line["seconds"] = round(time.monotonic() - started, 1)
            losses.clear()
            if step % 1000 == 0 or step == args.steps:
                line |= {f"psnr_{name}": round(psnr(ema, pairs, device), 3) for name, pairs in validation.items()}
            with (out / "log.jsonl").open("a") as log:
                print(json.dumps(line), file=log)
        if step % 500 == 0 or step == args.steps:
            save(checkpoint(), out / "latest.pt")
        if step == decay_from:
            save(checkpoint(), out / "stable.pt")


def _step(net: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    lr, hr = batch
    with torch.autocast(lr.device.type, torch.bfloat16):
        output = net(lr)
    loss = loss_of(output.float(), hr)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(net.parameters(), 0.5)
    optimizer.step()
    return loss.item()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder with manifest.csv and the pictures")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and log")
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=48, help="low-resolution crop, pixels")
    parser.add_argument("--fresh", type=int, default=2, help="new pairs per step")
    parser.add_argument("--lr", type=float, default=7e-4)
    parser.add_argument("--clean", type=float, default=degrade.SHARES[0], help="share of clean pairs")
    parser.add_argument("--light", type=float, default=degrade.SHARES[1], help="share of lightly damaged pairs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    train(parser.parse_args(argv))


if __name__ == "__main__":
    main()
