"""WaveSpeed's endpoints."""

import re
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from server.api.dialects.depends import Call, CallDep, Form, RawBody, authenticated, direct, read_body, takes_request
from server.api.dialects.fields import iso_time, read_flag, read_object, upload_url
from server.api.dialects.wavespeed.translate import (
    BALANCE,
    FIELDS,
    NAME,
    PREFIXES,
    WebhookWithBase64,
    checked_model,
    ids_of,
    image_of,
    ticket_of,
    to_filters,
    to_model,
    to_params,
    to_request,
    to_response,
    to_unfinished,
    to_uploaded,
    webhook_of,
)
from server.api.responses import json_response
from server.db.deliveries import WEBHOOK
from server.db.uploads import clean_name, suffix_of
from server.db.webhook_secret import load_secret, webhook_secret
from server.errors import InvalidField, MissingField, NotFound
from server.job.job import Job
from server.job.plan import result_size
from server.job.price import CURRENCY, cost_of
from server.outbound.source import parse_source
from server.outbound.ssrf import why_not

_routes = APIRouter()


def _success(data: Any, **beside: Any) -> Response:
    return json_response({"code": 200, "message": "success", "data": data, **beside})


# --- predictions ----------------------------------------------------------------------------------------------------


def _answer(call: Call, job: Job) -> dict[str, Any]:
    inline = job.request["base64"] and job.result is not None
    return to_response(job, call.base_url, call.service.result(job) if inline else None)


def _find(call: Call, job_id: str) -> Job:
    """The caller's prediction. Raises NotFound."""
    try:
        return call.service.get(job_id, call.caller.id, NAME)
    except NotFound as error:
        raise NotFound("prediction not found") from error


@_routes.get("/predictions/{job_id}/result")
@_routes.get("/predictions/{job_id}")
@direct
def result(call: Call, job_id: str) -> Response:
    return _success(_answer(call, _find(call, job_id)))


@_routes.get("/predictions")
def page(call: CallDep) -> Response:
    words: dict[str, Any] = {"true": True, "false": False}
    query = {
        name: int(value) if re.fullmatch("[0-9]{1,9}", value) else words.get(value, value)
        for name, value in call.request.query_params.items()
    }
    return _page(call, query)


@_routes.post("/predictions")
def page_by_body(call: CallDep, raw: RawBody) -> Response:
    return _page(call, read_object(raw) if raw else {})


def _page(call: Call, body: dict[str, Any]) -> Response:
    filters, include_inputs, number = to_filters(body), read_flag(body, "include_inputs"), body.get("page") or 1
    if filters is None:
        return _success({"page": number, "total": 0, "items": []})
    jobs, total = call.service.list(call.caller.id, dialect=NAME, **filters)
    items = [to_response(job, call.base_url) for job in jobs]
    for item in () if include_inputs else items:
        del item["input"]
    return _success({"page": number, "total": total, "items": items})


@_routes.delete("/predictions/{job_id}")
def delete(job_id: str, call: CallDep) -> Response:
    call.service.delete(_find(call, job_id))
    return _success({"id": job_id, "status": "deleted"})


@_routes.post("/predictions/delete")
def delete_many(call: CallDep, raw: RawBody) -> Response:
    """Unknown ids are ignored."""
    deleted = 0
    for job_id in ids_of(read_object(raw)):
        with suppress(NotFound):
            call.service.delete(_find(call, job_id))
            deleted += 1
    return _success({"deleted_count": deleted})


# --- uploads --------------------------------------------------------------------------------------------------------


@_routes.post("/media/uploads")
def issue_ticket(call: CallDep, raw: RawBody) -> Response:
    """The bytes follow, by PUT and without an API key: the address is the permission."""
    filename, size, mime = ticket_of(read_object(raw))
    call.service.check_file_size(size)
    upload = call.service.uploads.issue(call.caller.id, clean_name(filename), suffix_of(filename))
    put = {
        "method": "PUT",
        "url": upload_url(call.base_url, upload.key),
        "headers": {"Content-Type": mime} if mime else {},
        "expires_at": iso_time(upload.expires_at),
    }
    return _success(to_uploaded(call.base_url, upload, size) | {"upload": put})


@_routes.post("/media/upload/binary")
@_routes.post("/upload")
async def upload_file(call: CallDep, form: Form) -> Response:
    return await call.service.reading.run(call.caller.id, _upload_file, call, form)


def _upload_file(call: Call, form: FormData) -> Response:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise MissingField('property "file" is missing', field="file")
    call.service.check_file_size(file.size or 0)
    data = file.file.read()
    filename = file.filename or "upload"
    ticket = call.service.uploads.issue(call.caller.id, clean_name(filename), suffix_of(filename))
    return _success(to_uploaded(call.base_url, call.service.uploads.fill(ticket.key, data), len(data)))


# --- account and catalogue ------------------------------------------------------------------------------------------


@_routes.get("/webhook/secret")
def secret(call: CallDep) -> Response:
    own = {"secret": webhook_secret(load_secret(call.service.config), call.caller.id)}
    return _success(own, **own)  # clients read it from either place


@_routes.get("/balance")
@_routes.get("/account/balance")
def balance(call: CallDep) -> Response:
    return _success({"balance": BALANCE, "currency": CURRENCY})


@_routes.get("/account/usage")
def usage(call: CallDep) -> Response:
    """Counts the predictions that are still stored."""
    _, total = call.service.list(call.caller.id, dialect=NAME, limit=1)
    return _success({"total_requests": total})


@_routes.get("/models")
def models(call: CallDep) -> Response:
    price = cost_of(None, call.service.config)
    return _success([to_model(model, call.base_url, price) for model in FIELDS])


@_routes.post("/model/price")
@_routes.post("/model/pricing")
async def price(call: CallDep, raw: RawBody) -> Response:
    body, config = await call.service.reading.run(call.caller.id, read_object, raw), call.service.config
    model, inputs = body.get("model_id"), body.get("inputs") or {}
    if not model:
        raise MissingField('property "model_id" is missing', field="model_id")
    if not isinstance(inputs, dict):
        raise InvalidField("inputs must be an object", field="inputs")
    params, size = to_params(checked_model(model), inputs), None
    if inputs.get("image") and config.price_per_megapixel:
        owner = call.caller.id
        source = await call.service.reading.run(owner, parse_source, image_of(inputs), call.own_bases)
        size = result_size((await call.service.look(owner, source)).size, params)
    cost = cost_of(size, config)
    prices = {"price": cost, "discounted_price": cost, "discount_rate": 0, "unit_price": cost}
    return _success({"model_id": model, **prices, "currency": CURRENCY})


# --- submit ---------------------------------------------------------------------------------------------------------


@_routes.post("/{owner}/{name:path}")  # last: it matches nearly every other path
@takes_request
async def submit(request: Request) -> Response:
    call = await authenticated(request)
    body = await read_body(request)
    caller_id, model = call.caller.id, "{owner}/{name}".format(**request.path_params)
    made = await call.service.reading.run(caller_id, _submit, model, call, body)
    del body  # it may be large, and the wait is long
    if isinstance(made, Response):
        return made
    wait_s = call.service.config.sync_wait_s
    job = await call.service.wait(made.id, call.caller.id, wait_s)
    prediction = await run_in_threadpool(_answer, call, job)
    if job.state.final:
        return _success(prediction)
    why = "The server is restarting." if call.service.closing else f"Sync mode timed out after {wait_s:g} seconds."
    return _success(to_unfinished(prediction, why))


def _submit(model: str, call: Call, raw: bytes) -> Response | Job:
    """The job where its end is to be waited for, else the answer."""
    checked_model(model)
    body = read_object(raw)
    image = image_of(body)
    params, request, sync = to_params(model, body), to_request(model, body), read_flag(body, "enable_sync_mode")
    webhook = webhook_of(call.request.scope["query_string"], body)
    reason = why_not(webhook, call.service.config) if webhook else None
    if reason:
        raise InvalidField(f"webhook: {reason}", field="webhook")
    if webhook and request["base64"]:
        raise WebhookWithBase64(
            "webhook callback does not support base64 output, please use the normal API to use base64 output"
        )
    job = call.service.submit(
        dialect=NAME,
        owner=call.caller.id,
        params=params,
        source=parse_source(image, call.own_bases),
        request=request,
        deliver={WEBHOOK: webhook} if webhook else {},
        base_url=call.base_url,
        strict=False,
    )
    return job if sync else _success(_answer(call, job))


router = APIRouter()
for _prefix in PREFIXES:
    router.include_router(_routes, prefix=_prefix)
