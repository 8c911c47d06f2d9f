"""A worker process: lease a job, run the pipeline, store the result, finish. One per device.

It has a few jobs in hand, each in a thread of its own, so that one is decoded or encoded while another's tiles are
computed; the device's thread runs them in turn, see `engine/`. The main thread leases. A job whose last worker died
runs alone: if it kills this one too, it takes no other job with it, and its attempts say what it did itself.

What a worker counts since it started (`WorkerInfo.counters`): that of `Upscaler.counters`, `jobs` ended, `jobs_in_hand`
now and the process's `memory_bytes` now.
"""

import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
import torch
from sqlalchemy.exc import SQLAlchemyError

from server.blobs import open_blobs
from server.blobs.base import Blobs, new_key
from server.config import Config
from server.db.database import Changes, open_database
from server.db.jobs import HeartbeatResult, Jobs, WorkerInfo
from server.errors import JobCancelled, JobFailed, NotFound, UpscaleError
from server.job.formats import FORMATS
from server.job.job import Job, Result
from server.job.price import cost_of
from server.pipeline import Context
from server.transient import RETRY_S, retried, transient_error
from server.weights.catalog import Catalog
from server.worker.indexer import index
from server.worker.upscaler import Upscaler

log = structlog.get_logger()

_IDLE_S = 0.5
"""How long an idle worker waits for news before it looks for lapsed leases, of which there are none."""
_PROGRESS_S = 0.5
"""How often progress is written while a job runs."""
_GRACE_S = 12.0
"""How long a worker that was asked to end waits for jobs that are past their network part; less than the launcher
waits for the worker."""
_RECYCLE_JOBS = 2000
_RECYCLE_SHARE = 0.6
"""A supervised worker makes room for a fresh process after so many jobs, or when it has come to hold so much of the
machine's memory: neither happens to a sound one, but libraries leak."""
_TIDY_S = 30.0
_LOOK_S = 0.1
"""How often a main thread that waits for a job to end looks whether it shall stop."""


class JobLost(Exception):
    """The lease went to another worker: this run's result is nobody's."""


class WorkerStopping(Exception):
    """The process was asked to end while the job ran."""


@dataclass(eq=False)
class _Run:
    """A job in work. Heartbeats note their news here, so that one that comes late can't be taken for the next job's."""

    job: Job
    ctx: Context | None = None
    """None until its thread has begun."""
    news: HeartbeatResult = HeartbeatResult.CONTINUE

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
        changes: Changes,
        worker_id: str,
        *,
        recycle_jobs: int = 0,
        recycle_bytes: int = 0,
    ) -> None:
        """`recycle_jobs`, `recycle_bytes`: `loop` ends, with all jobs done, after so many or when the process holds
        more than that; 0 is never."""
        self._config = config
        self._jobs = jobs
        self._blobs = blobs
        self._upscaler = upscaler
        self._changes = changes
        self._id = worker_id
        self._recycle_jobs = recycle_jobs
        self._recycle_bytes = recycle_bytes
        self._device = upscaler.describe()
        self._slots = config.jobs_per_worker or (4 if upscaler.kind == "cuda" else 2)
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._runs: set[_Run] = set()
        self._runs_changed = threading.Condition()
        self._jobs_done = 0
        self._broken: Exception | None = None

    def stop(self) -> None:
        """End soon: running jobs go back to the queue at their next tile, unless they have none left."""
        self._stop.set()

    def loop(self) -> None:
        """Work until `stop`, or until it is time for a fresh process. The bundled weights are verified and loaded
        before the first lease. Raises what has broken the device for good."""
        self._upscaler.warm()
        beats = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beats.start()
        log.info("worker ready", worker=self._id, device=self._device, jobs=self._slots)
        while self._wait(lambda: len(self._runs) < self._slots) and not self._stop.is_set() and not self._is_worn():
            try:
                self._lease_once()
            except SQLAlchemyError:
                # What was written is unknown. The lease decides: either the job is finished, or it is claimed again.
                log.exception("the database failed")
                self._stop.wait(RETRY_S)
        if self._broken is None:
            self._drain()
        if self._broken is not None:
            raise self._broken  # the context is broken for good; the launcher starts a new process, which retries
        self._ended.set()
        beats.join()
        self._jobs.release(self._id)

    @property
    def is_busy(self) -> bool:
        """Threads of jobs are alive, perhaps of some that were given up."""
        return bool(self._runs)

    def _lease_once(self) -> None:
        job = self._jobs.claim(self._id)
        if job is None:
            self._changes.wait(self._stop, _IDLE_S)
            return
        run = _Run(job)
        self._runs.add(run)
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
        """Until the runs are so. False when time is over, or the worker is to end before it is so."""
        deadline = time.monotonic() + timeout_s
        with self._runs_changed:
            while self._broken is not None or not condition():
                stopping = self._stop.is_set() and timeout_s == float("inf")
                if stopping or self._broken is not None or time.monotonic() > deadline:
                    return False
                self._runs_changed.wait(_LOOK_S)  # a signal's handler must not take locks, so `stop` wakes nobody
        return True

    def _is_worn(self) -> bool:
        worn = 0 < self._recycle_jobs <= self._jobs_done or 0 < self._recycle_bytes < memory_bytes()
        if worn:
            log.info("time for a fresh process", jobs=self._jobs_done, memory_bytes=memory_bytes())
        return worn

    def _drain(self) -> None:
        """Wait for the jobs in hand: for all that it takes if the process only wants to be replaced, else not long."""
        self._wait(lambda: not self._runs)
        if self._wait(lambda: not self._runs, _GRACE_S):
            return
        for run in list(self._runs):
            self._jobs.requeue(run.job)  # and what its thread still writes is fenced
            log.warning("job given back in the middle of a step", job=run.job.id)

    def _end(self, run: _Run) -> None:
        with self._runs_changed:
            self._runs.remove(run)
            self._jobs_done += 1
            self._runs_changed.notify_all()

    def _thread(self, run: _Run) -> None:
        with structlog.contextvars.bound_contextvars(job=run.job.id, attempt=run.job.attempt):
            try:
                self._work(run)
            except SQLAlchemyError:
                log.exception("the database failed")  # as above
            except Exception as error:
                self._broken = error
            finally:
                self._end(run)

    def _work(self, run: _Run) -> None:
        job = run.job
        log.info("job started")
        staged: Path | None = None
        try:
            staged = self._blobs.stage()
            assert job.source_key is not None  # only jobs with a source are leased
            run.ctx = self._upscaler.prepare(job.params, self._blobs.get(job.source_key), staged)
            self._upscaler.run(run.ctx, lambda: self._check(run))
            self._publish(run)
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
        except SQLAlchemyError:
            raise
        except Exception as error:
            if "CUDA error" in str(error):
                raise
            if transient := transient_error(error):
                log.error("the disk failed", reason=str(error))
                self._jobs.fail(job, transient)
                return
            log.exception("job broke")
            self._jobs.fail(job, JobFailed("the picture could not be processed; the server's log says why"))
        finally:
            if staged is not None:
                staged.unlink(missing_ok=True)

    def _publish(self, run: _Run) -> None:
        """Store the result and finish the job. Done work survives a database that is away for less than a lease."""
        assert run.ctx is not None  # it has run
        key = new_key(FORMATS[run.job.params.format].suffix)
        size_bytes = run.ctx.target.stat().st_size
        self._blobs.adopt(key, run.ctx.target)
        result = self._result(key, size_bytes, run.ctx)

        def finish() -> bool:
            # A commit whose answer got lost makes the next try find the job finished, by us.
            return self._jobs.finish(run.job, result) or self._is_published(run.job, key)

        # If it raises, the blob stays: the row may name it.
        if not retried(finish, self._config.lease_s):
            self._blobs.delete(key)
            raise JobLost
        log.info("job succeeded", seconds=run.ctx.seconds, network_pixels=run.ctx.network_pixels)

    def _is_published(self, job: Job, key: str) -> bool:
        with suppress(NotFound):
            result = self._jobs.get(job.id).result
            return result is not None and result.key == key
        return False

    def _result(self, key: str, size_bytes: int, ctx: Context) -> Result:
        assert ctx.plan is not None  # the run has ended well
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
        return WorkerInfo(self._id, self._device, True, time.time(), self._upscaler.kind, counters)

    def _check(self, run: _Run) -> None:
        if run.news is HeartbeatResult.LOST:
            raise JobLost
        if run.news is HeartbeatResult.CANCEL:
            raise JobCancelled("the job was cancelled")
        if self._stop.is_set() and run.progress < 1:
            raise WorkerStopping

    def _beat(self) -> None:
        """Keep the process and its jobs alive in the table, and bring news back."""
        told = tidied = 0.0
        while not self._ended.wait(_PROGRESS_S if told else 0.0):
            try:
                for run in list(self._runs):
                    run.news = self._jobs.heartbeat(run.job, run.progress, run.stage)
                if time.monotonic() - told > self._config.lease_s / 4:
                    self._jobs.worker_beat(self._info())
                    told = time.monotonic()
                if time.monotonic() - tidied > _TIDY_S:
                    self._upscaler.tidy()
                    tidied = time.monotonic()
            except Exception:
                # A locked or restarting database: the lease outlasts several tries.
                log.exception("heartbeat failed")


def memory_bytes() -> int:
    """What this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _memory_share(workers: int) -> int:
    """_RECYCLE_SHARE of what the machine, or the container, has for each of so many workers."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    with suppress(OSError, ValueError):  # "max" is none
        total = min(total, int(limit.read_text()))
    return int(total * _RECYCLE_SHARE / workers)


def run_worker(config: Config, worker_id: str | None = None, *, supervised: bool = False) -> None:
    """The process's main function, until SIGTERM or SIGINT, or, where somebody starts the next, until it is worn.
    Raises Unavailable or ModelNotFound at its start."""
    engine = open_database(config.database)
    jobs = Jobs(engine, lease_s=config.lease_s)
    index(config.weights_path)
    upscaler = Upscaler(config, Catalog.of(config))
    name = worker_id or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(2)}"
    worn = (_RECYCLE_JOBS, _memory_share(max(1, config.workers, torch.cuda.device_count()))) if supervised else (0, 0)
    worker = Worker(
        config,
        jobs,
        open_blobs(config),
        upscaler,
        Changes(engine),
        name,
        recycle_jobs=worn[0],
        recycle_bytes=worn[1],
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    try:
        worker.loop()
    except RuntimeError:
        log.exception("the device is broken")
        os._exit(1)  # at once: an interpreter that ends in order would wait for it, and run into it again
    if worker.is_busy:
        os._exit(0)  # their threads are in libraries that do not take well to an interpreter that ends around them
