"""HTTP and WebSocket at the level of bytes: limits on what is read before the caller is known.

uvicorn's protocols, with limits of our own:

* A request's head has at most `MAX_HEAD_BYTES` and `MAX_FIELDS` fields; the same limits hold for trailers and chunk
  extensions. More is refused with 431 in the dialect's form.
* Received data is parsed in pieces. Between two pieces the event loop serves other connections, so that a buffer full
  of tiny requests, chunks or frames does not block them.
* A WebSocket accepts only small messages until the application calls `scope["extensions"][ALLOW_LARGE]["call"]`.
* Before a server closes its connections, waiting callers are answered: see `Server`.
"""

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Any

import httptools
import uvicorn
from fastapi import FastAPI
from sse_starlette.sse import AppStatus
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode

from server.api.dialects.base import ALLOW_LARGE
from server.api.errors import error_response
from server.config import MIB
from server.errors import HeadTooLarge, InvalidRequest, UpscaleError

MAX_HEAD_BYTES = 65536
MAX_FIELDS = 100
MAX_PIPELINED = 256
"""Requests of one connection that wait for an earlier answer."""
MAX_SMALL_MESSAGE_BYTES = 4 * 65536
"""Of a WebSocket message before the application has allowed larger ones. It may itself refuse smaller ones, with a
message."""
MAX_MESSAGE_BYTES = 64 * MIB
"""Of a message after that: pictures are sent as base64 in messages."""
MAX_FRAGMENTS = 4096
"""Of one WebSocket message."""
_SMALL_PIECE, _LARGE_PIECE = 1024, 65536
_MANY_EVENTS = 100
"""If one piece has more events, the next piece is small."""
_LONGEST_LINE = 512
_LINE = re.compile(rb"[^ ]{1,64} (/[^ ]*)")
"""A method and an address."""
_LINGER_S = 2.0
"""How long the rest of a refused request is read and dropped. If the connection were closed at once, the caller would
often not receive the answer."""


class _Pieces:
    """Received data that has not been parsed. `read` parses a piece and returns the number of events in it."""

    def __init__(self, read: Callable[[bytes], int], largest: int = _LARGE_PIECE) -> None:
        self.largest = largest
        self._read = read
        self._data = b""
        self._at = 0
        self._size = _SMALL_PIECE

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def add(self, data: bytes) -> None:
        self._data = self._data[self._at :] + data
        self._at = 0

    def clear(self) -> None:
        self._data, self._at = b"", 0

    def read(self) -> None:
        """Parse the next piece."""
        piece = self._data[self._at : self._at + self._size]
        self._at += len(piece)
        if not self:
            self.clear()
        events = self._read(piece)
        self._size = _SMALL_PIECE if events > _MANY_EVENTS else min(self.largest, self._size * 2)


class _Refused(Exception):
    """Stops the parser; the protocol stores the reason."""


class _Flow(FlowControl):
    """Flow control of a connection; data already received is parsed before more is read."""

    def __init__(self, transport: asyncio.Transport, resumed: Callable[[], None]) -> None:
        super().__init__(transport)
        self._resumed = resumed

    def resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self._resumed()


class HttpProtocol(HttpToolsProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pieces = _Pieces(self._read)
        self._refusal: UpscaleError | None = None
        self._scheduled = False
        self._over = False
        """The request was refused: further data is dropped."""
        self._head_bytes = self._fields = self._idle_bytes = self._events = 0
        self._begun = b""
        """The beginning of the latest piece: for an unknown method the parser stops before the address."""
        self._running: RequestResponseCycle | None = None
        """The request that is answered now; `cycle` is the latest one, which may wait for it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self._go_on_soon)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self._pieces.add(data)
        if not self._scheduled:
            self._go_on()

    def _go_on_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._scheduled = False
        if self._pieces and not self._is_done():
            self._pieces.read()
        if self._is_done():
            self._pieces.clear()
        elif self._pieces:
            self.transport.pause_reading()
            if not self.flow.read_paused:
                self._go_on_soon()
        elif not self.flow.read_paused:
            self.transport.resume_reading()

    def _is_done(self) -> bool:
        """Nothing more is to be parsed here: refused, closing, or upgraded to a WebSocket."""
        return self._over or self.transport.is_closing() or self.transport.get_protocol() is not self

    def _read(self, piece: bytes) -> int:
        self._events = 0
        self._idle_bytes += len(piece)
        self._begun = piece[:_LONGEST_LINE]
        super().data_received(piece)
        # Data that the parser stores without an event: an unfinished field, or chunk extensions.
        if self._idle_bytes > MAX_HEAD_BYTES and not self._over:
            self._refusal = _too_large()
            self.send_400_response("")
        return self._events

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = self._fields = 0
        if len(self.pipeline) > MAX_PIPELINED:
            self._refuse(InvalidRequest(f"at most {MAX_PIPELINED} requests may wait on one connection"))

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url), 0)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4, 1)

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        self._events += 1
        super().on_body(body)

    def on_headers_complete(self) -> None:
        waiting = len(self.pipeline)
        super().on_headers_complete()
        if len(self.pipeline) == waiting:
            self._running = self.cycle

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._running = self.pipeline[-1][0]
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disconnect()
        super().connection_lost(exc)

    def _disconnect(self) -> None:
        """Nothing more is written for the requests that are not answered yet. uvicorn sees to the latest one alone."""
        for cycle in (self._running, self.cycle, *(each for each, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._idle_bytes = 0
        self._events += 10  # a request is more work than a field
        super().on_message_complete()

    def _count(self, size: int, fields: int) -> None:
        self._events += 1
        self._head_bytes += size
        self._fields += fields
        if self._head_bytes > MAX_HEAD_BYTES or self._fields > MAX_FIELDS:
            self._refuse(_too_large())

    def _refuse(self, error: UpscaleError) -> None:
        self._refusal = error
        raise _Refused

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this for invalid requests; the answer has the dialect's form."""
        if self._over:
            return
        self._over = True
        self._unset_keepalive_if_required()
        answering = self.cycle is not None and not self.cycle.response_complete
        self._disconnect()
        if answering and (self.cycle.response_started or self.pipeline):
            self.transport.close()  # this answer would be read as part of the unfinished one
            return
        self.transport.write(_response(self.url_path(), self._refusal or InvalidRequest("this is not an HTTP request")))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()
        self.loop.call_later(_LINGER_S, self.transport.close)

    def shutdown(self) -> None:
        if self._over:
            self.transport.close()
        else:
            super().shutdown()

    def url_path(self) -> str:
        """The path of the latest request, as far as it has been received; "/" if there is none."""
        try:
            address = self.url or _LINE.match(self._begun)[1]  # type: ignore[index]
            return (httptools.parse_url(address).path or b"/").decode("ascii", "replace")
        except (httptools.HttpParserError, AttributeError, TypeError):
            return "/"


def _too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"the request's head is over this server's limits of {MAX_HEAD_BYTES} bytes and {MAX_FIELDS} fields"
    )


def _response(path: str, error: UpscaleError) -> bytes:
    """A complete answer; the connection is closed after it."""
    answer = error_response(error, path if path.startswith("/") else "/")
    fields: Iterable[tuple[bytes, bytes]] = (*answer.raw_headers, (b"connection", b"close"))
    head = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
    return STATUS_LINE[answer.status_code] + head + b"\r\n" + bytes(answer.body)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pieces = _Pieces(self._read, _SMALL_PIECE)
        self._events = 0
        self._held = bytearray()
        """Frames after one that the application has not read yet: that one may be what allows larger messages."""
        self._only_small = True
        self._receiving = False
        """The application waits for a message."""
        self.conn.max_message_size = MAX_SMALL_MESSAGE_BYTES

    def _allow_large(self) -> None:
        self._only_small = False
        self._pieces.largest = _LARGE_PIECE
        self.conn.max_message_size = MAX_MESSAGE_BYTES

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if not self.handshake_complete:  # else it was refused
            self.scope["extensions"][ALLOW_LARGE] = {"call": self._allow_large}

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            super().data_received(data)
            return
        waiting = bool(self._pieces)
        self._pieces.add(data)
        if waiting:
            self.transport.pause_reading()
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self.transport.is_closing():
            self._pieces.clear()
            return
        self._pieces.read()
        if self._pieces:
            self.transport.pause_reading()
            self.loop.call_soon(self._go_on)
        else:
            self._listen()

    def _listen(self) -> None:
        """Read from the socket, unless the application has to do something first."""
        held = self._held and not self._receiving and not self.close_sent
        if self._pieces or self.read_paused or held or not self.writable.is_set():
            self.transport.pause_reading()
        elif not self.transport.is_closing():
            self.transport.resume_reading()

    def _read(self, piece: bytes) -> int:
        self._events = 0
        if self._only_small or self._held:
            self._held += piece
            self._read_held()
        else:
            super().data_received(piece)
        return self._events

    def _read_held(self) -> None:
        """Parse frame by frame, no further than to the end of a message."""
        while self._held and (self.close_sent or (self._receiving and self.queue.empty())):
            size = _frame_size(self._held) if self._only_small else len(self._held)
            if size is None or (size > len(self._held) and size <= MAX_SMALL_MESSAGE_BYTES + _FRAME_HEAD):
                return  # the rest of it is still to come
            frame = bytes(self._held[:size])
            del self._held[:size]
            super().data_received(frame)

    async def receive(self) -> Any:
        self._receiving = True
        self._read_held()
        self._listen()
        try:
            return await super().receive()
        finally:
            self._receiving = False
            self._listen()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.close_sent:  # the caller's own close frame may be among the held data
            self._read_held()
            self._listen()

    def handle_events(self) -> None:
        before = len(self.conn.events)
        self._events += before
        super().handle_events()

    def handle_cont(self, event: Any) -> None:
        if len(self.frames) >= MAX_FRAGMENTS:
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, f"more than {MAX_FRAGMENTS} fragments")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def pause_writing(self) -> None:
        # Nothing is read from a caller who reads no answers, such as those to pings: they would fill the memory.
        super().pause_writing()
        self._listen()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._listen()


_FRAME_HEAD = 14


def _frame_size(data: bytearray) -> int | None:
    """Size of the frame at the beginning of `data`, with its head (RFC 6455, section 5.2). None: not yet known."""
    if len(data) < 2:
        return None
    masked, length = data[1] >> 7, data[1] & 127
    wide = {126: 2, 127: 8}.get(length, 0)
    if len(data) < 2 + wide:
        return None
    if wide:
        length = int.from_bytes(data[2 : 2 + wide], "big")
    return 2 + wide + 4 * masked + length


class Server(uvicorn.Server):
    """Before it closes the connections it calls the application's `close`, so that waiting callers are answered."""

    async def shutdown(self, sockets: Any = None) -> None:
        app = self.config.app
        if isinstance(app, FastAPI) and hasattr(app.state, "close"):
            app.state.close()
        await super().shutdown(sockets)


def server_of(app: FastAPI, *, graceful_s: int = 10) -> Server:
    # Else event streams are cut off at the signal, also those whose last event is about to come: see `Server`.
    AppStatus.enable_automatic_graceful_drain = False
    return Server(
        uvicorn.Config(
            app,
            http=HttpProtocol,
            ws=WebSocketProtocol,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=graceful_s,
            timeout_keep_alive=75,  # some clients poll every five seconds, which is uvicorn's default
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,  # pictures hardly shrink, and compression would delay all callers
        )
    )
