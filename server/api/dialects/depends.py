"""What endpoints depend on, in FastAPI's terms: the caller, the service, the links, the body.

Name the caller first: nothing of a body is read before its caller is known.
"""

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import HTTPConnection

from server.api.auth import Auth, Caller
from server.api.bodies import MULTIPART, check_json, check_readable, is_urlencoded, looks_like_json, media_type
from server.api.dialects.fields import FORM_REMEDY
from server.api.forms import multipart_form, urlencoded_form
from server.api.large_json import LARGE_BYTES
from server.errors import UnsupportedMedia
from server.service.service import Service

_Made = TypeVar("_Made")

_HOST = re.compile(r"[\w.:\[\]-]{1,255}", re.ASCII)
_PREFIX = re.compile(r"(?:/[\w.~-]{1,64}){0,8}", re.ASCII)


# --- the caller, the service and the links --------------------------------------------------------------------------


def in_place(make: Callable[..., _Made]) -> Callable[..., Awaitable[_Made]]:
    """`make`, a class of dependencies, as an `async` function: FastAPI runs all others in its thread pool, which takes
    a tenth of a poll's time."""

    async def made(**parts: Any) -> _Made:
        return make(**parts)

    made.__signature__ = inspect.signature(make)  # type: ignore[attr-defined]  # what FastAPI reads
    return made


async def _service(connection: HTTPConnection) -> Service:
    service: Service = connection.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]


async def _auth(connection: HTTPConnection) -> Auth:
    auth: Auth = connection.app.state.auth
    return auth


AuthDep = Annotated[Auth, Depends(_auth)]


async def _caller(connection: HTTPConnection, auth: AuthDep) -> Caller:
    return await run_in_threadpool(auth.authenticate, connection.headers.get("authorization"))


CallerDep = Annotated[Caller, Depends(_caller)]


def _requested_url(connection: HTTPConnection) -> str:
    """Scheme, host and prefix as the caller sees them, also through a proxy that sends X-Forwarded headers."""
    headers = dict(reversed(connection.scope["headers"]))  # the first of equal ones
    scheme = _first(headers, b"x-forwarded-proto").lower() or connection.scope["scheme"]
    prefix = _first(headers, b"x-forwarded-prefix").rstrip("/")
    if not _PREFIX.fullmatch(prefix):
        prefix = ""
    for host in (_first(headers, b"x-forwarded-host"), headers.get(b"host", b"").decode("latin-1")):
        if _HOST.fullmatch(host):
            return f"{'https' if scheme in ('https', 'wss') else 'http'}://{host.lower()}{prefix}"
    return f"http://{connection.url.netloc}{prefix}"


def _first(headers: Mapping[bytes, bytes], name: bytes) -> str:
    """The first part of a header's value."""
    return headers.get(name, b"").decode("latin-1").partition(",")[0].strip()


def own_bases_of(connection: HTTPConnection) -> tuple[str, str]:
    """Starts of links that lead back to this server: the public one, with which the links in answers begin, and the one
    that this caller uses."""
    requested = _requested_url(connection)
    return connection.app.state.service.config.public_base_url or requested, requested


async def _base_url(connection: HTTPConnection) -> str:
    return own_bases_of(connection)[0]


BaseUrl = Annotated[str, Depends(_base_url)]
"""Start of every link in an answer, without a slash at its end."""


@dataclass(frozen=True)
class Call:
    """A request, its authenticated caller, and the service."""

    request: Request
    caller: CallerDep
    service: ServiceDep

    @property
    def base_url(self) -> str:
        return self.own_bases[0]

    @cached_property
    def own_bases(self) -> tuple[str, str]:
        return own_bases_of(self.request)


CallDep = Annotated[Call, Depends(in_place(Call))]


async def authenticated(request: Request) -> Call:
    """For endpoints that read a body: the caller is known before any of it is read. Raises Unauthorized."""
    return await run_in_threadpool(_authenticate, request)


def _authenticate(request: Request) -> Call:
    state = request.app.state
    return Call(request, state.auth.authenticate(request.headers.get("authorization")), state.service)


Endpoint = Callable[[Request], Awaitable[Response]]
_DIRECT = "upscale_direct"


def takes_request(endpoint: Endpoint) -> Endpoint:
    """Mark an endpoint that costs little, for frequent requests: it takes the request and nothing else, so that it is
    called without FastAPI; see server/api/direct.py."""
    setattr(endpoint, _DIRECT, True)
    return endpoint


def is_direct(endpoint: Callable[..., Any] | None) -> bool:
    return hasattr(endpoint, _DIRECT)


def direct(answer: Callable[..., Response]) -> Endpoint:
    """`answer(call, **path)` as such an endpoint. It runs in a thread, in which the caller is authenticated first."""

    @wraps(answer)
    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(_answered, answer, request)

    endpoint.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what FastAPI reads
        [inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Request)]
    )
    return takes_request(endpoint)


def _answered(answer: Callable[..., Response], request: Request) -> Response:
    return answer(_authenticate(request), **request.path_params)


# --- the body -------------------------------------------------------------------------------------------------------


async def whole_body(request: Request) -> bytes:
    """The body's pieces, joined. Of a large one a thread does it."""
    return await joined([piece async for piece in request.stream()])


async def joined(pieces: list[bytes]) -> bytes:
    """Takes the pieces out of the list."""
    if sum(map(len, pieces)) < LARGE_BYTES:
        return b"".join(pieces)
    return await run_in_threadpool(_joined, pieces)


def _joined(pieces: list[bytes]) -> bytes:
    body = b"".join(pieces)  # other threads run during a large one
    while pieces:  # freed one by one: other threads run in between
        pieces.pop()
    return body


async def read_body(request: Request) -> bytes:
    """A body that looks like JSON; it is not parsed yet. Raises InvalidRequest, UnsupportedMedia."""
    body = await whole_body(request)
    check_json(request.headers, body)
    return body


RawBody = Annotated[bytes, Depends(read_body)]
"""A body that looks like JSON; it is not parsed yet."""


async def _form(request: Request) -> AsyncIterator[FormData]:
    if media_type(request.headers) == MULTIPART:
        async with multipart_form(request) as form:
            yield form
        return
    body = await whole_body(request)
    if not is_urlencoded(request.headers):
        check_readable(body, FORM_REMEDY)
        if body and not looks_like_json(body):
            raise UnsupportedMedia(f"this address takes a form: {FORM_REMEDY}")
    yield await urlencoded_form(body) if is_urlencoded(request.headers) else FormData()


Form = Annotated[FormData, Depends(_form)]
"""Empty when no form was sent."""
