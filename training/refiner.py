"""Train the bundled refiner: a conditional diffusion network for the detail that an upscaled picture lacks.

    python -m training.refiner --pictures ../shared/images/train --start weights/bundled/fidelity-x4.safetensors \
        --out training/runs/refiner

The condition is what the server makes of a damaged picture (`conditions.py`): RealESRGAN_x4plus with its colours
locked, or the fidelity network. The target is what the true picture has beyond it. The network predicts the clean
residual (not the noise), weighted as a prediction of v would be (arXiv:2202.00512) up to a signal-to-noise ratio of 5
(arXiv:2303.09556).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from server.detailnet import RESIDUAL_SCALE, TRAIN_STEPS, DetailNet, signal_and_noise
from training import options
from training.conditions import Conditions, load_large, packaged
from training.dataset import Batch, to_tensor
from training.network import load, read_state
from training.pictures import load_validation
from training.precision import fastest
from training.run import Losses, Run
from training.validation import Validation

CLIP = 1.0
"""Largest norm of the gradient."""
MOST_WEIGHT = 6.0
HeldOut = dict[str, tuple[Tensor, Tensor]]

SHARPENED = 0.3
"""Share of samples whose condition is mixed with the ground truth, as for pictures that lack less detail."""


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    net = DetailNet()
    if args.init:
        net.load_state_dict(read_state(args.init))
    net = net.to(device).to(memory_format=torch.channels_last)
    small = load(args.start).to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    conditions = Conditions(small, load_large(args.large or packaged(), device), args.large_share)
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    run = Run(args.out, net, [optimizer], args.steps)
    dtype = fastest(device)

    def update(batch: Batch) -> Losses:
        # Seeded by the step, so that a resumed run has the same noise.
        rng = torch.Generator(device).manual_seed((args.seed << 32) + run.step)
        picture, residual = _task(batch, rng)
        step = torch.randint(TRAIN_STEPS, (len(residual),), generator=rng, device=device)
        signal, noise = (share[:, None, None, None] for share in signal_and_noise(step))
        noisy = signal * residual + noise * torch.randn(residual.shape, generator=rng, device=device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            guess = net(noisy, picture, step)
        weight = (1 + (signal / noise).square()).clamp(max=MOST_WEIGHT)
        loss = (weight * (guess.float() - residual).square()).mean()
        net.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        return {"loss": loss.detach(), "norm": norm.detach()}

    held_out = _held_out(load_validation(args.pictures), conditions, device)
    run.train(options.batches(args, run.step, conditions), device, update, lambda ema: _measure(ema, held_out))


def _task(batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The condition in [0, 1], and its difference to the ground truth, scaled."""
    n = len(batch.hr)
    share = torch.rand(n, 1, 1, 1, generator=rng, device=batch.hr.device) * 0.8
    chosen = torch.rand(n, 1, 1, 1, generator=rng, device=batch.hr.device) < SHARPENED
    picture = torch.lerp(batch.target, batch.hr, share * chosen)
    return picture, (batch.hr - picture) * RESIDUAL_SCALE


@torch.no_grad()
def _measure(net: DetailNet, held_out: HeldOut) -> dict[str, float]:
    """How much of the residual's energy is explained at three noise levels, in percent, on held-out pairs."""
    figures = {}
    for name, (picture, residual) in held_out.items():
        rng = torch.Generator(residual.device).manual_seed(0)
        for step in (250, 500, 999):
            at = torch.full((len(residual),), step, device=residual.device)
            signal, noise = (share[:, None, None, None] for share in signal_and_noise(at))
            noisy = signal * residual + noise * torch.randn(residual.shape, generator=rng, device=residual.device)
            error = torch.cat(
                [net(*each) for each in zip(*(torch.split(part, 8) for part in (noisy, picture, at)), strict=True)]
            )
            explained = 1 - float((error - residual).square().mean() / residual.square().mean())
            figures[f"{name}_{step}"] = 100 * explained
    return figures


@torch.no_grad()
def _held_out(validation: Validation, conditions: Conditions, device: torch.device) -> HeldOut:
    """By kind of damage and network: enlarged pictures, and their differences to the ground truth, scaled."""
    found = {}
    for kind, pairs in (("clean", validation.clean), ("degraded", validation.degraded)):
        lr, hr = (to_tensor(np.stack(side)).to(device) for side in zip(*pairs, strict=True))
        for name, share in (("x4plus", 1.0), ("fidelity", 0.0)):
            enlarge = Conditions(conditions.small, conditions.large, share)
            picture = torch.cat(
                [enlarge(low, high, False) for low, high in zip(torch.split(lr, 1), torch.split(hr, 1), strict=True)]
            )
            found[f"{kind}_{name}"] = picture, (hr - picture) * RESIDUAL_SCALE
    return found


def main(argv: list[str] | None = None) -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--start", type=Path, required=True, help="the fidelity network")
    parser.add_argument("--init", type=Path, help="a refiner to go on from")
    parser.add_argument("--large", type=Path, help="RealESRGAN_x4plus; where it is not named, the installed package's")
    parser.add_argument("--large-share", type=float, default=0.65, help="share of conditions that it makes")
    parser.set_defaults(steps=9_000, lr=5e-4, clean=0.4, light=0.2, screenshot=0.05, recompressed=0.05, synthetic=0.08)
    train(parser.parse_args(argv))


if __name__ == "__main__":
    main()
