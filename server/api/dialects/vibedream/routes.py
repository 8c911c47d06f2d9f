"""VibeDream: submit, result and sync mode, under `/api/v1`.

    POST /api/v1/models/image-upscaler/generate   a picture's URL, data URI or base64, target and format, both required
    GET  /api/v1/predictions/{id}                 the prediction; ids are UUIDs, with or without their dashes

The vendor has no SDK and documents no errors, no uploads, no webhooks, no listing and no deletion; nor do we have them
here. Where its page is silent:

* Unknown fields are ignored, and null is as good as absent; known ones of a wrong type or value are refused with 400.
* Whatever is wrong with the picture itself makes a prediction that fails: `status` "failed", the reason in `error`.
* A submit is always answered with `status` "processing", as the vendor writes it, even when the picture has been found
  bad already; its first poll tells. `estimatedTime` is the vendor's own text, which nobody can count on.
* `costCents` is what the price list makes of the result's size, rounded up to a cent. Of a picture that has still to be
  fetched the size is not known: then it is the price per job alone. A failed prediction costs nothing.
* Sync mode answers with the fields of both bodies, the submit's and the finished prediction's, so that either reading
  works. When the wait runs out it answers as an ordinary submit does, and the job goes on.
* `enable_base64_output` puts naked base64 into `outputs`, in sync answers and when polled.
* A cancelled prediction is `failed` with the error "the prediction was cancelled".
* The first picture of an animated GIF is taken.
* Errors are `{"error": text, "message": text}`, whichever of the two a client reads.
"""

import math
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from server.api.auth import Caller
from server.api.dialects.base import (
    VENDOR_FORMATS,
    Call,
    direct,
    entered,
    file_url,
    iso_time,
    read_body,
    read_choice,
    read_flag,
    read_object,
    read_text,
)
from server.api.responses import Inline, json_response
from server.errors import BadSource, ModelNotFound, NotFound, UpscaleError, cut
from server.job.job import Job, Params, State, Target
from server.job.plan import result_size
from server.job.price import cost_of
from server.outbound.source import Source, parse_source
from server.service.service import Service

NAME = "vibedream"
PREFIXES: tuple[str, ...] = ("/api/v1",)

MODEL = "image-upscaler"
MODEL_NAME = "WaveSpeed AI Image Upscaler"
ESTIMATED_TIME = "Fast & Efficient"

_TARGETS: tuple[Target, ...] = get_args(Target)

STATUS = {
    State.QUEUED: "processing",
    State.RUNNING: "processing",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
}


# --- requests -------------------------------------------------------------------------------------------------------


def to_params(body: dict[str, Any]) -> Params:
    """What a submit body asks for. Raises InvalidRequest."""
    return Params(
        target=read_choice(body, "target_resolution", _TARGETS),
        format=read_choice(body, "output_format", VENDOR_FORMATS),
    )


# --- answers --------------------------------------------------------------------------------------------------------


def to_submitted(job: Job, base_url: str, cost: float) -> dict[str, Any]:
    """What a submit is answered with; `cost` is in dollars."""
    return {
        "id": _shown_id(job),
        "status": "processing",
        "statusUrl": f"{base_url}/api/v1/predictions/{_shown_id(job)}",
        "estimatedTime": ESTIMATED_TIME,
        # Rounded first: 0.07 · 100 is a little more than 7.
        "costCents": math.ceil(round(cost * 100, 4)),
        "createdAt": iso_time(job.created_at),
    }


def to_response(job: Job, base_url: str, picture: Path | None = None) -> dict[str, Any]:
    """A prediction. `picture` is the encoded result, when it is to be in the answer itself."""
    outputs: list[str | Inline] | None = None
    error = None
    if job.result is not None:
        outputs = [file_url(base_url, job.result.key) if picture is None else Inline(picture)]
    if job.state is State.CANCELLED:
        error = "the prediction was cancelled"
    elif job.state is State.FAILED:
        error = job.error_message or "the prediction failed"
    return {
        "id": _shown_id(job),
        "modelId": MODEL,
        "modelName": MODEL_NAME,
        "status": STATUS[job.state],
        "outputs": outputs,
        "error": error,
        "createdAt": iso_time(job.created_at),
        "completedAt": iso_time(job.finished_at) if job.finished_at is not None else None,
    }


def to_error(error: UpscaleError) -> Response:
    # Nobody chooses a network here, so that one is missing is our fault and not the request's.
    status = 503 if isinstance(error, ModelNotFound) else error.status
    return json_response({"error": error.message, "message": error.message}, status)


def _shown_id(job: Job) -> str:
    return str(uuid.UUID(job.id))


# --- endpoints ------------------------------------------------------------------------------------------------------

router = APIRouter(prefix="/api/v1")


@dataclass(frozen=True)
class _Call:
    """Who asks, from where, of whom."""

    caller: Caller
    service: Service
    base_url: str

    def prediction(self, job: Job) -> dict[str, Any]:
        inline = job.request["base64"] and job.result is not None
        return to_response(job, self.base_url, self.service.result_path(job) if inline else None)

    def submitted(self, job: Job) -> dict[str, Any]:
        return to_submitted(job, self.base_url, self.cost(job))

    def both(self, job: Job) -> dict[str, Any]:
        return self.submitted(job) | self.prediction(job)

    def cost(self, job: Job) -> float:
        """In dollars: what it has cost, or is expected to."""
        if job.state.final:
            return job.result.cost if job.result else 0.0
        config = self.service.config
        if job.source_key is None or not config.price_per_megapixel:
            return cost_of(None, config)
        try:
            return cost_of(result_size(self.service.header(Source(key=job.source_key)).size, job.params), config)
        except BadSource:  # gone meanwhile, with its job
            return cost_of(None, config)


@router.post("/models/{model}/generate")
async def submit(request: Request) -> Response:
    asked = await entered(request)
    call, own_bases = _Call(asked.caller, asked.service, asked.base_url), asked.own_bases
    body, model = await read_body(request), request.path_params["model"]
    owner = call.caller.id
    job, sync, submitted = await call.service.reading.run(owner, _submit, model, call, own_bases, body)
    del body  # it may be large, and the wait long
    if sync:
        job = await call.service.wait(job.id, owner, call.service.config.sync_wait_s)
    return json_response(await run_in_threadpool(call.both, job) if sync and job.state.final else submitted)


def _submit(model: str, call: _Call, own_bases: tuple[str, ...], raw: bytes) -> tuple[Job, bool, dict[str, Any]]:
    """The job, whether to wait for its end, and what to answer without."""
    if model != MODEL:
        raise NotFound(f"model {cut(model)} not found")
    body = read_object(raw)
    image, params = read_text(body, "image"), to_params(body)
    kept, sync = {"base64": read_flag(body, "enable_base64_output")}, read_flag(body, "enable_sync_mode")
    job = call.service.submit(
        dialect=NAME,
        owner=call.caller.id,
        params=params,
        source=parse_source(image, own_bases),
        request=kept,
        strict=False,
    )
    return job, sync, call.submitted(job)


@router.get("/predictions/{prediction_id}")
@direct
def result(asked: Call, prediction_id: str) -> Response:
    call = _Call(asked.caller, asked.service, asked.base_url)
    try:
        job = call.service.get(prediction_id.replace("-", "").lower(), call.caller.id, NAME)
    except NotFound as error:
        raise NotFound("prediction not found") from error
    return json_response(call.prediction(job))
