"""What runs and waits at this moment, and on how many workers: for an estimate of when each job will have ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, or_, select, text

from server.db import leases
from server.db.clock import NOW
from server.db.database import READY, RUNNING, jobs, reading, turns, workers
from server.db.turn import LINE

MOST = 2000
"""Jobs that are looked at: those that run, and those that came first."""


@dataclass(frozen=True)
class Ahead:
    now: float
    """By the database's clock."""
    jobs: Sequence["Unended"]
    workers: Mapping[str, str]
    """The device of each worker that lives and is ready: "cpu" or "cuda"."""
    served_at: Mapping[str, float]
    """When it was each owner's turn last."""


@dataclass(frozen=True)
class Unended:
    """A job that runs, or that a worker may claim."""

    id: str
    owner: str
    priority: int
    created_at: float
    worker: str | None
    """None while it waits."""
    left_s: float | None
    """As `Job.left_s`, said at `left_at`."""
    left_at: float | None
    progress: float = 0.0
    alone_s: float | None = None
    """As `Job.alone_s`."""


def ahead(engine: Engine, lease_s: float) -> Ahead:
    query = (
        select(
            jobs.c.id,
            jobs.c.owner,
            jobs.c.priority,
            jobs.c.created_at,
            jobs.c.worker,
            jobs.c.left_s,
            jobs.c.left_at,
            jobs.c.progress,
            jobs.c.alone_s,
        )
        .where(or_(text(READY), text(RUNNING)))
        .order_by(jobs.c.worker.is_(None), jobs.c.created_at)
        .limit(MOST)
    )
    ready = select(workers.c.id, workers.c.kind).where(workers.c.id.in_(leases.live(lease_s)), workers.c.ready)
    last = select(turns.c.owner, turns.c.served_at).where(turns.c.line == LINE)
    with reading(engine) as db:
        found = [Unended(*row) for row in db.execute(query)]
        waits = any(each.worker is None for each in found)
        now: float = db.execute(select(NOW)).scalar_one()
        return Ahead(
            now,
            found,
            {row.id: row.kind for row in db.execute(ready)},
            {row.owner: row.served_at for row in db.execute(last)} if waits else {},
        )
