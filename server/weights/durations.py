"""How long the steps of jobs take on this machine: learnt from each job by the workers, kept in the cache folder.

The API half reads what the worker half has written. A time is that of a job that has the machine alone: while n jobs
run, 1/n of the time is each one's. For each kind of step the last amounts and times are kept. An estimate is the
weighted median of their times per amount: those of about the same amount weigh most, then the newest. So one bad
sample changes nothing. Another load on the machine slows all steps: how much longer than estimated the last jobs took,
whatever their steps, is the pace that the next ones are expected to have.
"""

import json
import math
import re
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from server.files import write_atomically
from server.job.amounts import Amount
from server.weights.rates import REFINER, read_rates

KEEP_S = 900.0
"""How long a network stays loaded that no job uses."""
_FILE = "durations.json"
_KEPT = 32
"""Samples of each kind."""
_MOST_KINDS = 300
_NEAR = 0.4
"""An amount that is larger or smaller by a factor of e^0.4 = 1.5 weighs 0.37 times as much."""
_AT_LEAST = 1e-12
"""The weight of a sample of another size altogether."""
_AGEING = 0.93
"""By how much a sample weighs less for each newer one."""
_WRITE_S = 2.0
_PACE = "pace"
"""Under this name: what jobs were expected to take at the usual pace, and what they took."""
_OF_LATE = 7
"""The last jobs, from which the pace is taken."""
_LEAST_S = 0.2
"""Shorter jobs say nothing of the pace."""
_SLOWEST = 4.0
_TYPICAL = {
    "decode": 0.03e-6,
    "plan": 0.03e-6,
    "upscale:sweep": 8.0,
    "refine:sweep": 8.0,
    "encode:sweep": 0.3,
    "refine:strict": 0.3e-6,
    "faces": 4e-6,
    "resize": 0.02e-6,
    "encode:png": 0.1e-6,
    "encode:avif": 1e-6,
    "encode:webp": 0.15e-6,
    "encode": 0.03e-6,
    "sign": 0.01e-6,
    "rest": 0.03,
}
"""Seconds for each of the amount, until a job has shown more: about those of a CPU with two cores."""

_JOINED, _SHARE = re.compile(r" \+ |, "), re.compile(r" [0-9.]+$")
"""How results name several networks, with their shares."""

Sample = tuple[float, float]
"""Amount and seconds."""


class Durations:
    """For any thread."""

    def __init__(self, cache: Path, machine: str | None = None) -> None:
        """`machine`: a line that describes what the times depend on; None: any, only to read."""
        self._path = cache / _FILE
        self._cache = cache
        self._machine = machine
        self._lock = threading.Lock()
        self._version: tuple[int, int] | None = None
        self._samples: dict[str, list[Sample]] = {}
        self._used: dict[str, float] = {}
        self._new: list[tuple[str, Sample]] = []
        self._written_at = 0.0

    def seconds(self, parts: Iterable[Amount]) -> float | None:
        """Of all these together, on a machine of their own; None if nothing is known of one of them."""
        found = [self.of(part) for part in parts]
        return None if None in found else math.fsum(each for each in found if each is not None)

    def of(self, part: Amount) -> float | None:
        """Of one of them."""
        seconds = self._of(part)
        return None if seconds is None else seconds * self._pace()

    def _of(self, part: Amount) -> float | None:
        """At the usual pace."""
        self._look()
        samples = self._samples.get(part.key, [])
        if samples:
            return _median(samples, part.amount) * part.amount
        rates = read_rates(self._cache)
        if part.step == "upscale" and part.kind != "sweep":
            names = [_SHARE.sub("", each) for each in _JOINED.split(part.kind)]
            known = [rates[name] for name in names if name in rates]
            return part.amount * sum(1 / rate for rate in known) if len(known) == len(names) else None
        if part.key == "refine:diffusion":
            return part.amount / rates[REFINER] if REFINER in rates else None
        typical = (_TYPICAL.get(name) for name in (part.key, part.key.partition(" ")[0], part.step))
        return next((each for each in typical if each is not None), 0.0) * part.amount

    def loading(self, networks: str) -> float:
        """Seconds until these networks are loaded: 0 if they were used of late, so that they still are."""
        self._look()
        samples = self._samples.get(f"load:{networks}", [])
        if not samples or time.time() - self._used.get(networks, 0.0) < KEEP_S:
            return 0.0
        return _median(samples, 1.0)

    def learn(self, seconds: Mapping[str, float], parts: Iterable[Amount], networks: str | None) -> None:
        """From a job that has ended: `seconds` by step. `networks`: those that ran."""
        new = [(part.key, (part.amount, seconds.get(part.step, 0.0))) for part in parts if part.amount > 0]
        known = {part.step: each for part in parts if (each := self._of(part)) is not None}
        expected = math.fsum(known.values())
        if expected > _LEAST_S:
            new.append((_PACE, (expected, math.fsum(seconds.get(step, 0.0) for step in known))))
        if networks is not None and seconds.get("load", 0.0) > 0.05:
            new.append((f"load:{networks}", (1.0, seconds["load"])))
        self._look()
        with self._lock:
            self._new += new
            self._samples = _with(self._samples, new)
            if networks is not None:
                self._used[networks] = time.time()
        if time.monotonic() - self._written_at > _WRITE_S:
            self.write()

    def write(self) -> None:
        """Store what is new beside what other workers of this machine have stored. Raises OSError."""
        with self._lock:
            if not self._new:
                return
            samples, used = self._read()
            self._samples, self._new = _with(samples, self._new), []
            self._used = {**used, **self._used}
            self._written_at = time.monotonic()
            content = {"machine": self._machine, "samples": self._samples, "used": self._used}
            write_atomically(self._path, json.dumps(content))
            self._version = _version(self._path)

    def _look(self) -> None:
        """Read what another process has written since."""
        version = _version(self._path)
        if version == self._version:
            return
        with self._lock:
            samples, self._used = self._read()
            self._samples, self._version = _with(samples, self._new), version

    def _read(self) -> tuple[dict[str, list[Sample]], dict[str, float]]:
        """Empty if it is missing, damaged, of another version or machine: it is only a cache."""
        try:
            content = json.loads(self._path.read_text("utf-8"))
            if self._machine not in (None, content["machine"]):
                return {}, {}
            samples = {
                str(key): [(float(amount), float(seconds)) for amount, seconds in each if amount > 0]
                for key, each in content["samples"].items()
            }
            return samples, {str(name): float(at) for name, at in content["used"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}, {}

    def _pace(self) -> float:
        """How much longer than usual everything takes now."""
        samples = self._samples.get(_PACE, ())[-_OF_LATE:]
        if len(samples) < _OF_LATE:
            return 1.0
        # Of a short job chance is a larger part.
        pace = _weighted_median((taken / expected, expected) for expected, taken in samples)
        return min(_SLOWEST, max(1 / _SLOWEST, pace))


def _with(samples: Mapping[str, list[Sample]], new: Iterable[tuple[str, Sample]]) -> dict[str, list[Sample]]:
    """The kinds that were used last are kept."""
    found = dict(samples)
    for key, sample in new:
        found[key] = [*found.pop(key, []), sample][-_KEPT:]
    return dict(list(found.items())[-_MOST_KINDS:])


def _median(samples: list[Sample], amount: float) -> float:
    """Seconds for each of the amount."""
    return _weighted_median(
        (seconds / size, math.exp(-abs(math.log(size / amount)) / _NEAR) * _AGEING**age + _AT_LEAST)
        for age, (size, seconds) in enumerate(reversed(samples))
    )


def _weighted_median(found: Iterable[tuple[float, float]]) -> float:
    """Of values and their weights: between the two values in the middle, so that it changes little by little."""
    values = sorted(found)
    half = sum(weight for _, weight in values) / 2
    below, before = values[0][0], 0.0
    passed = 0.0
    for value, weight in values:
        middle = passed + weight / 2
        if middle >= half:
            share = (half - before) / (middle - before) if middle > before else 1.0
            return below + (value - below) * share
        below, before = value, middle
        passed += weight
    return values[-1][0]


def _version(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
