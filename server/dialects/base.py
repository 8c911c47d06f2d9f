"""What a dialect is, and what its endpoints are given.

A dialect is one HTTP API that we speak, as a module of this folder: translation only. Its vendor's words stay in it;
work is done by `service`, and what goes wrong is raised as one of `errors` and written down by `to_error`.
"""

import inspect
import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol, TypeVar, runtime_checkable

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import HTTPConnection

from server.auth import Caller, Gate
from server.bodies import BOM, FORM_TYPES, check_json, check_readable, looks_like_json, media_type, text_of
from server.errors import InvalidField, InvalidRequest, MissingField, UnsupportedMedia, UpscaleError
from server.formats import FormatName
from server.job import Job
from server.service import Service

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


async def _base_url(connection: HTTPConnection, service: ServiceDep) -> str:
    return service.config.public_base_url or _asked_url(connection)


BaseUrl = Annotated[str, Depends(_base_url)]
"""Start of every link we hand out, without a slash at its end."""


async def _own_bases(connection: HTTPConnection, base_url: BaseUrl) -> tuple[str, ...]:
    return base_url, _asked_url(connection)


OwnBases = Annotated[tuple[str, ...], Depends(_own_bases)]
"""Starts of links that lead back to us: the public one, and the one this caller uses."""


async def _body(request: Request) -> bytes:
    body = await request.body()
    check_json(request.headers, body)
    return body


RawBody = Annotated[bytes, Depends(_body)]
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

MOST_JSON_PARTS = 20_000
"""Braces, brackets and commas of a body. A picture in base64 has none, however large; a body made of nothing else would
take 25 times its size in memory."""


def check_density(body: bytes | str) -> None:
    """Before a JSON body is parsed. Raises InvalidRequest."""
    parts = sum(map(body.count, "{[," if isinstance(body, str) else (b"{", b"[", b",")))  # type: ignore[arg-type]
    if parts > MOST_JSON_PARTS:
        raise InvalidRequest("invalid request body")


def read_json(body: bytes | str) -> Any:
    """Raises InvalidRequest."""
    check_density(body)
    try:
        text = body.removeprefix(BOM) if isinstance(body, str) else text_of(body)
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
