"""Jobs whose time is over are cancelled, and no others."""

import time

import pytest
from sqlalchemy import Engine

from server.blobs.base import new_key
from server.db import deadlines
from server.db.deadlines import Deadlines
from server.db.jobs import Jobs
from server.errors import JobFailed
from server.job.job import Job, Params, State


def add(jobs: Jobs, cancel_at: float | None) -> Job:
    params = Params(scale=2)
    job = Job(dialect="replicate", owner="ann", params=params, source_key=new_key(), cancel_at=cancel_at)
    jobs.enqueue(job)
    return job


def test_one_that_waits_ends_now_and_others_stay(engine: Engine) -> None:
    jobs = Jobs(engine, lease_s=10)
    over, later, never = add(jobs, 1.0), add(jobs, time.time() + 3600), add(jobs, None)
    assert not Deadlines(engine, jobs).once()
    assert [jobs.get(each.id).state for each in (over, later, never)] == [State.CANCELLED, State.QUEUED, State.QUEUED]


def test_one_that_runs_is_asked_to_stop_once(engine: Engine) -> None:
    jobs = Jobs(engine, lease_s=10)
    job = add(jobs, 1.0)
    assert jobs.claim("worker") is not None
    assert not Deadlines(engine, jobs).once()
    assert (jobs.get(job.id).state, jobs.get(job.id).cancel_requested) == (State.RUNNING, True)


def test_one_that_has_ended_stays_as_it_is(engine: Engine) -> None:
    jobs = Jobs(engine, lease_s=10)
    job = add(jobs, 1.0)
    running = jobs.claim("worker")
    assert running is not None and jobs.fail(running, JobFailed("it broke"))
    Deadlines(engine, jobs).once()
    assert (jobs.get(job.id).state, jobs.get(job.id).cancel_requested) == (State.FAILED, False)


def test_many_are_cancelled_in_several_runs(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "_BATCH", 2)
    jobs = Jobs(engine, lease_s=10)
    for _ in range(3):
        add(jobs, 1.0)
    both = Deadlines(engine, jobs)
    assert [both.once(), both.once()] == [True, False]
    assert jobs.counts() == {"cancelled": 3}
