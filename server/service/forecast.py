"""When each job will have ended, if no other comes: the turns of owners, and jobs that share a worker's time.

The rule of turns is that of db/fairness.py and db/turn.py.
"""

import heapq
import statistics
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from server.db.ahead import Ahead, Unended

_USUAL_S = 5.0
"""Of a job of which nothing is known, where all are like that."""
_LATE = 0.2
"""A job that should have ended may end at any moment, but is expected to take this share of its time since its worker's
last word."""


@dataclass
class _Worker:
    """Its jobs share its time: `ticks` passes at 1/n of the usual speed while it runs n of them."""

    slots: int
    ticks: float = 0.0
    at: float = 0.0
    running: list[tuple[float, str, str]] = field(default_factory=list)
    """Ends by `ticks`, job and owner: a heap."""

    def advance(self, at: float) -> None:
        self.ticks += (at - self.at) / max(1, len(self.running))
        self.at = at

    def start(self, left_s: float, job: str, owner: str) -> None:
        heapq.heappush(self.running, (self.ticks + left_s, job, owner))

    @property
    def next_end(self) -> float:
        return self.at + (self.running[0][0] - self.ticks) * len(self.running) if self.running else float("inf")


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
        workers.setdefault(each.worker, _Worker(0)).start(max(left_s - since, _LATE * since, 0.01), each.id, each.owner)
        active[each.owner] += 1
    served_at = {owner: found.served_at.get(owner, 0.0) for owner in waiting}
    ended: dict[str, float] = {}
    now = 0.0
    while True:
        while waiting and (worker := _idlest(workers.values())) is not None:
            job = _take(waiting, active, served_at)
            worker.advance(now)
            worker.start(usual_s if job.left_s is None else job.left_s, job.id, job.owner)
            active[job.owner] += 1
            served_at[job.owner] = found.now + now
        soonest = min(workers.values(), key=lambda one: one.next_end, default=None)
        if soonest is None or not soonest.running:
            return ended
        now = soonest.next_end
        soonest.advance(now)
        _, name, owner = heapq.heappop(soonest.running)
        active[owner] -= 1
        ended[name] = now


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
