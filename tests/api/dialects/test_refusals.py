"""A key at its limits gets an error in the form of every dialect, with the time to wait."""

import base64
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from websockets.sync.client import connect

from server.db.database import open_database
from server.db.keys import Keys
from server.db.limits import Limits
from tests.api.dialects.submits import SUBMITS
from tests.conftest import Live, LiveServer, draw

PICTURE = base64.b64encode(draw()).decode()
MESSAGE = "this key may start 1 jobs a minute; wait a little"


def vendor_task() -> dict[str, Any]:
    (task,) = SUBMITS["runware"].body(PICTURE)
    return dict(task)


@pytest.fixture
def keys(live: Live) -> Keys:
    return Keys(open_database(live.config.database))


@pytest.mark.parametrize("dialect", SUBMITS)
def test_a_key_that_asks_too_often_is_reported_when_to_come_back(live: Live, keys: Keys, dialect: str) -> None:
    submit = SUBMITS[dialect]
    _, secret = keys.create("ann", Limits(rate=1))
    headers = {"Authorization": f"Bearer {secret}"}
    assert live.client.post(submit.path, json=submit.body(PICTURE), headers=headers).is_success
    body = submit.body(PICTURE)
    refused = live.client.post(submit.path, json=body, headers=headers)
    assert (refused.status_code, refused.json()) == (429, submit.error(429, MESSAGE, body))
    assert 50 <= int(refused.headers["retry-after"]) <= 60
    assert live.worker.jobs.counts() == {"queued": 1}
    _, other = keys.create("bob", Limits(rate=1))
    assert live.client.post(submit.path, json=submit.body(PICTURE), headers={"Authorization": other}).is_success


@pytest.mark.parametrize("dialect", SUBMITS)
def test_a_full_queue_is_said_in_the_dialects_words(live_server: LiveServer, dialect: str) -> None:
    submit = SUBMITS[dialect]
    live = live_server(max_queue=1)
    assert live.client.post(submit.path, json=submit.body(PICTURE)).is_success
    body = submit.body(PICTURE)
    refused = live.client.post(submit.path, json=body)
    said = submit.error(429, "the queue is full; try again later", body)
    assert (refused.status_code, refused.json(), refused.headers["retry-after"]) == (429, said, "5")
    live.worker.finish()
    assert live.client.post(submit.path, json=submit.body(PICTURE)).is_success


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/", "http://xn--/a.png"])
@pytest.mark.parametrize("dialect", SUBMITS)
def test_a_picture_at_something_that_is_no_address_is_refused_at_once(shared: Live, dialect: str, url: str) -> None:
    refused = shared.client.post(SUBMITS[dialect].path, json=SUBMITS[dialect].body(url))
    status = 422 if dialect == "replicate" else 400
    assert (refused.status_code, "an http" in refused.text.lower()) == (status, True), refused.text
    assert shared.worker.jobs.counts() == {}


@pytest.mark.parametrize(("kind", "parameter"), [("imageUpload", "image"), ("mediaStorage", "media")])
def test_so_is_an_upload_to_runware(live: Live, kind: str, parameter: str) -> None:
    task = {
        "taskType": kind,
        "taskUUID": str(uuid.uuid4()),
        "operation": "upload",
        parameter: "http://127.0.0.1:99999/",
    }
    (error,) = live.client.post("/v1", json=[task]).json()["errors"]
    assert (error["code"], error["parameter"]) == (f"invalid{parameter.capitalize()}", parameter)


def test_of_several_runware_tasks_some_may_be_refused(live: Live, keys: Keys) -> None:
    _, secret = keys.create("ann", Limits(concurrent=2))
    answer = live.client.post("/v1", json=[vendor_task() for _ in range(5)], headers={"Authorization": secret})
    assert (answer.status_code, len(answer.json()["data"]), len(answer.json()["errors"])) == (200, 2, 3)
    assert "retry-after" not in answer.headers
    again = live.client.post("/v1", json=[vendor_task()], headers={"Authorization": secret})
    assert (again.status_code, again.headers["retry-after"]) == (429, "5")


def test_over_a_socket_it_is_a_frame_of_its_own(live: Live, keys: Keys) -> None:
    _, secret = keys.create("ann", Limits(rate=1))
    with connect(live.url.replace("http", "ws") + "/v1", proxy=None) as line:

        def ask(task: dict[str, Any]) -> Any:
            line.send(json.dumps([task]))
            return json.loads(line.recv(timeout=10))

        assert "data" in ask({"taskType": "authentication", "apiKey": secret})
        assert "data" in ask(vendor_task())
        task = vendor_task()
        assert ask(task) == SUBMITS["runware"].error(429, MESSAGE, [task])


def test_a_session_ends_with_its_key(live: Live, keys: Keys) -> None:
    _, secret = keys.create("ann", Limits())
    with connect(live.url.replace("http", "ws") + "/v1", proxy=None) as line:

        def ask(task: dict[str, Any]) -> Any:
            line.send(json.dumps([task]))
            return json.loads(line.recv(timeout=10))

        assert "data" in ask({"taskType": "authentication", "apiKey": secret})
        first = vendor_task()
        assert "data" in ask(first)
        keys.revoke("ann")
        poll = {"taskType": "getResponse", "taskUUID": first["taskUUID"]}
        upload = {"taskType": "imageUpload", "taskUUID": str(uuid.uuid4()), "image": PICTURE}
        for task in (vendor_task(), poll, upload):
            assert ask(task)["errors"][0]["code"] == "invalidApiKey"
    assert live.worker.jobs.counts() == {"queued": 1}


HOOKS: dict[str, Callable[[Any, str], Any]] = {
    "wavespeed": lambda body, url: body | {"webhook_url": url},
    "novita": lambda body, url: body | {"extra": {"webhook": {"url": url}}},
    "runware": lambda body, url: [body[0] | {"webhookURL": url}],
    "replicate": lambda body, url: body | {"webhook": url},
    "runware upload": lambda body, url: [body[0] | {"uploadEndpoint": url}],
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.com:25/", "port is not one that this server may call"),
        ("https://example.com:6/x", "port is not one that this server may call"),
        ("http://127.0.0.1:9000/", "address is not one that this server may call"),
        ("http://localhost:9000/", "address is not one that this server may call"),
        ("http://[fd00::1]/", "address is not one that this server may call"),
    ],
)
def test_a_webhook_to_where_this_server_never_calls_is_refused_at_once(
    shared: Live, hook: str, url: str, reason: str
) -> None:
    submit = SUBMITS[hook.split()[0]]
    answer = shared.client.post(submit.path, json=HOOKS[hook](submit.body(PICTURE), url))
    assert answer.status_code == (422 if hook == "replicate" else 400) and reason in answer.text
    assert shared.worker.jobs.counts() == {}
