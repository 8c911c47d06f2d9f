"""How long the steps of jobs take on this machine: learnt from each job by the workers, kept in the cache folder.

The API half reads what the worker half has written. A time is that of a job that has the machine alone: while n jobs
run, 1/n of the time is each one's. For each kind of step the last amounts and times are kept, of each size class, so
that many small jobs don't replace what is known of large ones. An estimate is the weighted median of their times per
amount: those of about the same amount weigh most, then the newest. So one bad sample changes nothing. What was measured
at the start, or is typical, counts as one more sample, of another amount: it decides until jobs of about this amount
have run. Another load on the machine slows all steps: how much longer than estimated the last jobs took, whatever their
steps, is the pace that the next ones are expected to have.
"""

import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from server.files import write_atomically
from server.job.amounts import Amount
from server.weights.rates import RATES, REFINER, read_rates

KEEP_S = 900.0
"""How long a network stays loaded that no job uses."""
_FILE = "durations.json"
_KEPT = 16
"""Samples of each kind and size class."""
_CLASS_WIDTH = math.log(3.0)
"""Of a size class, in logarithms: its amounts are within about a factor of 3 of each other."""
_MOST_KINDS, _MOST_KNOWN = 300, 1000
_NEAR = 0.4
"""An amount that is larger or smaller by a factor of e^0.4 = 1.5 weighs 0.37 times as much."""
_AT_LEAST = 1e-12
"""The weight of a sample of another size altogether."""
_BEFORE = 0.05
"""The weight of what is known before any job has run: that of a sample whose amount differs by a factor of 3.3."""
_AGEING = 0.93
"""By how much a sample weighs less for each newer one."""
_USUAL, _SOME = 2e5, 5
"""Source pixels of a usual picture, and jobs after which the speed is known by them."""
_WRITE_S = 2.0
_PACE = "pace"
"""Under this name: what jobs were expected to take at the usual pace, and what they took."""
_OF_LATE = 7
"""The last jobs, from which the pace is taken."""
_LEAST_S = 0.2
"""Shorter jobs say nothing of the pace."""
_TRUSTED = 1.0
"""Of the weights of a step's samples: with less, a wrong estimate says nothing of the pace."""
_LONG_S = 2.0
"""Longer ones all say as much."""
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
    "encode:avif": 0.1e-6,
    "encode:webp": 0.1e-6,
    "encode": 0.02e-6,
    "mask": 0.05e-6,
    "grain": 0.1e-6,
    "certificate": 0.1e-6,
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
        self._path, self._rates = cache / _FILE, cache / RATES
        self._cache = cache
        self._machine = machine
        self._lock = threading.Lock()
        self._version: object = None
        self._samples: dict[str, list[Sample]] = {}
        self._known: dict[Amount, float] = {}
        """What `_of` has found with these samples; another dictionary whenever they change."""
        self._used: dict[str, float] = {}
        self._new: list[tuple[str, Sample]] = []
        self._written_at = 0.0

    def seconds(self, parts: Iterable[Amount]) -> float | None:
        """Of all these together, on a machine of their own; None if nothing is known of one of them."""
        self._look()
        seconds = _sum(self._of(part) for part in parts)
        return None if seconds is None else seconds * _pace(self._samples)

    def of(self, part: Amount) -> float | None:
        """Of one of them."""
        return self.seconds([part])

    def _of(self, part: Amount) -> float | None:
        """At the usual pace."""
        known = self._known
        found = known.get(part)
        if found is None and (found := self._find(part)) is not None:
            if len(known) >= _MOST_KNOWN:
                known.clear()
            known[part] = found
        return found

    def _find(self, part: Amount) -> float | None:
        weighed, before = _weighed(self._samples.get(part.key, []), part.amount), self._before(part)
        if before is not None and part.amount:
            weighed.append((before / part.amount, _BEFORE))
        return _weighted_median(weighed) * part.amount if weighed else before

    def _before(self, part: Amount) -> float | None:
        """What is known of it before any job has run."""
        step = part.key.partition(":")[0]
        if step == "upscale" and part.kind != "sweep":
            names = [_SHARE.sub("", each) for each in _JOINED.split(part.kind)]
            if len(names) > 1:
                return _sum(self._of(replace(part, kind=name)) for name in names)
            rates = read_rates(self._cache)
            return part.amount / rates[names[0]] if names[0] in rates else None
        if part.key == "refine:diffusion":
            rates = read_rates(self._cache)
            return part.amount / rates[REFINER] if REFINER in rates else None
        typical = (_TYPICAL.get(name) for name in (part.key, part.key.partition(" ")[0], step))
        return next((each for each in typical if each is not None), 0.0) * part.amount

    def loading(self, networks: str) -> float:
        """Seconds until these networks are loaded: 0 if they were used of late, so that they still are."""
        self._look()
        samples = self._samples.get(f"load:{networks}", [])
        if not samples or time.time() - self._used.get(networks, 0.0) < KEEP_S:
            return 0.0
        return _weighted_median(_weighed(samples, 1.0)) * _pace(self._samples)

    def speed(self, network: str) -> float | None:
        """Source pixels per second, at the usual pace; None until some jobs have run with it."""
        self._look()
        samples = self._samples.get(f"upscale:{network}", [])
        return 1 / _weighted_median(_weighed(samples, _USUAL)) if len(samples) >= _SOME else None

    def alone(self, part: Amount) -> float:
        """Seconds of it for tiles of which a worker computes one at a time: all or none, as jobs of about this amount
        had them."""
        self._look()
        found = _weighed(self._samples.get(f"alone:{part.kind}", []), part.amount)
        return self.of(part) or 0.0 if found and _weighted_median(found) > 0.5 else 0.0

    def learn(
        self, seconds: Mapping[str, float], parts: Sequence[Amount], networks: str | None, *, alone: bool = False
    ) -> None:
        """From a job that has ended: `seconds` by step. `networks`: those that ran; `alone`: on tiles of which a worker
        computes one at a time."""
        self._look()
        known = {part.step: each for part in parts if self._trusts(part) and (each := self._of(part)) is not None}
        expected = math.fsum(known.values())
        new = []
        if expected > _LEAST_S:
            new.append((_PACE, (expected, math.fsum(seconds.get(step, 0.0) for step in known))))
        # At the usual pace: else another load would count twice, as the pace and in the samples.
        pace = _pace(_with(self._samples, new))
        new += [(part.key, (part.amount, seconds.get(part.step, 0.0) / pace)) for part in parts if part.amount > 0]
        new += [(f"alone:{each.kind}", (each.amount, each.amount * alone)) for each in parts if each.step == "upscale"]
        if networks is not None and seconds.get("load", 0.0) > 0.05:
            new.append((f"load:{networks}", (1.0, seconds["load"] / pace)))
        with self._lock:
            self._new += new
            self._use(_with(self._samples, new))
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
            self._use(_with(samples, self._new))
            self._new = []
            self._used = {**used, **self._used}
            self._written_at = time.monotonic()
            content = {"machine": self._machine, "samples": self._samples, "used": self._used}
            write_atomically(self._path, json.dumps(content))
            self._version = self._versions()

    def _look(self) -> None:
        """Read what another process has written since."""
        version = self._versions()
        if version == self._version:
            return
        with self._lock:
            samples, self._used = self._read()
            self._use(_with(samples, self._new))
            self._version = version

    def _versions(self) -> object:
        """Another value whenever one of the files has changed that estimates depend on."""
        return _version(self._path), _version(self._rates)

    def _use(self, samples: dict[str, list[Sample]]) -> None:
        self._samples = samples
        self._known = {}

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

    def _trusts(self, part: Amount) -> bool:
        """Whether jobs of about this amount have run."""
        return sum(weight for _, weight in _weighed(self._samples.get(part.key, []), part.amount)) > _TRUSTED


def _pace(learnt: Mapping[str, list[Sample]]) -> float:
    """How much longer than usual everything takes now."""
    samples = learnt.get(_PACE, [])[-_OF_LATE:]
    if len(samples) < _OF_LATE:
        return 1.0
    # Of a short job chance is a larger part; but no long one may decide alone.
    pace = _weighted_median((taken / expected, min(expected, _LONG_S)) for expected, taken in samples)
    return min(_SLOWEST, max(1 / _SLOWEST, pace))


def _with(samples: Mapping[str, list[Sample]], new: Iterable[tuple[str, Sample]]) -> dict[str, list[Sample]]:
    """The kinds that were used last are kept."""
    found = dict(samples)
    for key, sample in new:
        kept = [*found.pop(key, []), sample]
        same = [place for place, (amount, _) in enumerate(kept) if _class(amount) == _class(sample[0])]
        if len(same) > _KEPT:
            del kept[same[0]]
        found[key] = kept
    return dict(list(found.items())[-_MOST_KINDS:])


def _sum(found: Iterable[float | None]) -> float | None:
    total = 0.0
    for each in found:
        if each is None:
            return None
        total += each
    return total


@lru_cache(maxsize=10_000)  # of the same samples again and again
def _class(amount: float) -> int:
    return round(math.log(amount) / _CLASS_WIDTH)


def _weighed(samples: list[Sample], amount: float) -> list[tuple[float, float]]:
    """Seconds for each of the amount, and the weight of each."""
    if not amount:
        return []
    newer: Counter[int] = Counter()
    found, place = [], math.log(amount)
    for size, seconds in reversed(samples):
        same = _class(size)
        weight = math.exp(-abs(math.log(size) - place) / _NEAR) * _AGEING ** newer[same]
        newer[same] += 1
        found.append((seconds / size, weight + _AT_LEAST))
    return found


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
