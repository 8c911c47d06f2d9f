"""Rows of the job table as jobs, and the writes that all who own a job share."""

from typing import Any

from sqlalchemy import CursorResult, Engine, Update, and_, bindparam, select, update
from sqlalchemy.engine import Row

from server.db.clock import NOW
from server.db.database import deliveries, jobs
from server.db.deliveries import NEWS
from server.db.notify import Topic, notify
from server.errors import UpscaleError
from server.job.job import Job, Params, Result, State

COLUMNS = [column for column in jobs.c if column.name not in ("lease_until", "source_host")]
"""Those that are fields of a job."""


def _is_run(job_id: Any, worker: Any, attempt: Any) -> Any:
    state = jobs.c.state == State.RUNNING.value
    return and_(jobs.c.id == job_id, state, jobs.c.worker == worker, jobs.c.attempt == attempt)


OWNED = update(jobs).where(_is_run(bindparam("its_id"), bindparam("its_worker"), bindparam("its_attempt")))
"""A write of the worker that runs the job; `run_of` has the values of its parameters."""
FINISH = OWNED.values(
    state=State.SUCCEEDED.value, result=bindparam("its_result", type_=jobs.c.result.type), progress=1.0, finished_at=NOW
)
"""With `its_result`. Built once, as the next one: building a statement takes twice as long as running it."""
BEAT = OWNED.values(
    progress=bindparam("its_progress"),
    stage=bindparam("its_stage"),
    left_s=bindparam("its_left_s"),
    left_at=NOW,
    alone_s=bindparam("its_alone_s"),
).returning(jobs.c.cancel_requested)
"""With the news that its parameters name. Returns whether the caller wants the job cancelled."""
_HAS_DELIVERY = select(deliveries.c.id).where(deliveries.c.job_id == bindparam("job"), deliveries.c.kind != NEWS)


def run_of(job: Job) -> dict[str, Any]:
    """Names the run of a job that its worker has claimed."""
    return {"its_id": job.id, "its_worker": job.worker, "its_attempt": job.attempt}


def owned(job: Job) -> Any:
    """The condition of `OWNED`, for one job."""
    return _is_run(job.id, job.worker, job.attempt)


def to_row(job: Job) -> dict[str, Any]:
    row = {column.name: getattr(job, column.name) for column in COLUMNS}
    row |= {"params": job.params.to_dict(), "state": job.state.value}
    return row | {"result": job.result.to_dict() if job.result else None}


def from_row(row: Row[Any]) -> Job:
    return from_values(dict(row._mapping))


def from_values(values: dict[str, Any]) -> Job:
    """Of the row with these values of COLUMNS."""
    values |= {"params": Params.from_dict(values["params"]), "state": State(values["state"])}
    return Job(**values | {"result": Result.from_dict(values["result"]) if values["result"] else None})


def end_job(engine: Engine, job_id: str, end: Update, **values: Any) -> bool:
    """End the job with this statement and the values of its parameters. Whether it has changed the job."""
    with engine.begin() as db:
        if not changed(db.execute(end, values)):
            return False
        # NOTE: only then, because PostgreSQL lets transactions that notify commit one after the other.
        if db.execute(_HAS_DELIVERY, {"job": job_id}).first():
            notify(db, Topic.DELIVERY)
        return True


def write_job(engine: Engine, where: Any, topic: Topic | None = None, **values: Any) -> bool:
    """Whether there was such a job. Processes that wait for the topic look then."""
    with engine.begin() as db:
        if not changed(db.execute(update(jobs).where(where).values(**values))):
            return False
        if topic is not None:
            notify(db, topic)
        return True


def failure(error: UpscaleError) -> dict[str, Any]:
    return {
        "state": State.FAILED.value,
        "finished_at": NOW,
        "error_code": error.code,
        "error_message": error.message,
    }


def changed(result: Any) -> int:
    """How many rows a statement has changed."""
    assert isinstance(result, CursorResult)
    return result.rowcount
