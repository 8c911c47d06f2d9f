"""What each Runware task does, whether it comes by REST or over a WebSocket."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog
from anyio import CapacityLimiter
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from server.api.auth import Auth
from server.api.dialects.depends import own_bases_of
from server.api.dialects.fields import dashed, file_url, read_json, undashed
from server.api.dialects.runware.sessions import Sessions
from server.api.dialects.runware.translate import (
    MAX_TASKS,
    NAME,
    NO_KEY,
    UPSCALE,
    UUID,
    KeyMissing,
    TaskNotFound,
    TimedOut,
    check_ignored,
    deliveries_of,
    failure_of,
    image_of,
    invalid,
    is_async,
    keep_s_of,
    located,
    missing,
    named,
    read_string,
    status_of,
    task_uuid_of,
    to_item,
    to_params,
    to_request,
    to_response,
)
from server.api.inline import Inline, to_json
from server.db.deliveries import WEBHOOK
from server.db.uploads import Upload
from server.errors import (
    BadSource,
    Conflict,
    InvalidField,
    InvalidRequest,
    NotFound,
    SourceTooLarge,
    TooManyRequests,
    Unavailable,
    UpscaleError,
    cut,
)
from server.errors.transient import transient_error
from server.job.formats import FORMATS
from server.job.job import Job
from server.outbound.source import Source, parse_source
from server.service.service import Service

_MAX_DOWNLOADS = 8
"""Uploads by URL at a time; the others wait without a thread."""
_MAX_LARGE_FRAMES = 2
"""Frames with pictures that are sent through sockets at a time."""
UNAUTHENTICATED_BYTES = 65536
"""How much is read before the caller is known: room for an authentication task, not for pictures."""

log = structlog.get_logger()


class Shared:
    """State that all requests and sockets of one server share."""

    def __init__(self) -> None:
        self.sessions = Sessions()
        self.downloads = CapacityLimiter(_MAX_DOWNLOADS)
        self.large_frames = CapacityLimiter(_MAX_LARGE_FRAMES)


@dataclass(frozen=True)
class TaskContext:
    """What a task needs of its server and of its request."""

    auth: Auth
    service: Service
    shared: Shared
    base_url: str
    own_bases: tuple[str, ...]


def context_of(connection: HTTPConnection) -> TaskContext:
    state, own_bases = connection.app.state, own_bases_of(connection)
    if not hasattr(state, NAME):
        setattr(state, NAME, Shared())
    return TaskContext(state.auth, state.service, getattr(state, NAME), own_bases[0], own_bases)


@dataclass(frozen=True)
class Answer:
    """The answer to one task: an item of `data` if the status is 200, else one of `errors`."""

    item: dict[str, Any]
    status: int = 200
    retry_after_s: int = 0
    """Of a task that was refused for the moment, with status 429 or 503; else 0."""
    results: int = 1
    """How many the task asked for."""

    def items(self) -> list[dict[str, Any]]:
        if self.results == 1:
            return [self.item]
        free = {"cost": 0.0} if "cost" in self.item else {}
        rest = [self.item | free | {"resultIndex": index} for index in range(1, self.results)]
        return [self.item | {"resultIndex": 0}, *rest]

    def frame(self) -> str:
        try:
            return to_json({"data" if self.status == 200 else "errors": self.items()}).decode("ascii")
        except (NotFound, OSError):
            expired = NotFound("The picture has expired.")
            return refused(expired, self.item.get("taskType"), self.item.get("taskUUID")).frame()

    @property
    def large(self) -> bool:
        """Whether it contains a picture."""
        return any(isinstance(value, Inline) for value in self.item.values())


async def do_task(context: TaskContext, owner: str, task: Any) -> Answer:
    """Do one task. A failure is an answer too."""
    kind, task_uuid = (task.get("taskType"), task.get("taskUUID")) if isinstance(task, dict) else (None, None)
    try:
        if kind is None:
            raise missing("taskType")
        handler = HANDLERS.get(kind) if isinstance(kind, str) else None
        if handler is None:
            raise invalid("taskType", f"Must be one of {', '.join(HANDLERS)}.")
        return await handler(context, owner, task)
    except UpscaleError as error:
        return refused(error, kind, task_uuid)
    except Exception as error:
        transient = transient_error(error)
        if transient is not None:
            log.error("disk or database failed", task_type=kind, reason=str(error))
            return refused(transient, kind, task_uuid)
        log.exception("task broke", task_type=kind)
        return refused(UpscaleError("Something went wrong inside the server."), kind, task_uuid)


def refused(error: UpscaleError, kind: Any, task_uuid: Any) -> Answer:
    item = to_item(error)
    # Cut, so that a caller's megabytes are not sent back.
    if isinstance(task_uuid, str):
        item["taskUUID"] = cut(task_uuid)
    if isinstance(kind, str):
        kind = cut(kind)
        item["taskType"] = UPSCALE if kind == "upscale" else kind
    pause_s = error.retry_after_s if isinstance(error, TooManyRequests | Unavailable) else 0
    return Answer(item, status_of(error), pause_s)


async def _upscale(context: TaskContext, owner: str, task: dict[str, Any]) -> Answer:
    job, waits = await context.service.reading.run(owner, _submit, context, owner, task)
    if not waits:
        return Answer(named(job))
    task.clear()  # its picture is large, and the wait is long
    wait_s = context.service.config.sync_wait_s
    job = await context.service.wait(job.id, owner, wait_s)
    if job.state.final:
        return await run_in_threadpool(_ended, context, job)
    late = f"The task was not done within {wait_s:g} seconds."
    message = f"{'The server is restarting.' if context.service.closing else late} It continues: use getResponse."
    return Answer(to_item(TimedOut(message)) | named(job), 400)


def _submit(context: TaskContext, owner: str, task: dict[str, Any]) -> tuple[Job, bool]:
    """The job, and whether to wait for its end."""
    service, request, params = context.service, to_request(task), to_params(task)
    deliver = deliveries_of(task, request["output"], service.config)
    waits = not is_async(task) and WEBHOOK not in deliver
    keep_s = keep_s_of(task, request["output"], service.config.keep_s)
    check_ignored(task)
    parameter, image = image_of(task)
    try:
        job = service.submit(
            dialect=NAME,
            owner=owner,
            params=params,
            source=_source(context, owner, parameter, image),
            request=request,
            external_id=request["task_uuid"].lower(),
            keep_s=keep_s,
            deliver=deliver,
            base_url=context.base_url,
        )
    except Conflict as error:
        raise Conflict("There is a task of this 'taskUUID' already.", field="taskUUID") from error
    except UpscaleError as error:
        raise located(error, parameter) from error
    return job, waits


def _source(context: TaskContext, owner: str, parameter: str, text: str) -> Source:
    if not UUID.fullmatch(text):
        return _inline(context, parameter, text, "Must be a UUID, an http or https URL, a data URI or base64.")
    try:
        return context.service.picture(owner, undashed(text))
    except NotFound as error:
        raise invalid(parameter, "There is no picture of this UUID.") from error


def _inline(context: TaskContext, parameter: str, text: str, must: str) -> Source:
    try:
        source = parse_source(text, context.own_bases)
    except InvalidField as error:
        raise invalid(parameter, must) from error
    limit = context.service.config.max_source_bytes
    if source.data is not None and len(source.data) > limit:
        raise SourceTooLarge(f"the picture's file is over this server's limit of {limit} bytes", field=parameter)
    return source


def _ended(context: TaskContext, job: Job) -> Answer:
    if job.result is None:
        return Answer(to_item(failure_of(job)) | named(job), 400)
    inline = job.request["output"] != "URL"
    item = to_response(job, context.base_url, context.service.result(job) if inline else None)
    return Answer(item, results=job.request.get("results", 1))


async def _get_response(context: TaskContext, owner: str, task: dict[str, Any]) -> Answer:
    return await run_in_threadpool(_poll, context, owner, task_uuid_of(task))


def _poll(context: TaskContext, owner: str, task_uuid: str) -> Answer:
    try:
        job = context.service.find(owner, NAME, task_uuid.lower())
    except NotFound as error:
        raise TaskNotFound("Task not found") from error
    asked = {"taskUUID": task_uuid}
    if not job.state.final:
        # NOTE: Python SDK 0.5.24 drops answers without an imageUUID, and then waits 30 s before it asks again.
        return Answer(named(job) | asked | {"status": "processing", "imageUUID": dashed(job.result_id)})
    answer = _ended(context, job)
    status = {"status": "success" if answer.status == 200 else "error"}
    return Answer(answer.item | asked | status, answer.status, results=answer.results)


async def _image_upload(context: TaskContext, owner: str, task: dict[str, Any]) -> Answer:
    named = {"taskType": "imageUpload", "taskUUID": task_uuid_of(task)}
    upload = await _store_upload(context, owner, task, "image")
    return Answer(named | {"imageUUID": dashed(upload.key[:32]), "imageURL": file_url(context.base_url, upload.key)})


async def _media_storage(context: TaskContext, owner: str, task: dict[str, Any]) -> Answer:
    named = {"taskType": "mediaStorage", "taskUUID": task_uuid_of(task)}
    if task.get("operation") != "upload":
        raise invalid("operation", "Must be upload.")
    upload = await _store_upload(context, owner, task, "media")
    return Answer(named | {"mediaUUID": dashed(upload.key[:32])})


async def _store_upload(context: TaskContext, owner: str, task: dict[str, Any], parameter: str) -> Upload:
    text = read_string(task, parameter)
    if not text:
        raise missing(parameter)
    must = "Must be an http or https URL, a data URI or base64."
    reading = context.service.reading
    source = await reading.run(owner, _inline, context, parameter, text, must)
    try:
        source = await run_in_threadpool(context.service.resolve, source, owner)
        source = await context.service.fetched(source, limiter=context.shared.downloads)
        return await reading.run(owner, _store, context.service, owner, source)
    except BadSource as error:
        raise located(error, parameter) from error


def _store(service: Service, owner: str, source: Source) -> Upload:
    data = service.read(source)
    mime = service.header(Source(data=data)).mime  # raises BadSource for anything but a picture
    suffix = next((each.suffix for each in FORMATS.values() if each.mime == mime), "." + mime.split("/")[1])
    ticket = service.uploads.issue(owner, f"upload{suffix}", suffix)
    return service.uploads.fill(ticket.key, data)


async def _ping(context: TaskContext, owner: str, task: dict[str, Any]) -> Answer:
    return PONG


PONG = Answer({"taskType": "ping", "pong": True})

HANDLERS: dict[str, Callable[[TaskContext, str, dict[str, Any]], Awaitable[Answer]]] = {
    UPSCALE: _upscale,
    "upscale": _upscale,
    "imageUpload": _image_upload,
    "mediaStorage": _media_storage,
    "getResponse": _get_response,
    "ping": _ping,
}


def read_tasks(body: bytes | str) -> list[Any]:
    """An array of tasks; a single task counts as an array of one. Raises InvalidRequest."""
    value = read_json(body)
    tasks = value if isinstance(value, list) else [value]
    if not 0 < len(tasks) <= MAX_TASKS:
        raise InvalidRequest(f"The body must be an array of 1 to {MAX_TASKS} tasks.")
    return tasks


# --- keys -----------------------------------------------------------------------------------------------------------


def is_authentication(task: Any) -> bool:
    return isinstance(task, dict) and task.get("taskType") == "authentication"


def owner_of(task: dict[str, Any], auth: Auth) -> str:
    """The caller who sends this authentication task. Raises Unauthorized."""
    key = task.get("apiKey")
    if not isinstance(key, str) or not key.strip():
        raise KeyMissing(NO_KEY)
    return auth.authenticate(f"Bearer {key}").id
