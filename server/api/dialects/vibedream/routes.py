"""VibeDream's endpoints."""

from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from server.api.dialects.depends import Call, authenticated, direct, read_body, takes_request
from server.api.dialects.fields import read_flag, read_object, read_text, undashed
from server.api.dialects.vibedream.translate import MODEL, NAME, to_params, to_response, to_submitted
from server.api.responses import json_response
from server.errors import BadSource, NotFound, cut
from server.job.job import Job
from server.job.plan import result_size
from server.job.price import cost_of
from server.outbound.source import Source, parse_source

router = APIRouter(prefix="/api/v1")


def _prediction(call: Call, job: Job) -> dict[str, Any]:
    inline = job.request["base64"] and job.result is not None
    return to_response(job, call.base_url, call.service.result(job) if inline else None)


def _submitted(call: Call, job: Job) -> dict[str, Any]:
    return to_submitted(job, call.base_url, _cost(call, job))


def _both(call: Call, job: Job) -> dict[str, Any]:
    return _submitted(call, job) | _prediction(call, job)


def _cost(call: Call, job: Job) -> float:
    """In dollars: the actual or the expected one."""
    if job.state.final:
        return job.result.cost if job.result else 0.0
    config = call.service.config
    if job.source_key is None or not config.price_per_megapixel:
        return cost_of(None, config)
    try:
        return cost_of(result_size(call.service.header(Source(key=job.source_key)).size, job.params), config)
    except BadSource:  # deleted meanwhile, with its job
        return cost_of(None, config)


@router.post("/models/{model}/generate")
@takes_request
async def submit(request: Request) -> Response:
    call = await authenticated(request)
    body, model = await read_body(request), request.path_params["model"]
    owner = call.caller.id
    job, sync, submitted = await call.service.reading.run(owner, _submit, model, call, body)
    del body  # it may be large, and the wait is long
    if sync:
        job = await call.service.wait(job.id, owner, call.service.config.sync_wait_s)
    return json_response(await run_in_threadpool(_both, call, job) if sync and job.state.final else submitted)


def _submit(model: str, call: Call, raw: bytes) -> tuple[Job, bool, dict[str, Any]]:
    """The job, whether to wait for its end, and the answer when there is no wait."""
    if model != MODEL:
        raise NotFound(f"model {cut(model)} not found")
    body = read_object(raw)
    image, params = read_text(body, "image"), to_params(body)
    request, sync = {"base64": read_flag(body, "enable_base64_output")}, read_flag(body, "enable_sync_mode")
    job = call.service.submit(
        dialect=NAME,
        owner=call.caller.id,
        params=params,
        source=parse_source(image, call.own_bases),
        request=request,
        strict=False,
    )
    return job, sync, _submitted(call, job)


@router.get("/predictions/{prediction_id}")
@direct
def result(call: Call, prediction_id: str) -> Response:
    try:
        job = call.service.get(undashed(prediction_id), call.caller.id, NAME)
    except NotFound as error:
        raise NotFound("prediction not found") from error
    return json_response(_prediction(call, job))
