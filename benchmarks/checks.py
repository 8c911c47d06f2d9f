"""The requirements for the five creativities, and whether they hold: pure functions of the figures of
`benchmarks.quality`.

Figures are {set: {row: {picture: {measure: value}}}}; a value is None if it could not be measured.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.measures import CHANNELS
from benchmarks.sets import PHOTOS

BICUBIC, GENERAL, UNASKED = "bicubic", "general-x4v3", "unasked"
LADDER = ("creativity −2", "creativity −1", "creativity 0", "creativity +1", "creativity +2")
STRICT, FAITHFUL, BALANCED, CREATIVE, FREE = LADDER

Figures = Mapping[str, float | None]
Pictures = Mapping[str, Mapping[str, Mapping[str, Figures]]]
Letters = Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Check:
    asked: str
    found: str
    passed: bool | None
    """None: not measured."""

    def to_dict(self) -> dict[str, Any]:
        return {"asked": self.asked, "found": self.found, "passed": self.passed}


def summary(figures: Mapping[str, Figures], by: Callable[[Sequence[float]], Any] = np.mean) -> dict[str, float | None]:
    """The mean (or `by`) of each measure over the pictures that have it."""
    names = list(dict.fromkeys(name for each in figures.values() for name in each))
    found: dict[str, float | None] = {}
    for name in names:
        values = [value for each in figures.values() if (value := each.get(name)) is not None]
        found[name] = round(float(by(values)), 4) if values else None
    return found


def ladder(pictures: Pictures) -> dict[str, dict[str, Any]]:
    """By set and measure: the means of the five creativities, and the share of pictures in which each value is more
    (of NIQE: less) than the one before."""
    found: dict[str, dict[str, Any]] = {}
    for kind, rows in pictures.items():
        if any(name not in rows for name in LADDER):
            continue
        for measure, sign in (("energy", 1), ("distance", 1), ("niqe", -1)):
            steps = _steps(rows, measure)
            if steps:
                means = [round(float(value), 4) for value in np.mean(steps, axis=0)]
                share = float(np.mean([_rises(each, sign) for each in steps]))
                found.setdefault(kind, {})[measure] = {"means": means, "share": round(share, 4), "pictures": len(steps)}
    return found


def _steps(rows: Mapping[str, Mapping[str, Figures]], measure: str) -> list[list[float]]:
    """A list of five values for each picture that has all five."""
    lists = []
    for picture in rows[STRICT]:
        values = [rows[name].get(picture, {}).get(measure) for name in LADDER]
        known = [value for value in values if value is not None]
        if len(known) == len(LADDER):
            lists.append(known)
    return lists


def _rises(values: Sequence[float], sign: int = 1) -> bool:
    return all(sign * (after - before) > 0 for before, after in zip(values, values[1:], strict=False))


def checks(pictures: Pictures, letters: Letters) -> list[Check]:
    means = {kind: {row: summary(each) for row, each in rows.items()} for kind, rows in pictures.items()}

    def value(kind: str, row: str, measure: str) -> float:
        found = means.get(kind, {}).get(row, {}).get(measure)
        return math.nan if found is None else found

    checked: list[Check] = []

    def check(asked: str, values: Sequence[float], holds: bool, form: str = "{:.2f}") -> None:
        known = bool(values) and not any(math.isnan(each) for each in values)
        shown = ", ".join("–" if math.isnan(each) else form.format(each) for each in values)
        checked.append(Check(asked, shown or "–", holds if known else None))

    for kind in PHOTOS:
        gain = value(kind, GENERAL, "niqe") - value(kind, BALANCED, "niqe")
        check(f"{kind}: NIQE at 0 is less than {GENERAL}'s by at least 1.5", [gain], gain >= 1.5)
    for kind in PHOTOS:
        ratios = [value(kind, BALANCED, f"mesh_{channel}") for channel in CHANNELS]
        check(f"{kind}: mesh at 0 at most 1.1 in Y, Cb, Cr", ratios, all(each <= 1.1 for each in ratios), "{:.3f}")
    for kind in PHOTOS:
        moved = value(kind, BALANCED, "drift")
        check(f"{kind}: colour drift at 0 at most 0.1 in the mean", [moved], moved <= 0.1, "{:.3f}")
    for kind in ("web", "degraded"):
        scores = [value(kind, row, "haarpsi") for row in (STRICT, FAITHFUL, BALANCED, FREE)]
        best = scores[1] > max(scores[0], scores[2], scores[3])
        check(f"{kind}: HaarPSI of −1 above those of −2, 0 and +2 (−2, −1, 0, +2)", scores, best, "{:.4f}")
    gain = value("clean", STRICT, "psnr_y") - value("clean", BICUBIC, "psnr_y")
    check("clean: PSNR of Y at −2 at least 1.0 dB above bicubic", [gain], gain >= 1.0)
    for kind in ("clean", "web"):
        gain = value(kind, BALANCED, "niqe") - value(kind, CREATIVE, "niqe")
        check(f"{kind}: NIQE at +1 is less than at 0 by at least 0.2", [gain], gain >= 0.2)
    climbs = ladder(pictures)
    for kind in PHOTOS:
        for measure in ("energy", "distance"):
            found = climbs.get(kind, {}).get(measure)
            asked = f"{kind}: {measure} rises from −2 to +2 in the means and in 90 % of pictures"
            rises = found is not None and _rises(found["means"]) and found["share"] >= 0.9
            check(asked, [*found["means"], found["share"]] if found else [], rises)
        found = climbs.get(kind, {}).get("niqe")
        falls = found is not None and _rises(found["means"], -1)
        check(f"{kind}: NIQE falls from −2 to +2 in the means", found["means"] if found else [], falls)
    for group in ("rendered", "screens"):
        rows = letters.get(group, {})
        read = [float(np.mean(list(rows[row].values()))) if rows.get(row) else math.nan for row in (UNASKED, BICUBIC)]
        asked = f"letters, {group}: read right unasked at least as well as in the enlarged source"
        check(asked, read, read[0] >= read[1], "{:.4f}")
    return checked
