"""The job table: where requests wait, and where the API half and the worker half meet.

Every call is one short transaction. A worker owns its jobs by a lease, one for all of them: it must `heartbeat` or
`worker_beat` before the lease expires, or other workers may claim them. The worker's name and the `attempt` number,
which every claim raises, fence all other writes: a write of a worker that froze and came back, or that has given the
job back, changes nothing, because the row's attempt is no longer its own. So a result becomes visible exactly once,
whatever happens in between.

    queued ──claim──► running ──finish──► succeeded
      │                 │ ├─────fail────► failed
      │                 │ └──cancelled──► cancelled
      │                 └──lease expired─► claimed again, or failed after MAX_ATTEMPTS
      └──cancel──► cancelled            fetch failed ──► failed

turn.py and fairness.py have the order in which workers and fetchers get jobs: a thousand jobs of one key delay the
first job of another key only until a running job ends, also where there is only one worker.

A job that came with a URL has no source yet: `fetches` has how it gets one, and workers can claim it after that.
"""

import enum
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, Integer, and_, bindparam, delete, func, insert, or_, select, text, update
from sqlalchemy.exc import IntegrityError

from server.db import leases
from server.db.ahead import Ahead, ahead
from server.db.clock import NOW
from server.db.database import RUNNING, UNENDED, jobs, reading, unsynced, workers
from server.db.database import deliveries as _deliveries
from server.db.deliveries import Delivery
from server.db.fairness import host_of
from server.db.fetches import Fetches
from server.db.figures import Figures
from server.db.limits import admit
from server.db.notify import Topic, notify
from server.db.row_reader import RowReader, RowWriter
from server.db.rows import (
    BEAT,
    COLUMNS,
    FINISH,
    OWNED,
    changed,
    end_job,
    failure,
    from_row,
    from_values,
    owned,
    run_of,
    to_row,
    write_job,
)
from server.db.turn import Turn
from server.errors import Conflict, NotFound, TooManyRequests, UpscaleError, cut
from server.job.job import Job, Result, State
from server.weights.choice import DeviceKind

QUEUE_FULL = "the queue is full; try again later"
MAX_ATTEMPTS = 3
"""A job is retried twice after crashes of its worker, then fails: a picture can't crash workers for ever."""

_GOOD_FOR = 50
"""A count of the queue is used for so many times the time that counting took."""
_MAX_IDS = 500
"""In one statement."""
_RECENT = 20
"""The last jobs from which a network's speed is measured."""
_ID = re.compile("[0-9a-f]{32}")
"""Other text is not a job's id, and may be text that the database can't compare."""

_LOOKS = 5
"""How often a claim looks again when other workers have taken what it saw."""

# Built once: building a statement takes twice as long as running it, and these run at each poll and submit.
_BY_ID = select(*COLUMNS).where(jobs.c.id == bindparam("wanted"))
_QUEUED = select(jobs.c.id).where(jobs.c.state == State.QUEUED.value).limit(bindparam("most", type_=Integer)).subquery()
_COUNT_QUEUED = select(func.count()).select_from(_QUEUED)
_IS_NAMED = and_(
    jobs.c.owner == bindparam("owner"), jobs.c.dialect == bindparam("dialect"), jobs.c.external_id == bindparam("name")
)
_BY_NAME, _TAKEN = select(*COLUMNS).where(_IS_NAMED), select(jobs.c.id).where(_IS_NAMED)
_NEW_DELIVERY, _CLOCK = insert(_deliveries), select(NOW)


class HeartbeatResult(enum.Enum):
    """The answer to a worker's heartbeat."""

    CONTINUE = "continue"
    CANCEL = "cancel"
    """The caller wants the job cancelled: stop it, then call `cancelled`."""
    LOST = "lost"
    """The job belongs to another worker now, or was deleted: drop it and write nothing."""


@dataclass(frozen=True)
class WorkerInfo:
    id: str
    device: str
    ready: bool
    kind: DeviceKind = "cpu"
    counters: Mapping[str, float] = field(default_factory=dict)
    """What it has counted since it started, by name; see worker/loop.py."""
    problem: str | None = None
    """Why it can't work, in words; None if it can."""


class Jobs:
    def __init__(self, engine: Engine, *, lease_s: float, max_queue: int = 1000) -> None:
        self._engine = engine
        self._unsynced = unsynced(engine)
        self._lease_s = lease_s
        self._max_queue = max_queue
        self._room = 0
        self._room_until = 0.0
        self._by_id, self._by_name = RowReader(engine, _BY_ID), RowReader(engine, _BY_NAME)
        self._new = RowWriter(engine, *COLUMNS, jobs.c.source_host)
        self._turn = Turn(engine, lease_s, MAX_ATTEMPTS, COLUMNS)
        self.fetches = Fetches(engine)
        self.figures = Figures(engine)
        self._abandoned = leases.abandoned(lease_s)
        live = workers.c.id.in_(leases.live(lease_s))
        self._live = select(workers).where(live).order_by(workers.c.id)
        self._on_gpu = RowReader(engine, select(workers.c.id).where(live, workers.c.kind == "cuda").limit(1))

    # --- for callers ------------------------------------------------------------------------------------------------

    def enqueue(self, job: Job, deliveries: Sequence[Delivery] = ()) -> None:
        """Store the job durably, in its present state, with the deliveries for its end. Its owner's priority is added
        to its own.

        Raises TooManyRequests when the queue is full or the owner's key has reached a limit, Conflict when the
        `external_id` is taken, Unauthorized when the key has been revoked.
        """
        taken = {"owner": job.owner, "dialect": job.dialect, "name": job.external_id}
        with self._engine.begin() as db:
            if job.external_id is not None and db.execute(_TAKEN, taken).first():
                raise Conflict(f"there is a job of the name {cut(job.external_id or '')} already")
            if job.state is State.QUEUED and not self._has_room(db):
                raise TooManyRequests(QUEUE_FULL)
            priority = job.priority + admit(db, job.owner, waits=not job.state.final)
            try:
                computed: dict[str, Any] = {"priority": priority, "source_host": host_of(job.source_url or "")}
                if job.cancel_at is not None and db.dialect.name != "sqlite":  # it was computed by this machine's clock
                    computed["cancel_at"] = job.cancel_at + db.execute(_CLOCK).scalar_one() - time.time()
                self._new.write(db, to_row(job) | computed)
            except IntegrityError as error:  # on PostgreSQL, two requests at the same moment
                raise Conflict(f"there is a job of the name {cut(job.external_id or '')} already") from error
            if deliveries:
                rows = [vars(each) | {"owner": job.owner, "host": host_of(each.url)} for each in deliveries]
                db.execute(_NEW_DELIVERY, rows)
            notify(db, *_topics_of_new(job, deliveries))

    def find(self, owner: str, dialect: str, external_id: str) -> Job:
        """The job to which its caller gave this id. Raises NotFound."""
        values = self._by_name.read(owner=owner, dialect=dialect, name=external_id)
        if values is None:
            raise NotFound(f"there is no job of the name {external_id}")
        return from_values(values)

    def with_picture(self, owner: str, picture_id: str) -> Job:
        """The job with this `source_id` or `result_id`. Raises NotFound."""
        named = or_(jobs.c.source_id == picture_id, jobs.c.result_id == picture_id)
        with reading(self._engine) as db:
            row = db.execute(select(*COLUMNS).where(jobs.c.owner == owner, named).limit(1)).one_or_none()
        if row is None:
            raise NotFound(f"there is no picture {picture_id}")
        return from_row(row)

    def get(self, job_id: str) -> Job:
        """Raises NotFound."""
        values = self._by_id.read(wanted=job_id) if _ID.fullmatch(job_id) else None
        if values is None:
            raise NotFound(f"there is no job {cut(job_id)}")
        return from_values(values)

    def ended(self, job_ids: Collection[str]) -> set[str]:
        """Those of these jobs that have ended or no longer exist."""
        ids, unended = sorted(job_ids), set[str]()
        with reading(self._engine) as db:
            for start in range(0, len(ids), _MAX_IDS):
                some = jobs.c.id.in_(ids[start : start + _MAX_IDS])
                unended.update(db.execute(select(jobs.c.id).where(some, jobs.c.state.in_(UNENDED))).scalars())
        return set(ids) - unended

    def list(
        self,
        *,
        owner: str | None = None,
        dialect: str | None = None,
        states: Sequence[State] = (),
        created_from: float = 0.0,
        created_before: float | None = None,
        request: Mapping[str, str] | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[Sequence[Job], int]:
        """A page of the matching jobs, newest first, and how many match in all. `states` empty: any.

        `request`: required values of fields of `Job.request`.
        """
        where = [jobs.c.created_at >= created_from]
        where += [jobs.c.created_at < created_before] if created_before is not None else []
        where += [jobs.c.owner == owner] if owner is not None else []
        where += [jobs.c.dialect == dialect] if dialect is not None else []
        where += [jobs.c.state.in_([state.value for state in states])] if states else []
        where += [jobs.c.request[name].as_string() == value for name, value in (request or {}).items()]
        page = select(*COLUMNS).where(*where).order_by(jobs.c.created_at.desc(), jobs.c.id).limit(limit).offset(offset)
        with reading(self._engine) as db:
            found = [from_row(row) for row in db.execute(page)]
            return found, db.execute(select(func.count()).select_from(jobs).where(*where)).scalar_one()

    def counts(self) -> dict[str, int]:
        """The number of jobs by state; states without jobs are left out."""
        query = select(jobs.c.state, func.count().label("jobs")).group_by(jobs.c.state)
        with reading(self._engine) as db:
            return {row.state: row.jobs for row in db.execute(query)}

    def ahead(self) -> Ahead:
        """What is running and waiting now."""
        return ahead(self._engine, self._lease_s)

    def ended_at(self, job_ids: Collection[str]) -> dict[str, float]:
        """When those of these jobs ended that have succeeded, by `time.time` of the database's clock."""
        where = jobs.c.id.in_(sorted(job_ids)[:_MAX_IDS]), jobs.c.state == State.SUCCEEDED.value
        with reading(self._engine) as db:
            return {row.id: row.finished_at for row in db.execute(select(jobs.c.id, jobs.c.finished_at).where(*where))}

    def speed(self, model: str) -> float | None:
        """Input pixels per second of this network in recent jobs, or None when it has not run."""
        query = select(jobs.c.result).where(jobs.c.state == State.SUCCEEDED.value).order_by(jobs.c.finished_at.desc())
        with reading(self._engine) as db:
            results = [Result.from_dict(row.result) for row in db.execute(query.limit(_RECENT))]
        runs = [(each.network_pixels, each.seconds.get("upscale", 0.0)) for each in results if each.model == model]
        seconds = sum(time for _, time in runs)
        return sum(pixels for pixels, _ in runs) / seconds if seconds else None

    def cancel(self, job_id: str) -> Job:
        """A waiting job ends now, a running one at its worker's next heartbeat; an ended one does not change. Raises
        NotFound."""
        self.get(job_id)
        ended = {"state": State.CANCELLED.value, "finished_at": NOW, "cancel_requested": True}
        waits = jobs.c.state == State.QUEUED.value
        with self._engine.begin() as db:
            # The worker of an abandoned one is dead and would never read the request.
            if changed(
                db.execute(update(jobs).where(jobs.c.id == job_id, or_(waits, self._abandoned)).values(**ended))
            ):
                notify(db, Topic.DELIVERY)
            elif changed(
                db.execute(
                    update(jobs)
                    .where(jobs.c.id == job_id, jobs.c.state == State.RUNNING.value)
                    .values(cancel_requested=True)
                )
            ):
                notify(db, Topic.STOP)
        return self.get(job_id)

    # --- for workers ------------------------------------------------------------------------------------------------

    def claim(self, worker: str) -> Job | None:
        """Lease the next job; jobs whose lease has expired are among the candidates. None: there is no work."""
        for _ in range(_LOOKS):
            candidates = self._turn.look()  # a read: one that finds nothing blocks no writer
            if not candidates:
                return None
            if candidates[0].doomed:
                self.end_abandoned()
                continue
            row = self._turn.take(candidates, worker)
            if row is not None:
                return from_row(row)
        return None  # others took all that was seen

    def heartbeat(
        self,
        job: Job,
        progress: float,
        stage: str | None = None,
        left_s: float | None = None,
        alone_s: float | None = None,
    ) -> HeartbeatResult:
        """Renew the worker's lease, and report the job's progress (0 … 1), see `Job.stage`, `left_s` and `alone_s`."""
        assert job.worker is not None
        news = {"its_progress": progress, "its_stage": stage, "its_left_s": left_s, "its_alone_s": alone_s}
        with self._unsynced.begin() as db:
            leases.renew(db, job.worker, self._lease_s)
            row = db.execute(BEAT, news | run_of(job)).one_or_none()
        if row is None:
            return HeartbeatResult.LOST
        return HeartbeatResult.CANCEL if row.cancel_requested else HeartbeatResult.CONTINUE

    def finish(self, job: Job, result: Result) -> bool:
        """Publish the result. False when the job is no longer this attempt's: nothing was written; delete the blob."""
        return end_job(self._engine, job.id, FINISH, **run_of(job), its_result=result.to_dict())

    def fail(self, job: Job, error: UpscaleError) -> bool:
        return end_job(self._engine, job.id, OWNED.values(**failure(error)), **run_of(job))

    def cancelled(self, job: Job) -> bool:
        """The worker has stopped the job on request."""
        cancelled = OWNED.values(state=State.CANCELLED.value, finished_at=NOW)
        return end_job(self._engine, job.id, cancelled, **run_of(job))

    def requeue(self, job: Job) -> bool:
        """Return the job to the queue, because this worker is shutting down; the attempt does not count."""
        values: dict[str, Any] = {"state": State.QUEUED.value, "worker": None, "progress": 0.0, "stage": None}
        values |= {"left_s": job.left_s, "left_at": None, "alone_s": job.alone_s}
        return write_job(self._engine, owned(job), Topic.WORK, attempt=jobs.c.attempt - 1, **values)

    def claimed_by(self, worker: str) -> set[str]:
        """The ids of the jobs that are running on this worker, as the table says."""
        with reading(self._engine) as db:
            return set(db.execute(select(jobs.c.id).where(text(RUNNING), jobs.c.worker == worker)).scalars())

    def idle_workers(self) -> int:
        return leases.idle_workers(self._engine, self._lease_s)

    def abandon(self, worker: str, job_ids: Collection[str]) -> None:
        """The worker lives, but runs these jobs no more: others may claim them. The attempt counts."""
        mine = and_(text(RUNNING), jobs.c.worker == worker, jobs.c.id.in_(job_ids))
        write_job(self._engine, mine, Topic.WORK, worker=None)

    # --- for the launcher and cleanup -------------------------------------------------------------------------------

    def release(self, worker: str) -> int:
        """The process is known to be dead: its leases end now. Returns how many jobs others may claim."""
        mine = jobs.c.worker == worker
        running = update(jobs).where(mine, text(RUNNING)).values(worker=None)
        # A fetch that was interrupted is not a failed attempt.
        fetches = update(jobs).where(mine, jobs.c.state == State.QUEUED.value)
        with self._engine.begin() as db:
            db.execute(delete(workers).where(workers.c.id == worker))
            leases.end(db, worker)
            count = changed(db.execute(running))
            count += changed(db.execute(fetches.values(lease_until=0.0, attempt=jobs.c.attempt - 1)))
            if count:
                notify(db, Topic.WORK, Topic.FETCH)
        return count

    def end_abandoned(self) -> int:
        """End the jobs without a lease that must not run again: cancelled ones, and those of too many crashes. Returns
        how many."""
        over = or_(jobs.c.cancel_requested, jobs.c.attempt >= MAX_ATTEMPTS)
        with reading(self._engine) as db:  # usually there is none, and reading waits for no writer
            if not db.execute(select(jobs.c.id).where(self._abandoned, over).limit(1)).first():
                return 0
        with self._engine.begin() as db:
            stopped = db.execute(
                update(jobs)
                .where(self._abandoned, jobs.c.cancel_requested)
                .values(state=State.CANCELLED.value, finished_at=NOW)
            )
            crashed = db.execute(
                update(jobs)
                .where(self._abandoned, jobs.c.attempt >= MAX_ATTEMPTS)
                .values(
                    state=State.FAILED.value,
                    finished_at=NOW,
                    error_code="job_failed",
                    error_message=f"the worker process died {MAX_ATTEMPTS} times while running this job",
                )
            )
            notify(db, Topic.DELIVERY)
            return changed(stopped) + changed(crashed)

    def expired(self, keep_s: float, limit: int = 100) -> Sequence[Job]:
        """Jobs that ended longer ago than their own `keep_s`, or the given one if they have none."""
        over = jobs.c.finished_at + func.coalesce(jobs.c.keep_s, keep_s) < NOW
        query = select(*COLUMNS).where(over).order_by(jobs.c.finished_at).limit(limit)
        with reading(self._engine) as db:
            return [from_row(row) for row in db.execute(query)]

    def oldest_ended(self, limit: int) -> Sequence[Job]:
        """The jobs that ended first."""
        query = select(*COLUMNS).where(jobs.c.finished_at.is_not(None)).order_by(jobs.c.finished_at).limit(limit)
        with reading(self._engine) as db:
            return [from_row(row) for row in db.execute(query)]

    def keys(self) -> set[str]:
        """The keys of all jobs' blobs."""
        mask = jobs.c.params[("mask", "image")].as_string()
        heat_map = jobs.c.result[("certificate", "heat_map")].as_string()
        query = select(jobs.c.source_key, jobs.c.result["key"].as_string(), mask, heat_map)
        with reading(self._engine) as db:
            return {key for row in db.execute(query) for key in row if key}

    def delete(self, job_id: str) -> Job | None:
        """Returns the job in its last state, or None when it did not exist."""
        with self._engine.begin() as db:
            db.execute(delete(_deliveries).where(_deliveries.c.job_id == job_id))
            row = db.execute(delete(jobs).where(jobs.c.id == job_id).returning(*COLUMNS)).one_or_none()
            if row is not None and row.state == State.RUNNING.value:
                notify(db, Topic.STOP)
        return from_row(row) if row else None

    def worker_beat(self, worker: WorkerInfo) -> None:
        """A worker process reports that it is alive, which renews its lease; `ready` once its weights are verified and
        loaded."""
        values = {
            "device": worker.device,
            "kind": worker.kind,
            "ready": worker.ready,
            "counters": dict(worker.counters),
            "problem": worker.problem,
        }
        with self._unsynced.begin() as db:
            leases.renew(db, worker.id, self._lease_s)
            if not changed(db.execute(update(workers).where(workers.c.id == worker.id).values(**values))):
                db.execute(insert(workers).values(id=worker.id, **values))

    def live_workers(self) -> Sequence[WorkerInfo]:
        """Workers that have a lease. Rows of dead workers stay until `release`."""
        with reading(self._engine) as db:
            return [
                WorkerInfo(row.id, row.device, row.ready, row.kind, row.counters, row.problem)
                for row in db.execute(self._live)
            ]

    def have_gpu(self) -> bool:
        """Whether any live worker has a GPU."""
        return self._on_gpu.read() is not None

    # --- internal ---------------------------------------------------------------------------------------------------

    def _has_room(self, db: Connection) -> bool:
        """Whether one more job may wait. Counting takes longer the more jobs wait, so a count is used for some time:
        jobs that came since are subtracted here, and jobs that left only make more room. (Several API processes on one
        database may accept a few jobs too many within that time.)"""
        if self._room <= 0 or time.monotonic() >= self._room_until:
            started = time.monotonic()
            self._room = self._max_queue - db.execute(_COUNT_QUEUED, {"most": self._max_queue}).scalar_one()
            ended = time.monotonic()
            self._room_until = ended + _GOOD_FOR * (ended - started)
        self._room -= 1
        return self._room >= 0


def _topics_of_new(job: Job, deliveries: Sequence[Delivery]) -> Iterator[Topic]:
    if job.state is State.QUEUED:
        yield Topic.WORK if job.source_key is not None else Topic.FETCH
    elif deliveries:
        yield Topic.DELIVERY
    if job.cancel_at is not None:
        yield Topic.DEADLINE
