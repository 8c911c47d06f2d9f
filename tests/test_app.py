"""The server as a whole: whose words an error is in, how large a body may be, when it is ready."""

import base64
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI

from server.app import _repeat, create_app
from server.config import MIB, BadConfig
from server.dialects import DIALECTS, dialect_of
from server.dialects.base import ServiceDep
from tests.conftest import Live, LiveServer, MakeConfig, Picture, serve

VENDOR = "/api/v3/wavespeed-ai/real-esrgan"


def wavespeed(status: int, message: str) -> dict[str, object]:
    return {"code": status, "message": message, "error": message}


def native(code: str, message: str, field: str | None = None) -> dict[str, object]:
    return {"error": {"code": code, "message": message, "field": field}}


def test_every_path_has_one_dialect() -> None:
    assert dialect_of("/api/v3/anything").NAME == dialect_of("/api/v2").NAME == "wavespeed"
    for path in ("/", "/jobs", "/api/v33", "/api", "/files/x", "/no/such", ""):
        assert dialect_of(path or "/").NAME == "native"
    assert DIALECTS[-1].NAME == "native"


@pytest.mark.parametrize("path", ["/no/such", "/jobs/x/y", "/docs", "/openapi", "/redoc", "/api/v4/models"])
def test_nothing_there_is_said_in_our_words(live: Live, path: str) -> None:
    answer = live.client.get(path)
    assert (answer.status_code, answer.json()) == (404, native("not_found", "there is nothing at this address"))


def test_nothing_there_below_a_vendors_prefix_is_said_in_its_words(live: Live) -> None:
    answer = live.client.get("/api/v3/nowhere")
    assert (answer.status_code, answer.json()) == (404, wavespeed(404, "there is nothing at this address"))


def test_another_method_is_said_with_those_allowed(live: Live) -> None:
    answer = live.client.put(VENDOR)
    assert (answer.status_code, answer.json()) == (405, wavespeed(405, "this address does not take PUT"))
    assert answer.headers["allow"] == "POST"
    answer = live.client.put("/plan")
    assert (answer.status_code, answer.json()) == (
        405,
        native("method_not_allowed", "this address does not take PUT"),
    )


def test_a_parameter_that_does_not_fit_is_named(live: Live) -> None:
    answer = live.client.get("/jobs?limit=0")
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == "limit"


# --- size of bodies -------------------------------------------------------------------------------------------------

LIMIT = 3000 * 4 // 3 + MIB
TOO_LARGE = f"the request body is over this server's limit of {LIMIT} bytes"


@pytest.mark.parametrize(
    ("path", "body"),
    [(VENDOR, wavespeed(413, TOO_LARGE)), ("/jobs", native("too_large", TOO_LARGE))],
)
def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(
    live_server: LiveServer, path: str, body: dict[str, object]
) -> None:
    host, port = live_server(max_source_bytes=3000).url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {500 * MIB}\r\n\r\n"
        connection.sendall(head.encode())
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 413")
    assert json.loads(answer.partition("\r\n\r\n")[2]) == body


@pytest.mark.parametrize("path", [VENDOR, "/jobs"])
def test_a_body_of_unsaid_length_is_counted(live_server: LiveServer, path: str) -> None:
    live = live_server(max_source_bytes=3000)

    def body() -> Iterator[bytes]:
        for _ in range(LIMIT // 65536 + 2):
            yield bytes(65536)

    assert live.client.post(path, content=body()).status_code == 413
    assert live.client.get("/healthz").status_code == 200


def test_a_form_too_large_is_refused_too(live_server: LiveServer) -> None:
    live = live_server(max_source_bytes=3000)
    assert live.client.post("/jobs", files={"file": ("a.png", bytes(LIMIT))}).status_code == 413


def test_a_base64_picture_as_large_as_allowed_fits(live_server: LiveServer, picture: Picture) -> None:
    data = picture(1000, 1000, "RGB", "tiff")
    live = live_server(max_source_bytes=len(data))
    assert live.client.post("/jobs", json={"image": base64.b64encode(data).decode()}).status_code == 202


# --- what breaks ----------------------------------------------------------------------------------------------------


@pytest.fixture
def breaking(config: MakeConfig) -> FastAPI:
    app = create_app(config())

    def fail(service: ServiceDep) -> None:
        raise RuntimeError("a detail for the log alone")

    app.router.add_api_route("/broken", fail)
    app.router.add_api_route("/api/v3/broken", fail)
    return app


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/broken", native("internal", "something went wrong inside the server")),
        ("/api/v3/broken", wavespeed(500, "something went wrong inside the server")),
    ],
)
def test_what_breaks_is_logged_and_said_in_few_words(
    breaking: FastAPI, path: str, body: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(breaking) as url:
        answer = httpx.get(url + path, trust_env=False, timeout=60)  # drawing the traceback takes its time
    assert (answer.status_code, answer.json()) == (500, body)
    assert "a detail for the log alone" in "".join(capsys.readouterr())


def test_background_work_goes_on_after_what_broke(capsys: pytest.CaptureFixture[str]) -> None:
    stop, calls = threading.Event(), []

    def work() -> bool:
        calls.append(1)
        if len(calls) == 3:
            stop.set()
        if len(calls) == 1:
            raise sqlite3.OperationalError("database is locked")
        return True

    _repeat(stop, work, idle_s=0.01)
    assert len(calls) == 3
    assert "database is locked" in "".join(capsys.readouterr())


# --- health ---------------------------------------------------------------------------------------------------------


def test_ready_means_a_worker_that_is_ready(live: Live) -> None:
    assert live.client.get("/healthz").json() == {"alive": True}
    answer = live.client.get("/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "no worker is running")
    live.worker.beat(ready=False)
    answer = live.client.get("/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "no worker has loaded its weights yet")
    live.worker.beat()
    answer = live.client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "weights_verified": True,
        "workers": [{"id": "stand-in", "device": "cpu", "ready": True}],
        "jobs": {},
    }


def test_the_root_says_what_this_is(live: Live) -> None:
    assert live.client.get("/").json()["apis"] == [each.NAME for each in DIALECTS]


def test_a_host_list_that_means_nothing_stops_the_start(config: MakeConfig) -> None:
    with pytest.raises(BadConfig):
        create_app(config(allow_hosts=("http://host",)))


def test_its_threads_end_with_it(live_server: LiveServer, config: MakeConfig) -> None:
    with serve(create_app(config())):
        names = {thread.name for thread in threading.enumerate()}
        assert {"fetch-0", "fetch-1", "fetch-2", "fetch-3", "upkeep"} <= names
    assert not {thread.name for thread in threading.enumerate()} & {
        "fetch-0",
        "fetch-1",
        "fetch-2",
        "fetch-3",
        "upkeep",
    }


@pytest.mark.parametrize("path", [VENDOR, "/jobs", "/v1", "/v3/async/image-upscaler"])
def test_a_body_of_nothing_but_json_parts_is_refused_unparsed(live: Live, path: str) -> None:
    body = b"[" + b"{}," * 300_000 + b"{}]"
    started = time.monotonic()
    answer = live.client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 401)
    assert time.monotonic() - started < 2
