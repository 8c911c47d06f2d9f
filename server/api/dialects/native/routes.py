"""Our own API: jobs as they are, and the files that every dialect's links lead to.

    POST   /jobs               a picture (JSON with `image`, or a form with `file`) and what to do with it → 202
    GET    /jobs               the caller's jobs through all dialects, newest first; ?state= ?limit=
    GET    /jobs/{id}          one job
    GET    /jobs/{id}/events   server-sent events: `progress` whenever something changed, `done` at last
    GET    /jobs/{id}/result   the picture; 409 while there is none
    GET    /jobs/{id}/source   the picture that it was made of, as it came; 409 while it is still to be fetched
    POST   /jobs/{id}/cancel   stop it
    DELETE /jobs/{id}          forget it with its pictures; one that has not ended is cancelled instead (202)
    POST   /plan               what POST /jobs would do; `width` and `height` may stand for the picture
    GET    /models             networks that can be asked for, best first; and whether faces can be restored
    GET    /files/{key}        a source or result; the name is the permission
    PUT    /uploads/{key}      the bytes of an upload ticket; likewise

Animations are upscaled whole, unless `animation` is `first`.
Neither scale, target nor size: scale 4. Unlike with the vendors, a field we don't know is an error, and a picture that
came with the request is looked at before it is accepted. Errors are `{"error": {"code", "message", "field"}}`.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any, NoReturn, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, WithJsonSchema
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from server.api.auth import Caller
from server.api.bodies import (
    FORM_TYPES,
    MULTIPART,
    check_readable,
    is_urlencoded,
    looks_like_json,
    media_type,
    read_urlencoded,
)
from server.api.dialects.base import (
    FORM_REMEDY,
    BaseUrl,
    Call,
    CallerDep,
    OwnBases,
    ServiceDep,
    direct,
    file_url,
    iso_time,
    read_json,
    whole_body,
)
from server.api.responses import json_response, picture
from server.config import largest_body
from server.errors import (
    InvalidField,
    InvalidRequest,
    MissingField,
    NotFound,
    TooLarge,
    UnsupportedMedia,
    UpscaleError,
    cut,
)
from server.images.read.open import Header
from server.job.formats import FormatName
from server.job.job import (
    FACE_STRENGTH,
    WHITE,
    Animated,
    Colour,
    ContentWanted,
    Faces,
    Job,
    Metadata,
    Params,
    State,
    Target,
)
from server.outbound.source import Source, parse_source
from server.service.service import Service

NAME = "native"
PREFIXES: tuple[str, ...] = ("/",)

DEFAULT_SCALE = 4.0
_EVENT_POLL_S = 0.2

Side = Annotated[int, Field(ge=1, le=1_000_000)]
"""Pixels; no format holds more."""
Byte = Annotated[int, Field(ge=0, le=255)]


def _read_size(value: Any) -> Any:
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,7})[x×]([0-9]{1,7})", value.strip().lower())):
        return int(match[1]), int(match[2])
    if isinstance(value, list) and len(value) == 2:
        return tuple(value)
    raise ValueError('must be [width, height] or "WIDTHxHEIGHT"')


def _read_colour(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return tuple(bytes.fromhex(value[1:]))
    if isinstance(value, list) and len(value) == 3:
        return tuple(value)
    raise ValueError('must be [red, green, blue] or "#rrggbb"')


def _read_faces(value: Any) -> Faces | None:
    """True, or an object of what Faces has; in a form, the same as JSON."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, bool):
        return Faces() if value else None
    if not isinstance(value, dict) or not set(value) <= {"strength", "only"}:
        raise ValueError("must be true, false, or an object with strength and only")
    strength, only = value.get("strength", FACE_STRENGTH), value.get("only", "all")
    if isinstance(strength, bool) or not isinstance(strength, int | float):
        raise ValueError("strength must be a number between 0 and 1")
    if isinstance(only, list) and all(type(number) is int for number in only):
        return Faces(strength=strength, only=tuple(only))
    if only not in ("all", "largest"):
        raise ValueError('only must be "all", "largest" or a list of whole numbers')
    return Faces(strength=strength, only=only)


class JobRequest(BaseModel):
    """The body of POST /jobs. Ranges are looked at by Params."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    image: str | None = None
    """URL, data URI or base64; a form may carry a `file` instead."""
    scale: float | None = None
    target: Target | None = None
    size: Annotated[tuple[Side, Side], BeforeValidator(_read_size)] | None = None
    format: FormatName = "png"
    quality: int | None = None
    lossless: bool = False
    progressive: bool = False
    depth: int | None = None
    metadata: Metadata = "keep"
    colour: Colour = "keep"
    background: Annotated[tuple[Byte, Byte, Byte], BeforeValidator(_read_colour)] = WHITE
    animation: Animated = "keep"
    model: str = "auto"
    denoise: float | None = None
    creativity: float | None = None
    content: ContentWanted = "auto"
    faces: Annotated[Faces | None, PlainValidator(_read_faces), WithJsonSchema({})] = None
    seed: int | None = None
    sweep: bool = False


class PlanRequest(JobRequest):
    """The body of POST /plan."""

    width: Side | None = None
    height: Side | None = None


_R = TypeVar("_R", bound=JobRequest)


# --- translation ----------------------------------------------------------------------------------------------------


def to_params(request: JobRequest) -> Params:
    """Raises InvalidField."""
    values = request.model_dump(exclude={"image", "width", "height", "faces"})
    if request.scale is None and request.target is None and request.size is None:
        values["scale"] = DEFAULT_SCALE
    return Params(**values, faces=request.faces)


def to_response(job: Job, base_url: str) -> dict[str, Any]:
    """A job as callers see it."""
    here = f"{base_url}/jobs/{job.id}"
    result = job.result and {"url": file_url(base_url, job.result.key), **job.result.to_dict()}
    failed = job.state is State.FAILED
    return {
        "id": job.id,
        "state": job.state.value,
        "progress": round(job.progress, 4),
        "stage": job.stage if job.state is State.RUNNING else None,
        "dialect": job.dialect,
        "params": job.params.to_dict(),
        "created_at": iso_time(job.created_at),
        "started_at": iso_time(job.started_at) if job.started_at is not None else None,
        "finished_at": iso_time(job.finished_at) if job.finished_at is not None else None,
        "attempt": job.attempt,
        "cancel_requested": job.cancel_requested,
        "result": result,
        "error": {"code": job.error_code, "message": job.error_message} if failed else None,
        "urls": {"self": here, "events": f"{here}/events", "result": f"{here}/result"},
    }


def to_error(error: UpscaleError) -> Response:
    body = {"error": {"code": error.code, "message": error.message, "field": error.field}}
    return json_response(body, error.status)


def _read_request(kind: type[_R], payload: FormData | bytes) -> tuple[_R, bytes | None]:
    """Fields, and the file if a form carries one. Raises InvalidRequest and UnsupportedMedia."""
    try:
        if isinstance(payload, bytes):
            return kind.model_validate(_read_object(payload)), None
        values = {name: value for name, value in payload.items() if isinstance(value, str)}
        files = {name: value for name, value in payload.items() if isinstance(value, UploadFile)}
        file = files.pop("file", None) or files.pop("image", None)
        for name in files:
            raise InvalidField("send the picture as `file`, once; the other fields are text", field=name)
        return kind.model_validate_strings(values), file.file.read() if file else None
    except ValidationError as error:
        _raise_first(error)


def _read_object(body: bytes) -> dict[str, Any]:
    """A JSON object, in which null is as good as absent. Raises InvalidRequest and UnsupportedMedia."""
    check_readable(body, FORM_REMEDY)
    try:
        value = read_json(body)
    except InvalidRequest as error:
        raise InvalidRequest(_NO_OBJECT) from error
    if not isinstance(value, dict):
        raise InvalidRequest(_NO_OBJECT)
    return {name: each for name, each in value.items() if each is not None}


_NO_OBJECT = "the body must be a JSON object, or a form"


def _raise_first(error: ValidationError) -> NoReturn:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        raise InvalidRequest(_NO_OBJECT) from error
    field = cut(str(first["loc"][0]))
    if first["type"] == "extra_forbidden":
        raise InvalidField(f"there is no field {field!r}", field=field) from error
    message = first["msg"].removeprefix("Value error, ")
    raise InvalidField(f"{field}: {message}", field=field) from error


def _read_source(image: str | None, file: bytes | None, own_bases: tuple[str, ...]) -> Source:
    if image and file is not None:
        raise InvalidField("give either image or file, not both", field="image")
    if file is not None:
        return Source(data=file)
    if not image:
        raise MissingField("image is missing: a URL, a data URI or base64, or a form with a file", field="image")
    return parse_source(image, own_bases)


# --- endpoints ------------------------------------------------------------------------------------------------------

router = APIRouter()


async def _payload(request: Request, service: ServiceDep) -> AsyncIterator[FormData | bytes]:
    kind = media_type(request.headers)
    if kind not in FORM_TYPES:
        yield await whole_body(request)
    elif is_urlencoded(request.headers):
        body = await whole_body(request)
        # `curl -d` calls whatever it sends a form.
        if looks_like_json(body):
            yield body
        else:
            check_readable(body, FORM_REMEDY)
            yield FormData(dict(await run_in_threadpool(read_urlencoded, body, "image")))
    else:
        # A picture in base64 may be the text of a field; how large bodies are has been looked at before.
        async with request.form(max_part_size=largest_body(service.config)) as form:
            yield form


Payload = Annotated[FormData | bytes, Depends(_payload)]


@router.post("/jobs")
async def submit(
    caller: CallerDep, service: ServiceDep, base_url: BaseUrl, own_bases: OwnBases, payload: Payload
) -> Response:
    return await service.reading.run(caller.id, _submit, caller, service, base_url, own_bases, payload)


def _submit(
    caller: Caller, service: Service, base_url: str, own_bases: tuple[str, ...], payload: FormData | bytes
) -> Response:
    request, file = _read_request(JobRequest, payload)
    source = _read_source(request.image, file, own_bases)
    job = service.submit(dialect=NAME, owner=caller.id, params=to_params(request), source=source)
    return json_response(to_response(job, base_url), 202, {"Location": f"{base_url}/jobs/{job.id}"})


@router.get("/jobs")
def jobs(
    caller: CallerDep,
    service: ServiceDep,
    base_url: BaseUrl,
    state: State | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    found, total = service.list(caller.id, states=[state] if state else [], limit=limit)
    return json_response({"jobs": [to_response(job, base_url) for job in found], "total": total})


@router.get("/jobs/{job_id}")
@direct
def job(call: Call, job_id: str) -> Response:
    return json_response(to_response(call.service.get(job_id, call.caller.id), call.base_url))


@router.get("/jobs/{job_id}/events")
async def events(job_id: str, caller: CallerDep, service: ServiceDep, base_url: BaseUrl) -> Response:
    first = await run_in_threadpool(service.get, job_id, caller.id)

    async def changes(job: Job) -> AsyncIterator[ServerSentEvent]:
        said = None
        while True:
            data = json.dumps(to_response(job, base_url))
            if job.state.final:
                yield ServerSentEvent(data, event="done")
                return
            if data != said:
                yield ServerSentEvent(data, event="progress")
                said = data
            await asyncio.sleep(_EVENT_POLL_S)
            try:
                job = await run_in_threadpool(service.get, job_id, caller.id)
            except NotFound:
                return  # deleted meanwhile

    return EventSourceResponse(changes(first))


@router.get("/jobs/{job_id}/result")
def result(job_id: str, caller: CallerDep, service: ServiceDep, request: Request) -> Response:
    job = service.get(job_id, caller.id)
    path = service.result_path(job)
    return picture(path, job.id + path.suffix, request)


@router.get("/jobs/{job_id}/source")
def source(job_id: str, caller: CallerDep, service: ServiceDep, request: Request) -> Response:
    job = service.get(job_id, caller.id)
    return picture(service.source_path(job), f"{job.id}-source", request)


@router.post("/jobs/{job_id}/cancel")
def cancel(job_id: str, caller: CallerDep, service: ServiceDep, base_url: BaseUrl) -> Response:
    return json_response(to_response(service.cancel(job_id, caller.id), base_url))


@router.delete("/jobs/{job_id}")
def delete(job_id: str, caller: CallerDep, service: ServiceDep, base_url: BaseUrl) -> Response:
    job = service.get(job_id, caller.id)
    if not job.state.final:
        return json_response(to_response(service.cancel(job_id, caller.id), base_url), 202)
    service.delete(job)
    return Response(status_code=204)


@router.post("/plan")
async def plan(caller: CallerDep, service: ServiceDep, own_bases: OwnBases, payload: Payload) -> Response:
    request, file = await service.reading.run(caller.id, _read_request, PlanRequest, payload)
    params = to_params(request)
    if request.width is None and request.height is None:
        source = await service.reading.run(caller.id, _read_source, request.image, file, own_bases)
        found: Header | tuple[int, int] = await service.look(caller.id, source)
    elif request.image or file is not None:
        raise InvalidField("give either a picture or its width and height", field="width")
    elif request.width is None or request.height is None:
        raise InvalidField("give both width and height", field="width" if request.width is None else "height")
    else:
        found = request.width, request.height
    return await run_in_threadpool(_planned, service, params, found)


def _planned(service: Service, params: Params, source: Header | tuple[int, int]) -> Response:
    made = service.plan(params, source)
    return json_response(made.to_dict() | {"estimate": asdict(service.estimate(made, params))})


@router.get("/models")
def models(caller: CallerDep, service: ServiceDep) -> Response:
    found = [service.catalog.get(name) for name in service.catalog.names()]
    return json_response(
        {
            "models": [
                {
                    "name": each.name,
                    "scale": each.shape.scale,
                    "licence": each.licence,
                    "note": each.note,
                    "form": each.form,
                    "sha256": each.sha256,
                }
                for each in found
            ],
            "faces": {"available": (reason := service.why_no_faces()) is None, "reason": reason},
        }
    )


@router.head("/files/{key}")
@router.get("/files/{key}")
def file(key: str, service: ServiceDep, request: Request) -> Response:
    return picture(service.blobs.path(key), key, request)


@router.put("/uploads/{key}")
async def put_upload(key: str, request: Request, service: ServiceDep, base_url: BaseUrl) -> Response:
    # Before the body is read: no key is asked for here, and only a ticket is worth that memory.
    ticket = await run_in_threadpool(service.uploads.ticket, key)
    if media_type(request.headers) == MULTIPART:
        raise UnsupportedMedia("this address takes the file's bytes as they are, not a form (curl -T NAME)")
    data = await whole_body(request)
    limit = service.config.max_source_bytes
    if len(data) > limit:
        raise TooLarge(f"the file is over this server's limit of {limit} bytes")
    await service.reading.run(ticket.owner, service.uploads.fill, key, data)
    return json_response({"url": file_url(base_url, key), "size_bytes": len(data)})
