"""Jobs with a time at which they are cancelled: `Job.cancel_at`."""

import time

from sqlalchemy import Engine, select

from server.db.database import UNENDED, jobs, reading
from server.db.jobs import Jobs

CHECK_S = 0.5
"""Pause between two runs."""
_BATCH = 100


class Deadlines:
    """For any thread."""

    def __init__(self, engine: Engine, jobs: Jobs) -> None:
        self._engine = engine
        self._jobs = jobs

    def once(self) -> bool:
        """Cancel the jobs whose time is over. True when there may be more."""
        over = select(jobs.c.id).where(
            jobs.c.state.in_(UNENDED), jobs.c.cancel_at < time.time(), ~jobs.c.cancel_requested
        )
        with reading(self._engine) as db:
            ids = list(db.execute(over.limit(_BATCH)).scalars())
        for job_id in ids:
            self._jobs.cancel(job_id)
        return len(ids) == _BATCH
