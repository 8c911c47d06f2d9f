"""Novita's endpoints."""

import time
from collections.abc import Callable
from typing import Any

import pyvips
from fastapi import APIRouter, Request, Response

from server.api.dialects.depends import Call, authenticated, direct, read_body, takes_request
from server.api.dialects.fields import dashed, read_object, read_text, undashed
from server.api.dialects.novita.translate import (
    LEGACY,
    NAME,
    UPSCALER,
    Hook,
    TaskNotFound,
    read_object_field,
    to_hook,
    to_legacy_params,
    to_params,
    to_response,
)
from server.api.responses import json_response
from server.blobs.base import new_key
from server.db.deliveries import WEBHOOK
from server.errors import InvalidField, JobFailed, MissingField, NotFound
from server.job.formats import FORMATS
from server.job.job import Job, Params, Result, State
from server.outbound.source import Source, parse_source
from server.outbound.ssrf import why_not
from server.service.service import Service

router = APIRouter(prefix="/v3/async")


@router.post("/image-upscaler")
@takes_request
async def submit(request: Request) -> Response:
    return await _in_turn(request, _read_submit)


@router.post("/upscale")
@takes_request
async def submit_legacy(request: Request) -> Response:
    return await _in_turn(request, _read_legacy)


async def _in_turn(request: Request, read: Callable[[Call, bytes], Response]) -> Response:
    call = await authenticated(request)
    return await call.service.reading.run(call.caller.id, read, call, await read_body(request))


def _read_submit(call: Call, raw: bytes) -> Response:
    body = read_object(raw)
    source = parse_source(read_text(body, "image"), call.own_bases)
    return _submit(call, UPSCALER, to_params(body), source, to_hook(body))


def _read_legacy(call: Call, raw: bytes) -> Response:
    body = read_object(raw)
    image = read_text(read_object_field(body, "request"), "image_base64")
    try:
        source = parse_source(image, call.own_bases)
    except InvalidField as error:
        raise InvalidField("image_base64 must be a picture in base64", field="image_base64") from error
    params = to_legacy_params(body, call.service.catalog.names())
    return _submit(call, LEGACY, params, source, to_hook(body))


def _submit(call: Call, task_type: str, params: Params, source: Source, hook: Hook | None) -> Response:
    service, owner = call.service, call.caller.id
    # The setting is stored with the job: what an answer has promised holds even if the setting changes.
    keep_s = service.config.keep_s
    reason = why_not(hook.url, service.config) if hook else None
    if reason:
        raise InvalidField(f"extra.webhook.url: {reason}", field="url")
    request = {"task_type": task_type} | ({"webhook": hook.url} if hook else {})
    deliver = {WEBHOOK: hook.url} if hook else {}
    if hook and hook.mock:
        ended = _mock(service, params, hook.mock)
        job = Job(dialect=NAME, owner=owner, params=params, request=request, keep_s=keep_s, **ended)
        service.store(job, deliver, call.base_url)
    else:
        job = service.submit(
            dialect=NAME,
            owner=owner,
            params=params,
            source=source,
            request=request,
            keep_s=keep_s,
            deliver=deliver,
            base_url=call.base_url,
            strict=False,
        )
    return json_response({"task_id": dashed(job.id)})


def _mock(service: Service, params: Params, state: State) -> dict[str, Any]:
    """The end of a job that no worker runs."""
    now = time.time()
    ended = {"state": state, "created_at": now, "started_at": now, "finished_at": now}
    if state is State.FAILED:
        return ended | {"error_code": JobFailed.code, "error_message": "test mode: this task was asked to fail"}
    suffix = FORMATS[params.format].suffix
    key, data = new_key(suffix), pyvips.Image.black(1, 1).write_to_buffer(suffix)
    service.blobs.put(key, data)
    result = Result(
        key=key, width=1, height=1, size_bytes=len(data), format=params.format, model="none", model_sha256=None
    )
    return ended | {"progress": 1.0, "result": result}


@router.get("/task-result")
@direct
def result(call: Call) -> Response:
    task_id = call.request.query_params.get("task_id")
    if not task_id:
        raise MissingField("task_id is required", field="task_id")
    try:
        job = call.service.get(undashed(task_id), call.caller.id, NAME)
    except NotFound as error:
        raise TaskNotFound("task not found") from error
    eta = call.service.eta(job)
    return json_response(to_response(job, call.base_url, eta.seconds if eta else 0.0))
