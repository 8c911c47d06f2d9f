"""Train both networks on one GPU, one after the other, from a packed file: for a rented machine.

    python -m training.all --pictures pictures.npz --large x4plus.pt --device cuda --out OUT [--start START]

Needs only torch and numpy, and the two files that `training.pack` writes. OUT/fidelity and OUT/refiner are ordinary
runs, which resume if started again; OUT/*/latest.pt are the results to download. `--start` takes a checkpoint of the
fidelity network to continue from.

The step counts are meant to fit 25 minutes of an H200 and have never been run. A pixel of a 64×32 network costs
7.3 MFLOP to train on, so a step of 64 samples of 48² costs 1.1 TFLOP: at a fifth of the chip's 790 TFLOP/s in bf16,
7 ms. The new pairs of a step are some 500 small kernels, 5 to 10 ms of a processor's time, and the optimizer and the
network's own launches as much again. 20 ms a step is assumed for the fidelity network, 30 ms for the refiner,
whose pairs go through the former first: 13 and 8 minutes. The log's `seconds` shows the true time within a minute;
`--fidelity-steps` and `--refiner-steps` can then be changed.
"""

import argparse
from pathlib import Path

from training import fidelity, refiner
from training.conditions import packaged

SIZES = ("--batch", "64", "--crop", "48", "--fresh", "16")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="a packed file (training.pack)")
    parser.add_argument("--out", type=Path, required=True, help="folder, with a subfolder for each run")
    parser.add_argument("--large", type=Path, help="RealESRGAN_x4plus; where it is not named, the installed package's")
    parser.add_argument("--start", type=Path, help="a run's .pt of the fidelity network, to continue from")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--fidelity-steps", type=int, default=40_000)
    parser.add_argument("--refiner-steps", type=int, default=15_000)
    args = parser.parse_args(argv)
    large = args.large or packaged()
    for path in (args.pictures, large, *([args.start] if args.start else [])):
        if not path.exists():  # now, and not after the first of the two runs
            parser.error(f"there is no {path}")
    shared = ["--pictures", str(args.pictures), "--device", args.device, *SIZES]
    start = ["--start", str(args.start)] if args.start else []
    steps = ["--steps", str(args.fidelity_steps)]
    fidelity.main([*shared, *start, *steps, "--out", str(args.out / "fidelity")])
    start = ["--start", str(args.out / "fidelity" / "latest.pt")]
    steps = ["--steps", str(args.refiner_steps)]
    refiner.main([*shared, *start, *steps, "--large", str(large), "--out", str(args.out / "refiner")])


if __name__ == "__main__":
    main()
