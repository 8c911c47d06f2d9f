"""Messages on jobs that run: only what is new, only while they run, and never to where they must not go."""

import pytest
from sqlalchemy import Engine

from server.api import news
from server.api.news import Reporter
from server.blobs.base import new_key
from server.db.deliveries import DELIVERED, NEWS, PENDING, Deliveries, Delivery
from server.db.jobs import Jobs
from server.job.job import Job, Params
from tests.conftest import MakeConfig, Receiver

REQUEST = {"model": "a/b", "version": "0", "input": {}, "events": ["start", "logs"]}


class Desk:
    """A reporter on a job table of its own, and one job with a delivery of NEWS."""

    def __init__(self, engine: Engine, config: MakeConfig, url: str, *allow_hosts: str) -> None:
        self.jobs, self.deliveries = Jobs(engine, lease_s=10), Deliveries(engine)
        self.reporter = Reporter(self.jobs, self.deliveries, config(allow_hosts=allow_hosts))
        params = Params(scale=2)
        self.job = Job(dialect="replicate", owner="ann", params=params, request=REQUEST, source_key=new_key())
        delivery = Delivery(job_id=self.job.id, kind=NEWS, url=url, base_url="https://here.example")
        self.jobs.enqueue(self.job, [delivery])

    def start(self) -> Job:
        running = self.jobs.claim("worker")
        assert running is not None
        return running

    def report(self) -> None:
        """Once, whether or not the pause since the last time is over."""
        delivery = self.deliveries.claim_news(10)
        assert delivery is not None
        self.reporter.report(delivery)

    @property
    def delivery(self) -> Delivery:
        (found,) = self.deliveries.of_job(self.job.id)
        return found


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "PAUSE_S", 0.0)


def test_there_are_none_before_the_job_starts(engine: Engine, config: MakeConfig, receiver: Receiver) -> None:
    desk = Desk(engine, config, receiver.url, "127.0.0.1")
    assert desk.reporter.claim() is None
    assert desk.deliveries.claim(10) is None, "nor is it a message on the end"


def test_only_what_is_new_is_sent(engine: Engine, config: MakeConfig, receiver: Receiver) -> None:
    desk = Desk(engine, config, receiver.url, "127.0.0.1")
    running = desk.start()
    desk.report()
    desk.report()
    assert len(receiver.got) == 1
    desk.jobs.heartbeat(running, 0.5, "upscaling")
    desk.report()
    desk.report()
    assert [b"50/100" in each.body for each in receiver.got] == [False, True]
    assert (desk.delivery.state, desk.delivery.last_error) == (PENDING, None)


def test_the_end_is_for_others_to_tell(engine: Engine, config: MakeConfig, receiver: Receiver) -> None:
    desk = Desk(engine, config, receiver.url, "127.0.0.1")
    desk.jobs.cancelled(desk.start())
    desk.report()
    assert (desk.delivery.state, receiver.got) == (DELIVERED, [])


def test_one_that_does_not_arrive_is_followed_by_the_next(
    engine: Engine, config: MakeConfig, receiver: Receiver
) -> None:
    desk = Desk(engine, config, "http://127.0.0.1:9/", "127.0.0.1")
    desk.start()
    desk.report()
    assert desk.delivery.state == PENDING and desk.delivery.last_error


def test_an_address_that_must_not_be_called_is_given_up(engine: Engine, config: MakeConfig, receiver: Receiver) -> None:
    desk = Desk(engine, config, receiver.url)
    desk.start()
    desk.report()
    assert (desk.delivery.state, receiver.got) == (DELIVERED, [])


def test_a_job_that_was_given_back_is_waited_for(engine: Engine, config: MakeConfig, receiver: Receiver) -> None:
    desk = Desk(engine, config, receiver.url, "127.0.0.1")
    running = desk.start()
    claimed = desk.deliveries.claim_news(10)
    assert claimed is not None
    desk.jobs.requeue(running)
    desk.reporter.report(claimed)
    assert (desk.delivery.state, receiver.got) == (PENDING, [])


def test_a_full_memory_is_emptied(
    engine: Engine, config: MakeConfig, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "_MOST_REMEMBERED", 1)
    desk = Desk(engine, config, receiver.url, "127.0.0.1")
    desk.start()
    desk.report()
    desk.report()
    assert len(receiver.got) == 1
