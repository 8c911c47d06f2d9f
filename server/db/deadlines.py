"""Jobs with a time at which they are cancelled: `Job.cancel_at`."""

from sqlalchemy import Engine, and_, func, select, text

from server.db.clock import NOW
from server.db.database import WITH_DEADLINE, jobs, reading
from server.db.jobs import Jobs

_BATCH = 100
_OPEN = and_(text(WITH_DEADLINE), ~jobs.c.cancel_requested)


class Deadlines:
    """For any thread."""

    def __init__(self, engine: Engine, jobs: Jobs) -> None:
        self._engine = engine
        self._jobs = jobs

    def once(self) -> bool:
        """Cancel the jobs whose time is over. True when there may be more."""
        over = select(jobs.c.id).where(_OPEN, jobs.c.cancel_at < NOW)
        with reading(self._engine) as db:
            ids = list(db.execute(over.limit(_BATCH)).scalars())
        for job_id in ids:
            self._jobs.cancel(job_id)
        return len(ids) == _BATCH

    def next_s(self) -> float | None:
        """Seconds until the next one; None: there is none."""
        with reading(self._engine) as db:
            found: float | None = db.execute(select(func.min(jobs.c.cancel_at) - NOW).where(_OPEN)).scalar_one_or_none()
            return found
