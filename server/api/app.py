"""The HTTP server, put together: one service behind every dialect, and its errors in each dialect's own form.

Two guards stand before the routes: `_Door` (strangers, duplicate slashes, size of bodies, whatever breaks) and the
exception handlers. Between them no body of Starlette's or FastAPI's own making ever reaches a client.
"""

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Generic, TypeVar

import anyio
import structlog
from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import __version__
from server.api import page
from server.api.auth import Gate
from server.api.bodies import check_encoding
from server.api.cleanup import Upkeep
from server.api.cors import Cors
from server.api.dialects import DIALECTS, dialect_of
from server.api.dialects.base import CallerDep, Dialect, ServiceDep
from server.api.metrics import CONTENT_TYPE, COUNT_S, Metrics
from server.api.openapi.document import document
from server.api.responses import json_response
from server.api.webhooks import Sender
from server.blobs.local import Blobs
from server.config import Config, largest_body
from server.db.database import open_database
from server.db.deliveries import Deliveries
from server.db.jobs import Jobs
from server.db.keys import Keys
from server.db.uploads import Uploads
from server.errors import (
    Forbidden,
    InvalidField,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unavailable,
    UpscaleError,
)
from server.outbound.ssrf import read_allowed
from server.service.service import Service
from server.transient import outage_of
from server.weights.catalog import Catalog

log = structlog.get_logger()
_T = TypeVar("_T")

FETCHERS = 24
"""Downloads at a time. They wait for others' machines and take next to nothing meanwhile; of one owner, and from one
host, only some are on their way at a time, see turns.py."""
SENDERS = 24
"""Webhooks and results on their way to callers at a time; likewise."""
_IDLE_S = 0.2
_BROKEN_S = 1.0
"""Before work is asked for again where asking failed."""
_UPKEEP_S = 60.0
_STOP_S = 2.0
_THREADS = 8
"""That endpoints share: some wait for the disk, the others contend for the interpreter. With the usual 40, twenty
callers who poll get a sixth fewer answers."""
_BROKEN = "something went wrong inside the server"


def create_app(config: Config) -> FastAPI:
    """The API on a database that has been migrated. Raises BadConfig."""
    read_allowed(config.allow_hosts)
    engine = open_database(config.database)
    blobs = Blobs(config.blobs_dir)
    jobs = Jobs(engine, lease_s=config.lease_s, max_queue=config.max_queue)
    uploads = Uploads(engine, blobs, keep_s=config.keep_s)
    service = Service(config, jobs, uploads, blobs, Catalog.of(config))
    deliveries = Deliveries(engine)
    sender = Sender(jobs, deliveries, blobs, config)
    gate, metrics = Gate(config, Keys(engine)), Metrics(jobs, deliveries)
    upkeep = Upkeep(config, service, jobs, uploads, blobs, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = _THREADS
        with _background(service, sender, upkeep, metrics):
            yield
        engine.dispose()

    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.state.service, app.state.gate, app.state.metrics = service, gate, metrics
    app.state.close = service.close  # see wire.Server
    app.add_middleware(_Door, config=config, gate=gate, metrics=metrics)
    app.add_exception_handler(UpscaleError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.include_router(_own)
    app.include_router(page.router)
    for dialect in DIALECTS:
        app.include_router(dialect.router)
    return app


# --- background work ------------------------------------------------------------------------------------------------


@contextmanager
def _background(service: Service, sender: Sender, upkeep: Upkeep, metrics: Metrics) -> Iterator[None]:
    """Fetchers, senders, upkeep and counting, for as long as the server runs."""
    stop = threading.Event()
    fetch, send = _Crew(stop, service.claim_fetch, service.fetch), _Crew(stop, sender.claim, sender.attempt)
    fetchers = [(f"fetch-{n}", fetch.once, _IDLE_S) for n in range(FETCHERS)]
    senders = [(f"send-{n}", send.once, _IDLE_S) for n in range(SENDERS)]
    others = [("upkeep", upkeep.once, _UPKEEP_S), ("count", metrics.count, COUNT_S)]
    threads = [
        threading.Thread(target=_repeat, args=(stop, work, idle_s), name=name, daemon=True)
        for name, work, idle_s in (*fetchers, *senders, *others)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        deadline = time.monotonic() + _STOP_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        service.release_fetches()


class _Crew(Generic[_T]):
    """Threads that do the same work. One of those that are free asks for it, the others wait until it has found some:
    so many that ask would keep the database busy."""

    def __init__(self, stop: threading.Event, claim: Callable[[], _T | None], work: Callable[[_T], object]) -> None:
        self._stop = stop
        self._claim = claim
        self._work = work
        self._asking = threading.Lock()

    def once(self) -> bool:
        """Wait for something to do, and do it. False: this thread is to end."""
        found: _T | None = None
        with self._asking:
            try:
                while not self._stop.is_set() and (found := self._claim()) is None:
                    self._stop.wait(_IDLE_S)
            except Exception:
                self._stop.wait(_BROKEN_S)  # before the next of them asks
                raise
        if found is not None:
            self._work(found)
        return found is not None


def _repeat(stop: threading.Event, work: Callable[[], object], idle_s: float) -> None:
    """Work until there is none, rest, and again. What breaks is logged and tried again: this thread has no heir."""
    while not stop.is_set():
        try:
            busy = work()
        except Exception:
            log.exception("background work broke", thread=threading.current_thread().name)
            busy = False
        if not busy:
            stop.wait(idle_s)


# --- our own addresses ----------------------------------------------------------------------------------------------

_own = APIRouter()


@_own.get("/")
def root(request: Request) -> Response:
    """The page for people, what this is for programs."""
    if "text/html" in request.headers.get("accept", ""):
        return page.index(request)
    return json_response({"name": "upscale-server", "version": __version__, "apis": [each.NAME for each in DIALECTS]})


@_own.get("/healthz")
async def healthz() -> Response:
    """The process runs; nothing is said about whether it can work."""
    return json_response({"alive": True})


@_own.get("/readyz")
def readyz(service: ServiceDep) -> Response:
    """200 once a worker has verified and loaded its weights, as long as it is heard of."""
    workers = [{"id": each.id, "device": each.device, "ready": each.ready} for each in service.workers()]
    ready = any(each["ready"] for each in workers)
    answer = {"weights_verified": ready, "workers": workers, "jobs": service.counts()}
    if ready:
        return json_response({"ready": True, **answer})
    reason = "no worker has loaded its weights yet" if workers else "no worker is running"
    return json_response({"ready": False, "reason": reason, **answer}, 503)


async def _metrics(request: Request) -> Metrics:
    found: Metrics = request.app.state.metrics
    return found


@_own.get("/metrics")
def metrics(caller: CallerDep, metrics: Annotated[Metrics, Depends(_metrics)]) -> Response:
    """For Prometheus, which sends a key like any caller: what is told is of all keys together."""
    return Response(metrics.text(), media_type=CONTENT_TYPE)


@_own.get("/openapi.json")
def openapi() -> Response:
    """Of all our APIs together."""
    return json_response(document())


@_own.get("/openapi/{name}.json")
def openapi_of(name: str) -> Response:
    found = tuple(each for each in DIALECTS if name == each.NAME)
    if not found:
        raise NotFound(f"there is no API of that name; there are {', '.join(each.NAME for each in DIALECTS)}")
    return json_response(document(found))


# --- errors ---------------------------------------------------------------------------------------------------------


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UpscaleError)
    return _say(error, dialect_of(request.scope["path"]))


def _say(error: UpscaleError, dialect: Dialect) -> Response:
    response = dialect.to_error(error)
    response.headers.update(error.headers)
    return response


async def _on_http_error(request: Request, error: Exception) -> Response:
    """What routing found: nothing there, another method, a form that can't be read."""
    assert isinstance(error, HTTPException)
    ours: UpscaleError
    if error.status_code == 404:
        ours = NotFound("there is nothing at this address")
    elif error.status_code == 405:
        ours = MethodNotAllowed(f"this address does not take {request.method}")
    else:
        ours = InvalidRequest(error.detail)
    response = await _on_error(request, ours)
    response.headers.update(error.headers or {})
    allowed = response.headers.get("allow", "")
    if "GET" in allowed and "HEAD" not in allowed:
        response.headers["Allow"] = f"{allowed}, HEAD"
    return response


async def _on_invalid(request: Request, error: Exception) -> Response:
    """A query or path parameter that an endpoint's signature refuses."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = str(first["loc"][-1])
    return await _on_error(request, InvalidField(f"{field}: {first['msg']}", field=field))


class _Door:
    """Everything passes here: strangers' pages are kept out, `//` becomes `/`, HEAD is answered like GET, bodies and
    answers are counted, and what breaks is logged and said in few words."""

    def __init__(self, app: ASGIApp, config: Config, gate: Gate, metrics: Metrics) -> None:
        self._app = app
        self._gate = gate
        self._metrics = metrics
        self._cors = Cors(config)
        self._max_body = largest_body(config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        # Clients that join a base URL ending in a slash with a path that begins with one, or end in a slash themselves.
        scope = {**scope, "path": re.sub("//+", "/", scope["path"]).rstrip("/") or "/"}
        if scope["type"] == "websocket":
            try:
                self._gate.check_origin(Headers(scope=scope))
            except Forbidden:
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._app(scope, receive, send)
            return
        dialect, headers = dialect_of(scope["path"]), Headers(scope=scope)
        started = False

        async def noted_send(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start":
                self._metrics.answered(dialect.NAME, scope["method"], message["status"])
                MutableHeaders(scope=message).update(self._cors.headers(headers))
            await send(message)

        try:
            self._gate.check_origin(headers)
            preflight = self._cors.preflight(scope["method"], headers)
            if preflight is not None:
                await Response(status_code=204, headers=preflight)(scope, receive, noted_send)
                return
            check_encoding(headers)
            self._check(_content_length(scope))
            if scope["method"] == "HEAD":
                await _head(self._app, scope, self._counted(receive), noted_send)
            else:
                await self._app(scope, self._counted(receive), noted_send)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            # The server ends, and this took longer than it waits. uvicorn would say "Internal Server Error".
            if started:
                raise
            ending = Unavailable("the server is shutting down; try again", retry_after_s=5)
            await _say(ending, dialect)(scope, receive, noted_send)
        except Exception as error:
            outage = outage_of(error)
            if outage is not None:
                log.error("disk or database failed", method=scope["method"], path=scope["path"], reason=str(error))
            elif not isinstance(error, UpscaleError):
                log.exception("request broke", method=scope["method"], path=scope["path"])
            if not started:
                ours = error if isinstance(error, UpscaleError) else outage or UpscaleError(_BROKEN)
                await _say(ours, dialect)(scope, receive, noted_send)

    def _counted(self, receive: Receive) -> Receive:
        size = 0

        async def counted_receive() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            self._check(size)
            return message

        return counted_receive

    def _check(self, size: int) -> None:
        if size > self._max_body:
            raise TooLarge(f"the request body is over this server's limit of {self._max_body} bytes")


async def _head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """What GET is answered with, but for the body: it is neither made to its end nor sent."""
    async with anyio.create_task_group() as tasks:

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})
                tasks.cancel_scope.cancel()

        await app({**scope, "method": "GET"}, receive, send_head)


def _content_length(scope: Scope) -> int:
    value = dict(scope["headers"]).get(b"content-length", b"")
    return int(value) if value.isdigit() else 0
