"""The server as a whole: the forms of errors, the limit of bodies, readiness."""

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
from websockets.sync.client import connect

from server.api.app import create_app
from server.api.background import repeat
from server.api.dialects import DIALECTS, dialect_of
from server.api.dialects.depends import ServiceDep
from server.config import MIB, BadConfig
from server.db.jobs import WorkerInfo
from tests.conftest import Live, LiveServer, MakeConfig, Picture, draw, serve

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


@pytest.mark.parametrize("path", ["/no/such", "/jobs/x/y", "/docs/none", "/openapi", "/redoc", "/api/v4/models"])
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


# --- what monitors and proxies send ---------------------------------------------------------------------------------


def gets(live: Live) -> list[str]:
    """Addresses that GET is answered at, one of each kind."""
    live.worker.beat()
    live.client.post("/jobs", files={"file": draw()}, data={"scale": "2"})
    job = live.worker.finish()
    assert job.result is not None
    sent = live.client.post(VENDOR, json={"image": base64.b64encode(draw()).decode(), "enable_base64_output": True})
    live.worker.finish()
    own = [
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/openapi/wavespeed.json",
        "/models",
        "/web/page.js",
    ]
    jobs = [f"/jobs/{job.id}{end}" for end in ("", "/result", "/source", "/events")]
    theirs = [sent.json()["data"]["urls"]["get"].removeprefix(live.url), "/api/v3/models", "/api/v3/predictions"]
    return [*own, "/jobs", *jobs, *theirs, f"/files/{job.result.key}"]


def test_head_is_answered_like_get_without_a_body(live: Live) -> None:
    passing = {"date", "content-length", "transfer-encoding"}
    for path in gets(live):
        head, get = live.client.head(path), live.client.get(path)
        assert (head.status_code, head.content) == (200, b""), path
        theirs = {name: value for name, value in get.headers.items() if name not in passing}
        assert {name: value for name, value in head.headers.items() if name not in passing} == theirs, path
        if "content-length" in get.headers and path != "/metrics":
            assert head.headers["content-length"] == get.headers["content-length"], path
    page = live.client.head("/", headers={"Accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")


def test_head_of_what_is_not_ready_or_not_there_has_the_same_status(live: Live) -> None:
    for path in ("/readyz", "/no/such", "/api/v3/predictions/none", "/files/none"):
        head, get = live.client.head(path), live.client.get(path)
        assert (head.status_code, head.content) == (get.status_code, b"") and head.is_error, path
    answer = live.client.head("/plan")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert live.client.put("/healthz").headers["allow"] == "GET, HEAD"


def test_head_of_a_stream_ends_while_the_job_waits(live: Live) -> None:
    job = live.client.post("/jobs", files={"file": draw()}, data={"scale": "2"}).json()
    head = live.client.head(f"/jobs/{job['id']}/events", timeout=5)
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


def test_http_1_0_without_a_host_is_no_foreign_host(live: Live) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    for head in (
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"HEAD /healthz HTTP/1.0\r\n\r\n",
        b"GET /jobs HTTP/1.0\r\nHost:\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(head)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200"), head
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\nOrigin: https://evil.example\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("path", ["/jobs/", "/healthz/", "/models//", "/api/v3/models/", "/openapi.json/"])
def test_a_slash_at_the_end_changes_nothing(live: Live, path: str) -> None:
    assert live.client.get(path).status_code == 200
    picture = base64.b64encode(draw()).decode()
    assert live.client.post(f"{VENDOR}/", json={"image": picture}).status_code == 200
    assert live.client.post("/jobs/", json={"image": picture}).status_code == 202
    with connect(live.url.replace("http", "ws") + "/v1/", proxy=None) as opened:
        opened.send('{"taskType": "ping"}')
        assert "pong" in str(opened.recv(10))


def test_links_have_the_prefix_that_a_proxy_names(live: Live) -> None:
    body = {"image": base64.b64encode(draw()).decode()}
    proxied = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "Proxy.Example", "X-Forwarded-Prefix": "/up/scale/"}
    base = "https://proxy.example/up/scale"
    sent = live.client.post("/jobs", json=body, headers=proxied)
    assert sent.headers["location"] == sent.json()["urls"]["self"] == f"{base}/jobs/{sent.json()['id']}"
    data = live.client.post(VENDOR, json=body, headers=proxied).json()["data"]
    assert data["urls"]["get"].startswith(f"{base}/api/v3/predictions/")
    made = live.client.post(
        "/api/v1/models/image-upscaler/generate",
        json=body | {"target_resolution": "2k", "output_format": "png"},
        headers=proxied,
    )
    assert made.json()["statusUrl"].startswith(f"{base}/api/v1/predictions/")
    ticket = live.client.post("/api/v3/media/uploads", json={"filename": "a.png"}, headers=proxied).json()["data"]
    assert ticket["upload"]["url"].startswith(f"{base}/uploads/")


@pytest.mark.parametrize(
    "prefix", ["", "/", "up", "//evil.example", "/a b", "/<script>", "/a/../b?x", "/" + "x" * 5000]
)
def test_a_prefix_that_is_none_is_passed_over(live: Live, prefix: str) -> None:
    body = {"image": base64.b64encode(draw()).decode()}
    sent = live.client.post("/jobs", json=body, headers={"X-Forwarded-Prefix": prefix})
    assert sent.headers["location"] == f"{live.url}/jobs/{sent.json()['id']}"


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

    repeat(stop, work, lambda: stop.wait(0.01))
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


def test_not_ready_says_why_a_worker_cannot_work(live: Live) -> None:
    problem = "the GPU Tesla V100 has compute capability 7.0, for which this build of torch has no code"
    live.worker.jobs.worker_beat(WorkerInfo("w", "cuda:0", False, problem=problem))
    answer = live.client.get("/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, problem)
    assert answer.json()["workers"] == [{"id": "w", "device": "cuda:0", "ready": False, "problem": problem}]


def test_the_root_says_what_this_is(live: Live) -> None:
    assert live.client.get("/").json()["apis"] == [each.NAME for each in DIALECTS]


def test_a_host_list_that_means_nothing_stops_the_start(config: MakeConfig) -> None:
    with pytest.raises(BadConfig):
        create_app(config(allow_hosts=("http://host",)))


def test_its_threads_end_with_it(live_server: LiveServer, config: MakeConfig) -> None:
    with serve(create_app(config())):
        names = {thread.name for thread in threading.enumerate()}
        assert {"fetch-0", "fetch-1", "fetch-2", "fetch-3", "cleanup"} <= names
    assert not {thread.name for thread in threading.enumerate()} & {
        "fetch-0",
        "fetch-1",
        "fetch-2",
        "fetch-3",
        "cleanup",
    }


@pytest.mark.parametrize("path", [VENDOR, "/jobs", "/v1", "/v3/async/image-upscaler"])
def test_a_body_of_nothing_but_json_parts_is_refused_unparsed(live: Live, path: str) -> None:
    body = b"[" + b"{}," * 300_000 + b"{}]"
    started = time.process_time()
    answer = live.client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 401)
    assert time.process_time() - started < 2
