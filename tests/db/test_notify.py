"""What one process commits wakes another at once; one process at a time is the leader. On both databases."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Engine

from server.db.database import open_database
from server.db.deliveries import NEWS, WEBHOOK, Deliveries, Delivery
from server.db.jobs import Jobs
from server.db.notify import Listener, Subscription, Topic, notify
from server.errors import SourceUnreachable
from server.job.job import Job, Params, State
from tests.db.test_jobs import RESULT, add, take

SOON_S = 20.0
"""For what comes at once; a machine under load takes longer."""
URL = "https://example.com/a.png"


@pytest.fixture
def other(engine: Engine) -> Iterator[Engine]:
    """The same database, as another process opens it."""
    opened = open_database(engine.url.render_as_string(hide_password=False))
    yield opened
    opened.dispose()


@pytest.fixture
def table(other: Engine) -> Jobs:
    return Jobs(other, lease_s=60)


class Heard:
    """All topics that are heard."""

    def __init__(self, listener: Listener) -> None:
        self._by_topic = {topic: listener.subscribe(topic) for topic in Topic}

    def forget(self) -> None:
        while any(each.wait(0.02) for each in self._by_topic.values()):
            pass

    def topics(self, expected: Topic) -> set[Topic]:
        """Those that have come when this one has."""
        assert self._by_topic[expected].wait(SOON_S), expected
        return {expected} | {topic for topic, each in self._by_topic.items() if each.wait(0)}


@pytest.fixture
def heard(engine: Engine) -> Iterator[Heard]:
    listener = Listener(engine)
    found = Heard(listener)
    with listener.running():
        found.forget()  # it wakes all when it begins
        yield found


def fetch(table: Jobs) -> Job:
    new = Job(dialect="native", owner="local", params=Params(scale=2), source_url=URL)
    table.enqueue(new, [Delivery(job_id=new.id, kind=WEBHOOK, url=URL, base_url="")])
    job = table.fetches.claim("f", 60)
    assert job is not None
    return job


def with_delivery(table: Jobs, kind: str, state: State = State.QUEUED) -> Job:
    params = Params(scale=2)
    job = Job(dialect="replicate", owner="local", params=params, source_key="0" * 32, state=state)
    table.enqueue(job, [Delivery(job_id=job.id, kind=kind, url=URL, base_url="")])
    return job


def given_up(table: Jobs) -> Job:
    job = with_delivery(table, WEBHOOK, State.FAILED)
    deliveries = Deliveries(table._engine)
    delivery = deliveries.claim(10)
    assert delivery is not None
    deliveries.give_up(delivery, "no answer")
    return job


Case = tuple[Callable[[Jobs], Job | None], Callable[[Jobs, Job], object], Topic]
CASES: dict[str, Case] = {
    "a job with its picture": (lambda t: None, lambda t, _: add(t), Topic.WORK),
    "a job with a URL": (lambda t: None, lambda t, _: add(t, source_key=None, source_url=URL), Topic.FETCH),
    "a job with a deadline": (lambda t: None, lambda t, _: add(t, cancel_at=5e9), Topic.DEADLINE),
    "a source": (fetch, lambda t, job: t.fetches.give(job.id, "f", "1" * 32), Topic.WORK),
    "a fetch that failed": (
        fetch,
        lambda t, job: t.fetches.fail(job.id, "f", SourceUnreachable("404")),
        Topic.DELIVERY,
    ),
    "a job given back": (lambda t: (add(t), take(t))[1], lambda t, job: t.requeue(job), Topic.WORK),
    "a job given up": (lambda t: (add(t), take(t))[1], lambda t, job: t.abandon("a", [job.id]), Topic.WORK),
    "a dead worker": (lambda t: (add(t), take(t))[1], lambda t, job: t.release("a"), Topic.WORK),
    "an end": (lambda t: (with_delivery(t, WEBHOOK), take(t))[1], lambda t, job: t.finish(job, RESULT), Topic.DELIVERY),
    "a cancelled job": (add, lambda t, job: t.cancel(job.id), Topic.DELIVERY),
    "a job to be stopped": (lambda t: (add(t), take(t))[1], lambda t, job: t.cancel(job.id), Topic.STOP),
    "a deleted job": (lambda t: (add(t), take(t))[1], lambda t, job: t.delete(job.id), Topic.STOP),
    "a job with news begins": (lambda t: with_delivery(t, NEWS), lambda t, _: take(t), Topic.NEWS),
    "a delivery once more": (given_up, lambda t, job: Deliveries(t._engine).revive(job.id), Topic.DELIVERY),
}


@pytest.mark.parametrize("case", CASES)
def test_another_process_hears_of(case: str, table: Jobs, heard: Heard) -> None:
    before, change, topic = CASES[case]
    job = before(table)
    heard.forget()
    change(table, job)  # type: ignore[arg-type]  # a case without a job makes no use of it
    assert topic in heard.topics(topic)


def test_nothing_is_heard_of_what_was_rolled_back(other: Engine, heard: Heard) -> None:
    with pytest.raises(ZeroDivisionError), other.begin() as db:
        notify(db, Topic.FETCH)
        raise ZeroDivisionError
    with other.begin() as db:
        notify(db, Topic.WORK)
    assert heard.topics(Topic.WORK) == {Topic.WORK}


def test_progress_wakes_none(table: Jobs, heard: Heard) -> None:
    add(table)
    job = take(table)
    heard.forget()
    table.heartbeat(job, 0.5, "upscaling")
    with table._engine.begin() as db:
        notify(db, Topic.DEADLINE)
    assert heard.topics(Topic.DEADLINE) == {Topic.DEADLINE}


def test_a_wait_ends_with_its_time_and_keeps_what_came_before_it() -> None:
    subscription = Subscription()
    assert not subscription.wait(0)
    subscription.set()
    subscription.set()
    assert subscription.wait(60)
    assert not subscription.wait(0)
    for _ in range(100_000):  # more than a pipe holds
        subscription.set()
    assert subscription.wait(60)


def test_a_process_that_died_leaves_nothing_that_writers_wait_for(tmp_path: Path, empty_database: Path) -> None:
    url = f"sqlite:///{empty_database}"
    code = """
import os, sys
from server.db.database import open_database
from server.db.notify import Listener
with Listener(open_database(sys.argv[1])).running():
    print("listens", flush=True)
    os._exit(1)
"""
    subprocess.run([sys.executable, "-c", code, url], stdout=subprocess.PIPE, check=False)
    folder = Path(f"{empty_database}-wake")
    (left,) = folder.glob("*.pipe")
    with open_database(url).begin() as db:
        notify(db, Topic.WORK)
    assert not left.exists()
    assert oct(folder.stat().st_mode & 0o777) == "0o700"


def leaders(*listeners: Listener) -> list[bool]:
    return [each.is_leader() for each in listeners]


def test_one_process_leads_until_it_ends(engine: Engine, other: Engine) -> None:
    first, second = Listener(engine, may_lead=True), Listener(other, may_lead=True)
    with ExitStack() as runs:
        with first.running():
            runs.enter_context(second.running())
            assert leaders(first, second) == [True, False]
        assert not first.is_leader()
        deadline = time.monotonic() + 60
        while not second.is_leader():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_process_that_may_not_lead_does_not(engine: Engine) -> None:
    listener = Listener(engine)
    with listener.running():
        assert not listener.is_leader()


@pytest.mark.slow
def test_when_its_connection_is_lost_a_process_listens_again_and_leads_no_more(postgres: str) -> None:
    """And looks at everything once, because it may have missed something."""
    engine = open_database(postgres)
    listener = Listener(engine, may_lead=True)
    came = listener.subscribe(Topic.NEWS)
    with listener.running():
        assert listener.is_leader()
        assert came.wait(SOON_S)
        with engine.begin() as db:
            db.exec_driver_sql(
                "SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE locktype = 'advisory' AND l.granted"
            )
        assert came.wait(SOON_S), "it has connected again"
        with engine.begin() as db:
            notify(db, Topic.NEWS)
        assert came.wait(SOON_S)
        assert listener.is_leader(), "its old lock ended with the connection"
    engine.dispose()


def test_the_folder_of_pipes_is_the_databases_own(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        return
    listener = Listener(engine)
    with listener.running():
        folder = Path(f"{engine.url.database}-wake")
        assert [each.suffix for each in folder.iterdir()] == [".pipe"]
        assert f"{os.getpid()}-" in next(folder.iterdir()).name
    assert list(folder.iterdir()) == []
