"""What the metrics ask the job table for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, func, select

from server.db.clock import NOW
from server.db.database import UNENDED, jobs, reading
from server.job.job import State

_AT_ONCE = 100
"""Jobs that are read by one statement."""


@dataclass(frozen=True)
class Ended:
    """What the metrics need of a job that has ended."""

    id: str
    dialect: str
    state: str
    error_code: str | None
    attempt: int
    created_at: float
    finished_at: float
    result: Mapping[str, Any] | None
    """As `Result.to_dict` returns it."""


@dataclass(frozen=True)
class Backlog:
    """Jobs of one dialect and state that have not ended."""

    dialect: str
    state: State
    jobs: int
    oldest_at: float
    """When the oldest was submitted."""


class Figures:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def backlog(self) -> Sequence[Backlog]:
        """The jobs that have not ended, by dialect and state."""
        unended = jobs.c.state.in_(UNENDED)
        query = select(jobs.c.dialect, jobs.c.state, func.count(), func.min(jobs.c.created_at)).where(unended)
        with reading(self._engine) as db:
            rows = db.execute(query.group_by(jobs.c.dialect, jobs.c.state))
            return [Backlog(dialect, State(state), number, oldest) for dialect, state, number, oldest in rows]

    def ended_within(self, past_s: float, ahead_s: float) -> Sequence[str]:
        """The ids of jobs that ended within the last `past_s`, and up to `ahead_s` from now by another clock."""
        within = jobs.c.finished_at >= NOW - past_s, jobs.c.finished_at <= NOW + ahead_s
        with reading(self._engine) as db:
            return db.execute(select(jobs.c.id).where(*within).order_by(jobs.c.finished_at)).scalars().all()

    def ended(self, job_ids: Sequence[str]) -> Iterator[Ended]:
        """Those of these jobs that exist; a few at a time are in memory."""
        columns = (jobs.c.id, jobs.c.dialect, jobs.c.state, jobs.c.error_code, jobs.c.attempt, jobs.c.created_at)
        query = select(*columns, jobs.c.finished_at, jobs.c.result)
        for start in range(0, len(job_ids), _AT_ONCE):
            with reading(self._engine) as db:
                found = db.execute(query.where(jobs.c.id.in_(job_ids[start : start + _AT_ONCE]))).all()
            yield from (Ended(*row) for row in found)
