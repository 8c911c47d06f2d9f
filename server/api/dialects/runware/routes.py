"""Runware over REST: `POST /v1`."""

import asyncio
import json
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from server.api.auth import Auth, Caller
from server.api.bodies import check_json, text_of
from server.api.dialects.depends import joined, takes_request, whole_body
from server.api.dialects.runware import sockets
from server.api.dialects.runware.tasks import (
    UNAUTHENTICATED_BYTES,
    Answer,
    context_of,
    do_task,
    is_authentication,
    owner_of,
    read_tasks,
)
from server.api.responses import json_response
from server.errors import InvalidRequest

_SMALL_BYTES = 2048

router = APIRouter()
router.include_router(sockets.router)


async def _read(request: Request, auth: Auth) -> tuple[str, bytes]:
    """The caller, by the header or else by the first task; and the body. Only its start is read before the caller is
    known. Raises Unauthorized."""
    caller = await run_in_threadpool(_by_header, auth, request.headers.get("authorization"))
    if caller is not None:
        return caller.id, await whole_body(request)
    pieces, size = list[bytes](), 0
    stream = request.stream()
    async for piece in stream:
        pieces.append(piece)
        size += len(piece)
        if size >= UNAUTHENTICATED_BYTES:
            break
    owner = await run_in_threadpool(owner_of, _first_task(b"".join(pieces)[:UNAUTHENTICATED_BYTES]), auth)
    pieces += [piece async for piece in stream]
    return owner, await joined(pieces)


def _by_header(auth: Auth, header: str | None) -> Caller | None:
    """None: it is the first task that says who it is. Raises Unauthorized."""
    return auth.authenticate(header) if header or auth.is_open() else None


def _first_task(start: bytes) -> dict[str, Any]:
    """The authentication task at the start of a body, or an empty one."""
    try:
        task, _ = json.JSONDecoder().raw_decode(text_of(start, "ignore").lstrip(" \t\r\n["))
    except (ValueError, RecursionError):
        return {}
    return task if is_authentication(task) else {}


@router.post("/v1")
@takes_request
async def tasks(request: Request) -> Response:
    context = context_of(request)
    owner, body = await _read(request, context.auth)
    check_json(request.headers, body)
    if len(body) <= _SMALL_BYTES:  # a poll: reading it takes less than to have a thread do it
        found = read_tasks(body)
    elif len(body) <= UNAUTHENTICATED_BYTES:  # no large picture: polls must not wait for large bodies
        found = await run_in_threadpool(read_tasks, body)
    else:
        found = await context.service.reading.run(owner, read_tasks, body)
    del body  # it may be large, and the answers may take long
    if is_authentication(found[0]):
        found.pop(0)
    if not found:
        raise InvalidRequest("There is no task besides the authentication.")
    if len(found) == 1:
        answers = [await do_task(context, owner, found[0])]
    else:
        answers = await asyncio.gather(*[do_task(context, owner, task) for task in found])
    if sum(each.results for each in answers) > 1 or any(each.large for each in answers):
        return await run_in_threadpool(_response, answers)
    return _response(answers)


def _response(answers: list[Answer]) -> Response:
    data = [item for each in answers if each.status == 200 for item in each.items()]
    errors = [each.item for each in answers if each.status != 200]
    # NOTE: newer clients treat any key `errors` as a failure, even if it is empty.
    body = ({"data": data} if data else {}) | ({"errors": errors} if errors else {})
    status = 200 if data else max(each.status for each in answers)
    pause_s = 0 if data else max(each.retry_after_s for each in answers)
    pause = {"Retry-After": str(pause_s)} if status in (429, 503) and pause_s else {}
    return json_response(body, status, pause)
