"""The native API's endpoints."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Annotated, Any, Generic, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from server.api import archive
from server.api.bodies import (
    FORM_TYPES,
    MULTIPART,
    check_readable,
    is_urlencoded,
    looks_like_json,
    media_type,
)
from server.api.dialects.depends import (
    BaseUrl,
    Call,
    CallDep,
    CallerDep,
    ServiceDep,
    authenticated,
    direct,
    takes_request,
    whole_body,
)
from server.api.dialects.fields import FORM_REMEDY, file_url
from server.api.dialects.native.translate import (
    NAME,
    JobRequest,
    PlanRequest,
    ZipRequest,
    clean_path,
    read_form_request,
    read_json_request,
    to_mask_source,
    to_params,
    to_response,
    to_source,
)
from server.api.forms import multipart_form, read_urlencoded, urlencoded_form
from server.api.responses import disposition, json_response, picture
from server.blobs.base import Blob, checked
from server.config import largest_body
from server.errors import InvalidField, NotFound, TooLarge, UnsupportedMedia
from server.images.read.open import Header
from server.job.job import Job, Params, State
from server.outbound.source import Source
from server.service.eta import Eta
from server.service.previews import SIDES
from server.service.service import Service

_EVENT_POLL_S = 0.2
_ETA_EVERY_S = 1.0
"""An event is sent so often although only the time left has changed."""
_MAX_OFFSET = 10_000_000
_ZIP_BODY_BYTES = 1 << 20
"""Of a list of files, which is read without a key."""
_DEFAULT_SIDE = 256
_FOR_EVER = "private, max-age=31536000, immutable"
"""What is under a key never changes."""

JobT = TypeVar("JobT", bound=JobRequest)

router = APIRouter()


# --- bodies ---------------------------------------------------------------------------------------------------------


async def _payload(request: Request, service: ServiceDep) -> AsyncIterator[FormData | bytes]:
    kind = media_type(request.headers)
    if kind not in FORM_TYPES:
        yield await whole_body(request)
    elif is_urlencoded(request.headers):
        body = await whole_body(request)
        # `curl -d` declares everything that it sends as a form.
        if looks_like_json(body):
            yield body
        else:
            check_readable(body, FORM_REMEDY)
            yield await urlencoded_form(body, "image")
    else:
        # A picture in base64 may be the text of a field. The size of the body has been checked before.
        async with multipart_form(request, largest_body(service.config)) as form:
            yield form


Payload = Annotated[FormData | bytes, Depends(_payload)]


@dataclass(frozen=True)
class _Read(Generic[JobT]):
    """A body, and the files if it is a form that has them."""

    request: JobT
    file: bytes | None = None
    mask: bytes | None = None


def _read_request(kind: type[JobT], payload: FormData | bytes) -> _Read[JobT]:
    """Raises InvalidRequest and UnsupportedMedia."""
    if isinstance(payload, bytes):
        return _Read(read_json_request(kind, payload))
    texts = {name: value for name, value in payload.items() if isinstance(value, str)}
    files = {name: value for name, value in payload.items() if isinstance(value, UploadFile)}
    file, mask = files.pop("file", None) or files.pop("image", None), files.pop("mask_file", None)
    for name in files:
        raise InvalidField("send the picture as `file`, once; the other fields are text", field=name)
    request = read_form_request(kind, texts)
    if file is not None and request.name is None:
        request.name = file.filename
    return _Read(request, file.file.read() if file else None, mask.file.read() if mask else None)


# --- jobs -----------------------------------------------------------------------------------------------------------


@router.post("/jobs")
@takes_request
async def submit(request: Request) -> Response:
    call = await authenticated(request)
    service, owner = call.service, call.caller.id
    async with asynccontextmanager(_payload)(request, service) as payload:
        made = await service.reading.run(owner, _submit, call, payload)
    if isinstance(made, Response):
        return made
    mask = await service.fetched_mask(made.mask, owner)
    return await service.reading.run(owner, _store, call, replace(made, mask=mask))


@dataclass(frozen=True)
class _Asked:
    """What a body asks for."""

    params: Params
    source: Source
    mask: Source | None
    name: str


def _submit(call: Call, payload: FormData | bytes) -> Response | _Asked:
    """The answer, or what is asked for where the mask must be downloaded first."""
    read = _read_request(JobRequest, payload)
    source = to_source(read.request.image, read.file, call.own_bases)
    mask = to_mask_source(read.request, read.mask, call.own_bases)
    asked = _Asked(to_params(read.request, read.mask), source, mask, clean_path(read.request.name or ""))
    return asked if mask is not None and mask.url is not None else _store(call, asked)


def _store(call: Call, asked: _Asked) -> Response:
    job = call.service.submit(
        dialect=NAME,
        owner=call.caller.id,
        params=asked.params,
        source=asked.source,
        mask=asked.mask,
        request={"name": asked.name} if asked.name else None,
    )
    return json_response(_shown(call, job), 202, {"Location": f"{call.base_url}/jobs/{job.id}"})


def _shown(call: Call, job: Job) -> dict[str, Any]:
    return to_response(job, call.base_url, call.service.eta(job))


@router.get("/jobs")
def jobs(
    caller: CallerDep,
    service: ServiceDep,
    base_url: BaseUrl,
    state: State | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    offset: Annotated[int, Query(ge=0, le=_MAX_OFFSET)] = 0,
) -> Response:
    found, total = service.list(caller.id, states=[state] if state else [], limit=limit, offset=offset)
    return json_response({"jobs": [to_response(job, base_url, service.eta(job)) for job in found], "total": total})


@router.get("/jobs/{job_id}")
@direct
def job(call: Call, job_id: str) -> Response:
    return json_response(_shown(call, call.service.get(job_id, call.caller.id)))


@router.get("/jobs/{job_id}/events")
async def events(job_id: str, caller: CallerDep, service: ServiceDep, base_url: BaseUrl) -> Response:
    def look() -> tuple[Job, Eta | None]:
        job = service.get(job_id, caller.id)
        return job, service.eta(job)

    first = await run_in_threadpool(look)

    async def changes(job: Job, eta: Eta | None) -> AsyncIterator[ServerSentEvent]:
        last, said_at = None, 0.0
        while not service.closing:
            data = json.dumps(to_response(job, base_url, eta))
            if job.state.final:
                yield ServerSentEvent(data, event="done")
                return
            shown = job.state, job.progress, job.stage, job.source_key, job.cancel_requested, job.attempt
            if shown != last or time.monotonic() - said_at > _ETA_EVERY_S:
                yield ServerSentEvent(data, event="progress")
                last, said_at = shown, time.monotonic()
            await asyncio.sleep(_EVENT_POLL_S)
            try:
                job, eta = await run_in_threadpool(look)
            except NotFound:
                return  # deleted meanwhile

    return EventSourceResponse(changes(*first))


@router.get("/jobs/{job_id}/result")
def result(job_id: str, caller: CallerDep, service: ServiceDep, request: Request) -> Response:
    job = service.get(job_id, caller.id)
    blob = service.result(job)
    return picture(blob, job.id + PurePath(blob.key).suffix, request)


@router.get("/jobs/{job_id}/source")
def source(job_id: str, caller: CallerDep, service: ServiceDep, request: Request) -> Response:
    job = service.get(job_id, caller.id)
    return picture(service.source(job), f"{job.id}-source", request)


@router.post("/jobs/{job_id}/cancel")
def cancel(job_id: str, caller: CallerDep, service: ServiceDep, base_url: BaseUrl) -> Response:
    return json_response(to_response(service.cancel(job_id, caller.id), base_url, None))


@router.delete("/jobs/{job_id}")
def delete(job_id: str, caller: CallerDep, service: ServiceDep, base_url: BaseUrl) -> Response:
    job = service.get(job_id, caller.id)
    if not job.state.final:
        return json_response(to_response(service.cancel(job_id, caller.id), base_url, None), 202)
    service.delete(job)
    return Response(status_code=204)


# --- plans and models -----------------------------------------------------------------------------------------------


@router.post("/plan")
async def plan(call: CallDep, payload: Payload) -> Response:
    service, owner = call.service, call.caller.id
    read = await service.reading.run(owner, _read_request, PlanRequest, payload)
    request, file, params = read.request, read.file, to_params(read.request, read.mask)
    shown = None
    if request.width is None and request.height is None:
        source = await service.reading.run(owner, to_source, request.image, file, call.own_bases)
        source = await service.fetched(await run_in_threadpool(service.resolve, source, owner))
        found = await service.reading.run(owner, service.header, source)
        if request.preview is not None:
            shown = await _preview(service, owner, source, request.preview)
    elif request.image or file is not None:
        raise InvalidField("give either a picture or its width and height", field="width")
    elif request.width is None or request.height is None:
        raise InvalidField("give both width and height", field="width" if request.width is None else "height")
    else:
        found = Header(request.width, request.height, "", request.frames)
    planned = await run_in_threadpool(_planned, service, params, found)
    return json_response(planned | {"preview": shown, "hdr": found.hdr})


def _planned(service: Service, params: Params, source: Header) -> dict[str, Any]:
    made = service.plan(params, source)
    return made.to_dict() | {"estimate": asdict(service.estimate(made, params))}


async def _preview(service: Service, owner: str, source: Source, side: int) -> str:
    made = await service.previews.make(owner, lambda: service.read(source), side)
    return f"data:image/webp;base64,{base64.b64encode(made).decode()}"


@router.get("/models")
def models(caller: CallerDep, service: ServiceDep) -> Response:
    found = [service.catalog.get(name) for name in service.catalog.names()]
    limits = service.config
    return json_response(
        {
            "models": [
                {
                    "name": each.name,
                    "scale": each.geometry.scale,
                    "licence": each.licence,
                    "author": each.author or None,
                    "source": each.source or None,
                    "note": each.note,
                    "form": each.form,
                    "sha256": each.sha256,
                    "seconds_per_megapixel": speed and round(1e6 / speed, 2),
                }
                for each in found
                for speed in [service.speed(each.name, (each.name,))]
            ],
            "faces": {"available": (reason := service.why_no_faces()) is None, "reason": reason},
            "limits": {
                "source_bytes": limits.max_source_bytes,
                "source_pixels": limits.max_source_pixels,
                "result_pixels": limits.max_result_pixels,
            },
        }
    )


# --- files ----------------------------------------------------------------------------------------------------------


@router.head("/files/{key}")
@router.get("/files/{key}")
def file(key: str, service: ServiceDep, request: Request, name: str | None = None) -> Response:
    saved_as = clean_path(name or "").rpartition("/")[2]
    return picture(Blob(service.blobs, key), saved_as or key, request, save=bool(saved_as))


@router.get("/files/{key}/preview")
async def preview(
    key: str, service: ServiceDep, side: Annotated[int, Query(ge=SIDES[0], le=SIDES[1])] = _DEFAULT_SIDE
) -> Response:
    made = await service.previews.make("", lambda: service.blobs.get(checked(key)), side)
    headers = {"Cache-Control": _FOR_EVER, "X-Content-Type-Options": "nosniff"}
    return Response(made, headers=headers, media_type="image/webp")


@router.post("/zip")
async def zip_files(request: Request, service: ServiceDep) -> Response:
    # The names of the files are the permission, as above: a page can have a browser save the archive by itself.
    body = await _small_body(request)
    wanted = _read_zip(body, urlencoded=is_urlencoded(request.headers))
    found = [Blob(service.blobs, checked(each.key)) for each in wanted.files]
    for each in found:
        if not await run_in_threadpool(service.blobs.has, each.key):
            raise NotFound(f"there is no file {each.key}, or it has expired")
    names = archive.distinct(clean_path(each.name or "") or each.key for each in wanted.files)
    headers = {"Content-Disposition": disposition("upscaled.zip", save=True)}
    pieces = archive.pieces(list(zip(names, found, strict=True)))
    return StreamingResponse(pieces, headers=headers, media_type=archive.MIME)


async def _small_body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _ZIP_BODY_BYTES:
            raise TooLarge(f"the list of files is over the limit of {_ZIP_BODY_BYTES} bytes; send several lists")
    return bytes(body)


def _read_zip(body: bytes, *, urlencoded: bool) -> ZipRequest:
    """JSON; or, from a form of a web page, its only field `files` with the list as JSON. Raises InvalidRequest."""
    if urlencoded and not looks_like_json(body):
        texts = dict(read_urlencoded(body, ""))
        return read_json_request(ZipRequest, b'{"files": %s}' % texts.get("files", "[]").encode("utf-8", "replace"))
    return read_json_request(ZipRequest, body)


@router.post("/uploads")
async def upload(request: Request) -> Response:
    call = await authenticated(request)
    data = await _file(request, call.service)
    return await call.service.reading.run(call.caller.id, _upload, call, data)


def _upload(call: Call, data: bytes) -> Response:
    uploads = call.service.uploads
    key = uploads.fill(uploads.issue(call.caller.id, "upload", "").key, data).key
    return json_response({"url": file_url(call.base_url, key), "size_bytes": len(data)}, 201)


@router.put("/uploads/{key}")
async def put_upload(key: str, request: Request, service: ServiceDep, base_url: BaseUrl) -> Response:
    # Before the body is read: without a valid ticket its memory is not spent. There is no API key here.
    ticket = await run_in_threadpool(service.uploads.ticket, key)
    data = await _file(request, service)
    await service.reading.run(ticket.owner, service.uploads.fill, key, data)
    return json_response({"url": file_url(base_url, key), "size_bytes": len(data)})


async def _file(request: Request, service: Service) -> bytes:
    """The body as it is. Raises UnsupportedMedia, TooLarge."""
    if media_type(request.headers) == MULTIPART:
        raise UnsupportedMedia("this address takes the file's bytes as they are, not a form (curl -T NAME)")
    data = await whole_body(request)
    service.check_file_size(len(data))
    return data
