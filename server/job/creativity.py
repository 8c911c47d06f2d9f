"""What creativity means for both halves of the server: a table from -2 … 2 to the values below.

−2 is fidelity-x4, corrected until the result reduces to its source again. −1 is the mean of its result and the large
network's. 0 is the large network alone. Above 0 the diffusion pass adds detail. Between the anchors every value is
interpolated linearly. What a refiner needs beyond this is in its own table, in its package in server/refiners/.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

MAX_CREATIVITY = 2.0

NAMES = {-2.0: "strict", -1.0: "faithful", 0.0: "balanced", 1.0: "creative", 2.0: "reimagine"}

_Anchor = TypeVar("_Anchor")


@dataclass(frozen=True)
class Recipe:
    """What one creativity means."""

    fidelity: float
    """Share of fidelity-x4's result in the enlarged picture, 0 … 1; the rest is the large or the named network's."""
    steps: int
    """Denoising steps of the bundled refiner; 0: the diffusion pass does not run."""
    gain: float
    """What the detail that came out is multiplied by."""
    lock: float
    """Colours and shapes wider than this many pixels of the result, for each 1,024 of its long side, stay those of the
    upscaled picture; smaller is stricter."""
    back_projection: float
    """How far what the result loses when it is reduced again is made good: at 1 it reduces to the source."""

    @property
    def diffuses(self) -> bool:
        """Whether the diffusion pass runs."""
        return self.steps > 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


ANCHORS: dict[float, Recipe] = {
    -2.0: Recipe(1.0, 0, 0.0, 8.0, 1.0),
    -1.0: Recipe(0.5, 0, 0.0, 8.0, 0.0),
    0.0: Recipe(0.0, 0, 0.0, 8.0, 0.0),
    1.0: Recipe(0.0, 6, 1.4, 8.0, 0.0),
    2.0: Recipe(0.0, 8, 1.5, 16.0, 0.0),
}


def recipe(creativity: float) -> Recipe:
    """`creativity` in -2 … 2."""
    return interpolated(ANCHORS, creativity)


def interpolated(anchors: Mapping[float, _Anchor], creativity: float) -> _Anchor:
    """Between two anchors, which are dataclasses of numbers, field by field; whole numbers are rounded up."""
    lower = max(anchor for anchor in anchors if anchor <= creativity)
    upper = min(anchor for anchor in anchors if anchor >= creativity)
    if lower == upper:
        return anchors[lower]
    share = (creativity - lower) / (upper - lower)
    low, high = vars(anchors[lower]), vars(anchors[upper])
    values = {name: low[name] + (high[name] - low[name]) * share for name in low}
    whole = {name: math.ceil(values[name]) for name in low if isinstance(low[name], int)}
    kind: Any = type(anchors[lower])
    between: _Anchor = kind(**(values | whole))
    return between
