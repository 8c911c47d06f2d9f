"""Deliveries to a real receiver: once when it answers, again when it doesn't, never to where they must not go."""

import base64
import hashlib
import hmac
import json
import time

import httpx
import pytest
from sqlalchemy import Engine, select, update

from server.api import webhooks as webhook
from server.api.app import create_app
from server.api.dialects.wavespeed import translate as wavespeed
from server.api.webhooks import RETRIES, Sender
from server.blobs.base import new_key
from server.blobs.folder import FolderBlobs
from server.db import database
from server.db.clock import TICKS
from server.db.deliveries import DEAD, DELIVERED, PENDING, UPLOAD, WEBHOOK, Deliveries, Delivery
from server.db.jobs import Jobs
from server.db.webhook_secret import load_secret, webhook_secret
from server.job.job import Job, Params, Result, State
from server.outbound.ssrf import send
from tests.conftest import LiveServer, MakeConfig, Picture, Received, Receiver, StandIn, serve

BASE = "https://here.example"
REQUEST = {"model": wavespeed.ESRGAN, "base64": False, "input": {"image": "https://example.com/a.png"}}


class Outbox:
    """A sender on a job table of its own, and ended jobs with pending deliveries."""

    def __init__(self, engine: Engine, config: MakeConfig, *allow_hosts: str) -> None:
        made = config(allow_hosts=allow_hosts)
        self.secret = load_secret(made)
        self.jobs = Jobs(engine, lease_s=10)
        self.deliveries = Deliveries(engine)
        self.blobs = FolderBlobs(made.blobs_dir)
        self.sender = Sender(self.jobs, self.deliveries, self.blobs, made)
        self._engine = engine

    def add(self, kind: str, url: str, state: State = State.FAILED, dialect: str = "wavespeed") -> Job:
        result = None
        if state is State.SUCCEEDED:
            key = new_key(".webp")
            self.blobs.put(key, b"the picture")
            facts = {"width": 8, "height": 8, "size_bytes": 11, "model": "none", "model_sha256": None}
            result = Result(key=key, format="webp", **facts)  # type: ignore[arg-type]
        params = Params(scale=2)
        job = Job(dialect=dialect, owner="ann", params=params, request=REQUEST, state=state, result=result)
        self.jobs.enqueue(job, [Delivery(job_id=job.id, kind=kind, url=url, base_url=BASE)])
        return job

    def of(self, job: Job) -> Delivery:
        (delivery,) = self.deliveries.of_job(job.id)
        return delivery

    def hurry(self) -> float:
        """What waits is due now; for how long it would have waited."""
        with self._engine.begin() as db:
            wait_s: float = db.execute(select(database.deliveries.c.due_at - TICKS)).scalar_one()
            db.execute(update(database.deliveries).values(due_at=0.0))
        return wait_s


@pytest.fixture
def outbox(engine: Engine, config: MakeConfig) -> Outbox:
    return Outbox(engine, config, "127.0.0.1")


def check_signature(got: Received, secret: str) -> None:
    """As the vendor's documents describe for receivers."""
    signed = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
    digest = hmac.new(secret.removeprefix("whsec_").encode(), signed, hashlib.sha256).hexdigest()
    assert got.headers["webhook-signature"] == f"v3,{digest}"
    assert abs(time.time() - int(got.headers["webhook-timestamp"])) < 10


# --- webhooks -------------------------------------------------------------------------------------------------------


def test_nothing_owed_is_nothing_to_do(outbox: Outbox) -> None:
    assert not outbox.sender.send_next()


@pytest.mark.parametrize(
    ("state", "word"), [(State.SUCCEEDED, "completed"), (State.FAILED, "failed"), (State.CANCELLED, "failed")]
)
def test_any_end_is_sent_once_in_the_dialects_form(outbox: Outbox, receiver: Receiver, state: State, word: str) -> None:
    job = outbox.add(WEBHOOK, receiver.url + "/hook?token=1", state)
    assert outbox.sender.send_next()
    assert not outbox.sender.send_next()
    (got,) = receiver.got
    told = json.loads(got.body)
    assert (got.method, got.path, got.headers["content-type"]) == ("POST", "/hook?token=1", "application/json")
    assert got.headers["webhook-id"] == told["id"] == job.id
    assert told["status"] == word
    assert told["urls"]["get"] == f"{BASE}/api/v3/predictions/{job.id}/result"
    assert told["outputs"] == ([f"{BASE}/files/{job.result.key}"] if job.result else [])
    check_signature(got, webhook_secret(outbox.secret, "ann"))
    assert outbox.of(job).state == DELIVERED


def test_it_is_sent_again_with_a_fresh_time_and_signature_until_it_is_heard(outbox: Outbox, receiver: Receiver) -> None:
    job = outbox.add(WEBHOOK, receiver.url)
    receiver.answers = [500, 302]
    for pause in RETRIES["wavespeed"].pauses_s[:2]:
        assert outbox.sender.send_next()
        assert not outbox.sender.send_next()
        assert outbox.of(job).state == PENDING
        assert outbox.hurry() == pytest.approx(pause, abs=1)
        time.sleep(1.1)  # times are whole seconds
    assert outbox.sender.send_next()
    assert (outbox.of(job).state, outbox.of(job).attempts, outbox.of(job).last_error) == (DELIVERED, 3, None)
    assert len({got.body for got in receiver.got}) == len({got.headers["webhook-id"] for got in receiver.got}) == 1
    for header in ("webhook-timestamp", "webhook-signature"):
        assert len({got.headers[header] for got in receiver.got}) == 3
    check_signature(receiver.got[-1], webhook_secret(outbox.secret, "ann"))


def test_after_the_last_retry_it_is_dead(outbox: Outbox, receiver: Receiver) -> None:
    job = outbox.add(WEBHOOK, receiver.url)
    receiver.answers = [503] * 10
    for _ in range(10):
        if outbox.sender.send_next():
            outbox.hurry()
    assert len(receiver.got) == 1 + 3 == 1 + len(RETRIES["wavespeed"].pauses_s)
    assert (outbox.of(job).state, outbox.of(job).last_error) == (DEAD, "its server answered 503")


def test_no_one_there_is_tried_again(outbox: Outbox) -> None:
    job = outbox.add(WEBHOOK, "http://127.0.0.1:1/hook")
    assert outbox.sender.send_next()
    assert (outbox.of(job).state, outbox.of(job).last_error) == (PENDING, "its server can't be reached")


def test_a_private_address_is_not_called_and_not_tried_again(
    engine: Engine, config: MakeConfig, receiver: Receiver
) -> None:
    outbox = Outbox(engine, config)
    job = outbox.add(WEBHOOK, receiver.url)
    assert outbox.sender.send_next()
    assert receiver.got == []
    assert (outbox.of(job).state, outbox.of(job).attempts) == (DEAD, 1)
    assert outbox.of(job).last_error == "the address is not one that this server may call"


def test_a_sender_that_dies_leaves_it_to_the_next(outbox: Outbox, receiver: Receiver) -> None:
    job = outbox.add(WEBHOOK, receiver.url)
    assert outbox.deliveries.claim(1.5) is not None  # and was killed
    assert not outbox.sender.send_next()
    time.sleep(1.6)
    assert outbox.sender.send_next()
    assert (outbox.of(job).state, outbox.of(job).attempts, len(receiver.got)) == (DELIVERED, 2, 1)


def test_while_one_is_sent_no_other_sender_sends_it(
    outbox: Outbox, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.add(WEBHOOK, receiver.url)
    others: list[bool] = []

    def sending(*request: object) -> int:
        others.append(outbox.sender.send_next())
        return send(*request)  # type: ignore[arg-type]

    monkeypatch.setattr(webhook, "send", sending)
    assert outbox.sender.send_next()
    assert (others, len(receiver.got)) == ([False], 1)


def test_one_that_breaks_us_is_given_up_in_the_end(outbox: Outbox, receiver: Receiver) -> None:
    job = outbox.add(WEBHOOK, receiver.url, dialect="native")  # which has no webhooks
    for _ in range(10):
        if outbox.sender.send_next():
            outbox.hurry()
    assert (outbox.of(job).state, outbox.of(job).last_error) == (DEAD, "something went wrong inside the server")
    assert receiver.got == []


# --- uploads --------------------------------------------------------------------------------------------------------


def test_a_result_is_put_where_its_caller_wants_it(outbox: Outbox, receiver: Receiver) -> None:
    job = outbox.add(UPLOAD, receiver.url + "/bucket/a.webp?signature=1", State.SUCCEEDED)
    assert outbox.sender.send_next()
    (got,) = receiver.got
    assert (got.method, got.path, got.body) == ("PUT", "/bucket/a.webp?signature=1", b"the picture")
    assert got.headers["content-type"] == "image/webp"
    assert outbox.of(job).state == DELIVERED


def test_an_upload_is_tried_four_times(outbox: Outbox, receiver: Receiver) -> None:
    job = outbox.add(UPLOAD, receiver.url, State.SUCCEEDED)
    receiver.answers = [403] * 10
    waited = []
    for _ in range(10):
        if outbox.sender.send_next():
            waited.append(round(outbox.hurry()))
    assert waited[:3] == [1, 4, 16]
    assert len(receiver.got) == 4
    assert (outbox.of(job).state, outbox.of(job).last_error) == (DEAD, "its server answered 403")


def test_a_failed_job_has_nothing_to_put(outbox: Outbox, receiver: Receiver) -> None:
    job = outbox.add(UPLOAD, receiver.url, State.FAILED)
    assert outbox.sender.send_next()
    assert (outbox.of(job).state, receiver.got) == (DELIVERED, [])


def test_a_result_that_is_gone_is_given_up_in_the_end(outbox: Outbox, receiver: Receiver) -> None:
    job = outbox.add(UPLOAD, receiver.url, State.SUCCEEDED)
    assert job.result is not None
    outbox.blobs.delete(job.result.key)
    for _ in range(10):
        if outbox.sender.send_next():
            outbox.hurry()
    assert (outbox.of(job).state, receiver.got) == (DEAD, [])


# --- in a running server --------------------------------------------------------------------------------------------


def inline(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_running_server_tells_by_itself(live_server: LiveServer, receiver: Receiver, picture: Picture) -> None:
    live = live_server(allow_hosts=("127.0.0.1",))
    live.client.post(
        "/api/v3/wavespeed-ai/real-esrgan",
        params={"webhook": receiver.url + "/hook"},
        json={"image": inline(picture()), "scale": 1},
    ).raise_for_status()
    live.worker.finish()
    told = json.loads(receiver.wait()[0].body)
    assert told["outputs"][0].startswith(live.url)
    assert live.client.get(told["outputs"][0]).status_code == 200
    time.sleep(0.5)
    assert len(receiver.got) == 1


def test_what_ended_while_the_server_was_down_is_reported_by_the_next(
    config: MakeConfig, receiver: Receiver, picture: Picture
) -> None:
    made = config(allow_hosts=("127.0.0.1",))
    with serve(create_app(made)) as url:
        body = {"image": inline(picture()), "scale": 1, "webhook_url": receiver.url}
        httpx.post(f"{url}/api/v3/wavespeed-ai/real-esrgan", json=body, trust_env=False, timeout=60).raise_for_status()
    StandIn(made).finish()
    assert receiver.got == []
    with serve(create_app(made)):
        assert json.loads(receiver.wait()[0].body)["status"] == "completed"
