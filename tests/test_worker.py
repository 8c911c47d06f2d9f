"""What a worker does when the database fails under it, or news comes late. Everything but the failure is real."""

import threading
import time
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from server.blobs import Blobs, new_key
from server.config import Config
from server.database import Changes, open_database
from server.job import Job, Params, Result, State
from server.jobs import Beat, Jobs
from server.upscaler import Upscaler
from server.weights.catalog import Catalog
from server.worker import Worker
from tests.conftest import MakeConfig, draw


class FailingJobs(Jobs):
    """The job table behind a line that breaks: `finish` fails so often, before or after it has reached the table."""

    failures = 0
    reached = False
    slow_beats_s = 0.0

    def finish(self, job: Job, result: Result) -> bool:
        if self.failures:
            self.failures -= 1
            if self.reached:
                super().finish(job, result)
            raise OperationalError("UPDATE jobs", {}, Exception("connection lost"))
        return super().finish(job, result)

    def heartbeat(self, job: Job, progress: float) -> Beat:
        time.sleep(self.slow_beats_s)
        return super().heartbeat(job, progress)


@pytest.fixture
def made(config: MakeConfig) -> tuple[Config, FailingJobs, Blobs, Worker]:
    settings = config(lease_s=5, dtype="fp32")
    engine = open_database(settings.database)
    jobs = FailingJobs(engine, lease_s=settings.lease_s)
    blobs = Blobs(settings.blobs_dir)
    worker = Worker(settings, jobs, blobs, Upscaler(settings, Catalog(settings.weights_path)), Changes(engine), "w")
    return settings, jobs, blobs, worker


def enqueue(jobs: Jobs, blobs: Blobs, size: int = 8) -> str:
    key = new_key()
    blobs.put(key, draw(size, size))
    job = Job(dialect="native", owner="", params=Params(scale=2), source_key=key)
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
    made: tuple[Config, FailingJobs, Blobs, Worker], reached: bool
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
    made: tuple[Config, FailingJobs, Blobs, Worker],
) -> None:
    _, jobs, blobs, worker = made
    jobs.failures = 7  # a second apart, so longer than a lease
    job_id = enqueue(jobs, blobs)
    work_until_ended(worker, jobs, job_id)
    job = jobs.get(job_id)
    assert (job.state, job.attempt) == (State.SUCCEEDED, 2)


def test_a_heartbeat_that_comes_late_is_not_taken_for_the_next_job_s(
    made: tuple[Config, FailingJobs, Blobs, Worker],
) -> None:
    _, jobs, blobs, worker = made
    jobs.slow_beats_s = 0.3
    job_ids = [enqueue(jobs, blobs, size=60) for _ in range(12)]
    work_until_ended(worker, jobs, *job_ids)
    assert [(jobs.get(job_id).state, jobs.get(job_id).attempt) for job_id in job_ids] == [(State.SUCCEEDED, 1)] * 12
