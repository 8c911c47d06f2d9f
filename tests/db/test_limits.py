"""Limits hold exactly, also when many submit at once."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from server.db.database import jobs, keys
from server.db.jobs import Jobs
from server.db.keys import Key, Keys
from server.db.limits import DAY_S, Limits
from server.errors import Conflict, TooManyRequests, Unauthorized
from server.job.job import Job, Params, State

THREADS = 8


@pytest.fixture
def table(engine: Engine) -> Jobs:
    return Jobs(engine, lease_s=60)


MakeKey = Callable[..., Key]


@pytest.fixture
def make_key(engine: Engine) -> MakeKey:
    made = Keys(engine)
    return lambda name="ann", **limits: made.create(name, Limits(**limits))[0]


def submit(table: Jobs, owner: str, **values: Any) -> Job:
    job = Job(dialect="native", owner=owner, params=Params(scale=2), **{"source_key": "0" * 32} | values)
    table.enqueue(job)
    return job


def rush(table: Jobs, owner: str, each: int) -> list[TooManyRequests]:
    """Many threads submit `each` jobs; what they were refused with."""
    together = threading.Barrier(THREADS)

    def run(_: int) -> list[TooManyRequests]:
        refused = []
        together.wait()
        for _ in range(each):
            try:
                submit(table, owner)
            except TooManyRequests as error:
                refused.append(error)
        return refused

    with ThreadPoolExecutor(THREADS) as pool:
        return [error for refused in pool.map(run, range(THREADS)) for error in refused]


def today(engine: Engine) -> int:
    return Keys(engine).list()[0].today


def test_an_owner_without_a_row_has_no_limits(table: Jobs) -> None:
    assert [submit(table, "from the settings").priority for _ in range(5)] == [0] * 5
    assert table.counts() == {"queued": 5}


@pytest.mark.parametrize(("limit", "words"), [("rate", "7 jobs a minute"), ("daily", "7 jobs a day")])
def test_a_count_is_exact_when_many_submit_at_once(
    table: Jobs, engine: Engine, make_key: MakeKey, limit: str, words: str
) -> None:
    key = make_key(**{limit: 7})
    refused = rush(table, key.id, 3)
    assert len(refused) == THREADS * 3 - 7 and all(words in error.message for error in refused)
    assert table.counts() == {"queued": 7} and today(engine) == 7


def test_places_are_exact_when_many_submit_at_once_and_come_free_again(table: Jobs, make_key: MakeKey) -> None:
    key, other = make_key(concurrent=3), make_key("bob", concurrent=3)
    submit(table, other.id)
    assert len(rush(table, key.id, 2)) == THREADS * 2 - 3
    first = table.list(owner=key.id)[0][0]
    table.cancel(first.id)
    submit(table, key.id)
    running = table.claim("worker")
    assert running is not None
    with pytest.raises(TooManyRequests, match="3 unfinished jobs; wait until one has ended"):
        submit(table, key.id)
    submit(table, key.id, state=State.FAILED, finished_at=1.0)  # takes no place


def test_a_minutes_jobs_may_come_at_once_then_one_after_the_other(
    table: Jobs, engine: Engine, make_key: MakeKey
) -> None:
    key = make_key(rate=10)
    for _ in range(10):
        submit(table, key.id)
    with pytest.raises(TooManyRequests) as refused:
        submit(table, key.id)
    assert 1 <= refused.value.retry_after_s <= 6
    back(engine, 6.0)
    submit(table, key.id)
    with pytest.raises(TooManyRequests):
        submit(table, key.id)
    back(engine, 3600.0)
    assert len(rush(table, key.id, 2)) == THREADS * 2 - 10, "what was not used is not saved up beyond a minute"


def back(engine: Engine, seconds: float) -> None:
    """As if the key's jobs had come so much earlier."""
    with engine.begin() as db:
        db.execute(update(keys).values(rate_until=keys.c.rate_until - seconds))


def test_a_clock_set_back_locks_no_one_out_for_more_than_a_minute(
    table: Jobs, engine: Engine, make_key: MakeKey
) -> None:
    key = make_key(rate=60)
    back(engine, -1e6)
    with engine.begin() as db:
        db.execute(update(keys).values(rate_until=time.time() + 86_400))
    with pytest.raises(TooManyRequests) as refused:
        submit(table, key.id)
    assert refused.value.retry_after_s <= 60


def test_a_days_jobs_are_counted_from_midnight_utc(table: Jobs, engine: Engine, make_key: MakeKey) -> None:
    key = make_key(daily=2)
    submit(table, key.id)
    submit(table, key.id)
    with pytest.raises(TooManyRequests, match="00:00 UTC") as refused:
        submit(table, key.id)
    midnight_in = DAY_S - time.time() % DAY_S
    assert abs(refused.value.retry_after_s - midnight_in) < 5
    with engine.begin() as db:
        db.execute(update(keys).values(day=keys.c.day - 1))
    assert today(engine) == 0
    submit(table, key.id)
    assert today(engine) == 1


def test_a_deleted_job_was_a_job(table: Jobs, make_key: MakeKey) -> None:
    key = make_key(daily=1)
    table.delete(submit(table, key.id).id)
    with pytest.raises(TooManyRequests):
        submit(table, key.id)


def test_a_key_of_no_jobs_starts_none(table: Jobs, make_key: MakeKey) -> None:
    with pytest.raises(TooManyRequests, match="0 jobs a day"):
        submit(table, make_key(daily=0).id)


def test_what_is_refused_is_not_counted(engine: Engine, make_key: MakeKey) -> None:
    table, key = Jobs(engine, lease_s=60, max_queue=1), make_key(rate=5, daily=5, concurrent=5)
    submit(table, key.id, external_id="mine")
    for refusal, values in ((Conflict, {"external_id": "mine"}), (TooManyRequests, {})):
        with pytest.raises(refusal):
            submit(table, key.id, **values)
    assert today(engine) == 1


def test_a_keys_priority_is_its_jobs(table: Jobs, make_key: MakeKey) -> None:
    slow = submit(table, make_key("slow", priority=-1).id)
    none, fast = submit(table, "from the settings"), submit(table, make_key("fast", priority=7).id, priority=1)
    assert [table.get(job.id).priority for job in (slow, none, fast)] == [-1, 0, 8]
    claimed = [table.claim("worker") for _ in range(3)]
    assert [job and job.id for job in claimed] == [fast.id, none.id, slow.id]


def test_a_key_that_was_revoked_after_it_was_asked_for_starts_nothing(
    table: Jobs, engine: Engine, make_key: MakeKey
) -> None:
    key = make_key()
    Keys(engine).revoke("ann")
    with pytest.raises(Unauthorized):
        submit(table, key.id)
    with engine.connect() as db:
        assert db.execute(select(jobs.c.id)).first() is None
