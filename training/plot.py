"""Draw a training log: the loss, both validation PSNRs, and NIQE.

    python -m training.plot training/runs/fidelity/log.jsonl --out training/runs/fidelity/log.png

Works during a run, and after any number of resumptions.
"""

import argparse
import json
from pathlib import Path
from typing import Any


def read_log(path: Path) -> list[dict[str, Any]]:
    """The log's lines in order of steps. A run that was killed and resumed repeats some steps; the last line counts."""
    by_step: dict[int, dict[str, Any]] = {}
    for text in path.read_text("utf-8").splitlines():
        line = json.loads(text)
        by_step[line["step"]] = line
    return [by_step[step] for step in sorted(by_step)]


def plot(lines: list[dict[str, Any]], out: Path) -> None:
    import matplotlib.pyplot as plt  # here, because it takes long, and few draw

    curves = (
        (["loss"], "mean loss of 100 steps"),
        (["psnr_clean", "psnr_degraded"], "validation PSNR, dB"),
        (["niqe"], "validation NIQE"),
    )
    figure, panels = plt.subplots(len(curves), sharex=True, figsize=(8, 9), layout="constrained")
    for axes, (names, label) in zip(panels, curves, strict=True):
        for name in names:
            measured = [line for line in lines if name in line]
            steps, values = [line["step"] for line in measured], [line[name] for line in measured]
            axes.plot(steps, values, linewidth=0.8, marker=".", label=name)
        axes.set(ylabel=label)
        axes.grid(alpha=0.3)
    panels[0].set(yscale="log")
    panels[1].legend()
    panels[-1].set(xlabel="step")
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
