"""Runware over REST: `POST /v1`."""

import asyncio
import json
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from server.api.auth import Auth
from server.api.bodies import check_json, text_of
from server.api.dialects.depends import whole_body
from server.api.dialects.runware import sockets
from server.api.dialects.runware.tasks import (
    UNAUTHENTICATED_BYTES,
    Answer,
    TaskContextDep,
    do_task,
    is_authentication,
    owner_of,
    read_tasks,
)
from server.api.responses import json_response
from server.errors import InvalidRequest

router = APIRouter()
router.include_router(sockets.router)


async def _read(request: Request, auth: Auth) -> tuple[str, bytes]:
    """The caller, by the header or else by the first task; and the body. Only its start is read before the caller is
    known. Raises Unauthorized."""
    header = request.headers.get("authorization")
    is_open = await run_in_threadpool(auth.is_open)
    if header or is_open:
        caller = await run_in_threadpool(auth.authenticate, header)
        return caller.id, await whole_body(request)
    body = bytearray()
    chunks = request.stream()
    async for chunk in chunks:
        body += chunk
        if len(body) >= UNAUTHENTICATED_BYTES:
            break
    owner = await run_in_threadpool(owner_of, _first_task(bytes(body[:UNAUTHENTICATED_BYTES])), auth)
    async for chunk in chunks:
        body += chunk
    return owner, bytes(body)


def _first_task(start: bytes) -> dict[str, Any]:
    """The authentication task at the start of a body, or an empty one."""
    try:
        task, _ = json.JSONDecoder().raw_decode(text_of(start, "ignore").lstrip(" \t\r\n["))
    except (ValueError, RecursionError):
        return {}
    return task if is_authentication(task) else {}


@router.post("/v1")
async def tasks(context: TaskContextDep, request: Request) -> Response:
    owner, body = await _read(request, context.auth)
    check_json(request.headers, body)
    if len(body) <= UNAUTHENTICATED_BYTES:  # no large picture: polls must not wait for large bodies
        found = await run_in_threadpool(read_tasks, body)
    else:
        found = await context.service.reading.run(owner, read_tasks, body)
    del body  # it may be large, and the answers may take long
    if is_authentication(found[0]):
        found.pop(0)
    if not found:
        raise InvalidRequest("There is no task besides the authentication.")
    answers = await asyncio.gather(*[do_task(context, owner, task) for task in found])
    return await run_in_threadpool(_response, answers)


def _response(answers: list[Answer]) -> Response:
    data = [item for each in answers if each.status == 200 for item in each.items()]
    errors = [each.item for each in answers if each.status != 200]
    # NOTE: newer clients treat any key `errors` as a failure, even if it is empty.
    body = ({"data": data} if data else {}) | ({"errors": errors} if errors else {})
    status = 200 if data else max(each.status for each in answers)
    pause_s = 0 if data else max(each.retry_after_s for each in answers)
    pause = {"Retry-After": str(pause_s)} if status in (429, 503) and pause_s else {}
    return json_response(body, status, pause)
