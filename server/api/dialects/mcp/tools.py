"""The tools, in the terms of the `mcp` package: its one place in the API half."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import structlog
from anyio import to_thread
from mcp import types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError

from server import __version__
from server.api.dialects.depends import Call
from server.api.dialects.fields import file_url
from server.api.dialects.mcp.translate import (
    MAX_BODY_BYTES,
    MAX_INLINE_BYTES,
    MAX_SESSIONS,
    NAME,
    SHOWN,
    TOOLS,
    Asked,
    Planned,
    Upscale,
    advice,
    image_of,
    problem,
    read_arguments,
    said_of,
    size_of,
    to_job,
    to_model,
    to_params,
    to_plan,
)
from server.api.inline import Inline
from server.errors import Conflict, InvalidField, NotFound, UpscaleError
from server.errors.transient import transient_error
from server.images.read.open import Header
from server.job.formats import FORMATS
from server.job.job import Job, Params
from server.outbound.source import parse_source

log = structlog.get_logger()

_POLL_S = 0.5
INSTRUCTIONS = (
    "Enlarges pictures on this machine. upscale takes an http(s) URL, a data URI or base64, and answers with a link. "
    "If a job takes longer than wait_s, ask for it with jobs."
)

Context = ServerRequestContext[Any, Any]


def new_manager() -> StreamableHTTPSessionManager:
    """Of one owner's sessions. Who calls, and from where, was checked before: see routes.py."""
    return StreamableHTTPSessionManager(_SERVER, max_request_body_size=MAX_BODY_BYTES, max_sessions=MAX_SESSIONS)


# --- the tools ------------------------------------------------------------------------------------------------------


async def _upscale(context: Context, call: Call, wanted: Upscale) -> types.CallToolResult:
    params = to_params(wanted)
    job = await call.service.reading.run(call.caller.id, _submit, call, params, wanted)
    try:
        job = await _waited(context, call, job, wanted.wait_s)
    except asyncio.CancelledError:
        if not call.service.closing:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(_stop, call, job)
        raise
    shown = await to_thread.run_sync(_shown, call, job)
    return await to_thread.run_sync(_with_picture, call, job, shown)


def _shown(call: Call, job: Job) -> dict[str, Any]:
    return to_job(job, call.base_url, call.service.eta(job))


def _submit(call: Call, params: Params, wanted: Upscale) -> Job:
    source = parse_source(image_of(wanted), call.own_bases)
    return call.service.submit(dialect=NAME, owner=call.caller.id, params=params, source=source, base_url=call.base_url)


def _stop(call: Call, job: Job) -> None:
    with suppress(Conflict, NotFound):  # it has just ended
        call.service.cancel(job.id, call.caller.id)


async def _waited(context: Context, call: Call, job: Job, wait_s: float) -> Job:
    """The job at its end, after `wait_s`, or when the server stops; its progress is reported meanwhile."""
    deadline = time.monotonic() + min(wait_s, call.service.config.sync_wait_s)
    reported = -1.0
    while True:
        if job.progress > reported:  # the protocol wants it to increase
            message = said_of(job, await to_thread.run_sync(call.service.eta, job))
            await context.session.report_progress(job.progress, 1.0, message)
            reported = job.progress
        left = deadline - time.monotonic()
        if job.state.final or left <= 0 or call.service.closing:
            return job
        job = await call.service.wait(job.id, call.caller.id, min(left, _POLL_S))


async def _plan(_: Context, call: Call, wanted: Planned) -> types.CallToolResult:
    service, owner = call.service, call.caller.id
    params, size = to_params(wanted), size_of(wanted)
    found: Header | tuple[int, int]
    if size is None:
        source = await service.reading.run(owner, parse_source, image_of(wanted), call.own_bases)
        found = await service.look(owner, source)
    else:
        found = size
    return await to_thread.run_sync(_planned, call, params, found)


def _planned(call: Call, params: Params, source: Header | tuple[int, int]) -> types.CallToolResult:
    made = call.service.plan(params, source)
    return _answer(to_plan(made, call.service.estimate(made, params)))


async def _jobs(context: Context, call: Call, asked: Asked) -> types.CallToolResult:
    service, owner = call.service, call.caller.id
    if asked.id is None:
        if asked.cancel:
            raise InvalidField("to cancel a job, give its id", field="id")
        return await to_thread.run_sync(_listed, call, asked)
    find = service.cancel if asked.cancel else service.get
    job = await _waited(context, call, await to_thread.run_sync(find, asked.id, owner), asked.wait_s)
    return await to_thread.run_sync(
        _with_picture, call, job, {"jobs": [to_job(job, call.base_url, call.service.eta(job))], "total": 1}
    )


def _listed(call: Call, asked: Asked) -> types.CallToolResult:
    states = [asked.state] if asked.state else []
    found, total = call.service.list(call.caller.id, states=states, limit=asked.limit)
    return _answer({"jobs": [_shown(call, job) for job in found], "total": total})


async def _models(_: Context, call: Call, __: Any) -> types.CallToolResult:
    return await to_thread.run_sync(_listed_models, call)


def _listed_models(call: Call) -> types.CallToolResult:
    catalog, reason = call.service.catalog, call.service.why_no_faces()
    found = [to_model(catalog.get(name)) for name in catalog.names()]
    return _answer({"models": found, "faces": {"available": reason is None, "reason": reason}})


_RUN: dict[str, Callable[[Context, Call, Any], Awaitable[types.CallToolResult]]] = {
    "upscale": _upscale,
    "plan": _plan,
    "jobs": _jobs,
    "models": _models,
}


# --- answers --------------------------------------------------------------------------------------------------------


def _answer(body: Any, *more: types.ContentBlock, failed: bool = False) -> types.CallToolResult:
    """The body twice, as the protocol wants it: as data, and as text for clients that take no data."""
    text = types.TextContent(text=json.dumps(body))
    return types.CallToolResult(content=[text, *more], structured_content=body, is_error=failed)


def _with_picture(call: Call, job: Job, body: Any) -> types.CallToolResult:
    why = problem(job)
    if why is not None:
        return _answer(body, types.TextContent(text=why), failed=True)
    hint = advice(job, call.service.closing)
    if hint is not None:
        return _answer(body, types.TextContent(text=hint))
    result = job.result
    assert result is not None  # it has succeeded
    try:
        blob = call.service.result(job)
        form = FORMATS[result.format]
        link = types.ResourceLink(
            name=f"{job.id}{form.suffix}",
            uri=file_url(call.base_url, result.key),
            mime_type=form.mime,
            size=result.size_bytes,
        )
        shown: list[types.ContentBlock] = [link]
        if form.mime in SHOWN and result.size_bytes <= MAX_INLINE_BYTES:
            shown.append(types.ImageContent(data=Inline(blob).text(), mime_type=form.mime))
    except NotFound as error:  # it has expired
        return _answer(body, types.TextContent(text=error.message))
    return _answer(body, *shown)


# --- the server of the package --------------------------------------------------------------------------------------


def list_tools() -> list[types.Tool]:
    return [
        types.Tool(
            name=name,
            title=each.title,
            description=each.description,
            input_schema=each.schema,
            output_schema=each.answer,
            annotations=types.ToolAnnotations(read_only_hint=each.reads_only, destructive_hint=False),
        )
        for name, each in TOOLS.items()
    ]


async def _on_list(_: Context, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(tools=list_tools())


async def _on_call(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    described = TOOLS.get(params.name)
    if described is None:
        raise MCPError(types.INVALID_PARAMS, f"there is no tool of that name; there are {', '.join(TOOLS)}")
    assert context.request is not None
    call: Call = context.request.state.call
    try:
        return await _RUN[params.name](context, call, read_arguments(described.arguments, params.arguments))
    except UpscaleError as error:
        ours = error
    except Exception as error:
        transient = transient_error(error)
        if transient is None:
            log.exception("tool broke", tool=params.name)
        else:
            log.error("disk or database failed", tool=params.name, reason=str(error))
        ours = transient or UpscaleError("something went wrong inside the server")
    return types.CallToolResult(content=[types.TextContent(text=ours.message)], is_error=True)


_SERVER: Server[Any] = Server(
    "upscale-server",
    version=__version__,
    title="upscale-server",
    instructions=INSTRUCTIONS,
    on_list_tools=_on_list,
    on_call_tool=_on_call,
    get_tool_input_schema=lambda name: TOOLS[name].schema if name in TOOLS else None,
)
