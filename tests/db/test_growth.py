"""What is asked for all the time costs the same however long the table is: what SQLite reads for it is counted."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event, insert

from server.api.metrics import Metrics
from server.db import database
from server.db.database import open_database
from server.db.deliveries import Deliveries
from server.db.fairness import host_of
from server.db.jobs import Jobs
from server.db.rows import to_row
from server.job.job import Job, Params, Result, State
from server.service.timed_cache import TimedCache
from tests.conftest import MakeConfig

RESULT = Result(key="f" * 32, width=8, height=8, size_bytes=1, format="png", model="one", model_sha256=None)


def fill(engine: Engine, number: int, **values: Any) -> None:
    """So many jobs that ended within the last days, or as `values` say."""
    now = time.time()
    rows = []
    for place in range(number):
        at = now - 1000 - place
        ended = {"state": State.SUCCEEDED, "created_at": at, "started_at": at, "finished_at": at, "result": RESULT}
        job = Job(dialect="native", owner="ann", params=Params(scale=2), **ended | values)  # type: ignore[arg-type]
        rows.append(to_row(job))
    with engine.begin() as db:
        db.execute(insert(database.jobs), rows)


@contextmanager
def steps(engine: Engine) -> Iterator[Callable[[], int]]:
    """How many hundreds of steps SQLite's machine has made."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    def connected(connection: Any, *_: Any) -> None:
        connection.set_progress_handler(count, 100)

    event.listen(engine, "checkout", connected)
    try:
        yield lambda: counted
    finally:
        event.remove(engine, "checkout", connected)


def asks(engine: Engine) -> dict[str, Callable[[], object]]:
    jobs, deliveries = Jobs(engine, lease_s=60, max_queue=1_000_000), Deliveries(engine)
    metrics, counts = Metrics(jobs, deliveries), TimedCache(jobs.counts)
    known = Job(dialect="native", owner="ann", params=Params(scale=2), source_key="0" * 32)
    jobs.enqueue(known)

    def submit() -> None:
        jobs.enqueue(Job(dialect="native", owner="ann", params=Params(scale=2), source_key="0" * 32))

    def claim() -> None:
        job = jobs.claim("w")
        assert job is not None and jobs.requeue(job)

    return {
        "poll": lambda: jobs.get(known.id),
        "submit": submit,
        "metrics": metrics.text,
        "ready": lambda: (counts.get(), jobs.live_workers()),
        "fetch": lambda: jobs.fetches.claim("f", 45),
        "send": lambda: deliveries.claim(10),
        "claim": claim,
    }


def cost(engine: Engine) -> dict[str, int]:
    """Of each, made a hundred times."""
    found = {}
    for name, ask in asks(engine).items():
        ask()
        with steps(engine) as made:
            for _ in range(100):
                ask()
            found[name] = made()
    return found


@pytest.fixture
def of_size(config: MakeConfig) -> Callable[..., dict[str, int]]:
    def make(number: int, **values: Any) -> dict[str, int]:
        engine = open_database(config().database)
        fill(engine, number, **values)
        found = cost(engine)
        engine.dispose()
        return found

    return make


@pytest.mark.slow
@pytest.mark.parametrize("state", ["ended", "waiting"])
def test_a_hundred_times_as_many_rows_cost_no_more(of_size: Callable[..., dict[str, int]], state: str) -> None:
    waiting = {"state": State.QUEUED, "finished_at": None, "result": None, "source_key": "0" * 32}
    values = waiting if state == "waiting" else {}
    few, many = of_size(1000, **values), of_size(100_000, **values)
    # A count that is remembered may be made a few times among the hundred; made each time, it would be 700,000.
    assert {name: many[name] <= few[name] * 1.5 + 30_000 for name in few} == dict.fromkeys(few, True), (few, many)


def test_what_is_remembered_is_found_anew_after_its_time() -> None:
    found: list[int] = []

    def find() -> int:
        found.append(len(found))
        time.sleep(0.01)
        return found[-1]

    remembered = TimedCache(find)
    assert [remembered.get() for _ in range(50)] == [0] * 50
    deadline = time.monotonic() + 60
    while remembered.get() == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_host_is_reported_with_its_port() -> None:
    assert host_of("https://a.example/x") == "a.example:443" and host_of("http://A.example:81/") == "a.example:81"
    assert host_of("http://[::1]:5/") == "::1:5" and host_of("http://[") == "" == host_of("http://a:x/")
    assert len(host_of(f"http://{uuid.uuid4().hex * 20}/")) == 255
