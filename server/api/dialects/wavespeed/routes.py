"""WaveSpeedAI, under `/api/v3` and the `/api/v2` of old SDKs: predictions, uploads, webhooks, catalogue, account.

Models: `wavespeed-ai/image-upscaler` and `wavespeed-ai/real-esrgan`. Where the vendor's documents are silent:

* Unknown fields are ignored, and null is as good as absent; known ones of a wrong type or range are refused with 400.
* Whatever is wrong with the picture itself (unreachable, not a picture, its result too large) makes a prediction that
  fails: `data.code` 1402 for the source, 1401 for a result that can't be.
* real-esrgan answers PNG. Its `scale: 0` is inside the documented range but no size, so it is refused with 400.
* A queued prediction is `created`, a cancelled one `failed` with the error "the prediction was cancelled": the vendor
  has no other word for it. Lists can be asked for `cancelled`, `timeout` and `deleted`, and have none.
* Every HTTP error has the union of the fields that the vendor's clients read: `code`, `message`, `error`. Somebody
  else's prediction is not found, rather than forbidden.
* A webhook is repeated 2, 10 and 50 s after it failed. `webhook-id` is the prediction's id, the same each time.
* A deleted prediction is stopped if it runs, sends no webhook, and is not found from then on.
* Lists leave `input` out unless `include_inputs`, and have links even where the prediction itself answers in base64.
* There is no account: the balance is always 100. Prices are the operator's; one that depends on the result's size is
  exact if `inputs` has the picture, and else the price per job alone.
"""

import hashlib
import hmac
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from server.api.dialects.base import (
    VENDOR_FORMATS,
    BaseUrl,
    Call,
    CallerDep,
    Form,
    OwnBases,
    RawBody,
    ServiceDep,
    Webhook,
    direct,
    entered,
    file_url,
    in_place,
    iso_time,
    read_body,
    read_choice,
    read_flag,
    read_number,
    read_object,
    read_time,
    read_whole,
    upload_url,
)
from server.api.responses import Inline, json_response, to_json
from server.db.deliveries import WEBHOOK
from server.db.uploads import Upload, clean_name, suffix_of
from server.db.webhook_secret import load_secret, webhook_secret
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
    cut,
)
from server.job.creativity import MAX_CREATIVITY
from server.job.job import MAX_SCALE, Faces, Job, Params, State, Target
from server.job.plan import result_size
from server.job.price import CURRENCY, cost_of
from server.outbound.source import parse_source
from server.outbound.ssrf import is_web_url, why_not
from server.service.service import Service
from server.weights.choice import REAL_ESRGAN

NAME = "wavespeed"
PREFIXES: tuple[str, ...] = ("/api/v3", "/api/v2")
WEBHOOK_PAUSES_S: tuple[float, ...] = (2.0, 10.0, 50.0)
WEBHOOK_TIMEOUT_S = 10.0

UPSCALER = "wavespeed-ai/image-upscaler"
ESRGAN = "wavespeed-ai/real-esrgan"

FIELDS = {
    UPSCALER: ("image", "creativity", "target_resolution", "output_format"),
    ESRGAN: ("image", "scale", "guidance_scale", "face_enhance"),
}
_FLAGS = ("enable_base64_output", "enable_sync_mode")
WEBHOOK_FIELDS = ("webhook_url", "webhookURL", "webhook")

INPUTS: dict[str, dict[str, Any]] = {
    "image": {"type": "string", "description": "URL, data URI or base64 of the picture."},
    "creativity": {"type": "number", "minimum": -MAX_CREATIVITY, "maximum": MAX_CREATIVITY, "default": 0},
    "target_resolution": {"type": "string", "enum": list(get_args(Target)), "default": "4k"},
    "output_format": {"type": "string", "enum": list(VENDOR_FORMATS), "default": "jpeg"},
    "scale": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_SCALE, "default": 4},
    "face_enhance": {"type": "boolean", "default": False},
    "enable_base64_output": {"type": "boolean", "default": False},
    "enable_sync_mode": {"type": "boolean", "default": False},
}
_DESCRIPTION = {
    UPSCALER: "Enlarges a picture to 2k, 4k or 8k.",
    ESRGAN: "Enlarges a picture by a factor of up to 10.",
}

_TARGETS: tuple[Target, ...] = get_args(Target)

STATUS = {
    State.QUEUED: "created",
    State.RUNNING: "processing",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
}
STATUSES = ("created", "processing", "completed", "failed", "cancelled", "timeout", "deleted")
"""Those that lists can be asked for."""

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

_BALANCE = 100.0
MOST_IDS = 1000
LAST_PAGE, LARGEST_PAGE = 1_000_000, 100
_LONGEST_ECHO = 512
"""Characters of an inline picture that an answer's `input` repeats; longer ones become a note of their size."""


class _WebhookWithBase64(InvalidRequest):
    """The one error whose body the vendor's documents quote."""


# --- requests -------------------------------------------------------------------------------------------------------


def to_params(model: str, body: dict[str, Any]) -> Params:
    """What a submit body asks for. Raises InvalidField."""
    if model == UPSCALER:
        return Params(
            target=read_choice(body, "target_resolution", _TARGETS, "4k"),
            format=read_choice(body, "output_format", VENDOR_FORMATS, "jpeg"),
            # 0 is the vendor's default, so that it means the same whether it is said or not.
            creativity=read_number(body, "creativity", 0.0) or None,
        )
    faces = Faces() if read_flag(body, "face_enhance") else None
    # The vendor's own ComfyUI node calls it guidance_scale.
    name = "guidance_scale" if body.get("scale") is None else "scale"
    return Params(scale=read_number(body, name, 4.0), format="png", faces=faces, model=REAL_ESRGAN)


def to_request(model: str, body: dict[str, Any]) -> dict[str, Any]:
    """What answers will need to know again: the model, whether to answer in base64, and the echo of the input."""
    # Only what means something: of a field that nobody reads, a value of any size would be kept and told at each poll.
    known = {name: body[name] for name in (*FIELDS[model], *_FLAGS) if _is_fit(name, body.get(name))}
    return {"model": model, "base64": read_flag(body, "enable_base64_output"), "input": known | _echo(body["image"])}


def _is_fit(name: str, value: Any) -> bool:
    """A value that the field may have; others are in fields that this request does not use."""
    kind = INPUTS.get(name, {"type": "number"})["type"]
    if kind == "number":
        return isinstance(value, int | float) and abs(value) < 1 << 63
    return isinstance(value, bool) if kind == "boolean" else isinstance(value, str) and len(value) <= _LONGEST_ECHO


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


def _webhook(query: bytes, body: dict[str, Any]) -> str | None:
    """Where the caller wants to be told, by the query or by the body. Raises InvalidField."""
    url = _query_webhook(query) or next((body[name] for name in WEBHOOK_FIELDS if body.get(name)), None)
    if url is None:
        return None
    if isinstance(url, str) and is_web_url(url):
        return url
    raise InvalidField("webhook must be an http(s) URL", field="webhook")


def _query_webhook(query: bytes) -> str:
    """Old clients append the URL as it is: a bare `?` in it tells that what follows, `&` included, is its own."""
    found = re.search("(?:^|&)webhook=(.*)", query.decode("utf-8", "replace"))
    if found is None:
        return ""
    value = found[1].partition("&")[0]
    return found[1] if "?" in value else unquote(value)


# --- answers --------------------------------------------------------------------------------------------------------


def to_response(job: Job, base_url: str, picture: Path | None = None) -> dict[str, Any]:
    """The vendor's "prediction". `picture` is the encoded result, when it is to be in the answer itself."""
    outputs: list[str | Inline] = []
    if job.result is not None:
        outputs = [file_url(base_url, job.result.key) if picture is None else Inline(picture)]
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
        "status": STATUS[job.state],
        "created_at": iso_time(job.created_at),
        "error": error,
        "code": code,
        "executionTime": milliseconds,
        "timings": {"inference": milliseconds},
        "input": job.request["input"],
    }


def to_webhook(job: Job, base_url: str, secret: bytes) -> Webhook:
    body, timestamp = to_json(to_response(job, base_url)), int(time.time())
    signature = sign(webhook_secret(secret, job.owner), job.id, timestamp, body)
    return Webhook(
        body,
        {
            "Content-Type": "application/json",
            "webhook-id": job.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature,
        },
    )


def sign(secret: str, webhook_id: str, timestamp: int, body: bytes) -> str:
    """What a receiver compares `webhook-signature` with. The secret's base64 is the key as it stands, not decoded."""
    key = secret.removeprefix("whsec_").encode()
    return "v3," + hmac.new(key, f"{webhook_id}.{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def _unfinished(prediction: dict[str, Any], why: str) -> dict[str, Any]:
    """A prediction that a synchronous request could not wait for."""
    error = f"{why} The prediction is still processing asynchronously."
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


def _success(data: Any, **beside: Any) -> Response:
    return json_response({"code": 200, "message": "success", "data": data, **beside})


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
        return to_response(job, self.base_url, self.service.result_path(job) if inline else None)

    def find(self, job_id: str) -> Job:
        """The caller's prediction. Raises NotFound."""
        try:
            return self.service.get(job_id, self.caller.id, NAME)
        except NotFound as error:
            raise NotFound("prediction not found") from error


_CallDep = Annotated[_Call, Depends(in_place(_Call))]


@_routes.get("/predictions/{job_id}/result")
@_routes.get("/predictions/{job_id}")
@direct
def result(asked: Call, job_id: str) -> Response:
    call = _Call(asked.caller, asked.service, asked.base_url)
    return _success(call.answer(call.find(job_id)))


@_routes.get("/predictions")
def page(call: _CallDep, request: Request) -> Response:
    words: dict[str, Any] = {"true": True, "false": False}
    query = {
        name: int(value) if re.fullmatch("[0-9]{1,9}", value) else words.get(value, value)
        for name, value in request.query_params.items()
    }
    return _page(call, query)


@_routes.post("/predictions")
def page_by_body(call: _CallDep, raw: RawBody) -> Response:
    return _page(call, read_object(raw) if raw else {})


def _page(call: _Call, body: dict[str, Any]) -> Response:
    number, size = read_whole(body, "page", 1, LAST_PAGE), read_whole(body, "page_size", 20, LARGEST_PAGE)
    status = read_choice(body, "status", STATUSES, "")
    states = [state for state, word in STATUS.items() if word == status]
    model = body.get("model") or ""
    if not isinstance(model, str):
        raise InvalidField("model must be a string", field="model")
    include_inputs = read_flag(body, "include_inputs")
    after, before = read_time(body, "created_after"), read_time(body, "created_before")
    if (status and not states) or (model and model not in FIELDS):
        return _success({"page": number, "total": 0, "items": []})
    jobs, total = call.service.list(
        call.caller.id,
        dialect=NAME,
        request={"model": model} if model else {},
        states=states,
        created_from=after or 0.0,
        created_before=before,
        limit=size,
        offset=(number - 1) * size,
    )
    items = [to_response(job, call.base_url) for job in jobs]
    for item in () if include_inputs else items:
        del item["input"]
    return _success({"page": number, "total": total, "items": items})


@_routes.delete("/predictions/{job_id}")
def delete(job_id: str, call: _CallDep) -> Response:
    call.service.delete(call.find(job_id))
    return _success({"id": job_id, "status": "deleted"})


@_routes.post("/predictions/delete")
def delete_many(call: _CallDep, raw: RawBody) -> Response:
    """Ids that nobody knows are passed over."""
    ids = read_object(raw).get("ids")
    if ids is None:
        raise MissingField('property "ids" is missing', field="ids")
    if not isinstance(ids, list) or len(ids) > MOST_IDS or not all(isinstance(each, str) for each in ids):
        raise InvalidField(f"ids must be a list of at most {MOST_IDS} strings", field="ids")
    deleted = 0
    for job_id in dict.fromkeys(ids):
        with suppress(NotFound):
            call.service.delete(call.find(job_id))
            deleted += 1
    return _success({"deleted_count": deleted})


@_routes.post("/media/uploads")
def issue_ticket(call: _CallDep, raw: RawBody) -> Response:
    """The bytes follow, by PUT and without a key: the address is the permission."""
    body = read_object(raw)
    filename, size, mime = body.get("filename"), body.get("size"), body.get("content_type")
    if not isinstance(filename, str) or not filename:
        raise MissingField('property "filename" is missing', field="filename")
    if isinstance(size, bool) or not isinstance(size, int | None) or (size or 0) < 0:
        raise InvalidField("size must be a whole number of bytes", field="size")
    if (
        not isinstance(mime, str | None)
        or len(mime or "") > 255
        or not re.fullmatch(r"[\w.+-]+/[\w.+-]+", mime or "image/png")
    ):
        raise InvalidField("content_type must be a MIME type", field="content_type")
    _check_size(size or 0, call.service)
    upload = call.service.uploads.issue(call.caller.id, clean_name(filename), suffix_of(filename))
    put = {
        "method": "PUT",
        "url": upload_url(call.base_url, upload.key),
        "headers": {"Content-Type": mime} if mime else {},
        "expires_at": iso_time(upload.expires_at),
    }
    return _success(_uploaded(call.base_url, upload, size or 0) | {"upload": put})


@_routes.post("/media/upload/binary")
@_routes.post("/upload")
async def upload_file(call: _CallDep, form: Form) -> Response:
    return await call.service.reading.run(call.caller.id, _upload_file, call, form)


def _upload_file(call: _Call, form: FormData) -> Response:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise MissingField('property "file" is missing', field="file")
    _check_size(file.size or 0, call.service)
    data = file.file.read()
    filename = file.filename or "upload"
    ticket = call.service.uploads.issue(call.caller.id, clean_name(filename), suffix_of(filename))
    return _success(_uploaded(call.base_url, call.service.uploads.fill(ticket.key, data), len(data)))


def _check_size(size: int, service: Service) -> None:
    limit = service.config.max_source_bytes
    if size > limit:
        raise TooLarge(f"the file is over this server's limit of {limit} bytes")


@_routes.get("/webhook/secret")
def secret(call: _CallDep) -> Response:
    own = {"secret": webhook_secret(load_secret(call.service.config), call.caller.id)}
    return _success(own, **own)  # clients look for it in either place


@_routes.get("/balance")
@_routes.get("/account/balance")
def balance(call: _CallDep) -> Response:
    return _success({"balance": _BALANCE, "currency": CURRENCY})


@_routes.get("/account/usage")
def usage(call: _CallDep) -> Response:
    """The predictions that are still kept."""
    _, total = call.service.list(call.caller.id, dialect=NAME, limit=1)
    return _success({"total_requests": total})


@_routes.get("/models")
def models(call: _CallDep) -> Response:
    return _success([_described(model, call) for model in FIELDS])


def _described(model: str, call: _Call) -> dict[str, Any]:
    properties = {name: INPUTS[name] for name in (*FIELDS[model], *_FLAGS) if name in INPUTS}
    run = {
        "type": "model_run",
        "method": "POST",
        "server": call.base_url,
        "api_path": f"/api/v3/{model}",
        "request_schema": {
            "type": "object",
            "properties": properties,
            "required": ["image"],
            "x-order-properties": list(properties),
        },
    }
    return {
        "model_id": model,
        "name": model,
        "description": _DESCRIPTION[model],
        "type": "image-to-image",
        "base_price": cost_of(None, call.service.config),
        "sort_order": 0,
        "formula": "",
        "api_schema": {"api_schemas": [run]},
    }


@_routes.post("/model/price")
@_routes.post("/model/pricing")
async def price(call: _CallDep, own_bases: OwnBases, raw: RawBody) -> Response:
    body, config = await call.service.reading.run(call.caller.id, read_object, raw), call.service.config
    model, inputs = body.get("model_id"), body.get("inputs") or {}
    if not model:
        raise MissingField('property "model_id" is missing', field="model_id")
    if not isinstance(inputs, dict):
        raise InvalidField("inputs must be an object", field="inputs")
    params, size = to_params(_known(model), inputs), None
    if inputs.get("image") and config.price_per_megapixel:
        owner = call.caller.id
        source = await call.service.reading.run(owner, parse_source, _image(inputs), own_bases)
        size = result_size((await call.service.look(owner, source)).size, params)
    cost = cost_of(size, config)
    prices = {"price": cost, "discounted_price": cost, "discount_rate": 0, "unit_price": cost}
    return _success({"model_id": model, **prices, "currency": CURRENCY})


@_routes.post("/{owner}/{name:path}")  # the last: nearly every other path fits it
async def submit(request: Request) -> Response:
    asked = await entered(request)
    call, own_bases = _Call(asked.caller, asked.service, asked.base_url), asked.own_bases
    body = await read_body(request)
    caller_id, model = call.caller.id, "{owner}/{name}".format(**request.path_params)
    job, sync = await call.service.reading.run(caller_id, _submit, model, call, own_bases, request, body)
    del body  # it may be large, and the wait long
    if not sync:
        return _success(await run_in_threadpool(call.answer, job))
    wait_s = call.service.config.sync_wait_s
    job = await call.service.wait(job.id, call.caller.id, wait_s)
    prediction = await run_in_threadpool(call.answer, job)
    if job.state.final:
        return _success(prediction)
    why = "The server is restarting." if call.service.closing else f"Sync mode timed out after {wait_s:g} seconds."
    return _success(_unfinished(prediction, why))


def _submit(model: str, call: _Call, own_bases: tuple[str, ...], request: Request, raw: bytes) -> tuple[Job, bool]:
    _known(model)
    body = read_object(raw)
    image = _image(body)
    params, kept, sync = to_params(model, body), to_request(model, body), read_flag(body, "enable_sync_mode")
    webhook = _webhook(request.scope["query_string"], body)
    reason = why_not(webhook, call.service.config) if webhook else None
    if reason:
        raise InvalidField(f"webhook: {reason}", field="webhook")
    if webhook and kept["base64"]:
        raise _WebhookWithBase64(
            "webhook callback does not support base64 output, please use the normal API to use base64 output"
        )
    job = call.service.submit(
        dialect=NAME,
        owner=call.caller.id,
        params=params,
        source=parse_source(image, own_bases),
        request=kept,
        deliver={WEBHOOK: webhook} if webhook else {},
        base_url=call.base_url,
        strict=False,
    )
    return job, sync


def _known(model: Any) -> str:
    if isinstance(model, str) and model in FIELDS:
        return model
    raise NotFound(f"model {cut(str(model))} not found")


router = APIRouter()
for _prefix in PREFIXES:
    router.include_router(_routes, prefix=_prefix)
