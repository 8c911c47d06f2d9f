"""Replicate's endpoints for predictions, models and the account. Files: files.py."""

import time
from contextlib import suppress
from math import inf, nextafter
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from server.api.dialects.depends import Call, CallDep, authenticated, direct, read_body, takes_request
from server.api.dialects.fields import read_object
from server.api.dialects.replicate import files
from server.api.dialects.replicate.models import Model, all_models, named, read_inputs, versioned
from server.api.dialects.replicate.translate import (
    COLLECTION,
    NAME,
    PAGE,
    cancel_after_of,
    deliveries_of,
    hook_of,
    read_cursor,
    to_echo,
    to_model,
    to_page,
    to_response,
    to_version,
    wait_of,
)
from server.api.responses import json_response
from server.db.webhook_secret import load_secret, webhook_secret
from server.errors import Conflict, InvalidField, MissingField, NotFound
from server.errors.transient import StoreFailure
from server.job.job import Job
from server.outbound.source import Source, parse_source
from server.outbound.ssrf import why_not

CANCEL_WAIT_S = 2.0
"""How long a cancel waits for its job to end. A running job ends at its next tile."""
EARLY_S = 0.5
"""By how much the answer to `Prefer: wait=N` comes before N seconds are over: the vendor's client waits for N + 0.5."""

router = APIRouter(prefix="/v1")
router.include_router(files.router)


# --- predictions ----------------------------------------------------------------------------------------------------


@router.post("/predictions", status_code=201)
@takes_request
async def create(request: Request) -> Response:
    return await _create(request, None)


@router.post("/models/{owner}/{name}/predictions", status_code=201)
@takes_request
async def create_with_model(request: Request) -> Response:
    return await _create(request, (request.path_params["owner"], request.path_params["name"]))


async def _create(request: Request, model: tuple[str, str] | None) -> Response:
    call = await authenticated(request)
    body = await read_body(request)
    job = await call.service.reading.run(call.caller.id, _submit, call, body, model)
    del body  # it may be large, and the wait may be long
    seconds = min(wait_of(request.headers.get("prefer", "")), call.service.config.sync_wait_s)
    if seconds:
        job = await call.service.wait(job.id, call.caller.id, max(seconds / 2, seconds - EARLY_S))
    return json_response(await run_in_threadpool(_prediction, call, job, waited=bool(seconds)), 201)


def _submit(call: Call, raw: bytes, names: tuple[str, str] | None) -> Job:
    body, models = read_object(raw), _models(call)
    model, version = _by_version(models, body) if names is None else _by_name(models, *names)
    given = body.get("input")
    inputs = read_inputs(model, given)
    url, events = hook_of(body)
    reason = why_not(url, call.service.config) if url else None
    if reason:
        raise InvalidField(f"- webhook: {reason}", field="webhook")
    after_s = cancel_after_of(call.request.headers.get("cancel-after", ""))
    request = {"model": model.id, "version": version, "input": to_echo(model, given or {}, inputs), "events": events}
    return call.service.submit(
        dialect=NAME,
        owner=call.caller.id,
        params=model.read(inputs),
        source=_source(call, model.picture, inputs[model.picture]),
        request=request,
        cancel_at=None if after_s is None else time.time() + after_s,
        deliver=deliveries_of(url, events),
        base_url=call.base_url,
        strict=False,
    )


def _source(call: Call, name: str, text: str) -> Source:
    try:
        return parse_source(text, call.own_bases)
    except InvalidField as error:
        raise InvalidField(f"- input.{name}: must be an http(s) URL or a data URI of a picture", field=name) from error


def _models(call: Call) -> dict[str, Model]:
    return all_models(call.service.catalog.names())


def _by_name(models: dict[str, Model], owner: str, name: str) -> tuple[Model, str]:
    model = named(models, owner, name)
    return model, model.versions[0]


def _by_version(models: dict[str, Model], body: dict[str, Any]) -> tuple[Model, str]:
    version = body.get("version")
    if not isinstance(version, str) or not version:
        raise MissingField("- version: is required", field="version")
    return versioned(models, version)


def _find(call: Call, prediction_id: str) -> Job:
    try:
        return call.service.get(prediction_id, call.caller.id, NAME)
    except NotFound as error:
        raise NotFound("there is no prediction of this id") from error


def _prediction(call: Call, job: Job, *, waited: bool = False) -> dict[str, Any]:
    removed = False
    with suppress(StoreFailure):  # a poll is answered also while the store is away
        removed = job.result is not None and not call.service.blobs.has(job.result.key)
    return to_response(job, call.base_url, waited=waited, removed=removed)


@router.get("/predictions/{prediction_id}")
@direct
def prediction(call: Call, prediction_id: str) -> Response:
    return json_response(_prediction(call, _find(call, prediction_id)))


@router.post("/predictions/{prediction_id}/cancel")
async def cancel(call: CallDep, prediction_id: str) -> Response:
    """One that has ended stays as it is."""
    job = await run_in_threadpool(_find, call, prediction_id)
    if not job.state.final:
        with suppress(Conflict):  # it has just ended
            await run_in_threadpool(call.service.cancel, job.id, call.caller.id)
        job = await call.service.wait(job.id, call.caller.id, CANCEL_WAIT_S)
    return json_response(await run_in_threadpool(_prediction, call, job))


@router.get("/predictions")
def predictions(call: CallDep, cursor: str | None = None) -> Response:
    before, offset = read_cursor(cursor)
    jobs, total = call.service.list(call.caller.id, dialect=NAME, created_before=before, limit=PAGE, offset=offset)
    newest = nextafter(jobs[0].created_at, inf) if jobs else 0.0
    found = [_prediction(call, job) for job in jobs]
    return json_response(to_page(found, f"{call.base_url}/v1/predictions", before or newest, offset, total))


# --- models ---------------------------------------------------------------------------------------------------------


def _model(call: Call, model: Model) -> dict[str, Any]:
    _, runs = call.service.list(call.caller.id, dialect=NAME, request={"model": model.id}, limit=1)
    return to_model(model, call.base_url, runs)


def _all(results: list[dict[str, Any]]) -> Response:
    """A list of one page."""
    return json_response({"previous": None, "next": None, "results": results})


@router.get("/models")
def models(call: CallDep) -> Response:
    return _all([_model(call, each) for each in _models(call).values()])


@router.get("/models/{owner}/{name}")
def model(call: CallDep, owner: str, name: str) -> Response:
    return json_response(_model(call, named(_models(call), owner, name)))


@router.get("/models/{owner}/{name}/versions")
def versions(call: CallDep, owner: str, name: str) -> Response:
    found = named(_models(call), owner, name)
    return _all([to_version(found, each) for each in found.versions])


@router.get("/models/{owner}/{name}/versions/{version_id}")
def version(call: CallDep, owner: str, name: str, version_id: str) -> Response:
    found = named(_models(call), owner, name)
    if version_id not in found.versions:
        raise NotFound(f"{found.id} has no version of this id")
    return json_response(to_version(found, version_id))


@router.get("/collections")
def collections(call: CallDep) -> Response:
    return _all([COLLECTION])


@router.get("/collections/{slug}")
def collection(call: CallDep, slug: str) -> Response:
    if slug != COLLECTION["slug"]:
        raise NotFound(f"there is no collection of this name; there is {COLLECTION['slug']}")
    return json_response(COLLECTION | {"models": [_model(call, each) for each in _models(call).values()]})


# --- account --------------------------------------------------------------------------------------------------------


@router.get("/account")
def account(call: CallDep) -> Response:
    name = call.caller.id
    return json_response({"type": "organization", "username": name, "name": name, "github_url": None})


@router.get("/webhooks/default/secret")
def secret(call: CallDep) -> Response:
    return json_response({"key": webhook_secret(load_secret(call.service.config), call.caller.id)})


@router.get("/hardware")
def hardware(call: CallDep) -> Response:
    """The devices of the workers that are alive."""
    found = {worker.device: worker.kind for worker in call.service.workers()}
    return json_response([{"sku": kind, "name": device} for device, kind in found.items()])
