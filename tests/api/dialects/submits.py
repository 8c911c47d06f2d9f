"""How each dialect is asked for a job that is queued, and what it says when it refuses: one line for a new dialect.

The web UI is not here, because its calls return only at a job's end; nor is MCP, whose refusals are results of tools.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any


@dataclass(frozen=True)
class Submit:
    path: str
    body: Callable[[str], Any]
    """Of the request, by its picture; with new ids at each call."""
    error: Callable[[int, str, Any], dict[str, Any]]
    """Body of a refusal, by its status (429 or 503), its message, and the body of the request."""


def _task(image: str) -> list[dict[str, Any]]:
    task = {"taskType": "imageUpscale", "taskUUID": str(uuid.uuid4()), "inputImage": image, "upscaleFactor": 2}
    return [task | {"deliveryMethod": "async"}]


def _runware(status: int, message: str, body: Any) -> dict[str, Any]:
    code = {429: "rateLimitExceeded", 503: "serviceUnavailable"}[status]
    named = {"taskType": "imageUpscale", "taskUUID": body[0]["taskUUID"]}
    return {"errors": [{"code": code, "message": message, **named}]}


def _novita(status: int, message: str, _: Any) -> dict[str, Any]:
    reason = {429: "RATE_LIMIT_EXCEEDED", 503: "SERVICE_NOT_AVAILABLE"}[status]
    return {"code": status, "reason": reason, "message": message, "metadata": {}}


def _native(status: int, message: str, _: Any) -> dict[str, Any]:
    code = {429: "too_many_requests", 503: "unavailable"}[status]
    return {"error": {"code": code, "message": message, "field": None}}


SUBMITS = {
    "wavespeed": Submit(
        "/api/v3/wavespeed-ai/real-esrgan",
        lambda image: {"image": image, "scale": 2},
        lambda status, message, _: {"code": status, "message": message, "error": message},
    ),
    "vibedream": Submit(
        "/api/v1/models/image-upscaler/generate",
        lambda image: {"image": image, "target_resolution": "2k", "output_format": "png"},
        lambda _, message, __: {"error": message, "message": message},
    ),
    "novita": Submit("/v3/async/image-upscaler", lambda image: {"image": image, "resolution": "2k"}, _novita),
    "runware": Submit("/v1", _task, _runware),
    "replicate": Submit(
        "/v1/models/nightmareai/real-esrgan/predictions",
        lambda image: {"input": {"image": image, "scale": 2}},
        lambda status, message, _: {"title": HTTPStatus(status).phrase, "detail": message, "status": status},
    ),
    "native": Submit("/jobs", lambda image: {"image": image, "scale": 2}, _native),
}
