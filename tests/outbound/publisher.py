"""A publisher for tests of `weights pull`: a real HTTP server with versions and ranges, and every bad habit."""

import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Publisher:
    """Serves `files` by path. The other attributes are its faults; all can be changed while it runs."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.files: dict[str, bytes] = {}
        self.cut_after: list[int] = []
        """Close the connection after so many bytes of the body, once for each."""
        self.answers: list[int] = []
        """Statuses to give instead of the file, once for each."""
        self.ranges = True
        self.etags = True
        self.lengths = True
        self.shift = 0
        """Send a part that begins so much later than the one asked for."""
        self.asked: list[tuple[str, str | None, str | None]] = []
        """Path, Range and If-Range of each request, in order."""


class _Handler(http.server.BaseHTTPRequestHandler):
    publisher: Publisher

    def do_GET(self) -> None:
        it = self.publisher
        wanted = self.headers["Range"]
        it.asked.append((self.path, wanted, self.headers["If-Range"]))
        content = it.files.get(self.path)
        if it.answers or content is None:
            self.send_error(it.answers.pop(0) if it.answers else 404)
            return
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        if wanted and it.ranges and self.headers["If-Range"] == etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) + it.shift
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if it.etags:
            self.send_header("ETag", etag)
        if it.lengths:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if it.cut_after:
            self.wfile.write(body[: it.cut_after.pop(0)])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Proxy:
    """A forward proxy. `asked`: the addresses it was asked for."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.asked: list[str] = []


class _ProxyHandler(http.server.BaseHTTPRequestHandler):
    proxy: Proxy
    target: Publisher

    def do_GET(self) -> None:
        self.proxy.asked.append(self.path)
        content = self.target.files[self.path.split("/", 3)[3].join(("/", ""))]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def publishing() -> Iterator[Publisher]:
    handler = type("Handler", (_Handler,), {})
    with _running(handler) as port:
        handler.publisher = Publisher(port)  # type: ignore[attr-defined]
        yield handler.publisher  # type: ignore[attr-defined]


@contextmanager
def proxying(target: Publisher) -> Iterator[Proxy]:
    handler = type("ProxyHandler", (_ProxyHandler,), {"target": target})
    with _running(handler) as port:
        handler.proxy = Proxy(port)  # type: ignore[attr-defined]
        yield handler.proxy  # type: ignore[attr-defined]


@contextmanager
def _running(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
