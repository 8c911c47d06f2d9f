"""A worker process: lease a job, run the pipeline, store the result, finish. One per device."""

import os
import secrets
import signal
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from server.blobs import Blobs, new_key
from server.config import Config
from server.database import Changes, open_database
from server.errors import JobCancelled, JobFailed, NotFound, UpscaleError
from server.formats import FORMATS
from server.job import Job, Params, Result
from server.jobs import Beat, Jobs, WorkerInfo
from server.pipeline import Context
from server.price import cost_of
from server.upscaler import Upscaler
from server.weights.catalog import Catalog
from server.weights.indexer import index

log = structlog.get_logger()

_IDLE_S = 0.5
"""How long an idle worker waits for news before it looks for lapsed leases, of which there are none."""
_DATABASE_PAUSE_S = 1.0
"""Before a database that failed is asked again."""
_PROGRESS_S = 0.5
"""How often progress is written while a job runs."""


class JobLost(Exception):
    """The lease went to another worker: this run's result is nobody's."""


class WorkerStopping(Exception):
    """The process was asked to end while the job ran."""


@dataclass
class _Run:
    """A job in work. Heartbeats note their news here, so that one that comes late can't be taken for the next job's."""

    job: Job
    ctx: Context
    news: Beat = Beat.CONTINUE


class Worker:
    def __init__(
        self, config: Config, jobs: Jobs, blobs: Blobs, upscaler: Upscaler, changes: Changes, worker_id: str
    ) -> None:
        self._config = config
        self._jobs = jobs
        self._blobs = blobs
        self._upscaler = upscaler
        self._changes = changes
        self._id = worker_id
        self._device = upscaler.describe()
        self._stop = threading.Event()
        self._running: _Run | None = None

    def stop(self) -> None:
        """End soon: the running job goes back to the queue at its next tile."""
        self._stop.set()

    def loop(self) -> None:
        """Work until `stop`. The bundled weights are verified and loaded before the first lease."""
        self._upscaler.load(Params(scale=4.0))
        beats = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beats.start()
        log.info("worker ready", worker=self._id, device=self._device)
        while not self._stop.is_set():
            try:
                self._work_once()
            except SQLAlchemyError:
                # What was written is unknown. The lease decides: either the job is finished, or it is claimed again.
                log.exception("the database failed")
                self._stop.wait(_DATABASE_PAUSE_S)
        beats.join()
        self._jobs.release(self._id)

    def _work_once(self) -> None:
        job = self._jobs.claim(self._id)
        if job is None:
            self._changes.wait(self._stop, _IDLE_S)
            return
        with structlog.contextvars.bound_contextvars(job=job.id, attempt=job.attempt):
            self._work(job)

    def _work(self, job: Job) -> None:
        log.info("job started")
        staged = self._blobs.stage()
        try:
            assert job.source_key is not None  # only jobs with a source are leased
            run = _Run(job, self._upscaler.prepare(job.params, self._blobs.get(job.source_key), staged))
            self._running = run
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
                raise  # the context is broken for good; the launcher starts a new process, which retries the job
            log.exception("job broke")
            self._jobs.fail(job, JobFailed("the picture could not be processed; the server's log says why"))
        finally:
            self._running = None
            staged.unlink(missing_ok=True)

    def _publish(self, run: _Run) -> None:
        """Store the result and finish the job. Done work survives a database that is away for less than a lease."""
        key = new_key(FORMATS[run.job.params.format].suffix)
        size_bytes = run.ctx.target.stat().st_size
        self._blobs.adopt(key, run.ctx.target)
        result = self._result(key, size_bytes, run.ctx)
        deadline = time.monotonic() + self._config.lease_s
        while True:
            try:
                # A commit whose answer got lost makes the next try find the job finished, by us.
                published = self._jobs.finish(run.job, result) or self._is_published(run.job, key)
            except SQLAlchemyError:
                if time.monotonic() > deadline:
                    raise  # the blob stays: the row may name it
                log.warning("finishing failed; trying again", exc_info=True)
                time.sleep(_DATABASE_PAUSE_S)
            else:
                break
        if not published:
            self._blobs.delete(key)
            raise JobLost
        log.info("job succeeded", seconds=run.ctx.seconds, tiles=run.ctx.tiles)

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
            model=ctx.model.name if ctx.model else "none",
            model_sha256=ctx.model.sha256 if ctx.model else None,
            faces=None if ctx.faces is None else tuple(face.to_dict() for face in ctx.faces),
            network_pixels=ctx.plan.network_pixels,
            seconds=ctx.seconds,
            cost=cost_of((w, h), self._config),
        )

    def _info(self) -> WorkerInfo:
        return WorkerInfo(self._id, self._device, ready=True, beat_at=time.time(), kind=self._upscaler.kind)

    def _check(self, run: _Run) -> None:
        if run.news is Beat.LOST:
            raise JobLost
        if run.news is Beat.CANCEL:
            raise JobCancelled("the job was cancelled")
        if self._stop.is_set():
            raise WorkerStopping

    def _beat(self) -> None:
        """Keep the process and its job alive in the table, and bring news back."""
        told = 0.0
        while not self._stop.is_set() or self._running:
            try:
                run = self._running
                if run is not None:
                    run.news = self._jobs.heartbeat(run.job, run.ctx.progress)
                if time.monotonic() - told > self._config.lease_s / 4:
                    self._jobs.worker_beat(self._info())
                    told = time.monotonic()
            except Exception:
                # A locked or restarting database: the lease outlasts several tries.
                log.exception("heartbeat failed")
            self._stop.wait(_PROGRESS_S) if not self._stop.is_set() else time.sleep(_PROGRESS_S)


def run_worker(config: Config, worker_id: str | None = None) -> None:
    """The process's main function, until SIGTERM or SIGINT. Raises Unavailable or ModelNotFound at its start."""
    engine = open_database(config.database)
    jobs = Jobs(engine, lease_s=config.lease_s)
    index(config.weights_path)
    upscaler = Upscaler(config, Catalog.of(config))
    name = worker_id or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(2)}"
    worker = Worker(config, jobs, Blobs(config.blobs_dir), upscaler, Changes(engine), name)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.loop()
