"""The table from creativity, -2 … 2, to the parameters of the networks.

−2: fidelity-x4, with a result that gives the source again when it is reduced. −1: the mean of its result and the large
network's. 0: the large network alone. Above 0 the diffusion pass adds detail. Between whole numbers every parameter is
interpolated linearly. Pure numbers, so that documents and both halves can use them.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

MAX_CREATIVITY = 2.0

NAMES = {-2.0: "strict", -1.0: "faithful", 0.0: "balanced", 1.0: "creative", 2.0: "reimagine"}


@dataclass(frozen=True)
class Recipe:
    """The parameters for one creativity."""

    fidelity: float
    """Share of fidelity-x4's result in the enlarged picture, 0 … 1; the rest is the main network's."""
    strength: float
    """Noise level at which the diffusion starts: 0 is the upscaled picture (no diffusion), 1 is noise alone."""
    steps: int
    """Denoising steps."""
    gain: float
    """Factor of the added detail."""
    lock: float
    """Colours and shapes wider than so many pixels, per 1,024 pixels of the result's long side, stay those of the
    upscaled picture; smaller is stricter."""
    back_projection: float
    """Share of back-projection, 0 … 1: at 1 the result, reduced again, is the source."""
    sdxl_strength: float
    """`strength` for SDXL, whose noise schedule is different."""
    sdxl_steps: int
    """`steps` for SDXL."""
    sdxl_control: float
    """ControlNet's scale: how closely SDXL follows the upscaled picture."""
    sdxl_guidance: float
    """Classifier-free guidance."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


ANCHORS: dict[float, Recipe] = {
    -2.0: Recipe(1.0, 0.0, 0, 0.0, 8.0, 1.0, 0.0, 0, 0.75, 5.0),
    -1.0: Recipe(0.5, 0.0, 0, 0.0, 8.0, 0.0, 0.0, 0, 0.75, 5.0),
    0.0: Recipe(0.0, 0.0, 0, 0.0, 8.0, 0.0, 0.0, 0, 0.75, 5.0),
    1.0: Recipe(0.0, 0.65, 6, 1.05, 8.0, 0.0, 0.45, 10, 0.6, 6.0),
    2.0: Recipe(0.0, 0.7, 8, 1.5, 16.0, 0.0, 0.65, 12, 0.45, 7.0),
}


def recipe(creativity: float) -> Recipe:
    """`creativity` in -2 … 2."""
    lower = max(anchor for anchor in ANCHORS if anchor <= creativity)
    upper = min(anchor for anchor in ANCHORS if anchor >= creativity)
    if lower == upper:
        return ANCHORS[lower]
    share = (creativity - lower) / (upper - lower)
    low, high = ANCHORS[lower].to_dict(), ANCHORS[upper].to_dict()
    values = {name: low[name] + (high[name] - low[name]) * share for name in low}
    whole = {name: math.ceil(values[name]) for name in ("steps", "sdxl_steps")}
    return Recipe(**(values | whole))
