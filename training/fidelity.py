"""Train the fidelity network: SRVGGNetCompact 64×32 ×4, L1 plus a frequency loss.

    python -m training.fidelity --pictures ../shared/images/train --out training/runs/fidelity

Resumes from OUT/latest.pt by itself; `run.py` says what else is in OUT. `--steps` says where the rate ends at zero: to
go on from before its decay, copy OUT/stable.pt over OUT/latest.pt and say more steps.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional

from training import options
from training.network import Compact, initialise
from training.pair import Batch
from training.pictures import load_validation
from training.precision import fastest
from training.run import Losses, Run

CLIP = 0.5
"""Norm the gradient is held to."""


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    net = Compact()
    initialise(net)
    net.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0, fused=True)
    run = Run(args.out, net, [optimizer], args.steps)
    dtype = fastest(device)

    def update(batch: Batch) -> Losses:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = net(batch.lr)
        loss = loss_of(output.float(), batch.hr)
        net.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        return {"loss": loss.detach()}

    run.train(options.batches(args, run.step), device, update, load_validation(args.pictures).measure)


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    """L1, plus L1 between the spectra, which stops the network from settling for the blurred mean.

    The frequency term follows Cho et al. (MIMO-UNet, arXiv:2108.05054), on the real FFT with orthonormal scaling.
    """
    spectra = torch.fft.rfft2(output, norm="ortho") - torch.fft.rfft2(target, norm="ortho")
    return functional.l1_loss(output, target) + 0.02 * torch.view_as_real(spectra).abs().mean()


def main(argv: list[str] | None = None) -> None:
    parser = options.parser(__doc__)
    parser.set_defaults(steps=30_000, lr=7e-4, clean=0.45, light=0.15)
    train(parser.parse_args(argv))


if __name__ == "__main__":
    main()
