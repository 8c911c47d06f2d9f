"""Novita: the image upscaler, the older upscaler, their results and webhooks, under `/v3`.

    POST /v3/async/image-upscaler       a picture's URL, data URI or base64, `resolution` and `output_format`
    POST /v3/async/upscale              the older API: a picture in base64 and a `scale_factor`, 1 < factor ≤ 4
    GET  /v3/async/task-result?task_id= the task; ids are UUIDs, with or without their dashes

Answers are those that the vendor's own Python client can read, which its documents' samples are not: no floats, always
`extra`, `nsfw_detection_result` null, no status but the four. Where the documents are silent:

* Unknown fields are ignored, and null is as good as absent; known ones of a wrong type or value are refused with 400.
* Whatever is wrong with the picture itself makes a task that fails, with its `reason`. So does a cancelled one.
* `image_url_ttl` is in how many seconds from now the picture will be removed: the setting `keep_s`, when it is new.
* `model_name` of the older API is one of the vendor's three. RealESRGAN_x4plus_anime_6B and RealESRNet_x4plus run if
  their weights are installed; otherwise, and for 4x-UltraSharp, which we don't have, the server's own choice does.
* The older API's `custom_storage` is refused, not dropped. `enterprise_plan` and the fields of NSFW detection mean
  nothing here: no detection runs, and the answers say so.
* Both take `extra.webhook`. It is told of every ending with the body of task-result, and retried five times after
  growing pauses. Test mode makes a task that has ended already: nothing is fetched or run, its picture is one black
  pixel in the format asked for, and it can be polled like any other. `return_task_status` is SUCCEED or FAILED.
* Reasons of errors that the vendor names nowhere are our own: NOT_FOUND, METHOD_NOT_ALLOWED, TOO_LARGE, INTERNAL, …

Uploads are not redirectable in the vendor's clients, which name their host in the code; there are none here.
"""

import json
import math
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import pyvips
from fastapi import APIRouter, Request, Response

from server.api.dialects.base import (
    VENDOR_FORMATS,
    Call,
    Webhook,
    direct,
    entered,
    file_url,
    read_body,
    read_choice,
    read_object,
    read_text,
)
from server.api.responses import json_response
from server.blobs.local import new_key
from server.db.deliveries import WEBHOOK
from server.errors import (
    Forbidden,
    InvalidField,
    InvalidRequest,
    JobFailed,
    MissingField,
    ModelNotFound,
    NotFound,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UpscaleError,
)
from server.job.formats import FORMATS
from server.job.job import Job, Params, Result, State, Target
from server.outbound.source import Source, parse_source
from server.outbound.ssrf import is_web_url, why_not
from server.service.service import Service
from server.weights.choice import REAL_ESRGAN

NAME = "novita"
PREFIXES: tuple[str, ...] = ("/v3",)

WEBHOOK_PAUSES_S: tuple[float, ...] = (1.0, 5.0, 25.0, 125.0, 625.0)
"""The vendor says how often it tries again, but not when."""
WEBHOOK_TIMEOUT_S = 5.0

UPSCALER, LEGACY = "IMAGE_UPSCALER", "UPSCALE"
"""Task types."""

MODELS = ("RealESRGAN_x4plus_anime_6B", "RealESRNet_x4plus", "4x-UltraSharp")
"""Of the older API."""
LEAST_FACTOR, MOST_FACTOR = 1, 4
"""Of it too; the least is excluded."""

_TARGETS: tuple[Target, ...] = get_args(Target)

STATUS = {
    State.QUEUED: "TASK_STATUS_QUEUED",
    State.RUNNING: "TASK_STATUS_PROCESSING",
    State.SUCCEEDED: "TASK_STATUS_SUCCEED",
    State.FAILED: "TASK_STATUS_FAILED",
    State.CANCELLED: "TASK_STATUS_FAILED",
}
MOCKS = {"TASK_STATUS_SUCCEED": State.SUCCEEDED, "TASK_STATUS_FAILED": State.FAILED}


class _TaskNotFound(NotFound):
    pass


_REASONS: tuple[tuple[type[UpscaleError], str], ...] = (
    (InvalidRequest, "INVALID_REQUEST_BODY"),
    (Unauthorized, "FAILED_TO_AUTH"),
    (Forbidden, "ACCESS_DENY"),
    (_TaskNotFound, "TASK_NOT_FOUND"),
    (TooManyRequests, "RATE_LIMIT_EXCEEDED"),
    (Unavailable, "SERVICE_NOT_AVAILABLE"),
)
"""The vendor's own, by our classes. Anything else is called by its code."""


# --- requests -------------------------------------------------------------------------------------------------------


def to_params(body: Mapping[str, Any]) -> Params:
    """What a body of image-upscaler asks for. Raises InvalidField."""
    return Params(
        target=read_choice(body, "resolution", _TARGETS, "4k"),
        format=read_choice(body, "output_format", VENDOR_FORMATS, "jpeg"),
    )


def to_legacy_params(body: Mapping[str, Any], installed: list[str]) -> Params:
    """What a body of the older API asks for, given the models that are here. Raises InvalidRequest."""
    request = _object(body, "request")
    model = read_text(request, "model_name")
    if model not in MODELS:
        raise InvalidField(f"model_name must be one of {', '.join(MODELS)}", field="model_name")
    factor = request.get("scale_factor")
    if factor is None:
        raise MissingField("scale_factor is required", field="scale_factor")
    if isinstance(factor, bool) or not isinstance(factor, int | float):
        raise InvalidField("scale_factor must be a number", field="scale_factor")
    if not LEAST_FACTOR < factor <= MOST_FACTOR:
        raise InvalidField(
            f"scale_factor must be more than {LEAST_FACTOR} and at most {MOST_FACTOR}", field="scale_factor"
        )
    extra = _object(body, "extra")
    if extra.get("custom_storage") is not None:
        raise InvalidField("extra.custom_storage is not supported", field="custom_storage")
    return Params(
        scale=float(factor),
        format=read_choice(extra, "response_image_type", VENDOR_FORMATS, "png"),
        model=model if model in installed else REAL_ESRGAN,
    )


@dataclass(frozen=True)
class Hook:
    """Whom to tell about the end."""

    url: str
    mock: State | None
    """The end that a task in test mode has."""


def to_hook(body: Mapping[str, Any]) -> Hook | None:
    """Raises InvalidRequest."""
    webhook = _object(_object(body, "extra"), "webhook")
    if not webhook:
        return None
    url = read_text(webhook, "url")
    if not is_web_url(url):
        raise InvalidField("extra.webhook.url must be an http(s) URL", field="url")
    test_mode = _object(webhook, "test_mode")
    enabled = test_mode.get("enabled")
    if not isinstance(enabled, bool | None):
        raise InvalidField("extra.webhook.test_mode.enabled must be a boolean", field="enabled")
    if not enabled:
        return Hook(url, None)
    status = read_text(test_mode, "return_task_status")
    if status not in MOCKS:
        raise InvalidField(f"return_task_status must be one of {', '.join(MOCKS)}", field="return_task_status")
    return Hook(url, MOCKS[status])


def _object(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if not isinstance(value, dict | None):
        raise InvalidField(f"{name} must be an object", field=name)
    return value or {}


# --- answers --------------------------------------------------------------------------------------------------------


def to_response(job: Job, base_url: str) -> dict[str, Any]:
    """The body of task-result."""
    percent, reason = 0, ""
    extra: dict[str, Any] = {"seed": str(job.params.seed or 0), "enable_nsfw_detection": False}
    images = []
    if job.state is State.RUNNING:
        percent = min(99, math.floor(job.progress * 100))
    elif job.state is State.CANCELLED:
        reason = "the task was cancelled"
    elif job.state is State.FAILED:
        reason = job.error_message or "the task failed"
    elif job.result is not None:
        percent = 100
        extra["debug_info"] = _debug_info(job)
        images.append(_image(job, job.result, base_url))
    task = {
        "task_id": _shown_id(job),
        "status": STATUS[job.state],
        "reason": reason,
        "task_type": job.request["task_type"],
        "eta": 0,
        "progress_percent": percent,
    }
    return {"extra": extra, "task": task, "images": images, "videos": [], "audios": []}


def _image(job: Job, result: Result, base_url: str) -> dict[str, Any]:
    assert job.keep_s is not None and job.finished_at is not None  # it was submitted here, and it has a result
    return {
        "image_url": file_url(base_url, result.key),
        "image_url_ttl": max(0, math.ceil(job.finished_at + job.keep_s - time.time())),
        "image_type": result.format,
        "nsfw_detection_result": None,
    }


def _debug_info(job: Job) -> dict[str, str]:
    moments = {
        "submit_time_ms": job.created_at,
        "execute_time_ms": job.started_at or job.created_at,
        "complete_time_ms": job.finished_at or job.created_at,
    }
    return {"request_info": ""} | {name: str(round(seconds * 1000)) for name, seconds in moments.items()}


def to_webhook(job: Job, base_url: str, secret: bytes) -> Webhook | None:
    """The vendor signs nothing. In its sample the ttl, a number when polled, is text."""
    payload = to_response(job, base_url)
    payload["extra"]["webhook"] = {"url": job.request["webhook"]}
    for image in payload["images"]:
        image["image_url_ttl"] = str(image["image_url_ttl"])
    event = {"event_type": "ASYNC_TASK_RESULT", "payload": payload}
    body = json.dumps(event, allow_nan=False, separators=(",", ":")).encode("ascii")
    return Webhook(body, {"Content-Type": "application/json"})


def to_error(error: UpscaleError) -> Response:
    reason = next((reason for cls, reason in _REASONS if isinstance(error, cls)), error.code.upper())
    status, message = error.status, error.message
    if isinstance(error, Unauthorized):
        message = "failed to authenticate API key"
    elif isinstance(error, ModelNotFound):
        # Nobody can ask for a network that is not here, so that one is missing is our fault and not the request's.
        status, reason = 503, "SERVICE_NOT_AVAILABLE"
    return json_response({"code": status, "reason": reason, "message": message, "metadata": {}}, status)


def _shown_id(job: Job) -> str:
    return str(uuid.UUID(job.id))


# --- endpoints ------------------------------------------------------------------------------------------------------

router = APIRouter(prefix="/v3/async")


@router.post("/image-upscaler")
async def submit(request: Request) -> Response:
    return await _in_turn(request, _read_submit)


@router.post("/upscale")
async def submit_legacy(request: Request) -> Response:
    return await _in_turn(request, _read_legacy)


async def _in_turn(request: Request, read: Callable[..., Response]) -> Response:
    call = await entered(request)
    owner, parts = call.caller.id, (call.service, call.base_url, call.own_bases, await read_body(request))
    return await call.service.reading.run(owner, read, owner, *parts)


def _read_submit(owner: str, service: Service, base_url: str, own_bases: tuple[str, ...], raw: bytes) -> Response:
    body = read_object(raw)
    source = parse_source(read_text(body, "image"), own_bases)
    return _submit(owner, service, base_url, UPSCALER, to_params(body), source, to_hook(body))


def _read_legacy(owner: str, service: Service, base_url: str, own_bases: tuple[str, ...], raw: bytes) -> Response:
    body = read_object(raw)
    image = read_text(_object(body, "request"), "image_base64")
    try:
        source = parse_source(image, own_bases)
    except InvalidField as error:
        raise InvalidField("image_base64 must be a picture in base64", field="image_base64") from error
    params = to_legacy_params(body, service.catalog.names())
    return _submit(owner, service, base_url, LEGACY, params, source, to_hook(body))


def _submit(
    owner: str, service: Service, base_url: str, task_type: str, params: Params, source: Source, hook: Hook | None
) -> Response:
    # The setting is written down with the job: what an answer has promised is kept, even if the setting changes.
    keep_s = service.config.keep_s
    reason = why_not(hook.url, service.config) if hook else None
    if reason:
        raise InvalidField(f"extra.webhook.url: {reason}", field="url")
    request = {"task_type": task_type} | ({"webhook": hook.url} if hook else {})
    deliver = {WEBHOOK: hook.url} if hook else {}
    if hook and hook.mock:
        ended = _mock(service, params, hook.mock)
        job = Job(dialect=NAME, owner=owner, params=params, request=request, keep_s=keep_s, **ended)
        service.keep(job, deliver, base_url)
    else:
        job = service.submit(
            dialect=NAME,
            owner=owner,
            params=params,
            source=source,
            request=request,
            keep_s=keep_s,
            deliver=deliver,
            base_url=base_url,
            strict=False,
        )
    return json_response({"task_id": _shown_id(job)})


def _mock(service: Service, params: Params, state: State) -> dict[str, Any]:
    """How a job ends that nobody works on."""
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
        job = call.service.get(task_id.replace("-", "").lower(), call.caller.id, NAME)
    except NotFound as error:
        raise _TaskNotFound("task not found") from error
    return json_response(to_response(job, call.base_url))
