"""WaveSpeedAI: submit, result, sync mode and uploads, under `/api/v3` and the `/api/v2` of old SDKs.

Models: `wavespeed-ai/image-upscaler` and `wavespeed-ai/real-esrgan`. Where the vendor's documents are silent:

* Unknown fields are ignored, and null is as good as absent; known ones of a wrong type or range are refused with 400.
* Whatever is wrong with the picture itself (unreachable, not a picture, its result too large) makes a prediction that
  fails: `data.code` 1402 for the source, 1401 for a result that can't be.
* real-esrgan answers PNG. Its `scale: 0` is inside the documented range but no size, so it is refused with 400.
* A queued prediction is `created`, a cancelled one `failed` with the error "the prediction was cancelled": the vendor
  has no other word for it.
* Every HTTP error has the union of the fields that the vendor's clients read: `code`, `message`, `error`.

Not here yet, and refused rather than dropped: webhooks, `face_enhance: true`. Nor are listing, deleting, prices and
account endpoints.
"""

import base64
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from server.auth import Caller
from server.dialects.base import (
    BaseUrl,
    CallerDep,
    Form,
    OwnBases,
    RawBody,
    ServiceDep,
    file_url,
    iso_time,
    json_response,
    read_object,
    upload_url,
)
from server.errors import (
    BY_CODE,
    BadSource,
    InvalidField,
    InvalidRequest,
    JobCancelled,
    JobFailed,
    MissingField,
    ModelNotFound,
    NotFound,
    OutOfMemory,
    TooLarge,
    Unavailable,
    UpscaleError,
)
from server.fetch import parse_source
from server.formats import FormatName
from server.job import Job, Params, State, Target
from server.service import Service
from server.uploads import Upload

NAME = "wavespeed"
PREFIXES: tuple[str, ...] = ("/api/v3", "/api/v2")

UPSCALER = "wavespeed-ai/image-upscaler"
ESRGAN = "wavespeed-ai/real-esrgan"

_FIELDS = {
    UPSCALER: ("image", "creativity", "target_resolution", "output_format"),
    ESRGAN: ("image", "scale", "guidance_scale", "face_enhance"),
}
_FLAGS = ("enable_base64_output", "enable_sync_mode")
_WEBHOOK_FIELDS = ("webhook", "webhook_url", "webhookURL")

_TARGETS: tuple[Target, ...] = get_args(Target)
_FORMATS: tuple[FormatName, ...] = get_args(FormatName)

_STATUS = {
    State.QUEUED: "created",
    State.RUNNING: "processing",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
}

_CODES: tuple[tuple[type[UpscaleError], int], ...] = (
    (MissingField, 1400),
    (InvalidRequest, 1401),
    (BadSource, 1402),
    (OutOfMemory, 1403),
    (JobFailed, 1403),
    (JobCancelled, 1405),
    (ModelNotFound, 5003),
    (Unavailable, 5003),
)
"""The vendor's error codes, by our classes; the first that fits. Anything else is 5000, an internal error."""

_LONGEST_ECHO = 512
"""Characters of an inline picture that an answer's `input` repeats; longer ones become a note of their size."""

_T = TypeVar("_T", bound=str)


class _WebhookWithBase64(InvalidRequest):
    """The one error whose body the vendor's documents quote."""


# --- requests -------------------------------------------------------------------------------------------------------


def to_params(model: str, body: dict[str, Any]) -> Params:
    """What a submit body asks for. Raises InvalidField."""
    if model == UPSCALER:
        return Params(
            target=_choice(body, "target_resolution", _TARGETS, "4k"),
            format=_choice(body, "output_format", _FORMATS, "jpeg"),
            creativity=_number(body, "creativity", 0.0),
        )
    if _flag(body, "face_enhance"):
        raise InvalidField("face_enhance is not available in this version yet", field="face_enhance")
    # The vendor's own ComfyUI node calls it guidance_scale.
    name = "guidance_scale" if body.get("scale") is None else "scale"
    return Params(scale=_number(body, name, 4.0), format="png")


def to_request(model: str, body: dict[str, Any]) -> dict[str, Any]:
    """What answers will need to know again: the model, whether to answer in base64, and the echo of the input."""
    known = {name: body[name] for name in (*_FIELDS[model], *_FLAGS) if body.get(name) is not None}
    return {"model": model, "base64": _flag(body, "enable_base64_output"), "input": known | _echo(body["image"])}


def _image(body: dict[str, Any]) -> str:
    image = body.get("image")
    if image is None or image == "":
        raise MissingField('property "image" is missing', field="image")
    if not isinstance(image, str):
        raise InvalidField("image must be a string", field="image")
    return image


def _echo(image: str) -> dict[str, str]:
    if len(image) <= _LONGEST_ECHO or image[:8].lower().startswith(("http://", "https://")):
        return {"image": image}
    head = re.match(r"data:[\w/.+;=-]{0,100},", image, re.IGNORECASE)
    kind = head[0].removesuffix(",") if head else "base64"
    return {"image": f"<{kind}, {len(image)} characters>"}


def _number(body: dict[str, Any], name: str, default: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidField(f"{name} must be a number", field=name)
    try:
        return float(value)
    except OverflowError:
        return math.inf  # an integer of hundreds of digits; out of every range


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidField(f"{name} must be a boolean", field=name)
    return bool(value)


def _choice(body: dict[str, Any], name: str, allowed: tuple[_T, ...], default: _T) -> _T:
    value = body.get(name)
    if value is None:
        return default
    for each in allowed:
        if value == each:
            return each
    raise InvalidField(f"{name} must be one of {', '.join(allowed)}", field=name)


def _has_webhook(request: Request, body: dict[str, Any]) -> bool:
    # Old SDKs put the URL into the query without encoding it; that it is there is all that matters so far.
    return bool(request.query_params.get("webhook")) or any(body.get(name) for name in _WEBHOOK_FIELDS)


# --- answers --------------------------------------------------------------------------------------------------------


def to_response(job: Job, base_url: str, data: bytes | None = None) -> dict[str, Any]:
    """The vendor's "prediction". `data` is the encoded result, when it is to be in the answer itself."""
    outputs = []
    if job.result is not None:
        outputs = [base64.b64encode(data).decode() if data is not None else file_url(base_url, job.result.key)]
    milliseconds = 0
    if job.started_at is not None and job.finished_at is not None:
        milliseconds = max(0, round((job.finished_at - job.started_at) * 1000))
    error, code = "", 0
    if job.state is State.CANCELLED:
        error, code = "the prediction was cancelled", 1405
    elif job.state is State.FAILED:
        error, code = (
            job.error_message or "the prediction failed",
            _code(BY_CODE.get(job.error_code or "", UpscaleError)),
        )
    return {
        "id": job.id,
        "model": job.request["model"],
        "outputs": outputs,
        "urls": {"get": f"{base_url}/api/v3/predictions/{job.id}/result"},
        "has_nsfw_contents": [False] * len(outputs),
        "status": _STATUS[job.state],
        "created_at": iso_time(job.created_at),
        "error": error,
        "code": code,
        "executionTime": milliseconds,
        "timings": {"inference": milliseconds},
        "input": job.request["input"],
    }


def _timed_out(prediction: dict[str, Any], seconds: float) -> dict[str, Any]:
    """A prediction that a synchronous request could not wait for."""
    error = f"Sync mode timed out after {seconds:g} seconds. The prediction is still processing asynchronously."
    return prediction | {"status": "processing", "code": 5004, "error": error}


def to_error(error: UpscaleError) -> Response:
    if isinstance(error, _WebhookWithBase64):
        return json_response({"error": error.message}, 400)
    # Nobody chooses a network here, so that one is missing is our fault and not the request's.
    status = 503 if isinstance(error, ModelNotFound) else 400 if isinstance(error, BadSource) else error.status
    body = {"code": status, "message": error.message, "error": error.message}
    if type(error) is not InvalidRequest and status == 400:
        body["error_code"] = _code(type(error))
    return json_response(body, status)


def _code(error: type[UpscaleError]) -> int:
    return next((code for cls, code in _CODES if issubclass(error, cls)), 5000)


def _success(data: dict[str, Any]) -> Response:
    return json_response({"code": 200, "message": "success", "data": data})


def _uploaded(base_url: str, upload: Upload, size: int) -> dict[str, Any]:
    url = file_url(base_url, upload.key)
    return {"type": "image", "download_url": url, "url": url, "filename": upload.filename, "size": size}


# --- endpoints ------------------------------------------------------------------------------------------------------

_routes = APIRouter()


@dataclass(frozen=True)
class _Call:
    """Who asks, from where, of whom."""

    caller: CallerDep
    service: ServiceDep
    base_url: BaseUrl

    def answer(self, job: Job) -> dict[str, Any]:
        inline = job.request["base64"] and job.result is not None
        return to_response(job, self.base_url, self.service.result_data(job) if inline else None)


_CallDep = Annotated[_Call, Depends()]


@_routes.post("/wavespeed-ai/{name}")
async def submit(name: str, call: _CallDep, own_bases: OwnBases, request: Request, body: RawBody) -> Response:
    job, sync = await run_in_threadpool(_submit, f"wavespeed-ai/{name}", call, own_bases, request, body)
    if not sync:
        return _success(await run_in_threadpool(call.answer, job))
    wait_s = call.service.config.sync_wait_s
    job = await call.service.wait(job.id, call.caller.id, wait_s)
    prediction = await run_in_threadpool(call.answer, job)
    return _success(prediction if job.state.final else _timed_out(prediction, wait_s))


def _submit(model: str, call: _Call, own_bases: tuple[str, ...], request: Request, raw: bytes) -> tuple[Job, bool]:
    if model not in _FIELDS:
        raise NotFound(f"model {model} not found")
    body = read_object(raw)
    image = _image(body)
    params, kept, sync = to_params(model, body), to_request(model, body), _flag(body, "enable_sync_mode")
    if _has_webhook(request, body):
        if kept["base64"]:
            raise _WebhookWithBase64(
                "webhook callback does not support base64 output, please use the normal API to use base64 output"
            )
        raise InvalidField("webhooks are not supported yet", field="webhook")
    source = parse_source(image, own_bases)
    job = call.service.submit(
        dialect=NAME, owner=call.caller.id, params=params, source=source, request=kept, strict=False
    )
    return job, sync


@_routes.get("/predictions/{job_id}/result")
@_routes.get("/predictions/{job_id}")
def result(job_id: str, call: _CallDep) -> Response:
    return _success(call.answer(_find(job_id, call.service, call.caller)))


def _find(job_id: str, service: Service, caller: Caller) -> Job:
    try:
        job = service.get(job_id, caller.id)
    except NotFound as error:
        raise NotFound("prediction not found") from error
    if job.dialect != NAME:
        raise NotFound("prediction not found")
    return job


@_routes.post("/media/uploads")
def issue_ticket(call: _CallDep, raw: RawBody) -> Response:
    """The bytes follow, by PUT and without a key: the address is the permission."""
    body = read_object(raw)
    filename, size, mime = body.get("filename"), body.get("size"), body.get("content_type")
    if not isinstance(filename, str) or not filename:
        raise MissingField('property "filename" is missing', field="filename")
    if isinstance(size, bool) or not isinstance(size, int | None) or (size or 0) < 0:
        raise InvalidField("size must be a whole number of bytes", field="size")
    if not isinstance(mime, str | None) or not re.fullmatch(r"[\w.+-]+/[\w.+-]+", mime or "image/png"):
        raise InvalidField("content_type must be a MIME type", field="content_type")
    _check_size(size or 0, call.service)
    upload = call.service.uploads.issue(call.caller.id, _base_name(filename), _suffix(filename))
    put = {
        "method": "PUT",
        "url": upload_url(call.base_url, upload.key),
        "headers": {"Content-Type": mime} if mime else {},
        "expires_at": iso_time(upload.expires_at),
    }
    return _success(_uploaded(call.base_url, upload, size or 0) | {"upload": put})


@_routes.post("/media/upload/binary")
@_routes.post("/upload")
def upload_file(call: _CallDep, form: Form) -> Response:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise MissingField('property "file" is missing', field="file")
    _check_size(file.size or 0, call.service)
    data = file.file.read()
    filename = file.filename or "upload"
    ticket = call.service.uploads.issue(call.caller.id, _base_name(filename), _suffix(filename))
    return _success(_uploaded(call.base_url, call.service.uploads.fill(ticket.key, data), len(data)))


def _check_size(size: int, service: Service) -> None:
    limit = service.config.max_source_bytes
    if size > limit:
        raise TooLarge(f"the file is over this server's limit of {limit} bytes")


def _base_name(filename: str) -> str:
    """Without folders, and without what a database can't hold."""
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "", re.split(r"[/\\]", filename)[-1])[-255:] or "upload"


def _suffix(filename: str) -> str:
    """A file ending for people to see; what a file is, its bytes tell."""
    ending = re.search(r"\.[a-z0-9]{1,8}\Z", filename.lower())
    return ending[0] if ending else ""


router = APIRouter()
for _prefix in PREFIXES:
    router.include_router(_routes, prefix=_prefix)
