"""What happens to every request before routing and to every answer after it.

Pages of other origins are refused, `//` becomes `/`, HEAD is answered like GET, sizes of bodies are limited, answers
are counted, and unexpected errors are logged and answered with a short message.
"""

import asyncio
import re

import anyio
import structlog
from fastapi import Request, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.auth import Auth
from server.api.bodies import check_encoding
from server.api.cors import Cors
from server.api.dialects import dialect_of
from server.api.direct import DirectRoutes
from server.api.errors import error_response, on_http_error
from server.api.metrics import Metrics
from server.api.responses import IS_HEAD
from server.config import Config, largest_body
from server.errors import Forbidden, TooLarge, UpscaleError
from server.errors.transient import transient_error
from server.service.turns import shutting_down

log = structlog.get_logger()


class Middleware:
    def __init__(self, app: ASGIApp, config: Config, auth: Auth, metrics: Metrics, direct: DirectRoutes) -> None:
        self._app = app
        self._direct = direct
        self._auth = auth
        self._metrics = metrics
        self._cors = Cors(config)
        self._max_body = largest_body(config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        # Some clients join a base URL ending in a slash with a path that begins with one, or end in a slash themselves.
        scope = {**scope, "path": re.sub("//+", "/", scope["path"]).rstrip("/") or "/"}
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._auth.check_origin(Headers(scope=scope))
        except Forbidden:
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, headers = scope["path"], Headers(scope=scope)
        dialect = dialect_of(path).NAME
        started = False

        async def send_counted(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start":
                self._metrics.answered(dialect, scope["method"], message["status"])
                if extra := self._cors.headers(headers):
                    MutableHeaders(scope=message).update(extra)
            await send(message)

        try:
            await self._answer(dialect, scope, headers, receive, send_counted)
        except ClientDisconnect:
            pass
        except HTTPException as error:  # of a direct endpoint: a form that can't be parsed
            await (await on_http_error(Request(scope), error))(scope, receive, send_counted)
        except asyncio.CancelledError:
            # The server stops, and this request took longer than the stop waits. uvicorn's own answer is plain text.
            if started:
                raise
            await error_response(shutting_down(), path)(scope, receive, send_counted)
        except Exception as error:
            transient = transient_error(error)
            if transient is not None:
                log.error("disk, database or store failed", method=scope["method"], path=path, reason=str(error))
            elif not isinstance(error, UpscaleError):
                log.exception("request broke", method=scope["method"], path=path)
            if not started:
                unknown = UpscaleError("something went wrong inside the server")
                ours = error if isinstance(error, UpscaleError) else transient or unknown
                await error_response(ours, path)(scope, receive, send_counted)

    async def _answer(self, dialect: str, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        self._auth.check_origin(headers)
        preflight = self._cors.preflight(scope["method"], headers)
        if preflight is not None:
            await Response(status_code=204, headers=preflight)(scope, receive, send)
            return
        check_encoding(headers)
        self._check_size(_content_length(scope))
        if scope["method"] == "HEAD":
            await _head(self._app, scope, self._limited(receive), send)
        elif (endpoint := self._direct.find(dialect, scope)) is not None:
            receive = self._limited(receive)
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)
        else:
            await self._app(scope, self._limited(receive), send)

    def _limited(self, receive: Receive) -> Receive:
        size = 0

        async def receive_limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            self._check_size(size)
            return message

        return receive_limited

    def _check_size(self, size: int) -> None:
        if size > self._max_body:
            raise TooLarge(f"the request body is over this server's limit of {self._max_body} bytes")


async def _head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to GET without its body: the body is neither completed nor sent."""
    async with anyio.create_task_group() as tasks:

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})
                tasks.cancel_scope.cancel()

        await app({**scope, "method": "GET", IS_HEAD: True}, receive, send_head)


def _content_length(scope: Scope) -> int:
    value = dict(scope["headers"]).get(b"content-length", b"")
    return int(value) if value.isdigit() else 0
