"""A worker process: lease a job, run the pipeline, store the result, finish. One per device.

It runs a few jobs at a time, each in its own thread, so that one is decoded or encoded while the tiles of another are
computed; the device's thread runs their tiles in turn, see `engine/`. The main thread leases jobs. A job whose last
worker died runs alone: if it ends this process too, no other job is affected, and its attempts count only its own
failures.

A worker's counters since its start (`WorkerInfo.counters`): those of `Upscaler.counters` and `jobs` that ended; now:
`jobs_in_hand` and the process's `memory_bytes`.
"""

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from server.blobs.base import Blobs, new_key
from server.config import Config
from server.db.jobs import HeartbeatResult, Jobs, WorkerInfo
from server.db.notify import POLL_S, Listener, Topic
from server.engine import cuda
from server.engine.device import is_out_of_memory
from server.errors import JobCancelled, JobFailed, NotFound, OutOfMemory, UpscaleError
from server.errors.transient import POSTPONE_S, RETRY_S, StoreFailure, retried, transient_error
from server.job.formats import FORMATS
from server.job.job import Job, Result
from server.job.price import cost_of
from server.pipeline import Context
from server.worker.pools.base import Pool
from server.worker.sharing import evenly
from server.worker.timing import SharedClock, Timing
from server.worker.upscaler import Upscaler

log = structlog.get_logger()

_PROGRESS_S = 0.5
"""How often progress is written while a job runs, if it has changed."""
_GRACE_S = 12.0
"""How long a worker that was asked to end waits for jobs whose networks have finished; less than the launcher waits
for the worker."""
_STORE_S = 60.0
"""How long a finished result waits for a store of pictures that fails; then the job is given back, to be run again."""
_SPREAD_S = 0.001
"""All idle workers hear of one new job. They claim one after the other, so many milliseconds apart on average, or a
thousand of them would ask the database at the same moment."""
_TIDY_S = 30.0
_LOOK_S = 0.1
"""How often the main thread, while it waits for a job to end, checks whether it must stop."""


class JobLost(Exception):
    """Another worker has the lease: the result of this run is not used."""


class WorkerStopping(Exception):
    """The process was asked to end while the job ran."""


@dataclass(eq=False)
class _Run:
    """A running job. Heartbeats store their answer here, so that a late one cannot be applied to the next job."""

    job: Job
    timing: Timing
    ctx: Context | None = None
    """None until its thread has begun."""
    news: HeartbeatResult = HeartbeatResult.CONTINUE
    reported: tuple[float, str] = (0.0, "loading")
    """Progress and stage that are in the table."""
    reported_at: float = 0.0

    @property
    def progress(self) -> float:
        return self.ctx.progress if self.ctx is not None else 0.0

    @property
    def stage(self) -> str:
        return self.ctx.stage if self.ctx is not None else "loading"


class Worker:
    def __init__(
        self,
        config: Config,
        jobs: Jobs,
        blobs: Blobs,
        upscaler: Upscaler,
        listener: Listener,
        worker_id: str,
        *,
        pool: Pool | None = None,
        recycle_jobs: int = 0,
        recycle_bytes: int = 0,
    ) -> None:
        """`recycle_jobs`, `recycle_bytes`: `loop` ends, after its jobs have ended, when so many jobs were run or the
        process uses more memory than that; 0: never."""
        self._config = config
        self._jobs = jobs
        self._blobs = blobs
        self._upscaler = upscaler
        self._listener = listener
        self._work_came, self._look = listener.subscribe(Topic.WORK), listener.subscribe(Topic.STOP)
        self._id = worker_id
        self._pool = pool
        self._recycle_jobs = recycle_jobs
        self._recycle_bytes = recycle_bytes
        self._slots = config.slots(upscaler.kind)
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._runs: set[_Run] = set()
        self._runs_changed = threading.Condition()
        self._clock = SharedClock()
        self._jobs_done = 0
        self._spread_s = 0.0
        """When there is work, how long this worker waits at most before it claims."""
        self._failure: Exception | None = None
        self._claim_at = 0.0
        """By the monotonic clock: no job is claimed before, because the store of pictures has failed."""
        self._doubted: set[str] = set()
        """Jobs that ended with an error of the device, after which it still computed."""

    def stop(self) -> None:
        """End soon: running jobs go back to the queue after the current tile, unless it is their last."""
        self._stop.set()
        self._work_came.set()

    def loop(self) -> None:
        """Work until `stop`, or until the process must be replaced. The default networks are verified and loaded before
        the first lease. Raises an error that made the device unusable."""
        self._upscaler.warm()
        helping = nullcontext() if self._pool is None else self._pool.serving(lambda: not self._runs)
        with self._listener.running(), helping:
            self._loop()

    def _loop(self) -> None:
        beats = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beats.start()
        log.info("worker ready", worker=self._id, device=self._upscaler.describe(), jobs=self._slots)
        while (
            self._wait(lambda: len(self._runs) < self._slots) and not self._stop.is_set() and not self._must_recycle()
        ):
            if self._stop.wait(max(0.0, self._claim_at - time.monotonic())):
                break
            try:
                self._lease_once()
            except SQLAlchemyError:
                # It is unknown what was written. Either the job is finished, or it is claimed again after its lease.
                log.exception("the database failed")
                self._stop.wait(RETRY_S)
        if self._failure is None:
            self._drain()
        if self._failure is not None:
            raise self._failure  # the device is unusable in this process; the launcher starts a new one, which retries
        self._ended.set()
        self._look.set()
        beats.join()
        self._jobs.release(self._id)

    @property
    def is_busy(self) -> bool:
        """Whether threads of jobs are alive, also of jobs that were given back."""
        return bool(self._runs)

    def _lease_once(self) -> None:
        job = self._jobs.claim(self._id)
        if job is None:
            if self._work_came.wait(POLL_S) and not self._stop.is_set():
                time.sleep(random.uniform(0, self._spread_s))
            return
        known, signs = self._upscaler.durations, self._upscaler.signs
        run = _Run(job, Timing(self._clock, known, job.left_s, alone_s=job.alone_s, signed=signs))
        self._runs.add(run)
        self._look.set()
        alone = job.attempt > 1
        if alone and not self._wait(lambda: len(self._runs) == 1):
            try:
                self._jobs.requeue(job)
            finally:
                self._end(run)
            return
        threading.Thread(target=self._thread, args=[run], name=f"job-{job.id[:8]}", daemon=True).start()
        if alone:
            self._wait(lambda: not self._runs)

    def _wait(self, condition: Callable[[], bool], timeout_s: float = float("inf")) -> bool:
        """Wait for a condition on the runs. False when the time is over, or when the worker must end before."""
        deadline = time.monotonic() + timeout_s
        with self._runs_changed:
            while self._failure is not None or not condition():
                stopping = self._stop.is_set() and timeout_s == float("inf")
                if stopping or self._failure is not None or time.monotonic() > deadline:
                    return False
                self._runs_changed.wait(_LOOK_S)  # a signal handler must not take locks, so `stop` does not notify
        return True

    def _must_recycle(self) -> bool:
        replace = 0 < self._recycle_jobs <= self._jobs_done or 0 < self._recycle_bytes < memory_bytes()
        if replace:
            log.info("the process will be replaced", jobs=self._jobs_done, memory_bytes=memory_bytes())
        return replace

    def _drain(self) -> None:
        """Wait for the running jobs: without limit if the process is only to be replaced, else for a short time."""
        self._wait(lambda: not self._runs)
        if self._wait(lambda: not self._runs, _GRACE_S):
            return
        for run in list(self._runs):
            self._jobs.requeue(run.job)  # the database refuses what its thread still writes
            log.warning("job given back in the middle of a step", job=run.job.id)

    def _end(self, run: _Run, *, succeeded: bool = False) -> None:
        run.timing.end(run.ctx, succeeded=succeeded)
        with self._runs_changed:
            self._runs.remove(run)
            self._jobs_done += 1
            self._runs_changed.notify_all()

    def _thread(self, run: _Run) -> None:
        with structlog.contextvars.bound_contextvars(job=run.job.id, attempt=run.job.attempt):
            succeeded = False
            try:
                succeeded = self._work(run)
            except SQLAlchemyError:
                log.exception("the database failed")  # as above
            except Exception as error:
                self._failure = error
                self._work_came.set()  # the main thread may wait for work
            finally:
                self._end(run, succeeded=succeeded)

    def _work(self, run: _Run) -> bool:
        """Whether it has succeeded."""
        job = run.job
        log.info("job started")
        staged: Path | None = None
        try:
            staged = self._blobs.stage()
            assert job.source_key is not None  # only jobs with a source are leased
            mask = job.params.mask.image if job.params.mask is not None else None
            read = self._blobs.get(job.source_key), staged, self._blobs.get(mask) if mask else b""
            run.ctx = self._upscaler.prepare(job.params, *read)
            run.ctx.ticks, run.ctx.waits = run.timing.clock, run.timing.clock.wait
            run.ctx.helpers = self._pool.helpers(job, staged.parent) if self._pool else None
            self._upscaler.run(run.ctx, lambda: self._check(run))
            self._publish(run)
            return True
        except JobLost:
            log.warning("job lost to another worker")
        except WorkerStopping:
            self._jobs.requeue(job)
            log.info("job given back")
        except JobCancelled:
            self._jobs.cancelled(job)
            log.info("job cancelled")
        except UpscaleError as error:
            self._jobs.fail(job, error)
            log.info("job failed", code=error.code, reason=error.message)
        except StoreFailure as error:
            # Before the requeue, so that this worker does not claim it again at once.
            self._claim_at = time.monotonic() + POSTPONE_S
            self._jobs.requeue(job)
            log.error("the store of pictures failed: job given back", reason=str(error))
        except SQLAlchemyError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                log.exception("out of memory outside the networks")
                self._jobs.fail(job, OutOfMemory("the picture does not fit into the device's memory"))
            elif cuda.breaks_device(error):
                self._after_device_error(run, error)
            elif transient := transient_error(error):
                log.error("the disk failed", reason=str(error))
                self._jobs.fail(job, transient)
            else:
                log.exception("job failed unexpectedly")
                self._jobs.fail(job, JobFailed("the picture could not be processed; the server's log says why"))
        finally:
            if staged is not None:
                staged.unlink(missing_ok=True)
        return False

    def _after_device_error(self, run: _Run, error: Exception) -> None:
        """Raise the error if the device is broken, so that a new process runs the job. If it still computes, the job
        goes back to the queue; if that happens to it again, the device counts as broken, and the attempt counts."""
        again = run.job.id in self._doubted
        self._doubted.add(run.job.id)
        if again or not self._upscaler.works():
            raise error
        log.exception("an error of the device, which still computes: the job is tried again")
        self._jobs.requeue(run.job)

    def _publish(self, run: _Run) -> None:
        """Store the result and finish the job. The result is not lost if the database is unavailable for less than a
        lease, or the store for less than _STORE_S."""
        assert run.ctx is not None  # it has run
        key = new_key(FORMATS[run.job.params.format].suffix)
        target = run.ctx.target
        size_bytes = target.stat().st_size
        certificate, heat_key = run.ctx.certificate, new_key(".png")

        def store() -> None:
            self._check(run)
            if certificate is not None:
                self._blobs.put(heat_key, certificate.heat_map)
            self._blobs.adopt(key, target)

        retried(store, _STORE_S)
        facts = None if certificate is None else certificate.facts | {"heat_map": heat_key}
        result = replace(self._result(key, size_bytes, run.ctx), certificate=facts)

        def finish() -> bool:
            # If the answer to a commit was lost, the next attempt finds the job finished by this run.
            return self._jobs.finish(run.job, result) or self._is_published(run.job, key)

        # If it raises, the blob stays, because the row may name it.
        if not retried(finish, self._config.lease_s):
            self._blobs.delete(*result.keys)
            raise JobLost
        log.info("job succeeded", seconds=run.ctx.seconds, network_pixels=run.ctx.network_pixels)

    def _is_published(self, job: Job, key: str) -> bool:
        with suppress(NotFound):
            result = self._jobs.get(job.id).result
            return result is not None and result.key == key
        return False

    def _result(self, key: str, size_bytes: int, ctx: Context) -> Result:
        assert ctx.plan is not None  # the run was successful
        w, h = ctx.plan.result
        return Result(
            key=key,
            width=w,
            height=h,
            size_bytes=size_bytes,
            format=ctx.params.format,
            model=ctx.loaded.name if ctx.loaded else "none",
            model_sha256=ctx.loaded.sha256 if ctx.loaded else None,
            model_form=ctx.loaded.form if ctx.loaded else None,
            notes=tuple(ctx.notes),
            faces=None if ctx.faces is None else tuple(face.to_dict() for face in ctx.faces),
            refinement=None if ctx.refinement is None else ctx.refinement.to_dict(),
            frames=ctx.plan.frames,
            duration_s=ctx.animation.timing.duration_s if ctx.animation else None,
            network_pixels=ctx.network_pixels,
            seconds=ctx.seconds,
            cost=cost_of((w, h), self._config, ctx.plan.frames),
        )

    def _info(self) -> WorkerInfo:
        counted = {"jobs": self._jobs_done, "jobs_in_hand": len(self._runs), "memory_bytes": memory_bytes()}
        counters = {**self._upscaler.counters(), **counted}
        return WorkerInfo(self._id, self._upscaler.describe(), True, self._upscaler.kind, counters)

    def _check(self, run: _Run) -> None:
        if run.news is HeartbeatResult.LOST:
            raise JobLost
        if run.news is HeartbeatResult.CANCEL:
            raise JobCancelled("the job was cancelled")
        if self._stop.is_set() and run.progress < 1:
            raise WorkerStopping

    def _beat(self) -> None:
        """Write heartbeats of the process and its jobs, and read whether jobs must stop."""
        reported = tidied = 0.0
        missing = set[str]()
        heard = False
        while not self._ended.is_set():
            try:
                for run, left in self._left().items():
                    self._report(run, left, heard)
                if time.monotonic() - reported > self._config.lease_s / 4:
                    self._jobs.worker_beat(self._info())
                    missing = self._abandon(missing)
                    self._spread_s = 0.0 if self._runs else _SPREAD_S * max(0, self._jobs.idle_workers() - 1)
                    reported = time.monotonic()
                if time.monotonic() - tidied > _TIDY_S:
                    self._upscaler.tidy()
                    tidied = time.monotonic()
            except Exception:
                # For example a locked database: a lease is long enough for several attempts.
                log.exception("heartbeat failed")
            heard = self._look.wait(_PROGRESS_S if self._runs or not reported else self._config.lease_s / 3)

    def _abandon(self, missing: set[str]) -> set[str]:
        """Give up what the table says that this worker runs, though no thread does: the database failed when it was to
        be ended or claimed. Only what was `missing` at the last report too; the others may just have been claimed.
        Returns what is missing now."""
        now = self._jobs.claimed_by(self._id) - {run.job.id for run in list(self._runs)}
        if now & missing:
            log.warning("jobs given up whose end is not in the table", jobs=sorted(now & missing))
            self._jobs.abandon(self._id, now & missing)
        return now

    def _left(self) -> dict[_Run, tuple[float | None, float | None]]:
        """As `Job.left_s` and `Job.alone_s`."""
        runs = list(self._runs)
        found = {run: run.timing.parts_left(run.ctx) for run in runs}
        known = {run: left for run, left in found.items() if left is not None}
        shared = dict(zip(known, evenly(list(known.values())), strict=True))
        return {run: (shared.get(run), None if left is None else left.alone) for run, left in found.items()}

    def _report(self, run: _Run, left: tuple[float | None, float | None], heard: bool) -> None:
        """`heard`: some job was to be stopped; it may be this one."""
        progress, now = (run.progress, run.stage), time.monotonic()
        if heard or progress != run.reported or run.timing.clock.waits or now - run.reported_at > POLL_S:
            run.news = self._jobs.heartbeat(run.job, *progress, *left)
            run.reported, run.reported_at = progress, now


def memory_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
