"""Both clients behind one face, and a gate in front of a server that fails as networks do."""

import asyncio
import http.server
import inspect
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from tests.conftest import LOOPBACK, Live, LiveServer
from upscale_client import AsyncClient, Client

Connect = Callable[..., Any]


class Awaited:
    """An AsyncClient whose methods are awaited here, so that tests can call it as they call a Client."""

    def __init__(self, client: AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return partial(self._call, getattr(self._client, name))

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        async def call() -> Any:
            return await method(*args, **kwargs)

        assert inspect.iscoroutinefunction(method)
        return self._loop.run_until_complete(call())


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """`connect(url, **settings)`: a client of each kind."""
    closing: list[Callable[[], object]] = []

    def make(url: str, **settings: Any) -> Any:
        if request.param == "sync":
            client = Client(url, **LOOPBACK | settings)
            closing.append(client.close)
            return client
        loop = asyncio.new_event_loop()
        awaited = Awaited(AsyncClient(url, **LOOPBACK | settings), loop)
        closing.append(lambda: (awaited.close(), loop.close()))
        return awaited

    yield make
    for close in closing:
        close()


class Gate:
    """Passes requests on to a server; `faults` says what happens to the next ones instead, in turn."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.faults: list[str] = []
        """`lost`: the connection closes before the request has arrived. `unanswered`: it has arrived, and the
        connection closes without an answer. `cut`: half of the answer comes. `busy`: 503, to be repeated at once.
        `later`: 429, to be repeated in an hour. `proxy`: a proxy's 504. `page`: a web page."""
        self.passed: list[str] = []
        """Requests that have arrived, by method and path."""


@pytest.fixture
def gate(live: Live) -> Iterator[Gate]:
    inner = httpx.Client(base_url=live.url, timeout=20, **LOOPBACK)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = gate.faults.pop(0) if gate.faults else ""
            if fault == "lost":
                self._close()
                return
            if fault in answers:
                self._answer(*answers[fault])
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            answer = inner.request(self.command, self.path, headers=headers, content=body)
            gate.passed.append(f"{self.command} {self.path.partition('?')[0]}")
            if fault == "unanswered":
                self._close()
            else:
                self._answer(answer.status_code, dict(answer.headers), answer.content, cut=fault == "cut")

        do_POST = do_DELETE = do_GET

        def _answer(self, status: int, headers: dict[str, str], body: bytes, cut: bool = False) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
            if cut:
                self._close()

        def _close(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: Any) -> None:
            pass

    error = b'{"error": {"code": "%s", "message": "%s", "field": null}}'
    answers = {
        "busy": (503, {"Retry-After": "0"}, error % (b"unavailable", b"it is busy")),
        "later": (429, {"Retry-After": "3600"}, error % (b"too_many_requests", b"the key's jobs of today are used up")),
        "proxy": (504, {}, b"<h1>504 Gateway Time-out</h1>"),
        "page": (200, {}, b"<h1>Welcome</h1>"),
    }
    with inner, http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        gate = Gate(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield gate
        server.shutdown()
        thread.join()


@pytest.fixture
def keyed(live_server: LiveServer) -> Live:
    """A server with keys."""
    return live_server(api_keys=("ours", "theirs"))
