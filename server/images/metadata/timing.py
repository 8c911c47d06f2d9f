"""When an animation's frames are shown. Formats count time in their own units; here it is in seconds, exactly."""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Timing:
    delays: tuple[Fraction, ...]
    """Seconds that each frame is shown, as the file has them. Browsers show frames of up to 10 ms for 100."""
    plays: int
    """How often all of it is shown; 0 is for ever."""

    @property
    def frames(self) -> int:
        return len(self.delays)

    @property
    def duration_s(self) -> float:
        """Of one play."""
        return float(sum(self.delays))

    def in_units(self, per_second: int, longest: int) -> list[int]:
        """Delays in whole units, of which `per_second` are a second, each at most `longest`. What is no whole number is
        rounded so that no frame comes more than half a unit too early or late."""
        units, start, shown = [], Fraction(0), 0
        for delay in self.delays:
            start += delay
            end = round(start * per_second)
            units.append(min(end - shown, longest))
            shown = end
        return units
