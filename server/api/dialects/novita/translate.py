"""Novita requests → Params, jobs → the vendor's bodies. Pure."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.api.dialects.base import Webhook
from server.api.dialects.fields import TARGETS, VENDOR_FORMATS, dashed, file_url, read_choice, read_text
from server.api.inline import to_json
from server.errors import (
    Forbidden,
    InvalidField,
    InvalidRequest,
    MissingField,
    ModelNotFound,
    NotFound,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UpscaleError,
)
from server.job.job import Job, Params, Result, State
from server.outbound.ssrf import is_web_url
from server.weights.choice import REAL_ESRGAN

NAME = "novita"
PREFIXES: tuple[str, ...] = ("/v3",)

UPSCALER, LEGACY = "IMAGE_UPSCALER", "UPSCALE"
"""Task types."""

MODELS = ("RealESRGAN_x4plus_anime_6B", "RealESRNet_x4plus", "4x-UltraSharp")
"""Model names of the older API."""
MIN_FACTOR, MAX_FACTOR = 1, 4
"""Bounds of the older API's factor; the lower one is excluded."""

STATUS = {
    State.QUEUED: "TASK_STATUS_QUEUED",
    State.RUNNING: "TASK_STATUS_PROCESSING",
    State.SUCCEEDED: "TASK_STATUS_SUCCEED",
    State.FAILED: "TASK_STATUS_FAILED",
    State.CANCELLED: "TASK_STATUS_FAILED",
}
MOCKS = {"TASK_STATUS_SUCCEED": State.SUCCEEDED, "TASK_STATUS_FAILED": State.FAILED}


class TaskNotFound(NotFound):
    pass


_REASONS: tuple[tuple[type[UpscaleError], str], ...] = (
    (InvalidRequest, "INVALID_REQUEST_BODY"),
    (Unauthorized, "FAILED_TO_AUTH"),
    (Forbidden, "ACCESS_DENY"),
    (TaskNotFound, "TASK_NOT_FOUND"),
    (TooManyRequests, "RATE_LIMIT_EXCEEDED"),
    (Unavailable, "SERVICE_NOT_AVAILABLE"),
)
"""The vendor's names by our error classes. All others are named by their code."""


# --- requests -------------------------------------------------------------------------------------------------------


def to_params(body: Mapping[str, Any]) -> Params:
    """What a body of image-upscaler asks for. Raises InvalidField."""
    return Params(
        target=read_choice(body, "resolution", TARGETS, "4k"),
        format=read_choice(body, "output_format", VENDOR_FORMATS, "jpeg"),
    )


def to_legacy_params(body: Mapping[str, Any], installed: list[str]) -> Params:
    """What a body of the older API asks for, given the installed models. Raises InvalidRequest."""
    request = read_object_field(body, "request")
    model = read_text(request, "model_name")
    if model not in MODELS:
        raise InvalidField(f"model_name must be one of {', '.join(MODELS)}", field="model_name")
    factor = request.get("scale_factor")
    if factor is None:
        raise MissingField("scale_factor is required", field="scale_factor")
    if isinstance(factor, bool) or not isinstance(factor, int | float):
        raise InvalidField("scale_factor must be a number", field="scale_factor")
    if not MIN_FACTOR < factor <= MAX_FACTOR:
        raise InvalidField(
            f"scale_factor must be more than {MIN_FACTOR} and at most {MAX_FACTOR}", field="scale_factor"
        )
    extra = read_object_field(body, "extra")
    if extra.get("custom_storage") is not None:
        raise InvalidField("extra.custom_storage is not supported", field="custom_storage")
    return Params(
        scale=float(factor),
        format=read_choice(extra, "response_image_type", VENDOR_FORMATS, "png"),
        model=model if model in installed else REAL_ESRGAN,
    )


@dataclass(frozen=True)
class Hook:
    """Where to report a task's end."""

    url: str
    mock: State | None
    """How a task in test mode ends; None outside test mode."""


def to_hook(body: Mapping[str, Any]) -> Hook | None:
    """Raises InvalidRequest."""
    webhook = read_object_field(read_object_field(body, "extra"), "webhook")
    if not webhook:
        return None
    url = read_text(webhook, "url")
    if not is_web_url(url):
        raise InvalidField("extra.webhook.url must be an http(s) URL", field="url")
    test_mode = read_object_field(webhook, "test_mode")
    enabled = test_mode.get("enabled")
    if not isinstance(enabled, bool | None):
        raise InvalidField("extra.webhook.test_mode.enabled must be a boolean", field="enabled")
    if not enabled:
        return Hook(url, None)
    status = read_text(test_mode, "return_task_status")
    if status not in MOCKS:
        raise InvalidField(f"return_task_status must be one of {', '.join(MOCKS)}", field="return_task_status")
    return Hook(url, MOCKS[status])


def read_object_field(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if not isinstance(value, dict | None):
        raise InvalidField(f"{name} must be an object", field=name)
    return value or {}


# --- answers --------------------------------------------------------------------------------------------------------


def to_response(job: Job, base_url: str, eta_s: float = 0.0) -> dict[str, Any]:
    """The body of task-result. `eta_s`: until its end; 0: it has ended, or that is not known."""
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
        "task_id": dashed(job.id),
        "status": STATUS[job.state],
        "reason": reason,
        "task_type": job.request["task_type"],
        "eta": math.ceil(eta_s),
        "progress_percent": percent,
    }
    return {"extra": extra, "task": task, "images": images, "videos": [], "audios": []}


def _image(job: Job, result: Result, base_url: str) -> dict[str, Any]:
    assert job.keep_s is not None and job.finished_at is not None  # it came through this dialect and has a result
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
    """The vendor does not sign webhooks. In its sample the ttl is a string; in polls it is a number."""
    payload = to_response(job, base_url)
    payload["extra"]["webhook"] = {"url": job.request["webhook"]}
    for image in payload["images"]:
        image["image_url_ttl"] = str(image["image_url_ttl"])
    event = {"event_type": "ASYNC_TASK_RESULT", "payload": payload}
    return Webhook(to_json(event), {"Content-Type": "application/json"})


def to_error(error: UpscaleError) -> tuple[dict[str, Any], int]:
    reason = next((reason for cls, reason in _REASONS if isinstance(error, cls)), error.code.upper())
    status, message = error.status, error.message
    if isinstance(error, Unauthorized):
        message = "failed to authenticate API key"
    elif isinstance(error, ModelNotFound):
        # Callers cannot choose a network that is not installed, so a missing one is the server's fault.
        status, reason = 503, "SERVICE_NOT_AVAILABLE"
    return {"code": status, "reason": reason, "message": message, "metadata": {}}, status
