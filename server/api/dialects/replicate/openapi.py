"""OpenAPI description of Replicate."""

from server.api.dialects.replicate.models import VENDORS
from server.api.dialects.replicate.translate import COLLECTION, EVENTS, STATUS
from server.api.openapi.base import (
    BYTES,
    FLAG,
    FORM,
    HEX32,
    JSON,
    NUMBER,
    TEXT,
    TIME,
    WHOLE,
    Operation,
    Schema,
    answer,
    array,
    choice,
    nullable,
    request,
)

TITLE = "Replicate, under /v1/"
ERROR = answer(title=TEXT, detail=TEXT, status=WHOLE)

_HEX64: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_OBJECT: Schema = {"type": "object"}
_TEXT_OR_NOT = nullable(TEXT)
_PREDICTION = answer(
    id=HEX32,
    model=TEXT,
    version=_HEX64,
    input=_OBJECT,
    output=_TEXT_OR_NOT,
    logs=TEXT,
    error=_TEXT_OR_NOT,
    status=choice(STATUS.values()),
    created_at=TIME,
    started_at=nullable(TIME),
    completed_at=nullable(TIME),
    metrics=answer({"predict_time": NUMBER, "total_time": NUMBER}),
    data_removed=FLAG,
    source=choice(["api"]),
    urls=answer(get=TEXT, cancel=TEXT, web=TEXT),
)
_VERSION = answer(id=_HEX64, created_at=TIME, cog_version=TEXT, openapi_schema=_OBJECT)
_MODEL = answer(
    url=TEXT,
    owner=TEXT,
    name=TEXT,
    description=TEXT,
    visibility=choice(["public"]),
    github_url=_TEXT_OR_NOT,
    paper_url=_TEXT_OR_NOT,
    license_url=_TEXT_OR_NOT,
    run_count=WHOLE,
    cover_image_url=_TEXT_OR_NOT,
    default_example=_TEXT_OR_NOT,
    latest_version=_VERSION,
)
_FILE = answer(
    id=HEX32,
    name=TEXT,
    content_type=TEXT,
    size=WHOLE,
    etag=TEXT,
    checksums=answer(sha256=_HEX64, md5=HEX32),
    metadata=_OBJECT,
    created_at=TIME,
    expires_at=TIME,
    urls=answer(get=TEXT),
)
_COLLECTION = {"name": TEXT, "slug": TEXT, "description": TEXT}
_WEB_URL: Schema = {"type": "string", "description": "An http(s) URL."}

_INPUT: Schema = {
    "anyOf": [request({m.picture: m.inputs[m.picture]}, **dict(list(m.inputs.items())[1:])) for m in VENDORS]
}
_ASKED = {"webhook": _WEB_URL, "webhook_events_filter": array(choice(EVENTS)), "webhook_completed": _WEB_URL}
_SUBMIT = request({"input": _INPUT}, **_ASKED)
_SUBMIT_VERSION = request({"version": choice(m.versions[0] for m in VENDORS), "input": _INPUT}, **_ASKED)
_REFUSED = (400, 404, 422, 429, 503)
_OF_MODEL = {"owner": choice(m.owner for m in VENDORS), "name": choice(m.name for m in VENDORS)}
_ID = {"prediction_id": HEX32}


def _page(items: Schema) -> Schema:
    return answer(previous=_TEXT_OR_NOT, next=_TEXT_OR_NOT, results=array(items))


OPERATIONS = {
    "POST /v1/predictions": Operation(_PREDICTION, _REFUSED, {JSON: _SUBMIT_VERSION}, status=201),
    "POST /v1/models/{owner}/{name}/predictions": Operation(
        _PREDICTION, _REFUSED, {JSON: _SUBMIT}, path=_OF_MODEL, status=201
    ),
    "GET /v1/predictions": Operation(_page(_PREDICTION), (422,)),
    "GET /v1/predictions/{prediction_id}": Operation(_PREDICTION, (404,), path=_ID),
    "POST /v1/predictions/{prediction_id}/cancel": Operation(_PREDICTION, (404,), path=_ID),
    "GET /v1/models": Operation(_page(_MODEL), ()),
    "GET /v1/models/{owner}/{name}": Operation(_MODEL, (404,), path=_OF_MODEL),
    "GET /v1/models/{owner}/{name}/versions": Operation(_page(_VERSION), (404,), path=_OF_MODEL),
    "GET /v1/models/{owner}/{name}/versions/{version_id}": Operation(
        _VERSION, (404,), path=_OF_MODEL | {"version_id": choice(v for m in VENDORS for v in m.versions)}
    ),
    "GET /v1/collections": Operation(_page(answer(**_COLLECTION)), ()),
    "GET /v1/collections/{slug}": Operation(
        answer(**_COLLECTION, models=array(_MODEL)), (404,), path={"slug": choice([COLLECTION["slug"]])}
    ),
    "POST /v1/files": Operation(
        _FILE, (400, 422), {FORM: request({"content": BYTES}) | {"additionalProperties": False}}, status=201
    ),
    "GET /v1/files": Operation(_page(_FILE), (422,)),
    "GET /v1/files/{file_id}": Operation(_FILE, (404,), path={"file_id": HEX32}),
    "DELETE /v1/files/{file_id}": Operation(None, (404,), path={"file_id": HEX32}, status=204),
    "GET /v1/account": Operation(
        answer(type=choice(["organization"]), username=TEXT, name=TEXT, github_url=_TEXT_OR_NOT), ()
    ),
    "GET /v1/webhooks/default/secret": Operation(answer(key=TEXT), ()),
    "GET /v1/hardware": Operation(array(answer(sku=TEXT, name=TEXT)), ()),
}
