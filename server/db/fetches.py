"""Jobs whose source is still to be fetched from a URL: fetchers in the API half take them, each under its own
lease. After `give` workers can claim the job."""

from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, or_, select, text, update

from server.db.clock import TICKS
from server.db.database import FETCHED_NOW, UNFETCHED, jobs, reading, unsynced
from server.db.fairness import Line, fair_order, is_expired, is_live, note_turn
from server.db.notify import Topic
from server.db.rows import COLUMNS, changed, end_job, failure, from_row, write_job
from server.errors import UpscaleError
from server.job.job import Job, State

MAX_OF_OWNER, MAX_FROM_HOST = 8, 3
"""Fetches at a time."""

_INDEX = "jobs_unfetched"
_UNFETCHED = text(UNFETCHED)
_FETCHED_NOW = text(FETCHED_NOW)


class Fetches:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._unsynced = unsynced(engine)

    def claim(self, fetcher: str, seconds: float) -> Job | None:
        """Lease the next job whose source is to be fetched, for `seconds`; None: there is none. Its `attempt` counts
        the fetches of it: more than one only if earlier ones crashed their process."""

        def waiting(rows: Any) -> ColumnElement[bool]:
            free = or_(rows.c.lease_until.is_(None), is_expired(rows.c.lease_until, seconds))
            return and_(_UNFETCHED, free)

        line = Line(
            "fetch",
            jobs,
            active=lambda rows: and_(_FETCHED_NOW, is_live(rows.c.lease_until, seconds)),
            turn_index=_INDEX,
            active_index="jobs_fetched_now",
            since="created_at",
            priority="priority",
            host="source_host",
            max_of_owner=MAX_OF_OWNER,
            max_of_host=MAX_FROM_HOST,
        )
        any_one = select(jobs.c.id).where(waiting(jobs)).limit(1).with_hint(jobs, f"INDEXED BY {_INDEX}", "sqlite")
        with reading(self._engine) as db:  # processes ask this often; a read blocks no writer
            if not db.execute(any_one).first():
                return None
        chosen = fair_order(line, waiting).limit(1).with_for_update(skip_locked=True, of=jobs).scalar_subquery()
        lease = {"worker": fetcher, "attempt": jobs.c.attempt + 1, "lease_until": TICKS + seconds}
        with self._unsynced.begin() as db:
            taken = update(jobs).where(jobs.c.id == chosen).values(**lease).returning(*COLUMNS)
            row = db.execute(taken).one_or_none()
            if row is None:
                return None
            note_turn(db, line.name, row.owner)
        return from_row(row)

    def give(
        self, job_id: str, fetcher: str, source_key: str, left_s: float | None = None, alone_s: float | None = None
    ) -> bool:
        """The source is stored: workers may claim the job, and its attempts count from 0. `left_s`, `alone_s`: as in
        `Job`. False when the job is no longer this fetcher's."""
        given: dict[str, Any] = {"source_key": source_key, "worker": None, "attempt": 0, "lease_until": None}
        given |= {"left_s": left_s, "alone_s": alone_s}
        return write_job(self._engine, _fetching(job_id, fetcher), Topic.WORK, **given)

    def hold(self, job_id: str, fetcher: str, seconds: float) -> bool:
        """Extend the fetcher's lease to `seconds` from now."""
        with self._unsynced.begin() as db:
            mine = update(jobs).where(_fetching(job_id, fetcher)).values(lease_until=TICKS + seconds)
            return changed(db.execute(mine)) == 1

    def postpone(self, job_id: str, fetcher: str, seconds: float) -> bool:
        """The source can't be fetched now, for a reason of our own: no fetcher tries for so long, and this attempt does
        not count."""
        later = {"worker": None, "lease_until": TICKS + seconds, "attempt": jobs.c.attempt - 1}
        return write_job(self._engine, _fetching(job_id, fetcher), **later)

    def fail(self, job_id: str, fetcher: str, error: UpscaleError) -> bool:
        return end_job(self._engine, job_id, update(jobs).where(_fetching(job_id, fetcher)).values(**failure(error)))


def _fetching(job_id: str, fetcher: str) -> ColumnElement[bool]:
    return and_(jobs.c.id == job_id, jobs.c.state == State.QUEUED.value, jobs.c.worker == fetcher)
