"""The order of waiting rows: slow callers and hosts do not delay others."""

import socket
import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, update

from server.db import database
from server.db import fetches as fetching
from server.db.deliveries import MAX_OF_HOST, MAX_OF_OWNER, UPLOAD, WEBHOOK, Deliveries, Delivery
from server.db.jobs import Jobs
from server.job.job import Job, Params, State
from tests.conftest import Live, LiveServer, Picture, Receiver
from tests.outbound.test_source import serving


@pytest.fixture
def jobs(engine: Engine) -> Jobs:
    return Jobs(engine, lease_s=10, max_queue=10_000)


@pytest.fixture
def deliveries(engine: Engine) -> Deliveries:
    return Deliveries(engine)


def to_fetch(jobs: Jobs, owner: str, host: str, created_at: float) -> Job:
    url = f"http://{host}/a.png"
    job = Job(dialect="native", owner=owner, params=Params(scale=2), source_url=url, created_at=created_at)
    jobs.enqueue(job)
    return job


def deliver(jobs: Jobs, owner: str, host: str, due_at: float, kind: str = WEBHOOK) -> Job:
    job = Job(dialect="native", owner=owner, params=Params(scale=2), state=State.FAILED)
    jobs.enqueue(job, [Delivery(job_id=job.id, kind=kind, url=f"http://{host}/", base_url="", due_at=due_at)])
    return job


# --- the same rule for fetches and deliveries -----------------------------------------------------------------------


def fetches(jobs: Jobs, deliveries: Deliveries) -> tuple[Callable[[str, str, float], Job], Callable[[], str | None]]:
    def take() -> str | None:
        job = jobs.fetches.claim("f", 45)
        return job.id if job else None

    return lambda owner, host, at: to_fetch(jobs, owner, host, at), take


def sendings(jobs: Jobs, deliveries: Deliveries) -> tuple[Callable[[str, str, float], Job], Callable[[], str | None]]:
    def take() -> str | None:
        delivery = deliveries.claim(45)
        return delivery.job_id if delivery else None

    return lambda owner, host, at: deliver(jobs, owner, host, at), take


LINES = pytest.mark.parametrize(
    ("line", "of_owner", "of_host"),
    [(fetches, fetching.MAX_OF_OWNER, fetching.MAX_FROM_HOST), (sendings, MAX_OF_OWNER, MAX_OF_HOST)],
    ids=["fetches", "deliveries"],
)


@LINES
def test_owners_take_turns(line: object, of_owner: int, of_host: int, jobs: Jobs, deliveries: Deliveries) -> None:
    add, take = line(jobs, deliveries)  # type: ignore[operator]
    many = [add("many", f"host-{n}.example", float(n)).id for n in range(4)]
    one = [add("one", f"other-{n}.example", 10.0 + n).id for n in range(2)]
    assert [take() for _ in range(7)] == [many[0], one[0], many[1], one[1], many[2], many[3], None]


@LINES
def test_a_slow_host_gets_few_places_and_others_of_its_owner_go_on(
    line: object, of_owner: int, of_host: int, jobs: Jobs, deliveries: Deliveries
) -> None:
    add, take = line(jobs, deliveries)  # type: ignore[operator]
    slow = [add("ann", "slow.example", float(n)).id for n in range(20)]
    quick = add("ann", "quick.example", 100.0).id
    taken = [take() for _ in range(of_host + 2)]
    assert set(taken) == {*slow[:of_host], quick, None}
    assert taken.index(quick) < 2, "the host with the fewest comes first"


@LINES
def test_an_owner_of_many_hosts_gets_some_places_and_others_the_rest(
    line: object, of_owner: int, of_host: int, jobs: Jobs, deliveries: Deliveries
) -> None:
    add, take = line(jobs, deliveries)  # type: ignore[operator]
    for n in range(60):
        add("many", f"host-{n}.example", float(n))
    taken = [take() for _ in range(60)]
    assert sum(each is not None for each in taken) == of_owner
    assert take() is None
    others = [add("one", "host-0.example", 100.0 + n).id for n in range(of_host)]
    assert [take() for _ in others] == others, "also at a host where the first has some"


def test_a_place_is_free_again_once_it_is_done(jobs: Jobs, deliveries: Deliveries) -> None:
    for n in range(MAX_OF_HOST + 2):
        deliver(jobs, "ann", "slow.example", float(n))
    taken = [deliveries.claim(45) for _ in range(MAX_OF_HOST)]
    assert deliveries.claim(45) is None
    assert taken[0] is not None and taken[1] is not None
    deliveries.retry(taken[0], 100, "no answer")
    assert deliveries.claim(45) is not None
    assert deliveries.claim(45) is None
    deliveries.delivered(taken[1])
    assert deliveries.claim(45) is not None


# --- clocks ---------------------------------------------------------------------------------------------------------


def ahead(engine: Engine, table: object, **columns: float) -> None:
    """As a clock leaves them that was set back afterwards."""
    now = time.time()
    with engine.begin() as db:
        db.execute(update(table).values(**{name: now + seconds for name, seconds in columns.items()}))  # type: ignore[arg-type]


def test_a_delivery_held_by_a_clock_that_was_set_back_is_due(
    engine: Engine, jobs: Jobs, deliveries: Deliveries
) -> None:
    job = deliver(jobs, "ann", "a.example", 0.0)
    assert deliveries.claim(45) is not None
    assert deliveries.claim(45) is None
    ahead(engine, database.deliveries, due_at=3600.0, held_until=3600.0)
    again = deliveries.claim(45)
    assert again is not None and again.job_id == job.id


def test_what_was_held_by_a_clock_that_was_set_back_takes_no_place(
    engine: Engine, jobs: Jobs, deliveries: Deliveries
) -> None:
    for n in range(MAX_OF_HOST):
        deliver(jobs, "ann", "a.example", float(n))
        assert deliveries.claim(45) is not None
    ahead(engine, database.deliveries, held_until=3600.0)
    deliver(jobs, "ann", "a.example", 100.0)
    assert deliveries.claim(45) is not None


def test_a_turn_that_is_still_to_come_says_nothing(engine: Engine, jobs: Jobs, deliveries: Deliveries) -> None:
    deliver(jobs, "early", "a.example", 0.0)
    assert deliveries.claim(0) is not None
    ahead(engine, database.turns, served_at=3600.0)
    with engine.begin() as db:
        db.execute(database.deliveries.delete())
    deliver(jobs, "late", "b.example", 0.5)
    first = deliveries.claim(0)
    assert first is not None and first.owner == "late"
    with engine.begin() as db:
        db.execute(database.deliveries.delete())
    early = deliver(jobs, "early", "a.example", 1.0)
    deliver(jobs, "late", "b.example", 0.5)
    second = deliveries.claim(45)
    assert second is not None and second.job_id == early.id, "the other has had a turn since"


def test_pauses_and_attempts_are_within_what_a_delivery_may_be_ahead() -> None:
    from server.api.webhooks import _CLAIM_S, RETRIES, UPLOAD_RETRIES
    from server.db.deliveries import LONGEST_S

    rules = [*RETRIES.values(), UPLOAD_RETRIES]
    pauses = [pause for each in rules for pause in each.pauses_s]
    attempts = [each.timeout_s + _CLAIM_S for each in rules]
    assert max(pauses + attempts) <= LONGEST_S


# --- in a running server --------------------------------------------------------------------------------------------


class Hanging:
    """A server that accepts requests and answers none until `goes_on` is set."""

    def __init__(self) -> None:
        self.arrived = threading.Semaphore(0)
        self.goes_on = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        self.arrived.release()
        self.goes_on.wait(60)


def test_hanging_receivers_of_one_key_do_not_delay_anothers_webhook(
    live_server: LiveServer, receiver: Receiver
) -> None:
    live = live_server(allow_hosts=("127.0.0.1",), api_keys=("key-one", "key-two"))
    hang = Hanging()
    with serving(hang, "127.0.0.1") as slow:
        for _ in range(30):
            deliver_live(live, "one", slow, UPLOAD)
        for _ in range(MAX_OF_HOST):
            assert hang.arrived.acquire(timeout=20)
        deliver_live(live, "two", receiver.url, WEBHOOK)
        receiver.wait(seconds=20)
        assert not hang.arrived.acquire(blocking=False), "no more than so many at a time"
        hang.goes_on.set()


def deliver_live(live: Live, owner: str, url: str, kind: str) -> None:
    """A job that has ended, with a pending delivery."""
    from server.api.dialects.wavespeed import translate as wavespeed
    from server.blobs.base import new_key
    from server.job.job import Result

    key = new_key(".png")
    live.worker.blobs.put(key, b"the picture")
    facts = {"width": 8, "height": 8, "size_bytes": 11, "model": "none", "model_sha256": None}
    result = Result(key=key, format="png", **facts)  # type: ignore[arg-type]
    request = {"model": wavespeed.ESRGAN, "base64": False, "input": {}}
    job = Job(
        dialect="wavespeed", owner=owner, params=Params(scale=2), request=request, state=State.SUCCEEDED, result=result
    )
    live.worker.jobs.enqueue(job, [Delivery(job_id=job.id, kind=kind, url=url, base_url="")])


def test_dripping_urls_of_one_key_do_not_delay_anothers_fetch(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(allow_hosts=("127.0.0.1",), fetch_timeout_s=60)
    hang, data = Hanging(), picture()

    def give(connection: socket.socket) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + data)

    with serving(hang, "127.0.0.1") as slow, serving(give, "127.0.0.1") as quick:
        for number in range(16):
            url = f"{slow}/{number}.png"
            live.worker.jobs.enqueue(Job(dialect="native", owner="one", params=Params(scale=2), source_url=url))
        for _ in range(fetching.MAX_FROM_HOST):
            assert hang.arrived.acquire(timeout=20)
        job = Job(dialect="native", owner="two", params=Params(scale=2), source_url=quick + "/a.png")
        live.worker.jobs.enqueue(job)
        deadline = time.monotonic() + 20
        while live.worker.jobs.get(job.id).source_key is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        hang.goes_on.set()
