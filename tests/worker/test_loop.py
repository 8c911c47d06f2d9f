"""What a worker does when the database fails under it, or news comes late. Everything but the failure is real."""

import io
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy.exc import OperationalError

from server.blobs.base import new_key
from server.blobs.folder import FolderBlobs
from server.config import Config
from server.db.database import open_database
from server.db.jobs import HeartbeatResult, Jobs
from server.db.notify import Listener
from server.errors import Unavailable, UpscaleError
from server.job.job import Job, Params, Result, State
from server.job.mask import Mask
from server.pipeline import Context
from server.weights.catalog import Catalog
from server.worker.loop import Worker
from server.worker.process import run_worker
from server.worker.upscaler import Upscaler
from tests.conftest import MakeConfig, draw
from tests.engine.test_cuda import BROKEN, OUT_OF_MEMORY
from tests.pictures import encoded


class FailingJobs(Jobs):
    """The job table behind a line that breaks: `finish` fails so often, before or after it has reached the table."""

    failures = 0
    away_for_attempts = 0
    reached = False
    slow_beats_s = 0.0

    def finish(self, job: Job, result: Result) -> bool:
        if job.attempt <= self.away_for_attempts:
            raise OperationalError("UPDATE jobs", {}, Exception("connection lost"))
        if self.failures:
            self.failures -= 1
            if self.reached:
                super().finish(job, result)
            raise OperationalError("UPDATE jobs", {}, Exception("connection lost"))
        return super().finish(job, result)

    def heartbeat(
        self, job: Job, progress: float, stage: str | None = None, left_s: float | None = None
    ) -> HeartbeatResult:
        time.sleep(self.slow_beats_s)
        return super().heartbeat(job, progress, stage, left_s)


@pytest.fixture
def made(config: MakeConfig) -> tuple[Config, FailingJobs, FolderBlobs, Worker]:
    settings = config(lease_s=5, dtype="fp32")
    engine = open_database(settings.database)
    jobs = FailingJobs(engine, lease_s=settings.lease_s)
    blobs = FolderBlobs(settings.blobs_dir)
    worker = Worker(settings, jobs, blobs, Upscaler(settings, Catalog.of(settings)), Listener(engine), "w")
    return settings, jobs, blobs, worker


def enqueue(jobs: Jobs, blobs: FolderBlobs, size: int = 8, params: Params | None = None) -> str:
    key = new_key()
    blobs.put(key, draw(size, size))
    job = Job(dialect="native", owner="", params=params or Params(scale=2), source_key=key)
    jobs.enqueue(job)
    return job.id


def work_until_ended(worker: Worker, jobs: Jobs, *job_ids: str, timeout_s: float = 60) -> None:
    thread = threading.Thread(target=worker.loop)
    thread.start()
    try:
        deadline = time.monotonic() + timeout_s
        while not all(jobs.get(job_id).state.final for job_id in job_ids):
            assert time.monotonic() < deadline, [jobs.get(job_id) for job_id in job_ids]
            time.sleep(0.02)
    finally:
        worker.stop()
        thread.join()


def files(config: Config) -> list[Path]:
    return [path for path in config.blobs_dir.iterdir() if path.suffix == ".png"]


@pytest.mark.parametrize("reached", [False, True])
def test_a_result_survives_a_database_that_fails_while_it_is_published(
    made: tuple[Config, FailingJobs, FolderBlobs, Worker], reached: bool
) -> None:
    config, jobs, blobs, worker = made
    jobs.failures, jobs.reached = 2, reached
    job_id = enqueue(jobs, blobs)
    work_until_ended(worker, jobs, job_id)
    job = jobs.get(job_id)
    assert (job.state, job.attempt) == (State.SUCCEEDED, 1)
    assert job.result is not None and blobs.get(job.result.key)
    assert len(files(config)) == 1


def test_a_database_that_stays_away_too_long_costs_an_attempt_and_nothing_else(
    made: tuple[Config, FailingJobs, FolderBlobs, Worker],
) -> None:
    _, jobs, blobs, worker = made
    jobs.away_for_attempts = 1
    job_id = enqueue(jobs, blobs)
    work_until_ended(worker, jobs, job_id)
    job = jobs.get(job_id)
    assert (job.state, job.attempt) == (State.SUCCEEDED, 2)


def test_a_job_that_is_tried_again_still_has_its_mask(made: tuple[Config, FailingJobs, FolderBlobs, Worker]) -> None:
    _, jobs, blobs, worker = made
    jobs.away_for_attempts = 1
    mask = new_key()
    blobs.put(mask, encoded(np.full((4, 4, 1), 255, np.uint8), "png"))
    params = Params(scale=2, model="fidelity-x4", mask=Mask(image=mask))
    masked, strict = enqueue(jobs, blobs, params=params), enqueue(jobs, blobs, params=params.kept)
    work_until_ended(worker, jobs, masked, strict)
    found = [job.result for job in (jobs.get(masked), jobs.get(strict)) if job.attempt == 2]
    one, other = (np.asarray(Image.open(io.BytesIO(blobs.get(each.key)))) for each in found if each is not None)
    assert (one == other).all() and found[0] is not None and "the mask keeps the whole picture" in found[0].notes


def test_a_heartbeat_that_comes_late_is_not_taken_for_the_next_job_s(
    made: tuple[Config, FailingJobs, FolderBlobs, Worker],
) -> None:
    _, jobs, blobs, worker = made
    jobs.slow_beats_s = 0.3
    job_ids = [enqueue(jobs, blobs, size=60) for _ in range(12)]
    work_until_ended(worker, jobs, *job_ids)
    assert [(jobs.get(job_id).state, jobs.get(job_id).attempt) for job_id in job_ids] == [(State.SUCCEEDED, 1)] * 12


class Watched(Upscaler):
    """The real one; what `on_run` does comes before each job, and who runs beside whom is written down."""

    def __init__(self, config: Config, on_run: Callable[[Context], None] = lambda _: None) -> None:
        super().__init__(config, Catalog.of(config))
        self.together: list[int] = []
        self._on_run = on_run
        self._beside: set[int] = set()

    def run(self, ctx: Context, check: Callable[[], None] | None = None) -> Context:
        self._beside.add(id(ctx))
        self.together.append(len(self._beside))
        try:
            self._on_run(ctx)
            return super().run(ctx, check)
        finally:
            self._beside.remove(id(ctx))


def worker_of(config: Config, upscaler: Upscaler, **settings: int) -> tuple[Worker, Jobs, FolderBlobs]:
    engine = open_database(config.database)
    jobs, blobs = Jobs(engine, lease_s=config.lease_s), FolderBlobs(config.blobs_dir)
    return Worker(config, jobs, blobs, upscaler, Listener(engine), "w", **settings), jobs, blobs


def test_a_worker_has_several_jobs_in_hand_and_keeps_all_their_leases(config: MakeConfig) -> None:
    settings = config(lease_s=2, dtype="fp32", jobs_per_worker=3)
    together = threading.Barrier(3, timeout=60)

    def outlast_a_lease(_: Context) -> None:
        together.wait()
        time.sleep(3)

    worker, jobs, blobs = worker_of(settings, Watched(settings, outlast_a_lease))
    job_ids = [enqueue(jobs, blobs) for _ in range(3)]
    work_until_ended(worker, jobs, *job_ids)  # or the barrier would break
    assert [(jobs.get(each).state, jobs.get(each).attempt) for each in job_ids] == [(State.SUCCEEDED, 1)] * 3


def test_a_job_whose_worker_died_runs_alone(config: MakeConfig) -> None:
    settings = config(dtype="fp32", jobs_per_worker=4)
    upscaler = Watched(settings)
    worker, jobs, blobs = worker_of(settings, upscaler)
    suspects = [enqueue(jobs, blobs) for _ in range(3)]
    for _ in suspects:
        assert jobs.claim("one that died") is not None
    jobs.release("one that died")
    work_until_ended(worker, jobs, *suspects)
    assert upscaler.together == [1, 1, 1]
    assert [jobs.get(each).attempt for each in suspects] == [2, 2, 2]


def test_an_error_of_one_job_is_not_another_s(config: MakeConfig) -> None:
    settings = config(dtype="fp32", jobs_per_worker=2)
    both = threading.Barrier(2, timeout=60)

    def fail_the_wide_one(ctx: Context) -> None:
        both.wait()
        if ctx.params.scale == 3:
            raise UpscaleError("this one")

    worker, jobs, blobs = worker_of(settings, Watched(settings, fail_the_wide_one))
    good = enqueue(jobs, blobs)
    key = new_key()
    blobs.put(key, draw(8, 8))
    bad = Job(dialect="native", owner="", params=Params(scale=3), source_key=key)
    jobs.enqueue(bad)
    work_until_ended(worker, jobs, good, bad.id)
    assert jobs.get(good).state is State.SUCCEEDED
    assert (jobs.get(bad.id).state, jobs.get(bad.id).error_message) == (State.FAILED, "this one")


def test_a_worker_that_is_asked_to_end_finishes_what_only_needs_encoding_and_gives_back_the_rest(
    config: MakeConfig,
) -> None:
    settings = config(dtype="fp32", jobs_per_worker=2)
    begun, let_go_on = threading.Barrier(3, timeout=60), threading.Event()

    class HeldAtItsLastTile(Watched):
        def run(self, ctx: Context, check: Callable[[], None] | None = None) -> Context:
            asked: list[bool] = []

            def held() -> None:
                at_the_end = ctx.progress >= 1 if ctx.params.scale == 2 else True
                if at_the_end and not asked:
                    asked.append(True)
                    begun.wait()
                    let_go_on.wait()
                assert check is not None
                check()

            return super().run(ctx, held)

    worker, jobs, blobs = worker_of(settings, HeldAtItsLastTile(settings))
    nearly_done = enqueue(jobs, blobs)
    key = new_key()
    blobs.put(key, draw(8, 8))
    not_begun = Job(dialect="native", owner="", params=Params(scale=4), source_key=key)
    jobs.enqueue(not_begun)
    thread = threading.Thread(target=worker.loop)
    thread.start()
    begun.wait()
    worker.stop()
    let_go_on.set()
    thread.join()
    assert jobs.get(nearly_done).state is State.SUCCEEDED
    assert (jobs.get(not_begun.id).state, jobs.get(not_begun.id).attempt) == (State.QUEUED, 0)


def test_a_worn_worker_ends_with_its_jobs_done_and_leaves_the_rest_to_the_next(config: MakeConfig) -> None:
    settings = config(dtype="fp32", jobs_per_worker=1)
    worker, jobs, blobs = worker_of(settings, Watched(settings), recycle_jobs=2)
    job_ids = [enqueue(jobs, blobs) for _ in range(3)]
    worker.loop()  # ends by itself
    assert [jobs.get(each).state for each in job_ids] == [State.SUCCEEDED, State.SUCCEEDED, State.QUEUED]
    worker, *_ = worker_of(settings, Watched(settings), recycle_bytes=1)
    worker.loop()
    assert jobs.get(job_ids[2]).state is State.QUEUED


def test_an_error_of_the_device_ends_the_worker_and_the_job_is_tried_again(config: MakeConfig) -> None:
    def break_the_device(_: Context) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    settings = config(dtype="fp32")
    worker, jobs, blobs = worker_of(settings, Watched(settings, break_the_device))
    job_id = enqueue(jobs, blobs)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        worker.loop()
    assert jobs.get(job_id).state is State.RUNNING  # until the launcher, which sees the process go, releases it
    jobs.release("w")
    worker, *_ = worker_of(settings, Watched(settings))
    work_until_ended(worker, jobs, job_id)
    assert (jobs.get(job_id).state, jobs.get(job_id).attempt) == (State.SUCCEEDED, 2)


@pytest.mark.parametrize("error", BROKEN, ids=str)
def test_a_broken_device_ends_the_worker_whatever_library_says_so(config: MakeConfig, error: RuntimeError) -> None:
    def break_the_device(_: Context) -> None:
        raise error

    settings = config(dtype="fp32")
    upscaler = Watched(settings, break_the_device)
    upscaler.works = lambda: False
    worker, jobs, blobs = worker_of(settings, upscaler)
    job_id = enqueue(jobs, blobs)
    with pytest.raises(RuntimeError, match=re.escape(str(error))):
        worker.loop()
    assert jobs.get(job_id).state is State.RUNNING


def test_a_device_that_still_computes_after_an_error_gets_the_job_again(config: MakeConfig) -> None:
    errors = [RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")]

    def fail_once(_: Context) -> None:
        if errors:
            raise errors.pop()

    settings = config(dtype="fp32")
    worker, jobs, blobs = worker_of(settings, Watched(settings, fail_once))
    job_id = enqueue(jobs, blobs)
    work_until_ended(worker, jobs, job_id)
    assert (jobs.get(job_id).state, jobs.get(job_id).attempt) == (State.SUCCEEDED, 1)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_running_out_of_memory_outside_the_engine_is_said_as_such(config: MakeConfig, error: RuntimeError) -> None:
    def fill_the_memory(_: Context) -> None:
        raise error

    settings = config(dtype="fp32")
    worker, jobs, blobs = worker_of(settings, Watched(settings, fill_the_memory))
    job_id = enqueue(jobs, blobs)
    work_until_ended(worker, jobs, job_id)
    failed = jobs.get(job_id)
    assert (failed.state, failed.error_code) == (State.FAILED, "out_of_memory")


def test_a_worker_that_cannot_start_says_why_in_its_row(config: MakeConfig) -> None:
    settings = config(device="cuda:7")
    with pytest.raises(Unavailable):
        run_worker(settings, "w")
    (row,) = Jobs(open_database(settings.database), lease_s=60).live_workers()
    assert (row.id, row.ready) == ("w", False)
    assert row.problem is not None and "there is no device 'cuda:7'" in row.problem


def test_what_a_worker_counts_is_in_its_row(config: MakeConfig) -> None:
    settings = config(lease_s=1, dtype="fp32")
    worker, jobs, blobs = worker_of(settings, Watched(settings))
    seen: list[float] = []

    def told() -> bool:
        seen.extend(each.counters.get("tiles", 0) for each in jobs.live_workers())
        return max(seen, default=0) == 1

    job_id = enqueue(jobs, blobs)
    thread = threading.Thread(target=worker.loop)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not told():
            assert time.monotonic() < deadline, (jobs.get(job_id), jobs.live_workers())
            time.sleep(0.02)
        counters = jobs.live_workers()[0].counters
    finally:
        worker.stop()
        thread.join()
    assert counters["memory_bytes"] > 1e8 and counters["model_bytes"] > 1e6 and counters["busy_seconds"] > 0
