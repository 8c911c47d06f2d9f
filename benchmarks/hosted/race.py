"""In which order. Services take turns with every picture, and who begins changes: what slows the line, or the machine
that measures, down for a while then hits all of them alike. Then several jobs at a time, one service after another.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from benchmarks.hosted.line import Broken, Done, Line
from benchmarks.hosted.picture import Picture
from benchmarks.hosted.results import Results
from benchmarks.hosted.vendors.base import Order


@dataclass(frozen=True)
class Run:
    label: str
    picture: str
    round: int
    done: Done
    """Without the picture, which is with the results."""
    bytes: int

    def __str__(self) -> str:
        done = self.done
        end = f"{done.kind}: {done.error}" if done.error else f"{self.bytes} bytes"
        return f"{self.label}, {self.picture}: {done.total_s:.2f} s, {end}"


@dataclass(frozen=True)
class Burst:
    """Several jobs at a time, of one service."""

    label: str
    round: int
    at_a_time: int
    wall_s: float
    runs: tuple[Run, ...]

    def __str__(self) -> str:
        good = sum(not run.done.error for run in self.runs)
        return f"{self.label}: {good} of {len(self.runs)} jobs in {self.wall_s:.2f} s, {self.at_a_time} at a time"


def one_by_one(
    lines: list[Line], pictures: list[Picture], order: Order, rounds: int, pause_s: float, results: Results
) -> Iterator[Run]:
    """Every service with every picture, `rounds` times."""
    begun = False
    for round_ in range(rounds):
        for number, picture in enumerate(pictures):
            first = (round_ + number) % len(lines)
            for line in lines[first:] + lines[:first]:
                if begun:
                    time.sleep(pause_s)
                begun = True
                yield _run(line, picture, order, round_, results)


def at_a_time(
    lines: list[Line], pictures: list[Picture], order: Order, rounds: int, number: int, results: Results
) -> Iterator[Burst]:
    """Twice `number` jobs, `number` of them at any time, for every service, `rounds` times."""
    for round_ in range(rounds):
        first = round_ % len(lines)
        for line in lines[first:] + lines[:first]:
            jobs = [pictures[job % len(pictures)] for job in range(2 * number)]

            def run(picture: Picture, line: Line = line, round_: int = round_) -> Run:
                return _run(line, picture, order, round_, results)

            started = time.monotonic()
            with ThreadPoolExecutor(number) as pool:
                runs = tuple(pool.map(run, jobs))
            yield Burst(line.entry.label, round_, number, time.monotonic() - started, runs)


def _run(line: Line, picture: Picture, order: Order, round_: int, results: Results) -> Run:
    done, label = line.run(picture.sent, order), line.entry.label
    size = len(done.data)
    try:
        if not done.error:
            results.take(label, picture.name, done.data)
    except Broken as broken:
        done = replace(done, error=str(broken), kind=broken.kind)
    return Run(label, picture.name, round_, replace(done, data=b""), size)
