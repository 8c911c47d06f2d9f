"""Both networks on one GPU, one after the other, from a packed file: what a rented machine is for.

    python -m training.all --pictures pictures.npz --device cuda --out OUT [--teacher realesr-general-x4v3.pth]

Needs torch and numpy alone. OUT/fidelity and OUT/perceptual are runs like any other and resume if started again;
OUT/*/latest.pt are what is worth bringing back.

The step counts are meant to fit 25 minutes of an H200 and have never been run. A pixel of a 64×32 network costs
7.3 MFLOP to train on, so a step of 64 samples of 48² costs 1.1 TFLOP: at a fifth of the chip's 790 TFLOP/s in bf16,
7 ms. The new pairs of a step are some 500 small kernels, 5 to 10 ms of a processor's time, and the optimizer and the
network's own launches as much again. 20 ms a step is assumed, 30 ms with the teacher: 13 and 8 minutes. The log's
`seconds` tells within a minute; `--fidelity-steps` and `--perceptual-steps` are there to correct it.
"""

import argparse
from pathlib import Path

from training import fidelity, perceptual

SIZES = ("--batch", "64", "--crop", "48", "--fresh", "16")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="a packed file (training.pack)")
    parser.add_argument("--out", type=Path, required=True, help="gets a folder for each run")
    parser.add_argument("--teacher", type=Path, help="realesr-general-x4v3.pth")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--fidelity-steps", type=int, default=40_000)
    parser.add_argument("--perceptual-steps", type=int, default=15_000)
    args = parser.parse_args(argv)
    shared = ["--pictures", str(args.pictures), "--device", args.device, *SIZES]
    fidelity.main([*shared, "--out", str(args.out / "fidelity"), "--steps", str(args.fidelity_steps)])
    start = ["--start", str(args.out / "fidelity" / "latest.pt")]
    teacher = ["--teacher", str(args.teacher)] if args.teacher else []
    steps = ["--steps", str(args.perceptual_steps)]
    perceptual.main([*shared, *start, *teacher, *steps, "--out", str(args.out / "perceptual")])


if __name__ == "__main__":
    main()
