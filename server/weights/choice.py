"""The choice of a job's networks and their shares: the policy of weights/README.md.

Two things can be mixed. The *weights* of networks that were trained from the same start (deep network interpolation,
arXiv:1811.10515): Real-ESRGAN's denoise strength. And the *results* of fidelity-x4 and of the requested network:
creativity below 0. A pure function of names and numbers; it reads no files.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal

from server.errors import InvalidField
from server.job.creativity import recipe
from server.job.job import Params

AUTO = "auto"
REAL_ESRGAN = "real-esrgan"
"""Real-ESRGAN's large network, ×2 or ×4 by the scale: what the vendors' `real-esrgan` means."""
FIDELITY = "fidelity-x4"
GENERAL, GRAINY = "realesr-general-x4v3", "realesr-general-wdn-x4v3"
LARGE_X4, LARGE_X2 = "RealESRGAN_x4plus", "RealESRGAN_x2plus"

TEXT_CREATIVITY = -2.0
"""For a clean screenshot or print if the caller gives neither model nor creativity: letters stay as they are."""

DeviceKind = Literal["cpu", "cuda"]
Content = Literal["photo", "text", "drawing"]

Shares = tuple[tuple[str, float], ...]
"""Names of networks, each with its share, more than 0; the sum is 1."""


@dataclass(frozen=True)
class Choice:
    """The networks of a job and how they are mixed."""

    weights: Shares
    """The main network: one, or several whose weights are mixed."""
    fidelity: float
    """Share of fidelity-x4's result, 0 … 1; the rest is the main network's."""
    creativity: float
    """−2 … 2: the caller's, or chosen by the picture's content."""
    note: str | None = None
    """Why it is not what the caller may expect: a sentence for the result's notes."""

    @property
    def alone(self) -> bool:
        """Only one network's result is used."""
        return self.fidelity in (0.0, 1.0)


@dataclass(frozen=True)
class Limits:
    """The operator's limits for the choice on a CPU."""

    seconds: float = float("inf")
    """`auto` chooses a large network only for jobs whose estimated time is at most this."""
    named: bool = False
    """Whether the limit applies also to callers who name one of Real-ESRGAN's large networks."""


def choose(
    params: Params,
    *,
    ratio: float = 4.0,
    device: DeviceKind = "cpu",
    present: Collection[str],
    content: Content = "photo",
    frames: int = 1,
    seconds: Callable[[Choice], float | None] = lambda choice: None,
    limits: Limits = Limits(),
) -> Choice:
    """The networks for `params`.

    `ratio`: result size by source size. `present`: names of the networks on this machine. It matters only if the caller
    names none: a named network that is missing is an error later, and is not replaced here. `content`: what the
    picture shows. `seconds`: the estimated time of a choice on this machine, or None if unknown. Raises InvalidField
    for `denoise` with a network that has no denoise strength.
    """
    if params.denoise is not None:
        return _by_creativity(params, _denoised(params.model, params.denoise))
    if params.model not in (AUTO, REAL_ESRGAN):
        choice = _by_creativity(params, ((params.model, 1.0),))
        limited = limits.named and params.model in (LARGE_X4, LARGE_X2)
        return _within(choice, params, device, frames, seconds, limits) if limited else choice
    large = LARGE_X2 if ratio <= 2.0 and LARGE_X2 in present else LARGE_X4
    if large not in present:
        note = f"{LARGE_X4} is not installed, so {FIDELITY} was used; see `doctor`"
        return replace(_faithful(params), note=note)
    if params.model == AUTO and params.creativity is None and content == "text":
        note = f"a clean screen or print: {FIDELITY} keeps its letters; `content: photo` or a creativity overrides this"
        return Choice(((FIDELITY, 1.0),), 1.0, TEXT_CREATIVITY, note)
    choice = _by_creativity(params, ((large, 1.0),))
    if params.model == REAL_ESRGAN and not limits.named:
        return choice
    return _within(choice, params, device, frames, seconds, limits)


def _by_creativity(params: Params, weights: Shares) -> Choice:
    """The choice by creativity, with this network at 0."""
    creativity = params.creativity or 0.0
    if weights == ((FIDELITY, 1.0),):
        return _faithful(params)
    share = round(recipe(creativity).fidelity, 3)
    return Choice(((FIDELITY, 1.0),) if share == 1 else weights, share, creativity)


def _faithful(params: Params) -> Choice:
    return Choice(((FIDELITY, 1.0),), 1.0, params.creativity or 0.0)


def _within(
    choice: Choice,
    params: Params,
    device: DeviceKind,
    frames: int,
    seconds: Callable[[Choice], float | None],
    limits: Limits,
) -> Choice:
    """`choice`, or fidelity-x4 if the large network would take too long on a CPU."""
    if device != "cpu" or choice.fidelity == 1:
        return choice
    large = choice.weights[0][0]
    if frames > 1:
        note = f"an animation on a CPU: {FIDELITY} was used instead of {large}, which can be requested by its name"
        return replace(_faithful(params), note=note)
    if limits.seconds == 0:  # switched off by the operator: no note
        return _faithful(params)
    estimated = seconds(choice)
    if estimated is None or estimated <= limits.seconds:
        return choice
    note = (
        f"{large} would take about {estimated:.0f} s on this CPU, more than UPSCALE_AUTO_LIMIT_S ({limits.seconds:g}), "
        f"so {FIDELITY} was used; model {large} runs it anyway"
    )
    return replace(_faithful(params), note=note)


def _denoised(model: str, strength: float) -> Shares:
    """As Real-ESRGAN's option `-dn`: the share of the network that removes noise."""
    if model not in (AUTO, GENERAL):
        raise InvalidField(f"{model} has no denoise strength; {GENERAL} has", field="denoise")
    return _mix(GENERAL, GRAINY, strength)


def _mix(first: str, second: str, share: float) -> Shares:
    """`share` of the first, 0 … 1, and the rest of the second. Rounded, so that few different mixes are loaded."""
    share = round(min(max(share, 0.0), 1.0) * 200) / 200
    shares = ((first, share), (second, round(1 - share, 3)))
    return tuple((name, part) for name, part in shares if part > 0)
