"""Replicate's webhooks: what is sent when, while a prediction runs and at its end."""

import base64
import json
import time
from typing import Any

import pytest

from server.api.dialects.replicate import translate as replicate
from server.db.database import open_database
from server.db.deliveries import DELIVERED, NEWS, WEBHOOK, Deliveries
from server.errors import JobFailed
from tests.conftest import Live, LiveServer, Receiver, draw

PATH = "/v1/models/nightmareai/real-esrgan/predictions"
PICTURE = "data:image/png;base64," + base64.b64encode(draw(8, 8)).decode()


@pytest.fixture
def hooked(live_server: LiveServer) -> Live:
    return live_server(allow_hosts=("127.0.0.1",))


def create(live: Live, receiver: Receiver, events: list[str] | None) -> str:
    asked = {"input": {"image": PICTURE, "scale": 2}, "webhook": receiver.url, "webhook_events_filter": events}
    return str(live.client.post(PATH, json=asked).json()["id"])


def bodies(receiver: Receiver, number: int) -> list[dict[str, Any]]:
    return [json.loads(each.body) for each in receiver.wait(number)]


def wait_until_delivered(live: Live, job_id: str) -> None:
    engine = open_database(live.config.database)
    deadline = time.monotonic() + 20
    while {each.state for each in Deliveries(engine).of_job(job_id)} != {DELIVERED}:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    engine.dispose()


def test_news_come_while_it_runs_and_the_end_at_the_end(hooked: Live, receiver: Receiver) -> None:
    job_id = create(hooked, receiver, None)
    job = hooked.worker.claim()
    bodies(receiver, 1)
    hooked.worker.jobs.heartbeat(job, 0.5, "upscaling")
    bodies(receiver, 2)
    hooked.worker.finish(job)
    found = bodies(receiver, 3)
    wait_until_delivered(hooked, job_id)
    assert [each["status"] for each in found] == ["processing", "processing", "succeeded"]
    assert "50/100" in found[1]["logs"] and "100/100" in found[2]["logs"]
    assert [each["output"] is None for each in found] == [True, True, False]
    ids = [each.headers["webhook-id"] for each in receiver.got]
    assert len(set(ids)) == 3 and all(each.startswith(job_id) for each in ids) and ids[2] == job_id
    assert len(receiver.got) == 3, "no message twice"


def test_nothing_is_sent_before_it_starts(hooked: Live, receiver: Receiver) -> None:
    job_id = create(hooked, receiver, None)
    hooked.client.post(f"/v1/predictions/{job_id}/cancel")
    assert [each["status"] for each in bodies(receiver, 1)] == ["canceled"]
    wait_until_delivered(hooked, job_id)
    assert len(receiver.got) == 1


@pytest.mark.parametrize(
    ("events", "kinds"),
    [
        (None, [NEWS, WEBHOOK]),
        (["start"], [NEWS]),
        (["logs"], [NEWS]),
        (["output"], [WEBHOOK]),
        (["completed", "start"], [NEWS, WEBHOOK]),
        ([], []),
    ],
)
def test_the_filter_decides_what_is_kept_to_be_sent(
    hooked: Live, receiver: Receiver, events: list[str] | None, kinds: list[str]
) -> None:
    engine = open_database(hooked.config.database)
    assert [each.kind for each in Deliveries(engine).of_job(create(hooked, receiver, events))] == kinds
    engine.dispose()


def test_start_alone_is_one_message(hooked: Live, receiver: Receiver) -> None:
    job_id = create(hooked, receiver, ["start"])
    job = hooked.worker.claim()
    bodies(receiver, 1)
    hooked.worker.jobs.heartbeat(job, 0.5, "upscaling")
    engine = open_database(hooked.config.database)
    deadline = time.monotonic() + 20
    while Deliveries(engine).of_job(job_id)[0].attempts < 3:  # it was asked again whether there is news
        assert time.monotonic() < deadline
        time.sleep(0.02)
    engine.dispose()
    hooked.worker.finish(job)
    wait_until_delivered(hooked, job_id)
    assert len(receiver.got) == 1


def test_output_alone_is_not_sent_for_a_failure(hooked: Live, receiver: Receiver) -> None:
    job_id = create(hooked, receiver, ["output"])
    hooked.worker.fail(JobFailed("it broke"))
    wait_until_delivered(hooked, job_id)
    assert receiver.got == []


def test_news_that_fail_do_not_hold_up_the_end(hooked: Live, receiver: Receiver) -> None:
    receiver.answers = [500]
    job_id = create(hooked, receiver, None)
    job = hooked.worker.claim()
    bodies(receiver, 1)
    hooked.worker.finish(job)
    assert bodies(receiver, 2)[1]["status"] == "succeeded"
    wait_until_delivered(hooked, job_id)


def test_the_end_is_sent_again_until_it_is_accepted(hooked: Live, receiver: Receiver) -> None:
    receiver.answers = [500]
    create(hooked, receiver, ["completed"])
    hooked.worker.finish()
    first, second = receiver.wait(2)
    assert first.body == second.body and first.headers["webhook-id"] == second.headers["webhook-id"]


def test_the_webhook_of_old_clients(hooked: Live, receiver: Receiver) -> None:
    hooked.client.post(PATH, json={"input": {"image": PICTURE}, "webhook_completed": receiver.url})
    hooked.worker.finish()
    assert [each["status"] for each in bodies(receiver, 1)] == ["succeeded"]


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of their specification."""
    body = b'{"event_type":"ping","data":{"success":true}}'
    signed = replicate.sign("whsec_plJ3nmyCDGBKInavdOK15jsl", "msg_loFOjxBNrRLzqYUf", 1731705121, body)
    assert signed == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="
