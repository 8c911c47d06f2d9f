"""VibeDream requests → Params, jobs → the vendor's bodies. Pure."""

import math
from typing import Any

from server.api.dialects.fields import TARGETS, VENDOR_FORMATS, dashed, file_url, iso_time, read_choice
from server.api.inline import Inline
from server.blobs.base import Blob
from server.errors import ModelNotFound, UpscaleError
from server.job.job import Job, Params, State

NAME = "vibedream"
PREFIXES: tuple[str, ...] = ("/api/v1",)

MODEL = "image-upscaler"
MODEL_NAME = "WaveSpeed AI Image Upscaler"
ESTIMATED_TIME = "Fast & Efficient"

STATUS = {
    State.QUEUED: "processing",
    State.RUNNING: "processing",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
}


def to_params(body: dict[str, Any]) -> Params:
    """What a submit body asks for. Raises InvalidRequest."""
    return Params(
        target=read_choice(body, "target_resolution", TARGETS),
        format=read_choice(body, "output_format", VENDOR_FORMATS),
    )


def to_submitted(job: Job, base_url: str, cost: float) -> dict[str, Any]:
    """The answer to a submit; `cost` is in dollars."""
    return {
        "id": dashed(job.id),
        "status": "processing",
        "statusUrl": f"{base_url}/api/v1/predictions/{dashed(job.id)}",
        "estimatedTime": ESTIMATED_TIME,
        # Rounded first: 0.07 · 100 is a little more than 7.
        "costCents": math.ceil(round(cost * 100, 4)),
        "createdAt": iso_time(job.created_at),
    }


def to_response(job: Job, base_url: str, picture: Blob | None = None) -> dict[str, Any]:
    """A prediction. `picture`: the result, when the answer is to contain it as base64."""
    outputs: list[str | Inline] | None = None
    error = None
    if job.result is not None:
        outputs = [file_url(base_url, job.result.key) if picture is None else Inline(picture)]
    if job.state is State.CANCELLED:
        error = "the prediction was cancelled"
    elif job.state is State.FAILED:
        error = job.error_message or "the prediction failed"
    return {
        "id": dashed(job.id),
        "modelId": MODEL,
        "modelName": MODEL_NAME,
        "status": STATUS[job.state],
        "outputs": outputs,
        "error": error,
        "createdAt": iso_time(job.created_at),
        "completedAt": iso_time(job.finished_at) if job.finished_at is not None else None,
    }


def to_error(error: UpscaleError) -> tuple[dict[str, Any], int]:
    # Callers choose no network here, so a missing one is the server's fault and not the request's.
    status = 503 if isinstance(error, ModelNotFound) else error.status
    return {"error": error.message, "message": error.message}, status
