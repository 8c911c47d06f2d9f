"""What a dialect is, and what its endpoints are given.

A dialect is one HTTP API that we speak, as a module of this folder: translation only. Its vendor's words stay in it;
work is done by `service`, and what goes wrong is raised as one of `errors` and written down by `to_error`.
"""

import inspect
import json
import math
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol, TypeVar, runtime_checkable

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import HTTPConnection

from server.api.auth import Caller, Gate
from server.api.bodies import BOM, FORM_TYPES, check_json, check_readable, looks_like_json, media_type, text_of
from server.errors import InvalidField, InvalidRequest, MissingField, UnsupportedMedia, UpscaleError
from server.job.formats import FormatName
from server.job.job import Job
from server.service.service import Service

_T = TypeVar("_T", bound=str)
_Made = TypeVar("_Made")


class Dialect(Protocol):
    NAME: str
    """Kept in each job's row: who submitted it, and in whose words to answer."""
    PREFIXES: tuple[str, ...]
    """The paths it owns: what goes wrong below them, even where no route is, is answered by its `to_error`."""
    router: APIRouter

    def to_error(self, error: UpscaleError) -> Response:
        """The vendor's own form of an error: status and body."""


@dataclass(frozen=True)
class Webhook:
    """What one attempt to tell a caller about its job posts."""

    body: bytes | Path
    headers: dict[str, str]


@runtime_checkable
class Telling(Dialect, Protocol):
    """A dialect whose jobs may have a deliveries.WEBHOOK; it has these as well. See webhook.py."""

    WEBHOOK_PAUSES_S: tuple[float, ...]
    """Pause before each retry; there are as many retries."""
    WEBHOOK_TIMEOUT_S: float
    """For one attempt, all of it."""

    def to_webhook(self, job: Job, base_url: str, secret: bytes) -> Webhook | None:
        """For a job that has ended; called anew for each attempt. None: nothing is sent for this ending.

        `secret` is the server's own: callers verify with `secret.webhook_secret(secret, job.owner)`.
        """


# --- what endpoints depend on: name the caller first, so that nobody is read from before we know who it is ----------


def in_place(make: Callable[..., _Made]) -> Callable[..., Awaitable[_Made]]:
    """`make`, a class of dependencies, as one that costs nothing: FastAPI sends what is not `async` through its thread
    pool, which takes a tenth of a poll's time."""

    async def made(**parts: Any) -> _Made:
        return make(**parts)

    made.__signature__ = inspect.signature(make)  # type: ignore[attr-defined]  # what FastAPI reads
    return made


async def _service(connection: HTTPConnection) -> Service:
    service: Service = connection.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]


async def _gate(connection: HTTPConnection) -> Gate:
    gate: Gate = connection.app.state.gate
    return gate


GateDep = Annotated[Gate, Depends(_gate)]


async def _caller(connection: HTTPConnection, gate: GateDep) -> Caller:
    return await run_in_threadpool(gate.admit, connection.headers.get("authorization"))


CallerDep = Annotated[Caller, Depends(_caller)]


@dataclass(frozen=True)
class Call:
    """Who asks, of whom, with what; for endpoints that are `direct`."""

    request: Request
    caller: Caller
    service: Service

    @property
    def base_url(self) -> str:
        return self.service.config.public_base_url or _asked_url(self.request)

    @property
    def own_bases(self) -> tuple[str, ...]:
        return self.base_url, _asked_url(self.request)


async def whole_body(request: Request) -> bytes:
    """To put a large one together takes as long as to copy it: that is no work for the event loop."""
    pieces = [piece async for piece in request.stream()]
    return await (_joined(pieces) if sum(map(len, pieces)) < _LARGE_BYTES else run_in_threadpool(b"".join, pieces))


async def _joined(pieces: list[bytes]) -> bytes:
    return b"".join(pieces)


async def read_body(request: Request) -> bytes:
    """JSON, as far as can be told before it is parsed. Raises InvalidRequest, UnsupportedMedia."""
    body = await whole_body(request)
    check_json(request.headers, body)
    return body


async def entered(request: Request) -> Call:
    """For endpoints that read a body: before it is read, we know whose it is. Raises Unauthorized."""
    return await run_in_threadpool(_enter, request)


def _enter(request: Request) -> Call:
    state = request.app.state
    return Call(request, state.gate.admit(request.headers.get("authorization")), state.service)


def direct(answer: Callable[..., Response]) -> Callable[[Request], Awaitable[Response]]:
    """`answer(call, **path)` as an endpoint that costs little, for what is asked all the time: FastAPI's way to the
    same arguments takes two fifths of a poll. It runs in a thread, where the caller's key is looked at first."""

    @wraps(answer)
    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(_answered, answer, request)

    endpoint.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what FastAPI reads
        [inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Request)]
    )
    return endpoint


def _answered(answer: Callable[..., Response], request: Request) -> Response:
    return answer(_enter(request), **request.path_params)


async def _base_url(connection: HTTPConnection, service: ServiceDep) -> str:
    return service.config.public_base_url or _asked_url(connection)


BaseUrl = Annotated[str, Depends(_base_url)]
"""Start of every link we hand out, without a slash at its end."""


async def _own_bases(connection: HTTPConnection, base_url: BaseUrl) -> tuple[str, ...]:
    return base_url, _asked_url(connection)


OwnBases = Annotated[tuple[str, ...], Depends(_own_bases)]
"""Starts of links that lead back to us: the public one, and the one this caller uses."""


RawBody = Annotated[bytes, Depends(read_body)]
"""JSON, as far as can be told before it is parsed."""


async def _form(request: Request) -> AsyncIterator[FormData]:
    if media_type(request.headers) not in FORM_TYPES:
        body = await request.body()
        check_readable(body, FORM_REMEDY)
        if body and not looks_like_json(body):
            raise UnsupportedMedia(f"this address takes a form: {FORM_REMEDY}")
    async with request.form() as form:
        yield form


Form = Annotated[FormData, Depends(_form)]
"""Empty when no form was sent."""
FORM_REMEDY = "send it as the field `file` of a form (curl -F file=@NAME)"


def _asked_url(connection: HTTPConnection) -> str:
    """Scheme, host and prefix as the caller sees them, through a proxy that says so."""
    headers = connection.headers
    scheme = _first(headers.get("x-forwarded-proto")).lower() or connection.url.scheme
    prefix = _first(headers.get("x-forwarded-prefix")).rstrip("/")
    if not _PREFIX.fullmatch(prefix):
        prefix = ""
    for host in (_first(headers.get("x-forwarded-host")), headers.get("host", "")):
        if _HOST.fullmatch(host):
            return f"{'https' if scheme in ('https', 'wss') else 'http'}://{host.lower()}{prefix}"
    return f"http://{connection.url.netloc}{prefix}"


_HOST = re.compile(r"[\w.:\[\]-]{1,255}", re.ASCII)
_PREFIX = re.compile(r"(?:/[\w.~-]{1,64}){0,8}", re.ASCII)


def _first(value: str | None) -> str:
    return (value or "").partition(",")[0].strip()


# --- words shared by all --------------------------------------------------------------------------------------------


def file_url(base_url: str, key: str) -> str:
    return f"{base_url}/files/{key}"


def upload_url(base_url: str, key: str) -> str:
    return f"{base_url}/uploads/{key}"


def iso_time(seconds: float) -> str:
    """Unix seconds as `2023-04-01T12:34:56.789Z`."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


VENDOR_FORMATS: tuple[FormatName, ...] = ("jpeg", "png", "webp")
"""What every vendor of ours offers; our own API has more."""

_LARGE_BYTES = 1 << 20
_MOST_STRINGS, _LONGEST_GAP, _LONGEST_NAME = 4 * 20_000, 65536, 1000
MOST_JSON_PARTS = 20_000
"""Braces, brackets and commas of a body. A picture in base64 has none, however large; a body made of nothing else would
take 25 times its size in memory."""


def check_density(body: bytes | str) -> None:
    """Before a JSON body is parsed. Raises InvalidRequest."""
    left = MOST_JSON_PARTS
    for start in range(0, len(body), _LARGE_BYTES):  # in between, other threads have their turn
        for sign in "{[,":
            wanted = sign if isinstance(body, str) else sign.encode()
            left -= body.count(wanted, start, start + _LARGE_BYTES)  # type: ignore[arg-type]
        if left < 0:
            raise InvalidRequest("invalid request body")


def _read_large(text: str) -> Any:
    """The same as json.loads, but the long values are taken out first and read in pieces, between which other threads
    have their turn. Raises ValueError, InvalidRequest."""
    parts, long, last = list[str](), dict[str, str](), 0
    for start, end in _long_values(text):
        if text.find("\\", start, end) < 0:  # else it is left in: an escape must not be cut
            mark = uuid.uuid4().hex
            pieces = (text[place : min(end, place + _LARGE_BYTES)] for place in range(start, end, _LARGE_BYTES))
            long[mark] = "".join(json.loads(f'"{piece}"') for piece in pieces)
            parts += [text[last:start], mark]
            last = end
    return _filled(json.loads("".join((*parts, text[last:])), parse_constant=_no_constant), long)


def _filled(value: Any, long: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return long.get(value, value)
    if isinstance(value, list):
        return [_filled(each, long) for each in value]
    return {name: _filled(each, long) for name, each in value.items()} if isinstance(value, dict) else value


def _long_values(text: str) -> list[tuple[int, int]]:
    """Where they stand in a large body, without their quotes. What makes it large must be values: long names, blanks
    without end and strings full of quotes are nobody's picture. Raises InvalidRequest."""
    refused = InvalidRequest("invalid request body")
    found, place = list[tuple[int, int]](), 0
    for _ in range(_MOST_STRINGS):
        start = text.find('"', place)
        if (start if start >= 0 else len(text)) - place > _LONGEST_GAP:
            raise refused
        end = start
        while end >= 0:
            end = text.find('"', end + 1)
            before = text[max(start + 1, end - _LONGEST_NAME) : end]
            escapes = len(before) - len(before.rstrip("\\"))
            if escapes == _LONGEST_NAME:
                raise refused
            if escapes % 2 == 0:
                break
        if start < 0 or end < 0:
            return found  # what is wrong with it, the parser finds
        is_name = text[end + 1 : end + 1 + _LONGEST_GAP].lstrip()[:1] == ":"
        if is_name and end - start > _LONGEST_NAME:
            raise refused
        if end - start > _LONGEST_GAP:
            found.append((start + 1, end))
        place = end + 1
    raise refused


def read_json(body: bytes | str) -> Any:
    """Raises InvalidRequest."""
    check_density(body)
    try:
        text = body.removeprefix(BOM) if isinstance(body, str) else text_of(body)
        if len(text) > _LARGE_BYTES:
            return _read_large(text)
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("invalid request body") from error


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises InvalidRequest."""
    value = read_json(body)
    if not isinstance(value, dict):
        raise InvalidRequest("invalid request body")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Fields of such an object: null is as good as absent, and all raise InvalidField.


def read_number(body: Mapping[str, Any], name: str, default: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidField(f"{name} must be a number", field=name)
    try:
        return float(value)
    except OverflowError:
        return math.inf  # an integer of hundreds of digits; out of every range


def read_flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidField(f"{name} must be a boolean", field=name)
    return bool(value)


def read_whole(body: Mapping[str, Any], name: str, default: int, most: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidField(f"{name} must be a whole number between 1 and {most}", field=name)
    return value


def read_text(body: Mapping[str, Any], name: str) -> str:
    """A required field. Raises MissingField too, for an empty one."""
    value = body.get(name)
    if value is None or value == "":
        raise MissingField(f"{name} is required", field=name)
    if not isinstance(value, str):
        raise InvalidField(f"{name} must be a string", field=name)
    return value


def read_choice(body: Mapping[str, Any], name: str, allowed: tuple[_T, ...], default: _T | None = None) -> _T:
    """Without a default it is required: raises MissingField."""
    value = body.get(name)
    if value is None or (value == "" and default is None):
        if default is None:
            raise MissingField(f"{name} is required", field=name)
        return default
    for each in allowed:
        if value == each:
            return each
    raise InvalidField(f"{name} must be one of {', '.join(allowed)}", field=name)


def read_time(body: Mapping[str, Any], name: str) -> float | None:
    """Unix seconds of an ISO 8601 time, UTC unless it says otherwise."""
    value = body.get(name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", value))
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidField(f"{name} must be a time like 2023-04-01T12:34:56Z", field=name) from error
