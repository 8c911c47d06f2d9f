"""Runware over WebSockets, on `/v1` and `/`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from starlette.concurrency import run_in_threadpool

from server.api.auth import Caller
from server.api.dialects.runware.sessions import Session, allow_large_messages, next_frame, send_text
from server.api.dialects.runware.tasks import (
    PONG,
    UNAUTHENTICATED_BYTES,
    Answer,
    TaskContext,
    context_of,
    do_task,
    is_authentication,
    owner_of,
    read_tasks,
    refused,
)
from server.api.dialects.runware.translate import MAX_TASKS, NO_KEY, KeyMissing
from server.errors import TooManyRequests, Unauthorized, UpscaleError

IDLE_S = 120.0
"""A socket without frames and without running tasks is closed after this time."""

router = APIRouter()


@router.websocket("/v1")
@router.websocket("/")
async def converse(socket: WebSocket) -> None:
    """Each answer is sent in a frame of its own as soon as its task is done, whatever the order of the tasks."""
    context = context_of(socket)
    await socket.accept()
    session: Session | None = None
    try:
        while (frame := await next_frame(socket, session, IDLE_S)) is not None:
            try:
                found = await _read_frame(context, frame, session)
            except UpscaleError as error:
                await send_text(socket, refused(error, None, None).frame())
                continue
            for task in found:
                if is_authentication(task):
                    session = await _join(context, socket, session, task)
                elif isinstance(task, dict) and task.get("taskType") == "ping":
                    await send_text(socket, PONG.frame())
                elif session is None:
                    await send_text(socket, refused(KeyMissing(NO_KEY), None, None).frame())
                else:
                    session.begin(_do(context, session, task))
            del frame, found, task  # they may be large, and the next frame may take long
    except WebSocketDisconnect:
        pass
    finally:
        if session is not None:
            session.leave(socket)


async def _read_frame(context: TaskContext, frame: str, session: Session | None) -> list[Any]:
    if session is None and len(frame) > UNAUTHENTICATED_BYTES:
        raise KeyMissing(NO_KEY)
    if session is None or len(frame) <= UNAUTHENTICATED_BYTES:
        return await run_in_threadpool(read_tasks, frame)
    return await context.service.reading.run(session.owner, read_tasks, frame)


async def _join(
    context: TaskContext, socket: WebSocket, session: Session | None, task: dict[str, Any]
) -> Session | None:
    """The session that this authentication opens or continues; the former one if the key is wrong."""
    try:
        owner = await run_in_threadpool(owner_of, task, context.auth)
    except Unauthorized as error:
        await send_text(socket, refused(error, None, None).frame())
        return session
    if session is not None:
        session.leave(socket)
    allow_large_messages(socket)
    session = context.shared.sessions.open(owner, task.get("connectionSessionUUID") or (session and session.id))
    answer = Answer({"taskType": "authentication", "connectionSessionUUID": session.id})
    await send_text(socket, answer.frame())
    await session.join(socket)
    return session


async def _do(context: TaskContext, session: Session, task: Any) -> None:
    try:
        if session.running > MAX_TASKS:
            raise TooManyRequests(f"At most {MAX_TASKS} tasks are done at a time; wait for some to end.")
        # A session outlives the request that opened it, and its key may have been revoked since.
        await run_in_threadpool(context.auth.check, Caller(session.owner))
    except UpscaleError as error:
        kind, task_uuid = (task.get("taskType"), task.get("taskUUID")) if isinstance(task, dict) else (None, None)
        answer = refused(error, kind, task_uuid)
    else:
        answer = await do_task(context, session.owner, task)
    await session.send(partial(_sending, context, answer))


@asynccontextmanager
async def _sending(context: TaskContext, answer: Answer) -> AsyncIterator[str]:
    """The answer's frame, while it is sent. One with a picture is in memory several times: only a few at a time."""
    async with context.shared.large_frames if answer.large else nullcontext():
        yield await run_in_threadpool(answer.frame)
