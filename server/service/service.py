"""The one door from the APIs to work: submit, get, wait, cancel, result, plan; and the API half's background work.

Everything here is synchronous and short, but `wait`. Dialects call it from their endpoints and only translate.
"""

import asyncio
import os
import secrets
import threading
import time
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import structlog
from anyio import CapacityLimiter, to_thread

from server.blobs.local import Blobs, new_key
from server.config import Config
from server.db.deliveries import Delivery
from server.db.jobs import MAX_ATTEMPTS, Jobs, WorkerInfo
from server.db.turns import Turns
from server.db.uploads import Uploads
from server.errors import (
    BadSource,
    Conflict,
    ModelNotFound,
    NotFound,
    ResultImpossible,
    SourceUnreachable,
    SourceUnreadable,
    Unavailable,
    UpscaleError,
)
from server.images.read.open import Header, read_header
from server.job.creativity import recipe
from server.job.job import Job, Params, State
from server.job.plan import Estimate, Plan, checked_sizes, estimate, make_plan
from server.outbound.source import Source, download, download_to, own_file, own_job
from server.service.cached import Remembered
from server.service.waiting import Waiting
from server.transient import outage_of
from server.weights.catalog import Catalog, Content, DeviceKind
from server.weights.faces import face_weights
from server.weights.rates import REFINER, read_rates

log = structlog.get_logger()
_T = TypeVar("_T")

_OUTAGE_S = 10.0
"""Before a fetch is tried again that failed because of our own disk or database."""
_READ_S = 15.0
"""For reading and keeping a picture, beside the time for its download."""
_FETCHED = 2
"""Pictures that have been fetched, and are read at a time."""
READERS = 3
"""Bodies with pictures that are read at a time."""
_READING_WAIT_S = 60.0
_LOOK_S = 20.0
"""For finding out what a picture is, and for waiting until others have been."""
LOOKS = 4
"""Pictures downloaded at a time while their callers wait, only to learn what they are."""


class Service:
    def __init__(self, config: Config, jobs: Jobs, uploads: Uploads, blobs: Blobs, catalog: Catalog) -> None:
        self.config = config
        self.uploads = uploads
        self.blobs = blobs
        self.catalog = catalog
        self._jobs = jobs
        self._looks = CapacityLimiter(LOOKS)
        self._fetch_s = config.fetch_timeout_s + _READ_S
        self.reading = Turns(READERS, wait_s=_READING_WAIT_S)
        """For what endpoints do with bodies and pictures: owners take turns, and polls need no place."""
        self._counts = Remembered(jobs.counts)
        self._waiting = Waiting(jobs.ended)
        self._end = asyncio.Event()
        self._readers = ThreadPoolExecutor(READERS + _FETCHED, thread_name_prefix="look")
        self._fetched = threading.BoundedSemaphore(_FETCHED)
        self._fetcher = f"fetch:{os.getpid()}:{secrets.token_hex(4)}"

    def close(self) -> None:
        """The process is to end: whoever waits is answered now."""
        self.reading.close()
        self._waiting.close()
        self._end.set()

    def submit(
        self,
        *,
        dialect: str,
        owner: str,
        params: Params,
        source: Source,
        request: dict[str, Any] | None = None,
        external_id: str | None = None,
        keep_s: float | None = None,
        deliver: Mapping[str, str] | None = None,
        base_url: str = "",
        strict: bool = True,
    ) -> Job:
        """Keep the request as a durable job and return it.

        A source that came as bytes is looked at now: if it is no good, `strict` raises (BadSource, ResultImpossible),
        otherwise the job is kept as failed with that error, which is how the vendors answer. A URL is fetched in the
        background. Raises ModelNotFound, TooManyRequests, and Conflict (`external_id` is taken) in either case.

        `deliver`: addresses by kind (deliveries.WEBHOOK, UPLOAD), to be served when the job ends with links that start
        with `base_url`.
        """
        self.catalog.choose(params)
        if params.faces is not None:
            face_weights(self.catalog)
        job = Job(
            dialect=dialect,
            owner=owner,
            params=params,
            request=request or {},
            external_id=external_id,
            keep_s=keep_s,
            source_url=source.url,
        )
        try:
            source = self.resolve(source, owner)
            data = None if source.url is not None else self.read(source)
            if data is not None:
                self._check_source(data, params)
        except (BadSource, ResultImpossible) as error:
            if strict:
                raise
            now = time.time()
            job = replace(job, state=State.FAILED, finished_at=now, error_code=error.code, error_message=error.message)
        else:
            if data is not None:
                # An upload may expire before its job runs, or be used by several: every job has its own copy.
                job = replace(job, source_url=None, source_key=new_key())
                assert job.source_key is not None
                self.blobs.put(job.source_key, data)
        self.keep(job, deliver, base_url)
        return job

    def keep(self, job: Job, deliver: Mapping[str, str] | None = None, base_url: str = "") -> None:
        """Keep a job as it is, durably, with what is owed at its end. One that has ended already never runs: callers
        ask for such to try their own side. Raises TooManyRequests and Conflict; its pictures are removed then."""
        owed = [Delivery(job_id=job.id, kind=kind, url=url, base_url=base_url) for kind, url in (deliver or {}).items()]
        try:
            self._jobs.enqueue(job, owed)
        except UpscaleError:  # refused; a database that failed may have kept it all the same
            self._delete_pictures(job)
            raise
        log.info("job accepted", job=job.id, dialect=job.dialect, state=job.state.value)

    def get(self, job_id: str, owner: str, dialect: str | None = None) -> Job:
        """Raises NotFound, also for a job of somebody else: its existence is nobody's business. `dialect`: only one
        that came through it, whose `request` its words can be made of."""
        job = self._jobs.get(job_id)
        if job.owner != owner or dialect not in (None, job.dialect):
            raise NotFound(f"there is no job {job_id}")
        return job

    def find(self, owner: str, dialect: str, external_id: str) -> Job:
        """The job that its caller has given this name. Raises NotFound."""
        return self._jobs.find(owner, dialect, external_id)

    def list(self, owner: str, **filters: Any) -> tuple[Sequence[Job], int]:
        """A page of the caller's jobs, newest first, and how many there are; `filters` are those of Jobs.list."""
        return self._jobs.list(owner=owner, **filters)

    def picture(self, owner: str, picture_id: str) -> Source:
        """A picture of the caller's own, by its id: an upload's, or a job's `source_id` or `result_id` (32 hex digits).
        Raises NotFound, also while it is not there yet."""
        upload = self.uploads.find(owner, picture_id)
        if upload is not None:
            return Source(key=upload.key)
        job = self._jobs.with_picture(owner, picture_id)
        result_key = job.result.key if job.result else None
        key = job.source_key if job.source_id == picture_id else result_key
        if key is None:
            raise NotFound(f"there is no picture {picture_id} yet")
        return Source(key=key)

    def cancel(self, job_id: str, owner: str) -> Job:
        """Ask for the job's end. Raises NotFound, or Conflict when it has ended already."""
        if self.get(job_id, owner).state.final:
            raise Conflict("the job has ended already")
        return self._jobs.cancel(job_id)

    async def wait(self, job_id: str, owner: str, timeout_s: float) -> Job:
        """The job as it is when it has ended, after `timeout_s`, or when this process is to end (`closing`), whichever
        comes first."""
        await self._waiting.until_ended(job_id, timeout_s)
        return await to_thread.run_sync(self.get, job_id, owner)

    @property
    def closing(self) -> bool:
        """This process is to end: what it can't finish now goes on in the next one."""
        return self._waiting.closed

    async def unless_closing(self, work: Awaitable[_T]) -> _T:
        """The same, for what may take long and changes nothing. Raises Unavailable once this process is to end."""
        if not self.closing:
            task, end = asyncio.ensure_future(work), asyncio.ensure_future(self._end.wait())
            await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
            end.cancel()
            if task.done():
                return task.result()
            task.add_done_callback(_drop)  # it ends by itself, in a thread that nobody waits for
        raise Unavailable("the server is shutting down; try again", retry_after_s=5)

    def result_path(self, job: Job) -> Path:
        """The encoded result. Raises Conflict while there is none, NotFound after it has expired."""
        if job.result is None:
            raise Conflict(f"the job has no result: it is {job.state.value}")
        return self.blobs.path(job.result.key)

    def source_path(self, job: Job) -> Path:
        """The picture it was made of. Raises Conflict while it is not here, NotFound after it has expired."""
        if job.source_key is None:
            raise Conflict("the job's picture has not been fetched")
        return self.blobs.path(job.source_key)

    def resolve(self, source: Source, owner: str) -> Source:
        """The same source; a link to a file of ours, or to a picture of one of the owner's jobs, as that file, under
        whatever name it was asked for. Raises SourceUnreachable for a job that has no such picture."""
        if source.url is None:
            return source
        key = own_file(source.url)
        if key is not None and self.blobs.has(key):
            return Source(key=key)
        named = own_job(source.url)
        if named is None:
            return source
        try:
            job = self.get(named[0], owner)
        except NotFound:  # of somebody else, or of another server like this one: as any address
            return source
        try:
            return Source(key=(self.result_path(job) if named[1] == "result" else self.source_path(job)).name)
        except (Conflict, NotFound) as error:
            raise SourceUnreachable(f"the picture is not here: {error.message}") from error

    def read(self, source: Source) -> bytes:
        """A picture's file, downloaded now if need be. Raises BadSource."""
        if source.url is not None:
            return download(source.url, self.config)
        return source.data if source.data is not None else self._own_file(source.key)

    def header(self, source: Source) -> Header:
        """Size and kind of a picture, downloaded now if need be: see `look`. Raises BadSource."""
        return self._header(self.read(source))

    async def look(self, owner: str, source: Source) -> Header:
        """The same, for endpoints. Downloads take their time, so they are few at once, and whoever waits for one takes
        no thread from the others; then it is the owner's turn to have it read."""
        source = await self.fetched(await to_thread.run_sync(self.resolve, source, owner))
        return await self.reading.run(owner, self.header, source)

    async def fetched(self, source: Source) -> Source:
        """A source whose bytes are here. Raises BadSource."""
        if source.url is None:
            return source
        download = to_thread.run_sync(self.read, source, limiter=self._looks)
        return Source(data=await self.unless_closing(download))

    def plan(self, params: Params, source: Header | tuple[int, int]) -> Plan:
        """What would be done. Raises ModelNotFound, ResultImpossible, InvalidField; SourceTooLarge of animations."""
        if params.faces is not None:
            face_weights(self.catalog)
        size, frames = (source.size, source.frames) if isinstance(source, Header) else (source, 1)
        limits = self.config.max_source_pixels, self.config.max_result_pixels
        sizes = checked_sizes(size, params, frames, max_source_pixels=limits[0], max_result_pixels=limits[1])
        content: Content = "photo" if params.content == "auto" else params.content
        rates = read_rates(self.config.cache_dir)
        networks = self.catalog.choose(params, sizes, device=self._device(), content=content, rates=rates)
        beside = None if networks.fidelity is None else networks.fidelity.shape
        plan = make_plan(sizes, networks.main.shape, beside=beside, name=networks.name)
        if plan.passes and networks.choice.note is not None:
            plan = replace(plan, notes=(networks.choice.note,))
        return plan

    def estimate(self, plan: Plan, params: Params) -> Estimate:
        """What it would take: by what jobs with those networks took here of late, else by their measured speed."""
        rates = read_rates(self.config.cache_dir)
        seconds: float | None = 0.0
        if plan.passes:
            speed = self._jobs.speed(plan.model)
            if speed is None and all(name in rates for name in plan.networks):
                speed = 1 / sum(1 / rates[name] for name in plan.networks)
            seconds = plan.network_pixels / speed if speed else None
        steps = recipe(params.creativity or 0.0).steps
        if seconds is not None and plan.passes and steps and REFINER in rates:
            seconds += plan.frames * plan.result[0] * plan.result[1] * steps / rates[REFINER]
        return estimate(plan, params, seconds)

    def why_no_faces(self) -> str | None:
        """Why faces can't be restored here, or None when they can."""
        try:
            face_weights(self.catalog)
        except ModelNotFound as error:
            return error.message
        return None

    def workers(self) -> Sequence[WorkerInfo]:
        return self._jobs.live_workers()

    def counts(self) -> dict[str, int]:
        """Jobs by state; of large tables not quite of this moment."""
        return self._counts.get()

    # --- background work, called in a loop by app.py ----------------------------------------------------------------

    def fetch_next(self) -> bool:
        """Fetch the source of one waiting job. False when none waits."""
        job = self.claim_fetch()
        if job is not None:
            self.fetch(job)
        return job is not None

    def claim_fetch(self) -> Job | None:
        """The next job whose source is to be fetched, for `fetch`."""
        # The lease outlasts the download's own time limit, so that only a dead process loses it.
        return self._jobs.claim_fetch(self._fetcher, self._fetch_s)

    def fetch(self, job: Job) -> None:
        assert job.source_url is not None
        if job.attempt > MAX_ATTEMPTS:
            reason = SourceUnreadable(f"the server's process died {MAX_ATTEMPTS} times while it read this picture")
            self._jobs.fail_fetch(job.id, self._fetcher, reason)
            return
        with structlog.contextvars.bound_contextvars(job=job.id):
            try:
                self._fetch(job, job.source_url)
            except UpscaleError as error:
                log.info("source refused", code=error.code, reason=error.message)
                self._jobs.fail_fetch(job.id, self._fetcher, error)
            except Exception as error:
                if outage_of(error) is not None:
                    log.error("fetching put off", reason=str(error))
                    self._jobs.postpone_fetch(job.id, self._fetcher, _OUTAGE_S)
                else:
                    log.exception("fetching broke")
                    self._jobs.fail_fetch(job.id, self._fetcher, SourceUnreachable("the picture could not be fetched"))

    def release_fetches(self) -> None:
        """This process ends: others may fetch what it was about to."""
        self._jobs.release(self._fetcher)
        self._readers.shutdown(wait=False, cancel_futures=True)

    def delete(self, job: Job) -> None:
        """The job and its pictures, whatever its state: a worker that has it finds out at its next heartbeat."""
        self._delete_pictures(job)  # before the row: what a crash leaves behind, upkeep still finds
        last = self._jobs.delete(job.id)
        if last is not None:
            self._delete_pictures(last)  # it may have got one since

    # --- within -----------------------------------------------------------------------------------------------------

    def _fetch(self, job: Job, url: str) -> None:
        key = new_key()
        with self.blobs.scratch() as file:
            download_to(file, url, self.config)
            self._jobs.hold_fetch(job.id, self._fetcher, self._fetch_s)
            with self._fetched:  # few pictures are in memory at a time, however many downloads are on their way
                self._jobs.hold_fetch(job.id, self._fetcher, self._fetch_s)
                data = file.read()
                self._check_source(data, job.params)
                self.blobs.put(key, data)
        if self._jobs.give_source(job.id, self._fetcher, key):
            log.info("source fetched", bytes=len(data))
        else:
            self.blobs.delete(key)  # cancelled meanwhile

    def _device(self) -> DeviceKind:
        """Where a job is likely to run: on a GPU, if any worker has one."""
        return "cuda" if any(worker.kind == "cuda" for worker in self._jobs.live_workers()) else "cpu"

    def _delete_pictures(self, job: Job) -> None:
        for key in pictures_of(job):
            self.blobs.delete(key)

    def _own_file(self, key: str | None) -> bytes:
        assert key is not None  # a Source has a URL, data or a key
        try:
            return self.blobs.get(key)
        except NotFound as error:
            raise SourceUnreachable(error.message) from error

    def _check_source(self, data: bytes, params: Params) -> None:
        self.plan(params, self._header(data))

    def _header(self, data: bytes) -> Header:
        """In a thread of those that are for nothing else, and in bounded time. Raises BadSource."""
        started = threading.Event()

        def look() -> Header:
            started.set()
            return read_header(data, self.config.max_source_pixels)

        future = self._readers.submit(look)
        if not started.wait(_LOOK_S):
            future.cancel()
            raise Unavailable("the server is busy with other pictures; try again later")
        try:
            return future.result(_LOOK_S)
        except FutureTimeout:
            raise SourceUnreadable(f"the picture takes more than {_LOOK_S:g} seconds to look at") from None


def _drop(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        task.exception()


def pictures_of(job: Job) -> list[str]:
    """The keys of its blobs."""
    keys = (job.source_key, job.result.key if job.result else None)
    return [key for key in keys if key is not None]
