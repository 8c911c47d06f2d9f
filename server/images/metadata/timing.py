"""The timing of an animation's frames, as exact fractions of a second. Each format has its own unit of time."""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Timing:
    delays: tuple[Fraction, ...]
    """Seconds that each frame is shown, as stored. Browsers show frames of up to 10 ms for 100 ms."""
    plays: int
    """How many times the animation is played; 0 is without end."""

    @property
    def frames(self) -> int:
        return len(self.delays)

    @property
    def duration_s(self) -> float:
        """Of one play."""
        return float(sum(self.delays))

    def in_units(self, per_second: int, longest: int) -> list[int]:
        """Delays in whole units, `per_second` units in a second, each at most `longest`. They are rounded so that no
        frame is shown more than half a unit too early or too late."""
        units, start, shown = [], Fraction(0), 0
        for delay in self.delays:
            start += delay
            end = round(start * per_second)
            units.append(min(end - shown, longest))
            shown = end
        return units
