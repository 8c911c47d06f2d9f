"""Limits on what is read before the caller is known, over real sockets: heads, frames and tiny pieces."""

import asyncio
import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from fastapi import FastAPI, Request, Response, WebSocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from server.api.dialects.runware.sessions import allow_large_messages
from server.api.protocol import MAX_FIELDS, MAX_FRAGMENTS, MAX_HEAD_BYTES, MAX_SMALL_MESSAGE_BYTES, HttpProtocol
from tests.conftest import Live, Picture, serve


def exchange(url: str, *parts: bytes) -> bytes:
    """All that comes back until the server ends it."""
    host, port = url.removeprefix("http://").split(":")
    got = b""
    with socket.create_connection((host, int(port)), timeout=30) as line:

        def send() -> None:
            try:
                for part in parts:
                    line.sendall(part)
            except OSError:
                pass  # refused in the middle

        sender = threading.Thread(target=send)
        sender.start()
        try:
            while data := line.recv(1 << 20):
                got += data
        except ConnectionError:
            pass
        sender.join()
    return got


def head(path: str = "/healthz", *fields: bytes, method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: localhost", *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


HOSTILE = {
    "a header of 60 MB": [b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", *[b"x" * 1_000_000] * 60, b"\r\n\r\n"],
    "a million header fields": [
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n",
        *[b"a: b\r\n" * 10_000] * 100,
        b"\r\n",
    ],
    "an address of 10 MB": [b"GET /", *[b"x" * 1_000_000] * 10, b" HTTP/1.1\r\nHost: localhost\r\n\r\n"],
    "a field's name of 10 MB": [b"GET /healthz HTTP/1.1\r\n", *[b"x" * 1_000_000] * 10, b": y\r\n\r\n"],
    "a head of 70 kB in 50 fields": [head("/healthz", *[b"a: " + b"x" * 1400] * 50)],
    "101 fields": [head("/healthz", *[b"a: b"] * MAX_FIELDS)],
}


@pytest.mark.parametrize("parts", HOSTILE.values(), ids=HOSTILE)
def test_a_head_beyond_the_bounds_is_refused_in_our_words(live: Live, parts: list[bytes]) -> None:
    answer = exchange(live.url, *parts)
    assert answer.startswith(b"HTTP/1.1 431 ")
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert (error["code"], error["field"]) == ("head_too_large", None)
    assert live.client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/api/v3/predictions/x", b'"code":431,"message":"the request\'s head'),
        ("/v1", b'{"errors":[{"code":"maxRequestSizeExceeded"'),
    ],
)
def test_a_head_beyond_the_bounds_is_refused_in_the_dialects_words(live: Live, path: str, words: bytes) -> None:
    answer = exchange(live.url, head(path, *[b"a: b"] * MAX_FIELDS))
    assert answer.startswith(b"HTTP/1.1 431 ") and words in answer


def test_a_head_within_the_bounds_is_read(live: Live) -> None:
    fields = {f"x-{number}": "y" * 500 for number in range(MAX_FIELDS - 10)}
    assert live.client.get("/healthz", headers=fields).status_code == 200
    assert live.client.get("/healthz", headers={"X-Long": "y" * (MAX_HEAD_BYTES - 1000)}).status_code == 200


def test_the_next_request_of_a_connection_has_a_head_of_its_own(live: Live) -> None:
    for _ in range(5):
        assert live.client.get("/healthz", headers={"X-Long": "y" * 40_000}).status_code == 200


CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    "parts",
    [
        [b"1;", *[b"x" * 1_000_000] * 10],
        [b"1\r\nx\r\n0\r\n", *[b"a: b\r\n" * 10_000] * 100],
        [b"0\r\nX: ", *[b"x" * 1_000_000] * 10],
    ],
    ids=["a chunk's extension of 10 MB", "a million trailers", "a trailer of 10 MB"],
)
def test_what_surrounds_chunks_has_the_same_bounds(live: Live, parts: list[bytes]) -> None:
    answer = exchange(live.url, head("/jobs", CHUNKED, method="POST"), *parts)
    assert answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")), answer[:100]
    assert live.client.get("/healthz").status_code == 200


def test_what_is_no_http_is_refused_in_our_words(live: Live) -> None:
    answer = exchange(live.url, b"\x16\x03\x01 this is TLS\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"] == "this is not an HTTP request"


# --- pieces ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[str]:
    app = FastAPI()

    @app.post("/")
    async def size(request: Request) -> Response:
        return Response(str(len(await request.body())))

    with serve(app) as url:
        yield url


def test_a_body_of_half_a_million_chunks_arrives_whole(echo: str) -> None:
    answer = exchange(
        echo, head("/", CHUNKED, b"Connection: close", method="POST"), *[b"1\r\nx\r\n" * 10_000] * 50, b"0\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"500000")


def test_a_large_body_arrives_whole(echo: str) -> None:
    assert httpx.post(echo, content=b"x" * 30_000_001, trust_env=False, timeout=30).text == "30000001"


def test_pipelined_requests_are_answered_in_their_order(echo: str) -> None:
    requests = [head("/", b"Content-Length: %d" % size, method="POST") + b"x" * size for size in range(40)]
    requests[-1] = requests[-1].replace(b"Host:", b"Connection: close\r\nHost:")
    answer = exchange(echo, b"".join(requests))
    assert [int(part.rpartition(b"\r\n\r\n")[2]) for part in answer.split(b"HTTP/1.1 200 OK")[1:]] == list(range(40))


def test_a_request_that_is_answered_learns_that_its_connection_was_refused(live: Live, picture: Picture) -> None:
    """Also where a second one waits for it. Its job is cancelled."""
    body = json.dumps({"image": base64.b64encode(picture()).decode(), "upscaling_resize": 2}).encode()
    waits = head("/sdapi/v1/extra-single-image", b"Content-Length: %d" % len(body), method="POST") + body
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(waits)
        wait_for(lambda: live.worker.jobs.counts() == {"queued": 1})
        line.sendall(head("/healthz") + b"no request\r\n\r\n")
        assert line.recv(100) == b""
    wait_for(lambda: live.worker.jobs.counts() == {"cancelled": 1})


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_endless_pipelines_end(echo: str) -> None:
    answer = exchange(echo, b"GET / HTTP/1.1\r\n\r\n" * 100_000)
    assert answer.count(b"HTTP/1.1 ") < 100_000


def test_between_pieces_of_what_has_come_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is measured: what one turn of the loop reads of a buffer full of chunks is counted."""
    turns: list[int] = []
    read = HttpProtocol._read

    def counted(self: HttpProtocol, piece: bytes) -> int:
        found = read(self, piece)
        turns.append(found)
        return found

    monkeypatch.setattr(HttpProtocol, "_read", counted)
    app = FastAPI()

    @app.post("/")
    async def size(request: Request) -> Response:
        return Response(str(len(await request.body())))

    with serve(app) as url:
        parts = [head("/", CHUNKED, b"Connection: close", method="POST"), b"1\r\nx\r\n" * 100_000, b"0\r\n\r\n"]
        assert exchange(url, b"".join(parts)).endswith(b"100000")
    assert max(turns) < 12_000 and sum(turns) > 100_000
    assert sum(found > 1000 for found in turns) <= 2, "once it is seen to be full of them, pieces are small"


# --- WebSockets -----------------------------------------------------------------------------------------------------


@pytest.fixture
def parrot() -> Iterator[str]:
    """Says the length of each message; after "please" it takes large ones."""
    app = FastAPI()

    @app.websocket("/")
    async def talk(line: WebSocket) -> None:
        await line.accept()
        while (message := await line.receive())["type"] == "websocket.receive":
            text = message.get("text") or ""
            if text == "please":
                await asyncio.sleep(0.1)  # what follows has come by then
                allow_large_messages(line)
            await line.send_text(str(len(text)))

    with serve(app) as url:
        yield "ws" + url.removeprefix("http")


def test_before_a_caller_is_known_its_messages_are_small(parrot: str) -> None:
    with connect(parrot, proxy=None) as line:
        line.send("x" * MAX_SMALL_MESSAGE_BYTES)
        assert line.recv(10) == str(MAX_SMALL_MESSAGE_BYTES)
        line.send("x" * (MAX_SMALL_MESSAGE_BYTES + 1))
        with pytest.raises(ConnectionClosed) as closed:
            line.recv(10)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009


def test_fragments_count_together(parrot: str) -> None:
    with connect(parrot, proxy=None) as line, pytest.raises(ConnectionClosed):
        line.send("x" * 1000 for _ in range(1 + MAX_SMALL_MESSAGE_BYTES // 1000))
        line.recv(10)


def test_afterwards_large_ones_are_taken_also_those_that_came_too_soon(parrot: str) -> None:
    with connect(parrot, proxy=None, max_size=None) as line:
        line.send("please")
        line.send("x" * 3_000_000)
        line.send("short")
        assert [line.recv(10) for _ in range(3)] == ["6", "3000000", "5"]
        line.send("x" * 1000 for _ in range(100))
        assert line.recv(10) == "100000"


def test_a_message_of_endless_empty_fragments_ends(parrot: str) -> None:
    with connect(parrot, proxy=None) as line, pytest.raises(ConnectionClosed):
        line.send("" for _ in range(MAX_FRAGMENTS + 10))
        line.recv(10)


def test_callers_who_pings_and_does_not_listen_is_not_listened_to(parrot: str) -> None:
    """Answers that the caller does not read would fill the memory."""
    ping = bytes([0x89, 0xFD]) + b"\0\0\0\0" + b"x" * 125
    host, port = parrot.removeprefix("ws://").split(":")
    upgrade = (b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13")
    with socket.create_connection((host, int(port)), timeout=3) as line:
        line.sendall(head("/", *upgrade, b"Sec-WebSocket-Key: " + b"x" * 22 + b"=="))
        assert line.recv(100).startswith(b"HTTP/1.1 101 ")
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 100_000_000:
                sent += line.send(ping * 1000)
    assert sent < 50_000_000


def test_before_authentication_runware_takes_small_frames_only(live: Live) -> None:
    with connect("ws" + live.url.removeprefix("http") + "/v1", proxy=None, max_size=None) as line:
        line.send("x" * 1_000_000)
        with pytest.raises(ConnectionClosed) as closed:
            line.recv(10)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
    with connect("ws" + live.url.removeprefix("http") + "/v1", proxy=None, max_size=None) as line:
        line.send('[{"taskType": "authentication", "apiKey": "any"}]')
        line.send('[{"taskType": "ping", "x": "' + "x" * 1_000_000 + '"}]')
        assert "connectionSessionUUID" in str(line.recv(10))
        assert "pong" in str(line.recv(10))


# --- patterns -------------------------------------------------------------------------------------------------------


def test_a_list_of_tags_with_many_blanks_is_read_in_one_pass(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as a head may have: a pattern that goes back for each of them would take minutes."""
    key = "0" * 32 + ".png"
    live.worker.blobs.put(key, b"\x89PNG\r\n\x1a\n")
    started = time.process_time()
    answer = live.client.get(f"/files/{key}", headers={"If-None-Match": f'"a"{" " * 60_000}"b"'})
    assert answer.status_code == 200
    assert time.process_time() - started < 5  # of this process, which is the server's too; it took minutes
