"""Draw a training log: the loss, and both validation PSNRs.

    python -m training.plot training/runs/fidelity/log.jsonl --out training/runs/fidelity/log.png

Works while the run goes on, and after any number of resumptions.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt


def read_log(path: Path) -> list[dict[str, Any]]:
    """The log's lines in order of steps. A run that was killed and resumed repeats some steps; the last word counts."""
    by_step: dict[int, dict[str, Any]] = {}
    for text in path.read_text("utf-8").splitlines():
        line = json.loads(text)
        by_step[line["step"]] = line
    return [by_step[step] for step in sorted(by_step)]


def plot(lines: list[dict[str, Any]], out: Path) -> None:
    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(8, 7), layout="constrained")
    above.plot([line["step"] for line in lines], [line["loss"] for line in lines], linewidth=0.8)
    above.set(ylabel="loss (mean of 100 steps)", yscale="log")
    validated = [line for line in lines if "psnr_clean" in line]
    for kind in ("clean", "degraded"):
        below.plot(
            [line["step"] for line in validated], [line[f"psnr_{kind}"] for line in validated], marker=".", label=kind
        )
    below.set(xlabel="step", ylabel="validation PSNR, dB")
    below.legend()
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path, help="OUT/log.jsonl of a training run")
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    args = parser.parse_args(argv)
    plot(read_log(args.log), args.out)


if __name__ == "__main__":
    main()
