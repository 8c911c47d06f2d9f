"""Runware: arrays of tasks, by `POST /v1` or over a WebSocket on `/v1` or `/`.

Tasks: `imageUpscale` (also called `upscale`; answered as `imageUpscale`), `imageUpload`, `mediaStorage` (upload),
`getResponse`, and for keys and sockets `authentication` and `ping`. Where the vendor's documents are silent:

* Unknown fields are ignored, and null is as good as absent; known ones of a wrong type or range are refused. Any UUID
  will do as `taskUUID`, of whatever version. `settings`, `safety`, `providerSettings` and `routing` may be absent and
  change nothing, but for one seed (below).
* `model` says which factors may be asked for, and which one is meant when `upscaleFactor` is absent: `runware:500@1`
  any from 1 to 4 (4 if absent), `501@1` and `502@1` 2 alone (2), all others and none 2, 3 or 4 (4). `500@1`, the
  vendor's creative one, runs with creativity 1, and with the seed of its `settings` if there is one; all others run
  what the server chooses, without creativity. A task `imageUpscale` that names no model, as older clients send it,
  needs its factor, and so does one with `targetMegapixels`, which is not supported.
* `numberResults` is how many results one task is answered with. They are the same picture, since nothing here is
  random, and tell themselves apart by `resultIndex`; the first bears the cost. A webhook is sent once.
* Parameters that are wrong are `invalid<Parameter>`, absent ones `missing<Parameter>`. A picture that could not be got
  is `downloadFailed`, one that is no good or at an address that is not called `invalidInputImage`, a result that no
  file can hold `invalidUpscaleFactor`; what breaks while working is `taskFailed`, `processingFailed` (for want of
  memory) or `taskCancelled`. All codes are such as the vendor's newest client sorts into its own kinds.
* A `taskUUID` is taken, `conflictTaskUUID`, for as long as its job is kept, whatever became of it.
* Therefore a task that was accepted and then failed is answered with status 400 whatever the reason: clients repeat a
  request after a 5xx, and that could only be a conflict. 5xx and 429 are for tasks that were not accepted.
* A synchronous task that takes longer than `sync_wait_s` is answered `providerTimeout`, and goes on: `getResponse`
  tells its end. The vendor's clients wait for 60 s (JS, which then sends the task anew) and 120 s (Python).
* Of several tasks each is answered by itself; the status is 200 if any was good, else the gravest of theirs.
* `imageUUID`, known from the start, is told by `getResponse` while the task still runs.
* A webhook carries links only, so `webhookURL` is refused with an `outputType` other than URL. After a failure it is
  the error itself, flat. It is repeated eight times, over half a minute.
* `ttl` can shorten how long a result is kept, not lengthen it.
* Uploads keep every pixel, for as long as the operator's `keep_s` says.
* A socket has to name its key first, also where any will do; a wrong one may be followed by another. It is closed after
  120 s in which nothing came and nothing was being done.
"""

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, Request, Response, WebSocket, WebSocketDisconnect
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from server.api.auth import Caller, Gate
from server.api.bodies import check_json, text_of
from server.api.dialects.base import (
    BaseUrl,
    GateDep,
    OwnBases,
    ServiceDep,
    Webhook,
    file_url,
    in_place,
    read_json,
    whole_body,
)
from server.api.dialects.runware.sessions import Session, Sessions, let_in, next_frame, say
from server.api.responses import Inline, json_response, to_json
from server.config import Config
from server.db.deliveries import UPLOAD, WEBHOOK
from server.db.uploads import Upload
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
    cut,
)
from server.job.formats import FORMATS, FormatName
from server.job.job import MAX_SEED, Job, Params, State
from server.outbound.source import Source, parse_source
from server.outbound.ssrf import is_web_url, why_not
from server.service.service import Service
from server.transient import outage_of

NAME = "runware"
PREFIXES: tuple[str, ...] = ("/v1",)

WEBHOOK_PAUSES_S: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
WEBHOOK_TIMEOUT_S = 5.0

_BAD_KEY = "Invalid API key. Get one at https://my.runware.ai/signup"
_NO_KEY = "Missing API key. Send it in the Authorization header, or as 'apiKey' of an authentication task, first."

IDLE_S = 120.0
"""A socket on which nothing happens for so long is closed."""
MAX_TASKS = 100
"""In one request, and at a time in one session."""
_DOWNLOADS = 8
"""Uploads by URL at a time; the others wait for their turn, not for a thread."""
_LARGE_FRAMES = 2
"""Pictures on their way through sockets at a time."""
_GREETING_BYTES = 65536
"""What is looked at before we know who it is from: room for an authentication task, not for pictures."""

UPSCALE = "imageUpscale"
FACTORS = (2, 4)
MOST_RESULTS = 20
"""Of one task."""
QUALITIES = (20, 99)
LEAST_TTL_S = 60
_PAGE = "https://runware.ai/docs/en/tools/upscale#request-"
FORMATS_BY_NAME: dict[str, FormatName] = {"JPG": "jpeg", "PNG": "png", "WEBP": "webp"}
OUTPUTS = {"URL": "imageURL", "base64Data": "imageBase64Data", "dataURI": "imageDataURI"}


@dataclass(frozen=True)
class Model:
    """What a `model` means here."""

    factors: tuple[int, int] = FACTORS
    """The least and the largest."""
    default: int = 4
    must: str = "Must be one of 2, 3 or 4."
    creativity: float | None = None
    fractions: bool = False
    """Whether a factor may lie between two whole numbers."""


ANY_MODEL = Model()
MODELS = {
    "runware:500@1": Model((1, 4), 4, "Must be a number between 1 and 4.", creativity=1.0, fractions=True),
    "runware:501@1": Model((2, 2), 2, "Must be 2."),
    "runware:502@1": Model((2, 2), 2, "Must be 2."),
}
"""Those that differ from all others."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_TYPES = dict.fromkeys(("upscaleFactor", "outputQuality", "ttl", "numberResults"), "integer")
_TYPES |= {"includeCost": "boolean"}
_TYPES |= dict.fromkeys(("inputs", "settings", "safety", "providerSettings", "routing"), "object")
"""What `type` says of a wrong parameter; all others are strings."""

log = structlog.get_logger()


class _KeyMissing(Unauthorized):
    pass


class _TaskNotFound(NotFound):
    pass


class _TimedOut(UpscaleError):
    pass


_CODES: tuple[tuple[type[UpscaleError], str], ...] = (
    (_KeyMissing, "missingApiKey"),
    (Unauthorized, "invalidApiKey"),
    (_TaskNotFound, "taskFailedOrNotFound"),
    (_TimedOut, "providerTimeout"),
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
"""Error codes, by our classes; the first that fits, unless a parameter is at fault. They are the vendor's where it has
one, and else such as the newest client (pip `runware-sdk`, errors.py) knows the kind of: what it does not know is
"unknown" to its callers."""


# --- requests -------------------------------------------------------------------------------------------------------


def to_params(task: dict[str, Any]) -> Params:
    """What an upscale task asks for. Raises InvalidRequest."""
    name = _string(task, "model")
    model = MODELS.get(name or "", ANY_MODEL)
    factor = _factor(task, model)
    if factor is None:
        # Newer clients name a model and leave the factor to it. Older ones have no model, and a factor always.
        if (name is None and task.get("taskType") == UPSCALE) or task.get("targetMegapixels") is not None:
            raise _missing("upscaleFactor")
        factor = model.default
    form = _string(task, "outputFormat")
    if form is not None and form.upper() not in FORMATS_BY_NAME:
        raise _invalid("outputFormat", "Must be one of JPG, PNG or WEBP.")
    quality = _integer(task, "outputQuality", *QUALITIES, "Must be an integer between {} and {}.".format(*QUALITIES))
    return Params(
        scale=factor,
        format=FORMATS_BY_NAME[(form or "JPG").upper()],
        quality=95 if quality is None else quality,
        creativity=model.creativity,
        seed=None if model.creativity is None else _seed(task),
    )


def to_request(task: dict[str, Any]) -> dict[str, Any]:
    """What answers will need to know again. Raises InvalidRequest."""
    parameter, image = _image(task)
    return {
        "task_uuid": _task_uuid(task),
        "parameter": parameter,
        "input_uuid": image if _UUID.fullmatch(image) else None,
        "output": _output(task),
        "cost": _flag(task, "includeCost"),
        "results": _integer(task, "numberResults", 1, MOST_RESULTS, _MUST_RESULTS) or 1,
    }


_MUST_RESULTS = f"Must be an integer between 1 and {MOST_RESULTS}."


def _check_ignored(task: dict[str, Any]) -> None:
    for name in ("settings", "safety", "providerSettings", "routing"):
        _object(task, name)


def _factor(task: dict[str, Any], model: Model) -> float | None:
    if not model.fractions:
        return _integer(task, "upscaleFactor", *model.factors, model.must)
    value = task.get("upscaleFactor")
    if value is None:
        return None
    low, high = model.factors
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _invalid("upscaleFactor", model.must)
    return float(value)


def _seed(task: dict[str, Any]) -> int | None:
    value = _object(task, "settings").get("seed")
    return value if type(value) is int and 0 <= value <= MAX_SEED else None


def _task_uuid(task: dict[str, Any]) -> str:
    value = _string(task, "taskUUID")
    if not value:
        raise _missing("taskUUID")
    if not _UUID.fullmatch(value):
        raise _invalid("taskUUID", "Must be a UUID.")
    return value


def _image(task: dict[str, Any]) -> tuple[str, str]:
    """The picture, and where in the task it stood."""
    given = {"inputImage": task.get("inputImage"), "inputs.image": _object(task, "inputs").get("image")}
    found = [(name, value) for name in given if (value := _string(given, name))]
    if not found:
        raise _missing("inputImage")
    if len(found) > 1:
        raise _invalid("inputImage", "Give either 'inputImage' or 'inputs.image', not both.")
    return found[0]


def _output(task: dict[str, Any]) -> str:
    value = task.get("outputType")
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return "URL"
    if not isinstance(value, str) or value not in OUTPUTS:
        raise _invalid("outputType", "Must be one of URL, base64Data or dataURI.")
    return value


def _is_async(task: dict[str, Any]) -> bool:
    value = _string(task, "deliveryMethod")
    if value not in (None, "sync", "async"):
        raise _invalid("deliveryMethod", "Must be one of sync or async.")
    return value == "async"


def _deliver(task: dict[str, Any], output: str, config: Config) -> dict[str, str]:
    """Addresses that are to get the result, by kind."""
    found = {}
    for name, kind in (("webhookURL", WEBHOOK), ("uploadEndpoint", UPLOAD)):
        url = _string(task, name)
        if url and not is_web_url(url):
            raise _invalid(name, "Must be an http or https URL.")
        reason = why_not(url, config) if url else None
        if reason:
            raise _invalid(name, f"{reason[0].upper()}{reason[1:]}.")
        if url:
            found[kind] = url
    if WEBHOOK in found and output != "URL":
        raise _invalid("outputType", "Must be URL when 'webhookURL' is given.")
    return found


def _keep_s(task: dict[str, Any], output: str, longest_s: float) -> float | None:
    ttl = _integer(task, "ttl", LEAST_TTL_S, None, f"Must be an integer of at least {LEAST_TTL_S} seconds.")
    if ttl is not None and output != "URL":
        raise _invalid("ttl", "It is available only with the outputType URL.")
    return None if ttl is None else float(min(ttl, longest_s))


def _string(task: dict[str, Any], name: str) -> str | None:
    value = task.get(name)
    if not isinstance(value, str | None):
        raise _invalid(name, "Must be a string.")
    return value


def _object(task: dict[str, Any], name: str) -> dict[str, Any]:
    value = task.get(name)
    if not isinstance(value, dict | None):
        raise _invalid(name, "Must be an object.")
    return value or {}


def _flag(task: dict[str, Any], name: str) -> bool:
    value = task.get(name)
    if not isinstance(value, bool | None):
        raise _invalid(name, "Must be a boolean.")
    return bool(value)


def _integer(task: dict[str, Any], name: str, low: int, high: int | None, must: str) -> int | None:
    value = task.get(name)
    if value is None:
        return None
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or value < low or (high is not None and value > high):
        raise _invalid(name, must)
    return int(value)


def _missing(name: str) -> MissingField:
    return MissingField(f"Missing required parameter '{name}'.", field=name)


def _invalid(name: str, must: str) -> InvalidField:
    return InvalidField(f"Invalid value for '{name}' parameter. {must}", field=name)


# --- answers --------------------------------------------------------------------------------------------------------


def to_response(job: Job, base_url: str, picture: Path | None = None) -> dict[str, Any]:
    """The result of a job that has one. `picture` is its file, when it is to be in the answer itself."""
    assert job.result is not None
    output = job.request["output"]
    image: str | Inline = file_url(base_url, job.result.key)
    if picture is not None:
        image = Inline(picture, f"data:{FORMATS[job.result.format].mime};base64," if output == "dataURI" else "")
    item = {
        **_named(job),
        "imageUUID": _dashed(job.result_id),
        "inputImageUUID": job.request["input_uuid"] or _dashed(job.source_id),
        OUTPUTS[output]: image,
    }
    return item | {"cost": job.result.cost} if job.request["cost"] else item


def to_webhook(job: Job, base_url: str, secret: bytes) -> Webhook | None:
    """Not signed: the vendor's callers know their own by what they put into the address."""
    item = to_response(job, base_url) if job.result else _item(_failure(job)) | _named(job)
    return Webhook(to_json(item), {"Content-Type": "application/json"})


def to_error(error: UpscaleError) -> Response:
    return json_response({"errors": [_item(error)]}, _status(error))


def _item(error: UpscaleError) -> dict[str, Any]:
    """An error as the vendor writes it, but for the task it is about."""
    code = next((code for cls, code in _CODES if isinstance(error, cls)), "internalServerError")
    if isinstance(error, Unauthorized):
        message = error.message if isinstance(error, _KeyMissing) else _BAD_KEY
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
        if parameter not in ("image", "media", "operation"):  # uploads are on another page
            item["documentation"] = _PAGE + parameter.replace(".", "-").lower()
    return item


def _status(error: UpscaleError) -> int:
    """The vendor's documents know neither 409, 422 nor 507."""
    if isinstance(error, ModelNotFound):
        return 503  # nobody chooses a network here, so that one is missing is our fault
    return {409: 400, 422: 400, 507: 500}.get(error.status, error.status)


def _failure(job: Job) -> UpscaleError:
    """Why a job that has ended has no result."""
    if job.state is State.CANCELLED:
        return JobCancelled("The task was cancelled.")
    cls = BY_CODE.get(job.error_code or "", UpscaleError)
    return _located(cls(job.error_message or "The task failed."), job.request["parameter"])


def _located(error: UpscaleError, parameter: str) -> UpscaleError:
    """With the parameter at fault: the picture, or what was wanted of it."""
    if isinstance(error, BadSource):
        error.field = parameter
    elif isinstance(error, ResultImpossible):
        error.field = "upscaleFactor"
    return error


def _named(job: Job) -> dict[str, Any]:
    return {"taskType": UPSCALE, "taskUUID": job.request["task_uuid"]}


def _dashed(hex32: str) -> str:
    return str(uuid.UUID(hex32))


# --- tasks ----------------------------------------------------------------------------------------------------------


class _Shared:
    """What all requests and sockets of one server have in common."""

    def __init__(self) -> None:
        self.sessions = Sessions()
        self.downloads = CapacityLimiter(_DOWNLOADS)
        self.large_frames = CapacityLimiter(_LARGE_FRAMES)


async def _shared(connection: HTTPConnection) -> _Shared:
    state = connection.app.state
    if not hasattr(state, NAME):
        setattr(state, NAME, _Shared())
    shared: _Shared = getattr(state, NAME)
    return shared


@dataclass(frozen=True)
class _Place:
    """Where tasks come in."""

    gate: GateDep
    service: ServiceDep
    shared: Annotated[_Shared, Depends(_shared)]
    base_url: BaseUrl
    own_bases: OwnBases


_PlaceDep = Annotated[_Place, Depends(in_place(_Place))]


@dataclass(frozen=True)
class _Answer:
    """To one task: an item of `data` if the status is 200, else one of `errors`."""

    item: dict[str, Any]
    status: int = 200
    retry_after_s: int = 0
    """Of a task that was refused for now, with status 429 or 503."""
    results: int = 1
    """So many were asked for."""

    def items(self) -> list[dict[str, Any]]:
        if self.results == 1:
            return [self.item]
        free = {"cost": 0.0} if "cost" in self.item else {}
        rest = [self.item | free | {"resultIndex": index} for index in range(1, self.results)]
        return [self.item | {"resultIndex": 0}, *rest]

    def frame(self) -> str:
        try:
            return to_json({"data" if self.status == 200 else "errors": self.items()}).decode("ascii")
        except OSError:
            gone = NotFound("The picture has expired.")
            return _refused(gone, self.item.get("taskType"), self.item.get("taskUUID")).frame()

    @property
    def large(self) -> bool:
        """With a picture in it."""
        return any(isinstance(value, Inline) for value in self.item.values())


async def _answer(place: _Place, owner: str, task: Any) -> _Answer:
    """Do one task. Whatever goes wrong with it is an answer too."""
    kind, task_uuid = (task.get("taskType"), task.get("taskUUID")) if isinstance(task, dict) else (None, None)
    try:
        if kind is None:
            raise _missing("taskType")
        work = _WORKS.get(kind) if isinstance(kind, str) else None
        if work is None:
            raise _invalid("taskType", f"Must be one of {', '.join(_WORKS)}.")
        return await work(place, owner, task)
    except UpscaleError as error:
        return _refused(error, kind, task_uuid)
    except Exception as error:
        outage = outage_of(error)
        if outage is not None:
            log.error("disk or database failed", task_type=kind, reason=str(error))
            return _refused(outage, kind, task_uuid)
        log.exception("task broke", task_type=kind)
        return _refused(UpscaleError("Something went wrong inside the server."), kind, task_uuid)


def _refused(error: UpscaleError, kind: Any, task_uuid: Any) -> _Answer:
    item = _item(error)
    # Cut: nobody is sent megabytes for having sent them.
    if isinstance(task_uuid, str):
        item["taskUUID"] = cut(task_uuid)
    if isinstance(kind, str):
        kind = cut(kind)
        item["taskType"] = UPSCALE if kind == "upscale" else kind
    pause_s = error.retry_after_s if isinstance(error, TooManyRequests | Unavailable) else 0
    return _Answer(item, _status(error), pause_s)


async def _upscale(place: _Place, owner: str, task: dict[str, Any]) -> _Answer:
    job, waits = await place.service.reading.run(owner, _submit, place, owner, task)
    if not waits:
        return _Answer(_named(job))
    task.clear()  # its picture is large, and the wait long
    wait_s = place.service.config.sync_wait_s
    job = await place.service.wait(job.id, owner, wait_s)
    if job.state.final:
        return await run_in_threadpool(_ended, place, job)
    late = f"The task was not done within {wait_s:g} seconds."
    message = f"{'The server is restarting.' if place.service.closing else late} It goes on: use getResponse."
    return _Answer(_item(_TimedOut(message)) | _named(job), 400)


def _submit(place: _Place, owner: str, task: dict[str, Any]) -> tuple[Job, bool]:
    """The job, and whether to wait for its end."""
    service, request, params = place.service, to_request(task), to_params(task)
    deliver = _deliver(task, request["output"], service.config)
    waits = not _is_async(task) and WEBHOOK not in deliver
    keep_s = _keep_s(task, request["output"], service.config.keep_s)
    _check_ignored(task)
    parameter, image = _image(task)
    try:
        job = service.submit(
            dialect=NAME,
            owner=owner,
            params=params,
            source=_source(place, owner, parameter, image),
            request=request,
            external_id=request["task_uuid"].lower(),
            keep_s=keep_s,
            deliver=deliver,
            base_url=place.base_url,
        )
    except Conflict as error:
        raise Conflict("There is a task of this 'taskUUID' already.", field="taskUUID") from error
    except UpscaleError as error:
        raise _located(error, parameter) from error
    return job, waits


def _source(place: _Place, owner: str, parameter: str, text: str) -> Source:
    if not _UUID.fullmatch(text):
        return _inline(place, parameter, text, "Must be a UUID, an http or https URL, a data URI or base64.")
    try:
        return place.service.picture(owner, text.replace("-", "").lower())
    except NotFound as error:
        raise _invalid(parameter, "There is no picture of this UUID.") from error


def _inline(place: _Place, parameter: str, text: str, must: str) -> Source:
    try:
        source = parse_source(text, place.own_bases)
    except InvalidField as error:
        raise _invalid(parameter, must) from error
    limit = place.service.config.max_source_bytes
    if source.data is not None and len(source.data) > limit:
        raise SourceTooLarge(f"the picture's file is over this server's limit of {limit} bytes", field=parameter)
    return source


def _ended(place: _Place, job: Job) -> _Answer:
    if job.result is None:
        return _Answer(_item(_failure(job)) | _named(job), 400)
    inline = job.request["output"] != "URL"
    item = to_response(job, place.base_url, place.service.result_path(job) if inline else None)
    return _Answer(item, results=job.request.get("results", 1))


async def _get_response(place: _Place, owner: str, task: dict[str, Any]) -> _Answer:
    return await run_in_threadpool(_poll, place, owner, _task_uuid(task))


def _poll(place: _Place, owner: str, task_uuid: str) -> _Answer:
    try:
        job = place.service.find(owner, NAME, task_uuid.lower())
    except NotFound as error:
        raise _TaskNotFound("Task not found") from error
    asked = {"taskUUID": task_uuid}
    if not job.state.final:
        # NOTE: Python SDK 0.5.24 drops answers without an imageUUID, and then waits 30 s before it asks again.
        return _Answer(_named(job) | asked | {"status": "processing", "imageUUID": _dashed(job.result_id)})
    answer = _ended(place, job)
    status = {"status": "success" if answer.status == 200 else "error"}
    return _Answer(answer.item | asked | status, answer.status, results=answer.results)


async def _image_upload(place: _Place, owner: str, task: dict[str, Any]) -> _Answer:
    named = {"taskType": "imageUpload", "taskUUID": _task_uuid(task)}
    upload = await _keep(place, owner, task, "image")
    return _Answer(named | {"imageUUID": _dashed(upload.key[:32]), "imageURL": file_url(place.base_url, upload.key)})


async def _media_storage(place: _Place, owner: str, task: dict[str, Any]) -> _Answer:
    named = {"taskType": "mediaStorage", "taskUUID": _task_uuid(task)}
    if task.get("operation") != "upload":
        raise _invalid("operation", "Must be upload.")
    upload = await _keep(place, owner, task, "media")
    return _Answer(named | {"mediaUUID": _dashed(upload.key[:32])})


async def _keep(place: _Place, owner: str, task: dict[str, Any], parameter: str) -> Upload:
    text = _string(task, parameter)
    if not text:
        raise _missing(parameter)
    must = "Must be an http or https URL, a data URI or base64."
    reading = place.service.reading
    source = await reading.run(owner, _inline, place, parameter, text, must)
    try:
        source = await run_in_threadpool(place.service.resolve, source, owner)
        if source.url is not None:
            # Downloads take their time. They are few at once, so that nobody else waits for a thread.
            download = to_thread.run_sync(place.service.read, source, limiter=place.shared.downloads)
            source = Source(data=await place.service.unless_closing(download))
        return await reading.run(owner, _put, place.service, owner, source)
    except BadSource as error:
        raise _located(error, parameter) from error


def _put(service: Service, owner: str, source: Source) -> Upload:
    data = service.read(source)
    mime = service.header(Source(data=data)).mime  # nothing but pictures
    suffix = next((each.suffix for each in FORMATS.values() if each.mime == mime), "." + mime.split("/")[1])
    ticket = service.uploads.issue(owner, f"upload{suffix}", suffix)
    return service.uploads.fill(ticket.key, data)


async def _ping(place: _Place, owner: str, task: dict[str, Any]) -> _Answer:
    return _PONG


_PONG = _Answer({"taskType": "ping", "pong": True})

_WORKS: dict[str, Callable[[_Place, str, dict[str, Any]], Awaitable[_Answer]]] = {
    UPSCALE: _upscale,
    "upscale": _upscale,
    "imageUpload": _image_upload,
    "mediaStorage": _media_storage,
    "getResponse": _get_response,
    "ping": _ping,
}


def _read_tasks(body: bytes | str) -> list[Any]:
    """An array of tasks; a bare one is an array of one. Raises InvalidRequest."""
    value = read_json(body)
    tasks = value if isinstance(value, list) else [value]
    if not 0 < len(tasks) <= MAX_TASKS:
        raise InvalidRequest(f"The body must be an array of 1 to {MAX_TASKS} tasks.")
    return tasks


# --- keys -----------------------------------------------------------------------------------------------------------


def _is_authentication(task: Any) -> bool:
    return isinstance(task, dict) and task.get("taskType") == "authentication"


def _owner(task: dict[str, Any], gate: Gate) -> str:
    """Who sends this authentication task. Raises Unauthorized."""
    key = task.get("apiKey")
    if not isinstance(key, str) or not key.strip():
        raise _KeyMissing(_NO_KEY)
    return gate.admit(f"Bearer {key}").id


async def _read(request: Request, gate: Gate) -> tuple[str, bytes]:
    """Who asks, by the header or else the first task; and the body, of which only the start is read before that."""
    header = request.headers.get("authorization")
    is_open = await run_in_threadpool(gate.is_open)
    if header or is_open:
        caller = await run_in_threadpool(gate.admit, header)
        return caller.id, await whole_body(request)
    body = bytearray()
    chunks = request.stream()
    async for chunk in chunks:
        body += chunk
        if len(body) >= _GREETING_BYTES:
            break
    owner = await run_in_threadpool(_owner, _first_task(bytes(body[:_GREETING_BYTES])), gate)
    async for chunk in chunks:
        body += chunk
    return owner, bytes(body)


def _first_task(start: bytes) -> dict[str, Any]:
    """The authentication task that a body starts with, or an empty one."""
    try:
        task, _ = json.JSONDecoder().raw_decode(text_of(start, "ignore").lstrip(" \t\r\n["))
    except (ValueError, RecursionError):
        return {}
    return task if _is_authentication(task) else {}


# --- endpoints ------------------------------------------------------------------------------------------------------

router = APIRouter()


@router.post("/v1")
async def tasks(place: _PlaceDep, request: Request) -> Response:
    owner, body = await _read(request, place.gate)
    check_json(request.headers, body)
    if len(body) <= _GREETING_BYTES:  # no picture, or a small one: polls are not to wait for those who send large ones
        found = await run_in_threadpool(_read_tasks, body)
    else:
        found = await place.service.reading.run(owner, _read_tasks, body)
    del body  # it may be large, and the wait for the answers long
    if _is_authentication(found[0]):
        found.pop(0)
    if not found:
        raise InvalidRequest("There is no task beside the authentication.")
    answers = await asyncio.gather(*[_answer(place, owner, task) for task in found])
    return await run_in_threadpool(_response, answers)


def _response(answers: list[_Answer]) -> Response:
    data = [item for each in answers if each.status == 200 for item in each.items()]
    errors = [each.item for each in answers if each.status != 200]
    # NOTE: newer clients take the mere key `errors` for a failure.
    body = ({"data": data} if data else {}) | ({"errors": errors} if errors else {})
    status = 200 if data else max(each.status for each in answers)
    pause_s = 0 if data else max(each.retry_after_s for each in answers)
    pause = {"Retry-After": str(pause_s)} if status in (429, 503) and pause_s else {}
    return json_response(body, status, pause)


@router.websocket("/v1")
@router.websocket("/")
async def converse(socket: WebSocket, place: _PlaceDep) -> None:
    """Answers come as tasks are done, each in a frame of its own: no frame waits for what an earlier one asked."""
    await socket.accept()
    session: Session | None = None
    try:
        while (frame := await next_frame(socket, session, IDLE_S)) is not None:
            try:
                found = await _read_frame(place, frame, session)
            except UpscaleError as error:
                await say(socket, _refused(error, None, None).frame())
                continue
            for task in found:
                if _is_authentication(task):
                    session = await _join(place, socket, session, task)
                elif isinstance(task, dict) and task.get("taskType") == "ping":
                    await say(socket, _PONG.frame())
                elif session is None:
                    await say(socket, _refused(_KeyMissing(_NO_KEY), None, None).frame())
                else:
                    session.begin(_do(place, session, task))
            del frame, found, task  # they may be large, and the next one far
    except WebSocketDisconnect:
        pass
    finally:
        if session is not None:
            session.leave(socket)


async def _read_frame(place: _Place, frame: str, session: Session | None) -> list[Any]:
    if session is None and len(frame) > _GREETING_BYTES:
        raise _KeyMissing(_NO_KEY)
    if session is None or len(frame) <= _GREETING_BYTES:
        return await run_in_threadpool(_read_tasks, frame)
    return await place.service.reading.run(session.owner, _read_tasks, frame)


async def _join(place: _Place, socket: WebSocket, session: Session | None, task: dict[str, Any]) -> Session | None:
    """The session that this authentication opens or goes on with; the one there was if its key is no good."""
    try:
        owner = await run_in_threadpool(_owner, task, place.gate)
    except Unauthorized as error:
        await say(socket, _refused(error, None, None).frame())
        return session
    if session is not None:
        session.leave(socket)
    let_in(socket)
    session = place.shared.sessions.open(owner, task.get("connectionSessionUUID") or (session and session.id))
    answer = _Answer({"taskType": "authentication", "connectionSessionUUID": session.id})
    await say(socket, answer.frame())
    await session.join(socket)
    return session


async def _do(place: _Place, session: Session, task: Any) -> None:
    try:
        if session.works > MAX_TASKS:
            raise TooManyRequests(f"At most {MAX_TASKS} tasks are done at a time; wait for some to end.")
        # A session outlives the request that opened it, and perhaps its key.
        await run_in_threadpool(place.gate.check, Caller(session.owner))
    except UpscaleError as error:
        kind, task_uuid = (task.get("taskType"), task.get("taskUUID")) if isinstance(task, dict) else (None, None)
        answer = _refused(error, kind, task_uuid)
    else:
        answer = await _answer(place, session.owner, task)
    await session.send(partial(_sending, place, answer))


@asynccontextmanager
async def _sending(place: _Place, answer: _Answer) -> AsyncIterator[str]:
    """Its frame, for as long as it is being sent. A picture in one is in memory several times over: few at a time."""
    async with place.shared.large_frames if answer.large else nullcontext():
        yield await run_in_threadpool(answer.frame)
