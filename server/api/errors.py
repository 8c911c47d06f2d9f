"""Every error as an answer in the form of the address's dialect; no body of Starlette's or FastAPI's own is sent."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from server.api.dialects import dialect_of
from server.api.dialects.base import WithChallenge
from server.api.responses import json_response
from server.errors import InvalidField, InvalidRequest, MethodNotAllowed, NotFound, UpscaleError


def error_response(error: UpscaleError, path: str) -> Response:
    """`path`: the address of the request."""
    dialect = dialect_of(path)
    body, status = dialect.to_error(error)
    headers = error.headers
    if status == 401:
        headers |= {"WWW-Authenticate": dialect.CHALLENGE if isinstance(dialect, WithChallenge) else "Bearer"}
    return json_response(body, status, headers)


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UpscaleError)
    return error_response(error, request.scope["path"])


async def on_http_error(request: Request, error: Exception) -> Response:
    """What routing raises: an unknown path, an unknown method, a form that can't be parsed."""
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
    """A query or path parameter that does not fit an endpoint's signature."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = str(first["loc"][-1])
    return await _on_error(request, InvalidField(f"{field}: {first['msg']}", field=field))


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    UpscaleError: _on_error,
    HTTPException: on_http_error,
    RequestValidationError: _on_invalid,
}
