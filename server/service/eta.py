"""When a job will have ended, with a bound: from what runs and waits, and from how wrong this was before.

The bound is by experience: for each job that has ended, what was said of it while it waited and at four moments while
it ran is compared with the truth. Of the last errors of that kind, 95 % are smaller than what the bound adds.
"""

import json
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from server.config import Config
from server.db.ahead import MOST, Ahead, Unended
from server.db.jobs import Jobs
from server.files import write_atomically
from server.job.amounts import amounts, network_amount
from server.job.job import Job, Params, State
from server.job.plan import Plan
from server.service.forecast import ends
from server.weights.durations import Durations

_SHARE = 0.95
_KEPT = 200
"""Errors of each kind."""
_LEAST = 20
"""With fewer, the bound is at least that of `_UNTRIED`."""
_UNTRIED = 1.0
_SHORT_S = 4.0
"""Shorter estimates are wrong in another way: by what each job costs whatever its size."""
_BASE_S = 0.5
"""Errors are relative to the estimate and this."""
_OLD_S, _TIMES = 0.2, 10
"""A picture of the queue is used for so long, and for so many times the time that it took."""
_LATE = 0.1
"""A job that should have ended is expected to take this share of the time since then."""
_RETRY_S = 5.0
"""After which a full queue may have room, where nothing is known."""
_FOLLOWED = 2000
"""Jobs whose estimates are remembered until they end."""
_WRITE_S = 5.0
_FILE = "eta_errors.json"
_QUARTERS = 4


@dataclass(frozen=True)
class Eta:
    """Seconds from now until the job ends."""

    seconds: float
    most: float
    """It ends before that with a probability of 95 %, by the errors on this machine."""


@dataclass(frozen=True)
class _Said:
    kind: str
    at: float
    seconds: float


class Errors:
    """How wrong estimates were, relative to themselves and `_BASE_S`, by kind; kept in the cache folder."""

    def __init__(self, cache: Path) -> None:
        self._path = cache / _FILE
        self._written_at = 0.0
        self._errors: dict[str, list[float]] = {}
        with suppress(OSError, ValueError, TypeError, AttributeError):  # missing or damaged: it is only a cache
            content = json.loads(self._path.read_text("utf-8"))
            self._errors = {str(kind): [float(each) for each in errors] for kind, errors in content.items()}

    def add(self, said: _Said, truth_s: float) -> None:
        errors = self._errors.setdefault(said.kind, [])
        errors.append((truth_s - said.seconds) / (said.seconds + _BASE_S))
        del errors[:-_KEPT]

    def bound(self, kind: str, seconds: float) -> float:
        errors = sorted(self._errors.get(kind, ()))
        # As many of the next errors are smaller than this one of n, if they are of the same kind.
        place = math.ceil((len(errors) + 1) * _SHARE) - 1
        most = errors[min(place, len(errors) - 1)] if errors else 0.0
        most = max(most, 0.05 if len(errors) >= _LEAST else _UNTRIED)
        return seconds + most * (seconds + _BASE_S)

    def write(self) -> None:
        """At most every few seconds."""
        if time.monotonic() - self._written_at > _WRITE_S:
            self._written_at = time.monotonic()
            with suppress(OSError):  # a full disk: it is only a cache
                write_atomically(self._path, json.dumps(self._errors))


class Etas:
    """For any thread."""

    def __init__(self, jobs: Jobs, config: Config) -> None:
        self._jobs = jobs
        self._config = config
        self._errors = Errors(config.cache_dir)
        self._durations = Durations(config.cache_dir)
        self._lock = threading.Lock()
        self._seen: Ahead | None = None
        self._seen_at = 0.0
        self._good_until = 0.0
        self._ends: Mapping[str, float] = {}
        self._waited: frozenset[str] = frozenset()
        """Jobs that waited at the last look."""
        self._said: OrderedDict[str, dict[str, _Said]] = OrderedDict()
        """By job and moment: what was said first at that moment."""

    def of(self, job: Job) -> Eta | None:
        """None once it has ended, and while too little is known: its picture has not been fetched, no worker lives, no
        job has run with its network here, or more than MOST jobs came before it."""
        if job.state.final or job.left_s is None or job.source_key is None:
            return None
        with self._lock:
            if self._seen is None or time.monotonic() >= self._good_until:
                self._look()
            old = time.monotonic() - self._seen_at > _OLD_S or job.state is State.RUNNING
            began = job.state is State.RUNNING and job.id in self._waited
            if began or (job.id not in self._ends and old):  # it has begun or come since, or its worker has
                self._look()
            if job.id not in self._ends:
                self._add(job)
            end = self._ends.get(job.id)
            if end is None:
                return None
            passed = time.monotonic() - self._seen_at
            seconds = max(end - passed, _LATE * passed)
            kind = _kind(job.state is State.QUEUED, seconds)
            return Eta(seconds, self._errors.bound(kind, seconds))

    def work_s(self, plan: Plan, params: Params, mime: str) -> float | None:
        """Seconds that a job would take on a machine of its own, by what earlier ones took here; None while nothing is
        known of its networks."""
        creativity, signed = params.creativity or 0.0, self._config.c2pa_cert is not None
        seconds = self._durations.seconds(amounts(plan, params, mime, creativity=creativity, signed=signed))
        return None if seconds is None else seconds + self._durations.loading("+".join(plan.networks))

    def alone_s(self, plan: Plan) -> float:
        """Of these, for tiles of which one is computed at a time; 0 while nothing is known."""
        return self._durations.alone(network_amount(plan)) if plan.passes else 0.0

    def retry_after_s(self) -> float:
        """Until one more job may wait: until the next one ends."""
        with self._lock:
            if self._seen is None or time.monotonic() >= self._good_until:
                self._look()
            return min(self._ends.values(), default=_RETRY_S)

    def _look(self) -> None:
        started = time.monotonic()
        seen = self._jobs.ahead()
        self._forecast(seen)
        self._learn(seen)
        self._seen_at = time.monotonic()
        self._good_until = self._seen_at + max(_OLD_S, _TIMES * (self._seen_at - started))

    def _add(self, job: Job) -> None:
        """A job that came after the last look."""
        assert self._seen is not None
        if len(self._seen.jobs) >= MOST or any(each.id == job.id for each in self._seen.jobs):
            return
        waits = job.state is State.QUEUED
        left = job.id, job.owner, job.priority, job.created_at, None if waits else job.worker, job.left_s, job.left_at
        self._forecast(replace(self._seen, jobs=[*self._seen.jobs, Unended(*left, job.progress, job.alone_s)]))

    def _forecast(self, seen: Ahead) -> None:
        self._seen = seen
        self._waited = frozenset(each.id for each in seen.jobs if each.worker is None)
        self._ends = ends(seen, self._config.slots)

    def _learn(self, seen: Ahead) -> None:
        """Compare what was said of jobs that have ended since, and remember what is said now."""
        here = {each.id for each in seen.jobs}
        gone = [name for name in self._said if name not in here]
        if gone:
            ended = self._jobs.ended_at(gone)
            for name in gone:
                for said in self._said.pop(name).values():
                    if name in ended:
                        self._errors.add(said, max(0.0, ended[name] - said.at))
            self._errors.write()
        for each in seen.jobs:
            waits = each.worker is None
            if each.id in self._ends and each.left_s is not None:
                moment = "queued" if waits else f"{int(each.progress * _QUARTERS)}"
                self._follow(each.id, moment, waits, self._ends[each.id])
        while len(self._said) > _FOLLOWED:
            self._said.popitem(last=False)

    def _follow(self, name: str, moment: str, waits: bool, seconds: float) -> None:
        assert self._seen is not None
        self._said.setdefault(name, {}).setdefault(moment, _Said(_kind(waits, seconds), self._seen.now, seconds))


def _kind(waits: bool, seconds: float) -> str:
    return f"{'queued' if waits else 'running'} {'short' if seconds < _SHORT_S else 'long'}"
