"""What the dialects' endpoints call: submit, get, wait, cancel, result, plan.

Everything here is synchronous and short, except `wait`, `look` and `fetched`.
"""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import structlog
from anyio import CapacityLimiter, to_thread

from server.blobs.base import Blob, Blobs, new_key, not_found
from server.config import Config
from server.db.deliveries import Delivery
from server.db.jobs import QUEUE_FULL, Jobs, WorkerInfo
from server.db.uploads import Uploads
from server.errors import (
    BadSource,
    Conflict,
    ModelNotFound,
    NotFound,
    ResultImpossible,
    SourceUnreachable,
    SourceUnreadable,
    TooLarge,
    TooManyRequests,
    Unavailable,
    UpscaleError,
)
from server.images.read.open import Header, check_size, read_header
from server.job.creativity import recipe
from server.job.job import Job, Params, State
from server.job.mask import KEPT_CREATIVITY, of_mask
from server.job.plan import (
    Estimate,
    Plan,
    check_border,
    checked_sizes,
    estimate,
    keeps_hdr,
    make_plan,
    with_kept,
)
from server.outbound.source import Source, download, own_file, own_job
from server.service.eta import Eta, Etas
from server.service.previews import Previews
from server.service.timed_cache import TimedCache
from server.service.turns import Turns, shutting_down
from server.service.waiting import Waiting
from server.weights.catalog import Catalog, Content, DeviceKind, masked_of
from server.weights.faces import face_weights
from server.weights.rates import REFINER, read_rates

log = structlog.get_logger()
_T = TypeVar("_T")

READERS = 3
"""Bodies with pictures that are read at a time."""
_HEADER_READERS = READERS + 2
"""Threads that read headers: for those bodies, and for the pictures of fetching.py."""
_READING_WAIT_S = 60.0
_LOOK_S = 20.0
"""Time limit for reading a picture's header, and before that for a free thread."""
LOOKS = 4
"""Pictures downloaded at a time for `look`, while their callers wait."""


class Service:
    def __init__(self, config: Config, jobs: Jobs, uploads: Uploads, blobs: Blobs, catalog: Catalog) -> None:
        self.config = config
        self.uploads = uploads
        self.blobs = blobs
        self.catalog = catalog
        self._jobs = jobs
        self._looks = CapacityLimiter(LOOKS)
        self.reading = Turns(READERS, wait_s=_READING_WAIT_S)
        """For work of endpoints on bodies and pictures: owners take turns. Polls do not use it."""
        self.previews = Previews(max(config.max_source_pixels, config.max_result_pixels))
        self._counts = TimedCache(jobs.counts)
        self._etas = Etas(jobs, config)
        self._waiting = Waiting(jobs.ended)
        self._end = asyncio.Event()
        self._readers = ThreadPoolExecutor(_HEADER_READERS, thread_name_prefix="look")

    def close(self) -> None:
        """The process is about to end: all waiting callers are answered now."""
        self.reading.close()
        self.previews.close()
        self._waiting.close()
        self._end.set()

    def stop_readers(self) -> None:
        """The process ends: pictures that wait to be read are dropped."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def submit(
        self,
        *,
        dialect: str,
        owner: str,
        params: Params,
        source: Source,
        mask: Source | None = None,
        request: dict[str, Any] | None = None,
        external_id: str | None = None,
        keep_s: float | None = None,
        cancel_at: float | None = None,
        deliver: Mapping[str, str] | None = None,
        base_url: str = "",
        strict: bool = True,
    ) -> Job:
        """Store the request as a durable job and return it.

        A source that came as bytes is checked now: if it is bad, `strict` raises (BadSource, ResultImpossible);
        otherwise the job is stored as failed with that error, as the vendors do. A URL is fetched in the background.
        `mask`: the picture of the parameters' mask, which is checked and stored now.
        Raises ModelNotFound, TooManyRequests, and Conflict (`external_id` is taken) in either case.

        `deliver`: URLs by kind (deliveries.WEBHOOK, UPLOAD) to which the job's end is reported. Links in those messages
        start with `base_url`.
        """
        job = Job(
            dialect=dialect,
            owner=owner,
            params=params,
            request=request or {},
            external_id=external_id,
            keep_s=keep_s,
            cancel_at=cancel_at,
            source_url=source.url,
        )
        try:
            source = self.resolve(source, owner)
            data = None if source.url is not None else self.read(source)
            expected: tuple[float | None, float | None] = None, None
            if data is None:
                self.check_models(params)
            else:
                expected = self.check_source(data, params)  # which checks the models too
            covered = None if mask is None else self._mask(mask)
        except (BadSource, ResultImpossible) as error:
            self.check_models(params)
            if strict:
                raise
            now = time.time()
            job = replace(job, state=State.FAILED, finished_at=now, error_code=error.code, error_message=error.message)
        else:
            if data is not None:
                # Every job has its own copy: an upload may expire before the job runs, or serve several jobs.
                left_s, alone_s = expected
                key = new_key()
                job = replace(job, source_url=None, source_key=key, left_s=left_s, alone_s=alone_s)
                self.blobs.put(key, data)
            if covered is not None:
                assert params.mask is not None
                key = new_key()
                job = replace(job, params=replace(params, mask=replace(params.mask, image=key)))
                self.blobs.put(key, covered)
        self.store(job, deliver, base_url)
        return job

    def check_models(self, params: Params) -> None:
        """Raises ModelNotFound."""
        self.catalog.choose(params)
        if params.faces is not None:
            face_weights(self.catalog)

    def store(self, job: Job, deliver: Mapping[str, str] | None = None, base_url: str = "") -> None:
        """Store a job durably as it is, with its deliveries. A job that has already ended never runs: callers use such
        jobs to test their own side. Raises TooManyRequests and Conflict; the job's pictures are deleted then."""
        pending = [
            Delivery(job_id=job.id, kind=kind, url=url, base_url=base_url) for kind, url in (deliver or {}).items()
        ]
        try:
            self._jobs.enqueue(job, pending)
        except UpscaleError as error:  # refused; a database that failed may have stored it all the same
            self.blobs.delete(*job.keys)
            if error.message == QUEUE_FULL:
                raise TooManyRequests(QUEUE_FULL, retry_after_s=self._etas.retry_after_s()) from error
            raise
        log.info("job accepted", job=job.id, dialect=job.dialect, state=job.state.value)

    def get(self, job_id: str, owner: str, dialect: str | None = None) -> Job:
        """Raises NotFound, also for another caller's job: its existence is not revealed. `dialect`: only a job that
        came through it, whose `request` it can read."""
        job = self._jobs.get(job_id)
        if job.owner != owner or dialect not in (None, job.dialect):
            raise NotFound(f"there is no job {job_id}")
        return job

    def find(self, owner: str, dialect: str, external_id: str) -> Job:
        """The job to which its caller gave this id. Raises NotFound."""
        return self._jobs.find(owner, dialect, external_id)

    def list(self, owner: str, **filters: Any) -> tuple[Sequence[Job], int]:
        """A page of the caller's jobs, newest first, and how many match; `filters` are those of Jobs.list."""
        return self._jobs.list(owner=owner, **filters)

    def picture(self, owner: str, picture_id: str) -> Source:
        """One of the caller's pictures, by its id: an upload's, or a job's `source_id` or `result_id` (32 hex digits).
        Raises NotFound, also while it does not exist yet."""
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
        """Request the job's cancellation. Raises NotFound, or Conflict when it has already ended."""
        if self.get(job_id, owner).state.final:
            raise Conflict("the job has already ended")
        return self._jobs.cancel(job_id)

    async def wait(self, job_id: str, owner: str, timeout_s: float) -> Job:
        """The job once it has ended, after `timeout_s`, or when this process is about to end (`closing`), whichever
        comes first."""
        await self._waiting.until_ended(job_id, timeout_s)
        return await to_thread.run_sync(self.get, job_id, owner)

    @property
    def closing(self) -> bool:
        """This process is about to end; unfinished jobs continue in the next one."""
        return self._waiting.closed

    async def unless_closing(self, work: Awaitable[_T]) -> _T:
        """The result of work that may take long and changes nothing. Raises Unavailable when this process is about to
        end."""
        if not self.closing:
            task, end = asyncio.ensure_future(work), asyncio.ensure_future(self._end.wait())
            await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
            end.cancel()
            if task.done():
                return task.result()
            task.add_done_callback(_drop)  # its thread ends by itself; nothing waits for it
        raise shutting_down()

    def result(self, job: Job) -> Blob:
        """The encoded result. Raises Conflict while there is none, NotFound after it has expired."""
        if job.result is None:
            raise Conflict(f"the job has no result: it is {job.state.value}")
        return self._blob(job.result.key)

    def source(self, job: Job) -> Blob:
        """The source picture. Raises Conflict until it has been fetched, NotFound after it has expired."""
        if job.source_key is None:
            raise Conflict("the job's picture has not been fetched")
        return self._blob(job.source_key)

    def check_file_size(self, size: int) -> None:
        """Raises TooLarge for an uploaded file of so many bytes."""
        limit = self.config.max_source_bytes
        if size > limit:
            raise TooLarge(f"the file is over this server's limit of {limit} bytes")

    def resolve(self, source: Source, owner: str) -> Source:
        """The same source; but a link to one of our files, or to a picture of one of the owner's jobs, becomes that
        file, under whichever host name it was given. Raises SourceUnreachable for a job that has no such picture."""
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
        except NotFound:  # another caller's, or of another server like this one: an ordinary URL
            return source
        try:
            return Source(key=(self.result(job) if named[1] == "result" else self.source(job)).key)
        except (Conflict, NotFound) as error:
            raise SourceUnreachable(f"the picture is not here: {error.message}") from error

    def read(self, source: Source) -> bytes:
        """A picture's file, downloaded now if it is a URL. Raises BadSource."""
        if source.url is not None:
            return download(source.url, self.config)
        return source.data if source.data is not None else self._own_file(source.key)

    def header(self, source: Source) -> Header:
        """Size and kind of a picture, downloaded now if it is a URL. Raises BadSource."""
        return self._header(self.read(source))

    async def fetched_mask(self, mask: Source | None, owner: str) -> Source | None:
        """The picture of a mask, downloaded if it is a URL. Raises BadSource, with the field `mask`."""
        if mask is None:
            return None
        try:
            return await self.fetched(await to_thread.run_sync(self.resolve, mask, owner))
        except BadSource as error:
            raise of_mask(error) from error

    async def look(self, owner: str, source: Source) -> Header:
        """The same, for endpoints. Downloads may take long: only a few run at a time, and waiting for one uses no
        thread of the endpoints. Then the picture is read when it is the owner's turn."""
        source = await self.fetched(await to_thread.run_sync(self.resolve, source, owner))
        return await self.reading.run(owner, self.header, source)

    async def fetched(self, source: Source, limiter: CapacityLimiter | None = None) -> Source:
        """The same source, downloaded if it is a URL. `limiter` bounds the downloads at a time. Raises BadSource."""
        if source.url is None:
            return source
        download = to_thread.run_sync(self.read, source, limiter=limiter or self._looks)
        return Source(data=await self.unless_closing(download))

    def plan(self, params: Params, source: Header | tuple[int, int]) -> Plan:
        """What would be done. Raises ModelNotFound, ResultImpossible, InvalidField, SourceTooLarge."""
        if params.faces is not None:
            face_weights(self.catalog)
        header = source if isinstance(source, Header) else Header(*source, "")
        check_size(*header.size, self.config.max_source_pixels)
        limits = self.config.max_source_pixels, self.config.max_result_pixels
        sizes = checked_sizes(
            header.size,
            params,
            header.frames,
            max_source_pixels=limits[0],
            max_result_pixels=limits[1],
            hdr=header.hdr,
        )
        content: Content = "photo" if params.content == "auto" else params.content
        rates = read_rates(self.config.cache_dir)
        networks = self.catalog.choose(params, sizes, device=self._device(), content=content, rates=rates)
        beside = None if networks.fidelity is None else networks.fidelity.geometry
        before = [each.geometry for each in networks.before]
        creativity = networks.choice.creativity
        plan = make_plan(
            sizes, networks.main.geometry, beside=beside, before=before, name=networks.name, creativity=creativity
        )
        check_border(plan, max_source_pixels=limits[0], max_result_pixels=limits[1])
        if plan.passes and networks.choice.note is not None:
            plan = replace(plan, notes=(networks.choice.note,))
        if params.mask is not None and (params.faces is not None or networks.choice.creativity != KEPT_CREATIVITY):
            kept = self.plan(params.kept, source)
            plan = with_kept(plan, kept, masked_of((plan.model, None), (kept.model, None))[0])
        if header.hdr is not None and not keeps_hdr(params):
            note = f"the source is HDR ({header.hdr}), and the result has the standard range"
            plan = replace(plan, notes=tuple(dict.fromkeys((*plan.notes, note))))
        return plan

    def estimate(self, plan: Plan, params: Params) -> Estimate:
        """What it would take: by what the steps of jobs took on this machine; else, of the networks alone, by what jobs
        took of late, or by their measured speed."""
        seconds = self._etas.work_s(plan, params, "")
        if seconds is not None:
            return estimate(plan, params, seconds)
        rates = read_rates(self.config.cache_dir)
        speed = self.speed(plan.model, plan.networks) if plan.passes else 1.0
        seconds = plan.network_pixels / speed if speed else None
        steps = recipe(params.creativity or 0.0).steps
        if seconds is not None and plan.passes and steps and REFINER in rates:
            seconds += plan.frames * plan.canvas[0] * plan.canvas[1] * steps / rates[REFINER]
        return estimate(plan, params, seconds)

    def speed(self, model: str, networks: Sequence[str]) -> float | None:
        """Source pixels per second of a model as results name it, which runs these networks; None: not known yet."""
        rates = read_rates(self.config.cache_dir)
        speed = self._jobs.speed(model)
        if speed is None and all(name in rates for name in networks):
            speed = 1 / sum(1 / rates[name] for name in networks)
        return speed

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
        """Jobs by state; for large tables the numbers may be a little old."""
        return self._counts.get()

    def check_source(self, data: bytes, params: Params) -> tuple[float | None, float]:
        """What the job's `left_s` and `alone_s` are. Raises BadSource, ResultImpossible."""
        header = self._header(data)
        plan = self.plan(params, header)
        return self._etas.work_s(plan, params, header.mime), self._etas.alone_s(plan)

    def eta(self, job: Job) -> Eta | None:
        """When it will have ended; None where that is not known, see Etas."""
        return self._etas.of(job)

    def delete(self, job: Job) -> None:
        """Delete the job and its pictures, in any state: a worker that runs it learns of that at its next heartbeat."""
        self.blobs.delete(*job.keys)  # before the row: after a crash, cleanup still finds the rest
        last = self._jobs.delete(job.id)
        if last is not None:
            self.blobs.delete(*last.keys)  # it may have got a result since

    # --- internal ---------------------------------------------------------------------------------------------------

    def _device(self) -> DeviceKind:
        """Where a job is likely to run: on a GPU, if any worker has one."""
        return "cuda" if self._jobs.have_gpu() else "cpu"

    def _blob(self, key: str) -> Blob:
        if not self.blobs.has(key):
            raise not_found()
        return Blob(self.blobs, key)

    def _mask(self, mask: Source) -> bytes:
        """The file of a mask's picture, which can be read. Raises BadSource, with the field `mask`."""
        try:
            data = self.read(mask)
            self._header(data)
        except BadSource as error:
            raise of_mask(error) from error
        return data

    def _own_file(self, key: str | None) -> bytes:
        assert key is not None  # a Source has a URL, data or a key
        try:
            return self.blobs.get(key)
        except NotFound as error:
            raise SourceUnreachable(error.message) from error

    def _header(self, data: bytes) -> Header:
        """Read in one of the threads for headers, within a time limit. Raises BadSource."""
        future = self._readers.submit(read_header, data, self.config.max_source_pixels)
        with suppress(FutureTimeout):
            return future.result(_LOOK_S)
        if future.cancel():
            raise Unavailable("the server is busy with other pictures; try again later")
        try:  # it began at some time since
            return future.result(_LOOK_S)
        except FutureTimeout:
            raise SourceUnreadable(f"the picture takes more than {_LOOK_S:g} seconds to read") from None


def _drop(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        task.exception()
