"""WaveSpeed requests → Params, jobs → the vendor's bodies. Pure."""

import hashlib
import hmac
import re
import time
from typing import Any
from urllib.parse import unquote

from server.api.dialects.base import Webhook
from server.api.dialects.fields import (
    LONGEST_ECHO,
    TARGETS,
    VENDOR_FORMATS,
    file_url,
    iso_time,
    read_choice,
    read_flag,
    read_number,
    read_time,
    read_whole,
    shown_picture,
)
from server.api.inline import Inline, to_json
from server.blobs.base import Blob
from server.db.uploads import Upload
from server.db.webhook_secret import webhook_secret
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
    Unavailable,
    UpscaleError,
    cut,
)
from server.job.creativity import MAX_CREATIVITY
from server.job.job import MAX_SCALE, Faces, Job, Params, State
from server.outbound.ssrf import is_web_url
from server.weights.choice import REAL_ESRGAN

NAME = "wavespeed"
PREFIXES: tuple[str, ...] = ("/api/v3", "/api/v2")

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
    "target_resolution": {"type": "string", "enum": list(TARGETS), "default": "4k"},
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

STATUS = {
    State.QUEUED: "created",
    State.RUNNING: "processing",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
}
STATUSES = ("created", "processing", "completed", "failed", "cancelled", "timeout", "deleted")
"""The statuses that lists can be filtered by."""

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
"""The vendor's error codes by our error classes; the first match counts. Others are 5000, an internal error."""

BALANCE = 100.0
MAX_IDS = 1000
LAST_PAGE, LARGEST_PAGE = 1_000_000, 100


class WebhookWithBase64(InvalidRequest):
    """The only error whose body the vendor's documents quote."""


# --- requests -------------------------------------------------------------------------------------------------------


def to_params(model: str, body: dict[str, Any]) -> Params:
    """What a submit body asks for. Raises InvalidField."""
    if model == UPSCALER:
        return Params(
            target=read_choice(body, "target_resolution", TARGETS, "4k"),
            format=read_choice(body, "output_format", VENDOR_FORMATS, "jpeg"),
            # 0 is the vendor's default, so sending it means the same as leaving it out.
            creativity=read_number(body, "creativity", 0.0) or None,
        )
    faces = Faces() if read_flag(body, "face_enhance") else None
    # The vendor's own ComfyUI node calls it guidance_scale.
    name = "guidance_scale" if body.get("scale") is None else "scale"
    return Params(scale=read_number(body, name, 4.0), format="png", faces=faces, model=REAL_ESRGAN)


def to_request(model: str, body: dict[str, Any]) -> dict[str, Any]:
    """What answers need of the request later: the model, whether to answer in base64, and the echo of the input."""
    # Only known fields: a value of any size in an unknown one would be stored and repeated in each poll.
    echo = {name: body[name] for name in (*FIELDS[model], *_FLAGS) if _is_fit(name, body.get(name))}
    return {
        "model": model,
        "base64": read_flag(body, "enable_base64_output"),
        "input": echo | {"image": shown_picture(body["image"])},
    }


def _is_fit(name: str, value: Any) -> bool:
    """Whether the field may have this value; a field that the request does not use may have any."""
    kind = INPUTS.get(name, {"type": "number"})["type"]
    if kind == "number":
        return isinstance(value, int | float) and abs(value) < 1 << 63
    return isinstance(value, bool) if kind == "boolean" else isinstance(value, str) and len(value) <= LONGEST_ECHO


def image_of(body: dict[str, Any]) -> str:
    image = body.get("image")
    if image is None or image == "":
        raise MissingField('property "image" is missing', field="image")
    if not isinstance(image, str):
        raise InvalidField("image must be a string", field="image")
    return image


def webhook_of(query: bytes, body: dict[str, Any]) -> str | None:
    """The webhook's URL, from the query or the body. Raises InvalidField."""
    url = _query_webhook(query) or next((body[name] for name in WEBHOOK_FIELDS if body.get(name)), None)
    if url is None:
        return None
    if isinstance(url, str) and is_web_url(url):
        return url
    raise InvalidField("webhook must be an http(s) URL", field="webhook")


def _query_webhook(query: bytes) -> str:
    """Old clients append the URL without encoding it: then a `?` in it shows that all of the rest, `&` included,
    belongs to the URL."""
    found = re.search("(?:^|&)webhook=(.*)", query.decode("utf-8", "replace"))
    if found is None:
        return ""
    value = found[1].partition("&")[0]
    return found[1] if "?" in value else unquote(value)


def to_filters(body: dict[str, Any]) -> dict[str, Any] | None:
    """The filters of a list, in terms of `Jobs.list`. None: nothing can match. Raises InvalidField."""
    number, size = read_whole(body, "page", 1, LAST_PAGE), read_whole(body, "page_size", 20, LARGEST_PAGE)
    status = read_choice(body, "status", STATUSES, "")
    states = [state for state, name in STATUS.items() if name == status]
    model = body.get("model") or ""
    if not isinstance(model, str):
        raise InvalidField("model must be a string", field="model")
    after, before = read_time(body, "created_after"), read_time(body, "created_before")
    if (status and not states) or (model and model not in FIELDS):
        return None
    return {
        "request": {"model": model} if model else {},
        "states": states,
        "created_from": after or 0.0,
        "created_before": before,
        "limit": size,
        "offset": (number - 1) * size,
    }


def checked_model(model: Any) -> str:
    """The same name. Raises NotFound for a model that does not exist."""
    if isinstance(model, str) and model in FIELDS:
        return model
    raise NotFound(f"model {cut(str(model))} not found")


def ticket_of(body: dict[str, Any]) -> tuple[str, int, str | None]:
    """File name, size in bytes and MIME type of an upload that is to follow. Raises InvalidRequest."""
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
    return filename, size or 0, mime


def ids_of(body: dict[str, Any]) -> list[str]:
    """The predictions to delete. Raises InvalidRequest."""
    ids = body.get("ids")
    if ids is None:
        raise MissingField('property "ids" is missing', field="ids")
    if not isinstance(ids, list) or len(ids) > MAX_IDS or not all(isinstance(each, str) for each in ids):
        raise InvalidField(f"ids must be a list of at most {MAX_IDS} strings", field="ids")
    return list(dict.fromkeys(ids))


# --- answers --------------------------------------------------------------------------------------------------------


def to_response(job: Job, base_url: str, picture: Blob | None = None) -> dict[str, Any]:
    """The vendor's "prediction". `picture`: the result, when the answer is to contain it as base64."""
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
        error = job.error_message or "the prediction failed"
        code = _code(BY_CODE.get(job.error_code or "", UpscaleError))
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
    """The expected `webhook-signature`. The key is the secret's base64 text itself, not decoded."""
    key = secret.removeprefix("whsec_").encode()
    return "v3," + hmac.new(key, f"{webhook_id}.{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def to_unfinished(prediction: dict[str, Any], why: str) -> dict[str, Any]:
    """The answer to a synchronous request whose prediction did not end in time."""
    error = f"{why} The prediction is still processing asynchronously."
    return prediction | {"status": "processing", "code": 5004, "error": error}


def to_error(error: UpscaleError) -> tuple[dict[str, Any], int]:
    if isinstance(error, WebhookWithBase64):
        return {"error": error.message}, 400
    # Callers choose no network here, so a missing one is the server's fault and not the request's.
    status = 503 if isinstance(error, ModelNotFound) else 400 if isinstance(error, BadSource) else error.status
    body: dict[str, Any] = {"code": status, "message": error.message, "error": error.message}
    if type(error) is not InvalidRequest and status == 400:
        body["error_code"] = _code(type(error))
    return body, status


def _code(error: type[UpscaleError]) -> int:
    return next((code for cls, code in _CODES if issubclass(error, cls)), 5000)


def to_uploaded(base_url: str, upload: Upload, size: int) -> dict[str, Any]:
    url = file_url(base_url, upload.key)
    return {"type": "image", "download_url": url, "url": url, "filename": upload.filename, "size": size}


def to_model(model: str, base_url: str, price: float) -> dict[str, Any]:
    """A model in the catalogue."""
    properties = {name: INPUTS[name] for name in (*FIELDS[model], *_FLAGS) if name in INPUTS}
    run = {
        "type": "model_run",
        "method": "POST",
        "server": base_url,
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
        "base_price": price,
        "sort_order": 0,
        "formula": "",
        "api_schema": {"api_schemas": [run]},
    }
