"""Which networks a job runs, and in which shares their weights are mixed: the policy of weights/README.md.

Networks of the same shape that were trained from the same start can be mixed weight by weight, and what comes out is
between what they make (deep network interpolation, arXiv:1811.10515). Real-ESRGAN's denoise strength is such a mix, and
so is creativity between the bundled pair. A pure function of names; no file is touched.
"""

from collections.abc import Collection
from typing import Literal

from server.creativity import recipe
from server.errors import InvalidField
from server.job import Params

AUTO = "auto"
FIDELITY, PERCEPTUAL = "fidelity-x4", "perceptual-x4"
GENERAL, GRAINY = "realesr-general-x4v3", "realesr-general-wdn-x4v3"
LARGE_X4, LARGE_X2 = "RealESRGAN_x4plus", "RealESRGAN_x2plus"

DeviceKind = Literal["cpu", "cuda"]

Shares = tuple[tuple[str, float], ...]
"""Names of networks and the share of each, which is more than 0; together they are 1."""


def choose(params: Params, *, ratio: float, device: DeviceKind, present: Collection[str]) -> Shares:
    """What to run for `params`.

    `ratio`: result size by source size. `device`: where it will run. `present`: names that can be used here; only
    `auto` looks at it, so that what was named and is not there is an error and not something else. Raises InvalidField
    when `denoise` is asked of a network that has none.
    """
    if params.denoise is not None:
        return _denoised(params.model, params.denoise)
    if params.model != AUTO:
        return ((params.model, 1.0),)
    creativity = params.creativity or 0.0
    if creativity >= 0 and device == "cuda":  # below it, what is invented is unwanted
        for name, largest_ratio in ((LARGE_X2, 2.0), (LARGE_X4, float("inf"))):
            if name in present and ratio <= largest_ratio:
                return ((name, 1.0),)
    if PERCEPTUAL not in present or params.creativity is None:  # who asks for none wants what is certain
        return ((FIDELITY, 1.0),)
    return _mix(FIDELITY, PERCEPTUAL, 1 - recipe(creativity).perceptual)


def _denoised(model: str, strength: float) -> Shares:
    """As Real-ESRGAN's own `-dn`: the share of the network that smooths noise away."""
    if model not in (AUTO, GENERAL):
        raise InvalidField(f"{model} has no denoise strength; {GENERAL} has", field="denoise")
    return _mix(GENERAL, GRAINY, strength)


def _mix(first: str, second: str, share: float) -> Shares:
    """`share` of the first, 0…1, and the rest of the second. Rounded, so that few networks serve all callers."""
    share = round(min(max(share, 0.0), 1.0) * 200) / 200  # a hundredth of creativity
    shares = ((first, share), (second, round(1 - share, 3)))
    return tuple((name, part) for name, part in shares if part > 0)
