"""A worker's lease: its right to all jobs that it has claimed. One narrow row per worker, renewed every few seconds.

A worker whose lease has ended, or that has none, counts as dead: others may claim its jobs.
"""

from typing import Any

from sqlalchemy import Connection, Engine, Select, and_, delete, exists, func, select, text

from server.db.clock import of_dialect
from server.db.database import RUNNING, jobs, leases, reading
from server.db.fairness import is_live

_RENEW = """
INSERT INTO leases (worker, until) VALUES (:worker, {ticks} + :lease_s)
ON CONFLICT (worker) DO UPDATE SET until = excluded.until
WHERE leases.until < {ticks} + :enough OR leases.until > excluded.until
"""
_STATEMENTS = {name: text(of_dialect(name, _RENEW)) for name in ("sqlite", "postgresql")}
FRESH = 0.75
"""A lease of which more than this share is left is not written again."""


def renew(db: Connection, worker: str, lease_s: float) -> None:
    """The worker's lease ends `lease_s` from now; or a quarter of that earlier, if it was renewed just before."""
    values = {"worker": worker, "lease_s": lease_s, "enough": FRESH * lease_s}
    db.execute(_STATEMENTS[db.dialect.name], values)


def end(db: Connection, worker: str) -> None:
    db.execute(delete(leases).where(leases.c.worker == worker))


def live(lease_s: float) -> Select[Any]:
    """The workers that have a lease."""
    return select(leases.c.worker).where(is_live(leases.c.until, lease_s))


def idle_workers(engine: Engine, lease_s: float) -> int:
    """How many have a lease and run no job."""
    at_work = select(jobs.c.worker).where(text(RUNNING), jobs.c.worker.is_not(None)).distinct()
    query = select(func.count()).select_from(leases).where(is_live(leases.c.until, lease_s))
    with reading(engine) as db:
        return db.execute(query.where(leases.c.worker.not_in(at_work))).scalar_one()


def abandoned(lease_s: float) -> Any:
    """The condition of a running job whose worker has no lease."""
    has_lease = exists().where(leases.c.worker == jobs.c.worker, is_live(leases.c.until, lease_s))
    return and_(text(f"jobs.{RUNNING}"), ~has_lease)
