"""Runware tasks → Params, jobs and errors → items of the vendor's answers. Pure."""

import re
from dataclasses import dataclass
from typing import Any

from server.api.dialects.base import Webhook
from server.api.dialects.fields import dashed, file_url
from server.api.inline import Inline, to_json
from server.blobs.base import Blob
from server.config import Config
from server.db.deliveries import UPLOAD, WEBHOOK
from server.errors import (
    BY_CODE,
    BadSource,
    Conflict,
    Forbidden,
    InvalidField,
    InvalidRequest,
    JobCancelled,
    JobFailed,
    MethodNotAllowed,
    MissingField,
    ModelNotFound,
    NotFound,
    OutOfMemory,
    ResultImpossible,
    SourceNotAllowed,
    SourceTooLarge,
    SourceUnreachable,
    SourceUnreadable,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnsupportedMedia,
    UpscaleError,
)
from server.job.formats import FORMATS, FormatName
from server.job.job import MAX_SEED, Job, Params, State
from server.outbound.ssrf import is_web_url, why_not

NAME = "runware"
PREFIXES: tuple[str, ...] = ("/v1",)

BAD_KEY = "Invalid API key. Get one at https://my.runware.ai/signup"
NO_KEY = "Missing API key. Send it in the Authorization header, or as 'apiKey' of an authentication task, first."

UPSCALE = "imageUpscale"
MAX_TASKS = 100
"""In one request, and at a time in one session."""
FACTORS = (2, 4)
MAX_RESULTS = 20
"""In the answer to one task."""
QUALITIES = (20, 99)
MIN_TTL_S = 60
_DOCUMENTATION = "https://runware.ai/docs/en/tools/upscale#request-"
FORMATS_BY_NAME: dict[str, FormatName] = {"JPG": "jpeg", "PNG": "png", "WEBP": "webp"}
OUTPUTS = {"URL": "imageURL", "base64Data": "imageBase64Data", "dataURI": "imageDataURI"}


@dataclass(frozen=True)
class Model:
    """What a `model` means here."""

    factors: tuple[int, int] = FACTORS
    """Smallest and largest, both included."""
    default: int = 4
    must: str = "Must be one of 2, 3 or 4."
    creativity: float | None = None
    fractions: bool = False
    """Whether a factor may have a fraction."""


ANY_MODEL = Model()
MODELS = {
    "runware:500@1": Model((1, 4), 4, "Must be a number between 1 and 4.", creativity=1.0, fractions=True),
    "runware:501@1": Model((2, 2), 2, "Must be 2."),
    "runware:502@1": Model((2, 2), 2, "Must be 2."),
}
"""The models that differ from `ANY_MODEL`."""

UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_TYPES = dict.fromkeys(("upscaleFactor", "outputQuality", "ttl", "numberResults"), "integer")
_TYPES |= {"includeCost": "boolean"}
_TYPES |= dict.fromkeys(("inputs", "settings", "safety", "providerSettings", "routing"), "object")
"""The `type` of a wrong parameter in an error; all others are strings."""


class KeyMissing(Unauthorized):
    pass


class TaskNotFound(NotFound):
    pass


class TimedOut(UpscaleError):
    pass


CODES: tuple[tuple[type[UpscaleError], str], ...] = (
    (KeyMissing, "missingApiKey"),
    (Unauthorized, "invalidApiKey"),
    (TaskNotFound, "taskFailedOrNotFound"),
    (TimedOut, "providerTimeout"),
    (SourceUnreachable, "downloadFailed"),
    (BadSource, "invalidInputImage"),
    (Conflict, "conflictTaskUUID"),
    (ResultImpossible, "invalidUpscaleFactor"),
    (InvalidRequest, "invalidRequest"),
    (Forbidden, "forbidden"),
    (NotFound, "resourceNotFound"),
    (MethodNotAllowed, "unsupportedMethod"),
    (TooLarge, "maxRequestSizeExceeded"),
    (UnsupportedMedia, "unsupportedMediaType"),
    (TooManyRequests, "rateLimitExceeded"),
    (JobCancelled, "taskCancelled"),
    (JobFailed, "taskFailed"),
    (OutOfMemory, "processingFailed"),
    (ModelNotFound, "serviceUnavailable"),
    (Unavailable, "serviceUnavailable"),
)
"""Error codes by our error classes; the first match counts, unless a parameter is at fault. They are the vendor's where
it has one, and otherwise codes that the newest client (pip `runware-sdk`, errors.py) can classify; to that client all
others are "unknown"."""


# --- requests -------------------------------------------------------------------------------------------------------


def to_params(task: dict[str, Any]) -> Params:
    """What an upscale task asks for. Raises InvalidRequest."""
    name = read_string(task, "model")
    model = MODELS.get(name or "", ANY_MODEL)
    factor = _factor(task, model)
    if factor is None:
        # Newer clients send a model, which may imply the factor. Older ones send no model and always a factor.
        if (name is None and task.get("taskType") == UPSCALE) or task.get("targetMegapixels") is not None:
            raise missing("upscaleFactor")
        factor = model.default
    form = read_string(task, "outputFormat")
    if form is not None and form.upper() not in FORMATS_BY_NAME:
        raise invalid("outputFormat", "Must be one of JPG, PNG or WEBP.")
    must = "Must be an integer between {} and {}.".format(*QUALITIES)
    quality = _read_integer(task, "outputQuality", *QUALITIES, must)
    return Params(
        scale=factor,
        format=FORMATS_BY_NAME[(form or "JPG").upper()],
        quality=95 if quality is None else quality,
        creativity=model.creativity,
        seed=None if model.creativity is None else _seed(task),
    )


def to_request(task: dict[str, Any]) -> dict[str, Any]:
    """What answers need of the request later. Raises InvalidRequest."""
    parameter, image = image_of(task)
    return {
        "task_uuid": task_uuid_of(task),
        "parameter": parameter,
        "input_uuid": image if UUID.fullmatch(image) else None,
        "output": _output(task),
        "cost": _read_flag(task, "includeCost"),
        "results": _read_integer(task, "numberResults", 1, MAX_RESULTS, _MUST_RESULTS) or 1,
    }


_MUST_RESULTS = f"Must be an integer between 1 and {MAX_RESULTS}."


def check_ignored(task: dict[str, Any]) -> None:
    for name in ("settings", "safety", "providerSettings", "routing"):
        _read_object(task, name)


def _factor(task: dict[str, Any], model: Model) -> float | None:
    if not model.fractions:
        return _read_integer(task, "upscaleFactor", *model.factors, model.must)
    value = task.get("upscaleFactor")
    if value is None:
        return None
    low, high = model.factors
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise invalid("upscaleFactor", model.must)
    return float(value)


def _seed(task: dict[str, Any]) -> int | None:
    value = _read_object(task, "settings").get("seed")
    return value if type(value) is int and 0 <= value <= MAX_SEED else None


def task_uuid_of(task: dict[str, Any]) -> str:
    value = read_string(task, "taskUUID")
    if not value:
        raise missing("taskUUID")
    if not UUID.fullmatch(value):
        raise invalid("taskUUID", "Must be a UUID.")
    return value


def image_of(task: dict[str, Any]) -> tuple[str, str]:
    """The name of the parameter that holds the picture, and its value."""
    given = {"inputImage": task.get("inputImage"), "inputs.image": _read_object(task, "inputs").get("image")}
    found = [(name, value) for name in given if (value := read_string(given, name))]
    if not found:
        raise missing("inputImage")
    if len(found) > 1:
        raise invalid("inputImage", "Give either 'inputImage' or 'inputs.image', not both.")
    return found[0]


def _output(task: dict[str, Any]) -> str:
    value = task.get("outputType")
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return "URL"
    if not isinstance(value, str) or value not in OUTPUTS:
        raise invalid("outputType", "Must be one of URL, base64Data or dataURI.")
    return value


def is_async(task: dict[str, Any]) -> bool:
    value = read_string(task, "deliveryMethod")
    if value not in (None, "sync", "async"):
        raise invalid("deliveryMethod", "Must be one of sync or async.")
    return value == "async"


def deliveries_of(task: dict[str, Any], output: str, config: Config) -> dict[str, str]:
    """URLs to which the end is reported, by kind of delivery."""
    found = {}
    for name, kind in (("webhookURL", WEBHOOK), ("uploadEndpoint", UPLOAD)):
        url = read_string(task, name)
        if url and not is_web_url(url):
            raise invalid(name, "Must be an http or https URL.")
        reason = why_not(url, config) if url else None
        if reason:
            raise invalid(name, f"{reason[0].upper()}{reason[1:]}.")
        if url:
            found[kind] = url
    if WEBHOOK in found and output != "URL":
        raise invalid("outputType", "Must be URL when 'webhookURL' is given.")
    return found


def keep_s_of(task: dict[str, Any], output: str, longest_s: float) -> float | None:
    ttl = _read_integer(task, "ttl", MIN_TTL_S, None, f"Must be an integer of at least {MIN_TTL_S} seconds.")
    if ttl is not None and output != "URL":
        raise invalid("ttl", "It is available only with the outputType URL.")
    return None if ttl is None else float(min(ttl, longest_s))


def read_string(task: dict[str, Any], name: str) -> str | None:
    value = task.get(name)
    if not isinstance(value, str | None):
        raise invalid(name, "Must be a string.")
    return value


def _read_object(task: dict[str, Any], name: str) -> dict[str, Any]:
    value = task.get(name)
    if not isinstance(value, dict | None):
        raise invalid(name, "Must be an object.")
    return value or {}


def _read_flag(task: dict[str, Any], name: str) -> bool:
    value = task.get(name)
    if not isinstance(value, bool | None):
        raise invalid(name, "Must be a boolean.")
    return bool(value)


def _read_integer(task: dict[str, Any], name: str, low: int, high: int | None, must: str) -> int | None:
    value = task.get(name)
    if value is None:
        return None
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or value < low or (high is not None and value > high):
        raise invalid(name, must)
    return int(value)


def missing(name: str) -> MissingField:
    return MissingField(f"Missing required parameter '{name}'.", field=name)


def invalid(name: str, must: str) -> InvalidField:
    return InvalidField(f"Invalid value for '{name}' parameter. {must}", field=name)


# --- answers --------------------------------------------------------------------------------------------------------


def to_response(job: Job, base_url: str, picture: Blob | None = None) -> dict[str, Any]:
    """The result of a job that has one. `picture`: the result, when the answer is to contain it as base64."""
    assert job.result is not None
    output = job.request["output"]
    image: str | Inline = file_url(base_url, job.result.key)
    if picture is not None:
        image = Inline(picture, f"data:{FORMATS[job.result.format].mime};base64," if output == "dataURI" else "")
    item = {
        **named(job),
        "imageUUID": dashed(job.result_id),
        "inputImageUUID": job.request["input_uuid"] or dashed(job.source_id),
        OUTPUTS[output]: image,
    }
    return item | {"cost": job.result.cost} if job.request["cost"] else item


def to_webhook(job: Job, base_url: str, secret: bytes) -> Webhook | None:
    """Not signed: the vendor's callers recognise their webhooks by a part of the URL."""
    item = to_response(job, base_url) if job.result else to_item(failure_of(job)) | named(job)
    return Webhook(to_json(item), {"Content-Type": "application/json"})


def to_error(error: UpscaleError) -> tuple[dict[str, Any], int]:
    return {"errors": [to_item(error)]}, status_of(error)


def to_item(error: UpscaleError) -> dict[str, Any]:
    """An error in the vendor's form, without the task that it belongs to."""
    code = next((code for cls, code in CODES if isinstance(error, cls)), "internalServerError")
    if isinstance(error, Unauthorized):
        message = error.message if isinstance(error, KeyMissing) else BAD_KEY
        return {"code": code, "message": message, "parameter": "apiKey", "taskType": "authentication"}
    parameter = error.field
    if parameter and isinstance(
        error, MissingField | InvalidField | SourceTooLarge | SourceUnreadable | SourceNotAllowed
    ):
        kind = "missing" if isinstance(error, MissingField) else "invalid"
        name = {"inputs.image": "inputImage"}.get(parameter, parameter)
        code = kind + name[0].upper() + name[1:]
    item = {"code": code, "message": error.message}
    if parameter:
        item |= {"parameter": parameter, "type": _TYPES.get(parameter, "string")}
        if parameter not in ("image", "media", "operation"):  # uploads are documented elsewhere
            item["documentation"] = _DOCUMENTATION + parameter.replace(".", "-").lower()
    return item


def status_of(error: UpscaleError) -> int:
    """The HTTP status. The vendor's documents have neither 409, 422 nor 507."""
    if isinstance(error, ModelNotFound):
        return 503  # callers choose no network here, so a missing one is the server's fault
    return {409: 400, 422: 400, 507: 500}.get(error.status, error.status)


def failure_of(job: Job) -> UpscaleError:
    """Why an ended job has no result."""
    if job.state is State.CANCELLED:
        return JobCancelled("The task was cancelled.")
    cls = BY_CODE.get(job.error_code or "", UpscaleError)
    return located(cls(job.error_message or "The task failed."), job.request["parameter"])


def located(error: UpscaleError, parameter: str) -> UpscaleError:
    """The same error, with the parameter at fault: the picture or the factor."""
    if isinstance(error, BadSource):
        error.field = parameter
    elif isinstance(error, ResultImpossible):
        error.field = "upscaleFactor"
    return error


def named(job: Job) -> dict[str, Any]:
    return {"taskType": UPSCALE, "taskUUID": job.request["task_uuid"]}
