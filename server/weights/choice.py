"""Which networks a job runs, and with which shares: the policy of weights/README.md.

Two things can be mixed. The *weights* of networks that were trained from the same start (deep network interpolation,
arXiv:1811.10515): Real-ESRGAN's denoise strength. And the *results* of fidelity-x4 and of the network that was asked
for: creativity below 0. A pure function of names and numbers; no file is touched.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal

from server.errors import InvalidField
from server.job.creativity import recipe
from server.job.job import Params

AUTO = "auto"
REAL_ESRGAN = "real-esrgan"
"""Asks for Real-ESRGAN's large network, whichever of them fits: what the vendors' `real-esrgan` means."""
FIDELITY = "fidelity-x4"
GENERAL, GRAINY = "realesr-general-x4v3", "realesr-general-wdn-x4v3"
LARGE_X4, LARGE_X2 = "RealESRGAN_x4plus", "RealESRGAN_x2plus"

TEXT_CREATIVITY = -2.0
"""What a clean screen or print gets when the caller leaves both model and creativity open: letters stay as they are."""

DeviceKind = Literal["cpu", "cuda"]
Content = Literal["photo", "text", "drawing"]

Shares = tuple[tuple[str, float], ...]
"""Names of networks and the share of each, which is more than 0; together they are 1."""


@dataclass(frozen=True)
class Choice:
    """What a job runs."""

    weights: Shares
    """The network that enlarges: one, or several whose weights are mixed."""
    fidelity: float
    """Share of fidelity-x4's own result in what comes out, 0…1; the rest is the other's."""
    creativity: float
    """−2…2: the caller's, or what follows from the picture."""
    note: str | None = None
    """Why it is not what the caller may expect, for people."""

    @property
    def alone(self) -> bool:
        """One network's result, nothing mixed into it."""
        return self.fidelity in (0.0, 1.0)


@dataclass(frozen=True)
class Limits:
    """How the operator wants `auto` to choose."""

    seconds: float = float("inf")
    """On a CPU, `auto` takes a large network only for jobs that are estimated to take no longer."""
    named: bool = False
    """Whether that holds for Real-ESRGAN's large networks also where the caller names them."""


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
    """What to run for `params`.

    `ratio`: result size by source size. `device`: where it will run. `present`: names that can be used here; only what
    leaves the network open looks at it, so that what was named and is not there is an error and not something else.
    `content`: what the picture shows. `seconds`: the estimated time of a choice on this machine, or None when unknown.
    Raises InvalidField when `denoise` is asked of a network that has none.
    """
    if params.denoise is not None:
        return _laddered(params, _denoised(params.model, params.denoise))
    if params.model not in (AUTO, REAL_ESRGAN):
        choice = _laddered(params, ((params.model, 1.0),))
        limited = limits.named and params.model in (LARGE_X4, LARGE_X2)
        return _within(choice, params, device, frames, seconds, limits) if limited else choice
    large = LARGE_X2 if ratio <= 2.0 and LARGE_X2 in present else LARGE_X4
    if large not in present:
        note = f"{LARGE_X4} is not installed here, so {FIDELITY} was taken; see `doctor`"
        return replace(_faithful(params), note=note)
    if params.model == AUTO and params.creativity is None and content == "text":
        note = f"a clean screen or print: {FIDELITY} keeps its letters; `content: photo` or a creativity says otherwise"
        return Choice(((FIDELITY, 1.0),), 1.0, TEXT_CREATIVITY, note)
    choice = _laddered(params, ((large, 1.0),))
    if params.model == REAL_ESRGAN and not limits.named:
        return choice
    return _within(choice, params, device, frames, seconds, limits)


def _laddered(params: Params, weights: Shares) -> Choice:
    """Creativity's ladder with this network at its 0."""
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
    """The same, or fidelity-x4 where the large network would take too long on a CPU."""
    if device != "cpu" or choice.fidelity == 1:
        return choice
    large = choice.weights[0][0]
    if frames > 1:
        note = f"an animation on a CPU: {FIDELITY} instead of {large}, which can be asked for by its name"
        return replace(_faithful(params), note=note)
    if limits.seconds == 0:  # the operator has switched it off: nothing to explain
        return _faithful(params)
    estimated = seconds(choice)
    if estimated is None or estimated <= limits.seconds:
        return choice
    note = (
        f"{large} would take about {estimated:.0f} s on this CPU, more than UPSCALE_AUTO_LIMIT_S ({limits.seconds:g}), "
        f"so {FIDELITY} was taken; model {large} runs it all the same"
    )
    return replace(_faithful(params), note=note)


def _denoised(model: str, strength: float) -> Shares:
    """As Real-ESRGAN's own `-dn`: the share of the network that smooths noise away."""
    if model not in (AUTO, GENERAL):
        raise InvalidField(f"{model} has no denoise strength; {GENERAL} has", field="denoise")
    return _mix(GENERAL, GRAINY, strength)


def _mix(first: str, second: str, share: float) -> Shares:
    """`share` of the first, 0…1, and the rest of the second. Rounded, so that few networks serve all callers."""
    share = round(min(max(share, 0.0), 1.0) * 200) / 200
    shares = ((first, share), (second, round(1 - share, 3)))
    return tuple((name, part) for name, part in shares if part > 0)
