"""The web UI's endpoints."""

import asyncio
import base64
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from server.api.dialects.depends import Call, CallDep, RawBody, authenticated, read_body
from server.api.dialects.fields import read_object
from server.api.dialects.webui.compose import compose
from server.api.dialects.webui.translate import (
    ALIASES,
    GENERATES,
    KERNELS,
    MAX_IMAGES,
    NAME,
    NO_GENERATION,
    NONE,
    Extras,
    Kernel,
    image_of,
    images_of,
    names_of,
    of_picture,
    read_extras,
    to_html,
    to_info,
    to_progress,
    to_upscaler,
)
from server.api.inline import Inline
from server.api.responses import json_response
from server.errors import BY_CODE, Conflict, JobCancelled, JobFailed, NotFound, ResultImpossible
from server.images.metadata import texts
from server.job.job import Job, State
from server.job.tiling import Size
from server.outbound.source import Source, parse_source
from server.service.turns import shutting_down

_LONGEST_S = 7 * 86_400.0
_UNNAMED_SCALE = 4
"""The `scale` of upscalers that have none, as in the original."""

router = APIRouter(prefix="/sdapi/v1")


# --- extras ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """One picture of a request, and the jobs of its layers."""

    target: Size
    jobs: list[str]


@router.post("/extra-single-image")
async def extra_single_image(request: Request) -> Response:
    extras, (image,), sizes = await _extras(request, lambda body: {"image": image_of(body, "image")})
    return await run_in_threadpool(json_response, {"html_info": to_html(extras, sizes), "image": image})


@router.post("/extra-batch-images")
async def extra_batch_images(request: Request) -> Response:
    extras, images, sizes = await _extras(request, images_of)
    return await run_in_threadpool(json_response, {"html_info": to_html(extras, sizes), "images": images})


async def _extras(
    request: Request, pictures: Callable[[dict[str, Any]], dict[str, str]]
) -> tuple[Extras, list[Inline | str], list[Size]]:
    """The results and their sizes. Raises what made a job fail, and ClientDisconnect; nothing runs on then."""
    call = await authenticated(request)
    raw = await read_body(request)
    extras, sources = await call.service.reading.run(call.caller.id, _read, call, raw, pictures)
    del raw  # it may be large, and the wait is long
    for place, source in sources.items():
        with of_picture(place):
            sources[place] = await call.service.fetched(source)
    batch, works = uuid.uuid4().hex, list[Work]()
    try:
        for place in list(sources):
            with of_picture(place):
                submit = _submit, call, extras, sources.pop(place), batch
                works.append(await call.service.reading.run(call.caller.id, *submit))
        jobs = await _ended(call, [job_id for work in works for job_id in work.jobs])
        made = [await call.service.reading.run(call.caller.id, _made, call, extras, work, jobs) for work in works]
        return extras, [image for image, _ in made], [size for _, size in made]
    finally:
        await run_in_threadpool(_stop, call, batch)


def _read(
    call: Call, raw: bytes, pictures: Callable[[dict[str, Any]], dict[str, str]]
) -> tuple[Extras, dict[str, Source]]:
    """The pictures by their places in the body."""
    body = read_object(raw)
    extras = read_extras(body, call.service.catalog.names())
    sources = {}
    for place, text in pictures(body).items():
        with of_picture(place):
            sources[place] = call.service.resolve(parse_source(text, call.own_bases), call.caller.id)
    return extras, sources


def _submit(call: Call, extras: Extras, source: Source, batch: str) -> Work:
    size = call.service.header(source).size
    target, most = extras.target(size), call.service.config.max_result_pixels
    if target[0] * target[1] > most:
        raise ResultImpossible(
            f"a result of {target[0]}×{target[1]} pixels is over this server's limit of {most} pixels",
            field="scale" if extras.size is None else "size",
        )
    jobs = [
        call.service.submit(
            dialect=NAME,
            owner=call.caller.id,
            params=extras.params_of(layer, size),
            source=source,
            request={"batch": batch},
            base_url=call.base_url,
        )
        for layer in extras.layers
    ]
    return Work(target, [job.id for job in jobs])


async def _ended(call: Call, job_ids: list[str]) -> dict[str, Job]:
    """The jobs by id, once all have succeeded. Raises ClientDisconnect when the caller goes away before that."""
    owner = call.caller.id
    waits = asyncio.gather(*(call.service.wait(each, owner, _LONGEST_S) for each in job_ids))
    gone = asyncio.ensure_future(_gone(call.request))
    both: set[asyncio.Future[Any]] = {waits, gone}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not waits.done():
            raise ClientDisconnect
        jobs = waits.result()
    finally:
        for each in both:
            each.cancel()
    for job in jobs:
        if job.state is State.FAILED:
            raise BY_CODE.get(job.error_code or "", JobFailed)(job.error_message or "the job failed")
        if job.state is State.CANCELLED:
            raise JobCancelled("the job was interrupted")
        if not job.state.final:
            raise shutting_down()
    return {job.id: job for job in jobs}


async def _gone(request: Request) -> None:
    """Return when the caller has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _made(call: Call, extras: Extras, work: Work, jobs: dict[str, Job]) -> tuple[Inline | str, Size]:
    """The result in base64, and its size."""
    done = [jobs[each] for each in work.jobs]
    first = done[0].result
    assert first is not None  # it has succeeded
    kernels: list[Kernel | None] = [layer.kernel for layer in extras.layers]
    if kernels == [None] and extras.cut_to in (None, (first.width, first.height)):
        return Inline(call.service.result(done[0])), (first.width, first.height)
    pictures = [call.service.blobs.get(call.service.result(job).key) for job in done]
    data = compose(list(zip(pictures, kernels, strict=True)), work.target, extras.share, extras.cut_to)
    return base64.b64encode(data).decode(), extras.cut_to or work.target


def _unended(call: Call, *states: State, **filters: Any) -> list[Job]:
    return list(call.service.list(call.caller.id, dialect=NAME, states=states, limit=2 * MAX_IMAGES, **filters)[0])


def _stop(call: Call, batch: str | None = None) -> None:
    """Cancel the caller's jobs that have not ended; of one request, or all."""
    filters = {} if batch is None else {"request": {"batch": batch}}
    for job in _unended(call, State.QUEUED, State.RUNNING, **filters):
        with suppress(Conflict, NotFound):  # it has just ended
            call.service.cancel(job.id, call.caller.id)


@router.get("/progress")
def progress(call: CallDep, skip_current_image: bool = False) -> Response:
    running = _unended(call, State.RUNNING) or _unended(call, State.QUEUED)
    filters = {"request": {"batch": running[0].request["batch"]}} if running else {}
    jobs = _unended(call, **filters) if running else []
    etas = [eta.seconds for job in jobs if (eta := call.service.eta(job)) is not None]
    return json_response(to_progress(jobs, max(etas, default=None)))


@router.post("/interrupt")
def interrupt(call: CallDep) -> Response:
    _stop(call)
    return json_response({})


# --- what there is --------------------------------------------------------------------------------------------------


@router.get("/upscalers")
def upscalers(call: CallDep) -> Response:
    catalog = call.service.catalog
    found = [to_upscaler(name, None, _UNNAMED_SCALE) for name in (NONE, *KERNELS)]
    for name, network in names_of(catalog.names()).items():
        found.append(to_upscaler(name, network, catalog.get(network).geometry.scale))
    return json_response(found)


@router.get("/face-restorers")
def face_restorers(call: CallDep) -> Response:
    return json_response([] if call.service.why_no_faces() else [{"name": "GFPGAN", "cmd_dir": None}])


@router.get("/options")
def options(call: CallDep) -> Response:
    upscaler = next((each for each in ALIASES if ALIASES[each] in call.service.catalog.names()), NONE)
    return json_response({"samples_format": "png", "sd_model_checkpoint": "", "upscaler_for_img2img": upscaler})


@router.get("/cmd-flags")
def cmd_flags(call: CallDep) -> Response:
    return json_response({"api": True, "nowebui": True})


@router.get("/scripts")
def scripts(call: CallDep) -> Response:
    return json_response({"txt2img": [], "img2img": []})


@router.get("/samplers")
@router.get("/sd-models")
def nothing(call: CallDep) -> Response:
    """Of what this server has none."""
    return json_response([])


@router.post("/png-info")
async def png_info(call: CallDep, raw: RawBody) -> Response:
    return await call.service.reading.run(call.caller.id, _png_info, call, raw)


def _png_info(call: Call, raw: bytes) -> Response:
    source = call.service.resolve(parse_source(image_of(read_object(raw), "image"), call.own_bases), call.caller.id)
    data = call.service.read(source)
    call.service.header(Source(data=data))
    return json_response(to_info(texts.read(data)))


def no_generation(call: CallDep) -> Response:
    raise NotFound(NO_GENERATION)


for _name in GENERATES:
    router.add_api_route(f"/{_name}", no_generation, methods=["POST"])
