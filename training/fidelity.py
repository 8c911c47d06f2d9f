"""Train the fidelity network: SRVGGNetCompact 64×32 ×4, with a path for colour (`colour.py`).

    python -m training.fidelity --pictures ../shared/images/train --out training/runs/fidelity

From nothing, or from `--start`. Resumes from OUT/latest.pt by itself; `run.py` says what else is in OUT. `--steps` says
where the rate ends at zero: to go on from before its decay, copy OUT/stable.pt over OUT/latest.pt and say more steps.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from training import colour, options
from training.dataset import Batch
from training.muon import optimizers
from training.network import Compact, initialise, load
from training.pictures import load_validation
from training.precision import fastest
from training.run import DECAY_SHARE, WARMUP_STEPS, Losses, Run

CLIP = 0.5
"""Largest norm of the gradient."""
CHROMA, CHROMA_STEPS = 1.0, 2.0
LEVEL, LEVEL_SIDE = 1.0, 16


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    if args.start:
        net = load(args.start)
    else:
        net = Compact()
        initialise(net)
        colour.lay(net, colour.last_channels(net))
    rooms = colour.find(net)
    net.to(device).to(memory_format=torch.channels_last)
    held = colour.Held(net, rooms) if rooms else None
    own = optimizers(net, args.lr)
    run = Run(args.out, net, own, args.steps, warmup=args.warmup, decay=args.decay)
    dtype = fastest(device)

    def update(batch: Batch) -> Losses:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = net(batch.lr)
        loss = loss_of(output.float(), batch.hr)
        net.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        for optimizer in own:
            optimizer.step()
        if held:
            held.put_back()
        return {"loss": loss.detach()}

    run.train(options.batches(args, run.step), device, update, load_validation(args.pictures).measure)


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    """L1 of RGB and, on their own, of the chroma, whose errors are small beside those of the luma, and of its steps
    from pixel to pixel; L1 between the spectra, which stops the network from settling for the blurred mean; L1 of the
    means over LEVEL_SIDE², which stay.

    The frequency term follows Cho et al. (MIMO-UNet, arXiv:2108.05054), on the real FFT with orthonormal scaling.
    """
    error = output - target
    # Values beyond black and white are clipped later: they are no error.
    error = torch.where(target <= 0, error.clamp(min=0), torch.where(target >= 1, error.clamp(max=0), error))
    colours = colour.chroma(error)
    spectra = torch.fft.rfft2(error, norm="ortho")
    return (
        error.abs().mean()
        + CHROMA * colours.abs().mean()
        + CHROMA_STEPS * (colours.diff(dim=2).abs().mean() + colours.diff(dim=3).abs().mean())
        + 0.02 * torch.view_as_real(spectra).abs().mean()
        + LEVEL * functional.avg_pool2d(error, LEVEL_SIDE).abs().mean()
    )


def main(argv: list[str] | None = None) -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--start", type=Path, help="a network to continue from")
    parser.add_argument("--decay", type=float, default=DECAY_SHARE, help="share of the steps in which the rate decays")
    parser.add_argument("--warmup", type=int, default=WARMUP_STEPS, help="steps up to the highest rate")
    parser.set_defaults(steps=30_000, lr=7e-4, clean=0.45, light=0.15, plain=0.12, grey=0.08)
    train(parser.parse_args(argv))


if __name__ == "__main__":
    main()
