"""Fine-tune the fidelity network into its perceptual twin, with a teacher and, if wanted, a GAN.

    python -m training.perceptual --start weights/bundled/fidelity-x4.safetensors --pictures ../shared/images/train \\
        --teacher ../shared/weights/official/realesr-general-x4v3.pth --out training/runs/perceptual

Same architecture, a modest rate and pixel losses throughout, so the twins stay in one basin: a linear mix of their
weights is a network between the two (Wang et al., DNI, arXiv:1811.10515).

There is no pretrained VGG here. In its place is an aim (`aim.py`): what a teacher and the fidelity network make of a
pair together; it is computed once, and kept with the pair in the window. A network that only has to come near it is
softer than it, because it says the median of what it does not know yet. So there shall also be as much detail,
whatever it is, in each place as there is in the aim (`energy`). After `--alone` steps a discriminator can join, which
tells the network from its aim, and whose features are matched (Wang et al., pix2pixHD, arXiv:1711.11585). Resumes as
`fidelity.py` does.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import parametrize

from training import options
from training.aim import Aim, blurred
from training.discriminator import Discriminator
from training.fidelity import loss_of
from training.muon import optimizers
from training.network import load
from training.pair import Batch
from training.pictures import load_validation
from training.precision import fastest
from training.run import Losses, Run

FEATURES = 0.05
"""Weight of feature matching. NOTE: with 0.5 it outweighed the pixels and cost HaarPSI, see the README."""
JUDGED_SHARE, JUDGED_SIDE = 0.5, 96
"""What the discriminator sees: of a batch's samples, and of these in high-resolution pixels. All of it would cost it
three times as much."""
CRITIC_RATE = 2e-4
ENERGY_SIDE = 8
"""Of a place in which detail is measured, in high-resolution pixels."""
WARMUP_STEPS = 200


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    net, start = (load(args.start).to(device).to(memory_format=torch.channels_last) for _ in range(2))
    critic = Discriminator().to(device).to(memory_format=torch.channels_last)
    teacher = load(args.teacher).to(device).requires_grad_(False) if args.teacher else None
    own = optimizers(net, args.lr)
    critics = torch.optim.AdamW(critic.parameters(), lr=CRITIC_RATE, betas=(0.5, 0.99), weight_decay=0, fused=True)
    run = Run(args.out, net, [*own, critics], args.steps, {"discriminator": critic}, WARMUP_STEPS)
    dtype = fastest(device)

    def update(batch: Batch) -> Losses:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = net(batch.lr)
        losses = {"pixel": loss_of(output.float(), batch.taught)}
        losses["energy"] = functional.l1_loss(energy(output.float()), energy(batch.taught))
        loss = losses["pixel"] + args.energy * losses["energy"]
        joined = args.alone is not None and run.step >= args.alone
        if joined:
            window = judged(output, np.random.default_rng((args.seed, run.step, 2)))
            with parametrize.cached():
                critic.weights()
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    losses |= compare(critic(output[window]), critic(batch.taught[window]))
            loss = loss + FEATURES * losses["features"] + args.gan * losses["fooled"]
            critics.zero_grad()
            losses["caught"].backward(retain_graph=True, inputs=list(critic.parameters()))  # type: ignore[no-untyped-call]
        net.zero_grad()
        loss.backward(inputs=list(net.parameters()))
        for optimizer in own:
            optimizer.step()
        if joined:
            critics.step()
        return {name: value.detach() for name, value in ({"loss": loss} | losses).items()}

    aim = Aim(start.requires_grad_(False), teacher, args.share, args.sharpen)
    run.train(options.batches(args, run.step, aim), device, update, load_validation(args.pictures).measure)


def energy(image: Tensor) -> Tensor:
    """N×3×H×W → N×3×H/ENERGY_SIDE×W/ENERGY_SIDE: how much detail there is, as its root mean square."""
    detail = image - blurred(image)
    return (functional.avg_pool2d(detail.square(), ENERGY_SIDE) + 1e-6).sqrt()


def judged(output: Tensor, rng: np.random.Generator) -> tuple[slice, ...]:
    """A random window of the first samples."""
    side = min(JUDGED_SIDE, output.shape[-1] // 8 * 8)  # the discriminator halves three times
    y, x = (int(offset) for offset in rng.integers(output.shape[-1] - side + 1, size=2))
    return slice(round(len(output) * JUDGED_SHARE)), slice(None), slice(y, y + side), slice(x, x + side)


def compare(fake: tuple[Tensor, list[Tensor]], real: tuple[Tensor, list[Tensor]]) -> Losses:
    """The discriminator's answers to both → `features`: their distance, mean of the depths, relative to the real ones'
    size; `fooled`, the network's adversarial loss; `caught`, the discriminator's own. Non-saturating, per pixel."""
    fake_logits, real_logits = fake[0].float(), real[0].float()
    targets = [each.detach().float() for each in real[1]]
    distances = [functional.l1_loss(a.float(), b) / b.abs().mean() for a, b in zip(fake[1], targets, strict=True)]
    return {
        "features": torch.stack(distances).mean(),
        "fooled": functional.softplus(-fake_logits).mean(),
        "caught": functional.softplus(-real_logits).mean() + functional.softplus(fake_logits).mean(),
    }


def main(argv: list[str] | None = None) -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--start", type=Path, required=True, help="the fidelity network: a bundled file, a run's .pt")
    parser.add_argument("--teacher", type=Path, help="realesr-general-x4v3.pth")
    parser.add_argument("--share", type=float, default=1.0, help="of the teacher in what is learned, 0 to 1")
    parser.add_argument("--sharpen", type=float, default=0.0, help="how much what is learned is sharpened")
    parser.add_argument("--energy", type=float, default=0.4, help="weight of the loss of how much detail there is")
    parser.add_argument("--gan", type=float, default=0.05, help="weight of the adversarial loss")
    parser.add_argument("--alone", type=int, help="steps before the discriminator joins; without, it never does")
    parser.set_defaults(steps=15_000, lr=2e-4, clean=0.1, light=0.1)
    train(parser.parse_args(argv))


if __name__ == "__main__":
    main()
