"""One training run: its networks, its progress, and its files.

    OUT/latest.pt    every 500 steps: everything needed to resume
    OUT/stable.pt    the same, just before the rate decays: to start a longer run from
    OUT/log.jsonl    losses every 100 steps, a validation every 500

The rate has a warm-up, is constant, and decays linearly to zero over the last fifth, or another share.
"""

import copy
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from training.dataset import Batch

DECAY_SHARE = 0.2
WARMUP_STEPS = 500
EMA = 0.999
LOG_EVERY, SAVE_EVERY, VALIDATE_EVERY = 100, 500, 500

_Net = TypeVar("_Net", bound=nn.Module)

Losses = dict[str, Tensor]
"""Detached scalars; "loss" is the one that is plotted."""


class Run(Generic[_Net]):
    """`net` is averaged, validated and exported; its attribute `architecture` has the arguments that build it.
    `companions` are trained or changed with it, and are stored only to resume. The optimizers' rates at construction
    are the peak rates."""

    def __init__(
        self,
        out: Path,
        net: _Net,
        optimizers: Sequence[torch.optim.Optimizer],
        steps: int,
        companions: Mapping[str, nn.Module] | None = None,
        warmup: int = WARMUP_STEPS,
        decay: float = DECAY_SHARE,
    ) -> None:
        self.out = out
        self.net = net
        self.ema = copy.deepcopy(net).eval().requires_grad_(False)
        self.optimizers = optimizers
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        self.companions = companions or {}
        self.steps = steps
        self.warmup = warmup
        self.decay = decay
        self.step = 0
        out.mkdir(parents=True, exist_ok=True)
        if (out / "latest.pt").exists():
            self._resume(out / "latest.pt")

    def train(
        self,
        batches: Iterator[Batch],
        device: torch.device,
        update: Callable[[Batch], Losses],
        validate: Callable[[_Net], dict[str, float]],
    ) -> None:
        """Run to the last step. `batches` starts with the batch of step `self.step`; `update` makes one optimizer
        step."""
        collected: list[Losses] = []
        started = time.monotonic()
        decay_from = self.steps - round(self.steps * self.decay)
        while self.step < self.steps:
            self._set_rates(rate(self.step, self.steps, self.warmup, self.decay))
            collected.append(update(next(batches).to(device)))
            self.step += 1
            self._average()
            if self.step % LOG_EVERY == 0 or self.step == self.steps:
                line: dict[str, float] = {"step": self.step, **_means(collected)}
                collected.clear()
                line["lr"] = round(self.optimizers[0].param_groups[0]["lr"], 7)
                line["seconds"] = round(time.monotonic() - started, 1)
                if self.step % VALIDATE_EVERY == 0 or self.step == self.steps:
                    line |= {name: round(value, 3) for name, value in validate(self.ema).items()}
                with (self.out / "log.jsonl").open("a") as log:
                    print(json.dumps(line), file=log)
            if self.step % SAVE_EVERY == 0 or self.step == self.steps:
                self._save("latest.pt")
            if self.step == decay_from:
                self._save("stable.pt")

    def _set_rates(self, share: float) -> None:
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * share

    @torch.no_grad()
    def _average(self) -> None:
        weight = 1 - min(EMA, self.step / (self.step + 10))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.net.parameters()), weight)

    def _resume(self, path: Path) -> None:
        state = torch.load(path, map_location=next(self.net.parameters()).device, weights_only=True)
        self.net.load_state_dict(state["params"])
        self.ema.load_state_dict(state["params_ema"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        for name, companion in self.companions.items():
            companion.load_state_dict(state["companions"][name])
        self.step = state["step"]
        print(f"resuming at step {self.step}", flush=True)

    def _save(self, name: str) -> None:
        """Atomic: a killed run leaves the old file."""
        state: dict[str, Any] = {
            "params": self.net.state_dict(),
            "params_ema": self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "companions": {name: companion.state_dict() for name, companion in self.companions.items()},
            "step": self.step,
            "architecture": self.net.architecture,
        }
        partial = (self.out / name).with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.out / name)


def rate(step: int, steps: int, warmup: int = WARMUP_STEPS, decay: float = DECAY_SHARE) -> float:
    """Share of the peak rate at a step; it decays in the last share `decay` of the steps."""
    return min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / max(1, round(steps * decay))))


def _means(collected: list[Losses]) -> dict[str, float]:
    """The mean of each loss over the steps that have it."""
    by_name: dict[str, list[Tensor]] = {}
    for losses in collected:
        for name, value in losses.items():
            by_name.setdefault(name, []).append(value)
    return {name: round(torch.stack(values).mean().item(), 6) for name, values in by_name.items()}
