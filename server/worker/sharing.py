"""When each of the jobs that share a worker will have ended.

Jobs share the machine's time evenly, but of the large tiles on a CPU one is computed at a time: jobs that have such
take turns, tile by tile, and those that wait for their turn take no time from the others.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

_MOST_TILES = 100
"""Of more, several count as one: they are short beside the whole."""


@dataclass(frozen=True)
class Left:
    """What is left of a job, in seconds of a machine of its own."""

    seconds: float
    """In all, > 0."""
    alone: float = 0.0
    """Of these, the tiles of which one is computed at a time; they come first."""
    tile: float = 0.0
    """Of one of these; 0: not known yet, about as others' are."""
    current: float = 0.0
    """Of the one that is being computed; 0: none has begun."""
    waits: bool = False
    """It is not the job's turn."""


def ends(jobs: Sequence[Left]) -> list[float]:
    """Seconds from now until each job ends."""
    left = {place: job.seconds for place, job in enumerate(jobs)}
    alone = {place: min(job.alone, job.seconds) for place, job in enumerate(jobs)}
    usual = max((job.tile for job in jobs), default=0.0)
    tiles = [max(job.tile or usual or job.alone, job.alone / _MOST_TILES) for job in jobs]
    tile = {place: min(jobs[place].current or tiles[place], alone[place]) for place in left}
    line = deque(sorted((place for place in left if alone[place]), key=lambda place: _order(jobs[place])))
    found, now = [0.0] * len(jobs), 0.0
    while left:
        at_work = [place for place in left if place not in line or place == line[0]]
        step = min(tile[place] if line and place == line[0] else left[place] for place in at_work)
        now += step * len(at_work)
        for place in at_work:
            left[place] -= step
            if line and place == line[0]:
                alone[place], tile[place] = alone[place] - step, tile[place] - step
        if line and tile[line[0]] <= 0:
            place = line.popleft()
            if alone[place] > 0:
                line.append(place)
                tile[place] = min(tiles[place], alone[place])
        for place in [place for place, seconds in left.items() if seconds <= 0 and place not in line]:
            found[place] = now
            del left[place]
    return found


def evenly(jobs: Sequence[Left]) -> list[float]:
    """Seconds with which each job would end at the same time if all shared the machine's time evenly."""
    found, before, seconds = [0.0] * len(jobs), 0.0, 0.0
    for rank, (end, place) in enumerate(sorted((end, place) for place, end in enumerate(ends(jobs)))):
        seconds += (end - before) / (len(jobs) - rank)
        found[place], before = seconds, end
    return found


def _order(job: Left) -> tuple[bool, bool]:
    """Of the jobs with large tiles, the one that computes is the first."""
    return job.waits, not job.current
