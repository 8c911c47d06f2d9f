"""The command-line options of both trainers, and the stream of pairs that they describe."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from training.dataset import Batch, Mix, Teacher
from training.packed import Packed
from training.pictures import load_training


def parser(description: str | None) -> argparse.ArgumentParser:
    """Each trainer sets its own defaults for steps, rate and the shares of clean and light pairs."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pictures", type=Path, required=True, help="folder with manifest.csv, or a packed file")
    options.add_argument("--out", type=Path, required=True, help="checkpoints and log")
    options.add_argument("--steps", type=int)
    options.add_argument("--lr", type=float, help="highest learning rate")
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--crop", type=int, default=48, help="low-resolution crop, pixels")
    options.add_argument("--fresh", type=int, default=2, help="new pairs per step")
    options.add_argument("--clean", type=float, help="share of clean pairs")
    options.add_argument("--light", type=float, help="share of lightly degraded pairs")
    options.add_argument("--recompressed", type=float, default=0.05, help="share of pairs compressed twice")
    options.add_argument("--screenshot", type=float, default=0.05, help="share of pairs reduced without antialiasing")
    options.add_argument("--drawn", dest="synthetic", type=float, default=0.1, help="share of synthetic pictures")
    options.add_argument("--plain", type=float, default=0.0, help="share of pairs of flat colours and ramps")
    options.add_argument("--grey", type=float, default=0.0, help="share of the other pairs that are converted to grey")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--workers", type=int, default=1, help="processes that make pairs")
    options.add_argument("--device", default="cpu")
    return options


def batches(args: argparse.Namespace, step: int, teacher: Teacher | None = None) -> Iterator[Batch]:
    """The batches from training step `step` on, made on the device that trains."""
    mix = Mix(args.clean, args.light, args.recompressed, args.screenshot, args.synthetic, args.plain, args.grey)
    device = torch.device(args.device)
    if device.type == "cuda":
        from training import gpu

        if args.fresh % gpu.GROUP:
            raise SystemExit(f"on a GPU pairs are made {gpu.GROUP} at a time: --fresh must be a multiple of that")
        packed = Packed.load(args.pictures)
        return gpu.batches(
            packed.train,
            packed.synthetic,
            mix,
            args.seed,
            step,
            batch=args.batch,
            lr_crop=args.crop,
            fresh=args.fresh // gpu.GROUP,
            device=device,
            teacher=teacher,
        )
    from training import cpu  # here, because a bare GPU machine has no OpenCV, Pillow and basicsr

    return cpu.batches(
        load_training(args.pictures),
        mix,
        args.seed,
        step,
        batch=args.batch,
        lr_crop=args.crop,
        fresh=args.fresh,
        workers=args.workers,
        teacher=teacher,
    )
