"""What creativity means: the one table from -2 … 2 to what the networks are given.

−2 is fidelity-x4 with the guarantee that the result reduces to its source, −1 the mean of its result and the large
network's, 0 the large network alone; above 0 the diffusion pass adds detail. Between the anchors every value runs
linearly. Pure numbers, so that documents and both halves can show it.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

MAX_CREATIVITY = 2.0

NAMES = {-2.0: "strict", -1.0: "faithful", 0.0: "balanced", 1.0: "creative", 2.0: "reimagine"}


@dataclass(frozen=True)
class Recipe:
    """What one creativity means."""

    fidelity: float
    """Share of fidelity-x4's result in the enlarged picture, 0 … 1; the rest is the large or the named network's."""
    strength: float
    """Where the diffusion starts: 0 is the upscaled picture itself, so that none is run, 1 is noise alone."""
    steps: int
    """Denoising steps from there."""
    gain: float
    """What the detail that came out is multiplied by."""
    lock: float
    """Colours and shapes wider than this many pixels of the result, for each 1,024 of its long side, stay those of the
    upscaled picture; smaller is stricter."""
    back_projection: float
    """How far what the result loses when it is reduced again is made good: at 1 it reduces to the source."""
    sdxl_strength: float
    """Where the diffusion starts when SDXL runs it: its noise is another."""
    sdxl_steps: int
    """Denoising steps of SDXL."""
    sdxl_control: float
    """ControlNet's scale: how closely SDXL holds to the upscaled picture."""
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
