"""When each job will have ended, if no other comes: the turns of owners, and jobs that share a worker's time.

The rule of turns is that of db/fairness.py and db/turn.py.
"""

import statistics
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from server.db.ahead import Ahead, Unended

_USUAL_S = 5.0
"""Of a job of which nothing is known, where all are like that."""
_LEAST_S = 1e-9
"""Less is a rounding error."""
_LATE = 0.2
"""A job that should have ended may end at any moment, but is expected to take this share of its time since its worker's
last word."""


@dataclass(eq=False)
class _Running:
    left_s: float
    job: str
    owner: str
    alone_s: float = 0.0
    """Of these, the first, for tiles of which one is computed at a time."""
    reported: bool = False
    """Its worker has said what is left, and has counted with that."""


@dataclass
class _Worker:
    """Its jobs share its time: each goes at 1/n of the usual speed while it runs n of them. Of those with large tiles
    the first is one of the n, and the others wait."""

    slots: int
    at: float = 0.0
    running: list[_Running] = field(default_factory=list)
    next_at: float = float("inf")
    """When a job ends, or its large tiles do."""

    def advance(self, at: float) -> None:
        at_work = self._at_work()
        for each in at_work:
            each.left_s -= (passed := (at - self.at) / len(at_work))
            each.alone_s = each.alone_s - passed if each.alone_s - passed > _LEAST_S else 0.0
        self.at = at

    def start(self, job: _Running) -> None:
        self.running.append(job)
        self.look()

    def ended(self) -> list[_Running]:
        """Those that have: they are removed."""
        ended = [each for each in self.running if each.left_s <= _LEAST_S]
        self.running = [each for each in self.running if each.left_s > _LEAST_S]
        self.look()
        return ended

    def look(self) -> None:
        """Find `next_at`."""
        at_work = self._at_work()
        steps = [min(each.left_s, each.alone_s or each.left_s) for each in at_work]
        self.next_at = self.at + min(steps) * len(at_work) if steps else float("inf")

    def _at_work(self) -> list[_Running]:
        line = [each for each in self.running if each.alone_s]
        return [each for each in self.running if not each.alone_s or each.reported or each is line[0]]


def ends(found: Ahead, slots: Callable[[str], int]) -> dict[str, float]:
    """Seconds from now until each job ends. `slots`: how many jobs a worker with this device runs at a time. Jobs that
    wait are left out while no worker lives."""
    usual_s = statistics.median([each.left_s for each in found.jobs if each.left_s is not None] or [_USUAL_S])
    workers = {name: _Worker(slots(device)) for name, device in found.workers.items()}
    active: Counter[str] = Counter()
    waiting: dict[str, deque[Unended]] = {}
    running = Counter(each.worker for each in found.jobs if each.worker is not None)
    for each in sorted(found.jobs, key=lambda job: (-job.priority, job.created_at, job.id)):
        if each.worker is None:
            waiting.setdefault(each.owner, deque()).append(each)
            continue
        left_s = usual_s if each.left_s is None else each.left_s
        since = 0.0 if each.left_at is None else max(0.0, found.now - each.left_at) / running[each.worker]
        left_s = max(left_s - since, _LATE * since, 0.01)
        alone_s = min(left_s, each.alone_s or 0.0)
        job = _Running(left_s, each.id, each.owner, alone_s, reported=True)
        workers.setdefault(each.worker, _Worker(0)).start(job)
        active[each.owner] += 1
    served_at = {owner: found.served_at.get(owner, 0.0) for owner in waiting}
    ended: dict[str, float] = {}
    now = 0.0
    while True:
        while waiting and (worker := _idlest(workers.values())) is not None:
            next_one = _take(waiting, active, served_at)
            left_s = usual_s if next_one.left_s is None else next_one.left_s
            worker.advance(now)
            worker.start(_Running(left_s, next_one.id, next_one.owner, min(left_s, next_one.alone_s or 0.0)))
            active[next_one.owner] += 1
            served_at[next_one.owner] = found.now + now
        soonest = min(workers.values(), key=lambda one: one.next_at, default=None)
        if soonest is None or not soonest.running:
            return ended
        now = soonest.next_at
        soonest.advance(now)
        for job in soonest.ended():
            active[job.owner] -= 1
            ended[job.job] = now


def _idlest(workers: Iterable[_Worker]) -> _Worker | None:
    """The one that runs the fewest jobs, if it has room for another."""
    free = (worker for worker in workers if len(worker.running) < worker.slots)
    return min(free, key=lambda worker: len(worker.running), default=None)


def _take(waiting: dict[str, deque[Unended]], active: Mapping[str, int], served_at: Mapping[str, float]) -> Unended:
    """The next job, by the rule of turns."""

    def order(owner: str) -> tuple[float, ...]:
        first = waiting[owner][0]
        return -first.priority, active.get(owner, 0), served_at[owner], first.created_at

    owner = min(waiting, key=order)
    job = waiting[owner].popleft()
    if not waiting[owner]:
        del waiting[owner]
    return job
