"""OpenAPI description of WaveSpeedAI: the same under /api/v3 and /api/v2."""

from server.api.dialects.wavespeed.translate import (
    FIELDS,
    INPUTS,
    LARGEST_PAGE,
    LAST_PAGE,
    MAX_IDS,
    PREFIXES,
    STATUS,
    STATUSES,
    WEBHOOK_FIELDS,
)
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
    request,
    whole,
)

TITLE = "WaveSpeedAI, under /api/v3 and /api/v2"
ERROR: Schema = {
    "anyOf": [
        answer({"error_code": WHOLE}, code=WHOLE, message=TEXT, error=TEXT),
        answer(error=TEXT),  # a webhook together with base64
    ]
}

_ECHO: Schema = {"type": "object", "properties": INPUTS | {"guidance_scale": INPUTS["scale"]}}
_ITEM = {
    "id": HEX32,
    "model": choice(FIELDS),
    "outputs": array(TEXT),
    "urls": answer(get=TEXT),
    "has_nsfw_contents": array(FLAG),
    "status": choice(STATUS.values()),
    "created_at": TIME,
    "error": TEXT,
    "code": WHOLE,
    "executionTime": WHOLE,
    "timings": answer(inference=WHOLE),
}
_PREDICTION = answer(**_ITEM, input=_ECHO)
_FILE = {"type": choice(["image"]), "download_url": TEXT, "url": TEXT, "filename": TEXT, "size": WHOLE}
_PUT = answer(
    method=choice(["PUT"]),
    url=TEXT,
    headers={"type": "object", "additionalProperties": TEXT},
    expires_at=TIME,
)
_MODEL = answer(
    model_id=choice(FIELDS),
    name=TEXT,
    description=TEXT,
    type=TEXT,
    base_price=NUMBER,
    sort_order=WHOLE,
    formula=TEXT,
    api_schema={"type": "object"},
)
_PRICE = answer(
    model_id=choice(FIELDS),
    price=NUMBER,
    discounted_price=NUMBER,
    discount_rate=NUMBER,
    unit_price=NUMBER,
    currency=TEXT,
)
_PAGE = answer(page=WHOLE, total=WHOLE, items=array(answer({"input": _ECHO}, **_ITEM)))

_FILTERS: dict[str, Schema] = {
    "page": whole(1, LAST_PAGE),
    "page_size": whole(1, LARGEST_PAGE),
    "status": choice(STATUSES),
    "model": TEXT,
    "include_inputs": FLAG,
    "created_after": TIME,
    "created_before": TIME,
}
_HOOK: Schema = {"type": "string", "description": "An http(s) URL; not together with enable_base64_output."}
_REQUEST = request(
    {"image": INPUTS["image"]},
    **{name: schema for name, schema in INPUTS.items() if name != "image"},
    guidance_scale=INPUTS["scale"],
    **dict.fromkeys(WEBHOOK_FIELDS, _HOOK),
)
_TICKET = request({"filename": TEXT | {"minLength": 1}}, size=WHOLE, content_type=TEXT)
_PRICED = request({"model_id": choice(FIELDS)}, inputs=request({}, **INPUTS))
_MODEL_NAME = {
    "owner": choice(model.split("/")[0] for model in FIELDS),
    "name": choice(model.split("/")[1] for model in FIELDS),
}


def _success(data: Schema, **beside: Schema) -> Schema:
    return answer(code=choice([200]), message=TEXT, data=data, **beside)


_GET = Operation(_success(_PREDICTION), (404,), path={"job_id": HEX32})
_UPLOAD = Operation(_success(answer(**_FILE)), (400,), {FORM: request({"file": BYTES})})
_BALANCE = Operation(_success(answer(balance=NUMBER, currency=TEXT)), ())
_COST = Operation(_success(_PRICE), (400, 404), {JSON: _PRICED})

_OPERATIONS = {
    "GET /predictions/{job_id}": _GET,
    "GET /predictions/{job_id}/result": _GET,
    "DELETE /predictions/{job_id}": Operation(
        _success(answer(id=HEX32, status=choice(["deleted"]))), (404,), path={"job_id": HEX32}
    ),
    "GET /predictions": Operation(_success(_PAGE), (400,), query=_FILTERS),
    "POST /predictions": Operation(_success(_PAGE), (400,), {JSON: request({}, **_FILTERS)}, body_required=False),
    "POST /predictions/delete": Operation(
        _success(answer(deleted_count=WHOLE)), (400,), {JSON: request({"ids": array(TEXT, maxItems=MAX_IDS)})}
    ),
    "POST /media/uploads": Operation(_success(answer(**_FILE, upload=_PUT)), (400,), {JSON: _TICKET}),
    "POST /media/upload/binary": _UPLOAD,
    "POST /upload": _UPLOAD,
    "GET /webhook/secret": Operation(_success(answer(secret=TEXT), secret=TEXT), ()),
    "GET /account/balance": _BALANCE,
    "GET /balance": _BALANCE,
    "GET /account/usage": Operation(_success(answer(total_requests=WHOLE)), ()),
    "GET /models": Operation(_success(array(_MODEL)), ()),
    "POST /model/pricing": _COST,
    "POST /model/price": _COST,
    "POST /{owner}/{name}": Operation(
        _success(_PREDICTION), (400, 404, 429, 503), {JSON: _REQUEST}, query={"webhook": _HOOK}, path=_MODEL_NAME
    ),
}
OPERATIONS = {
    key.replace(" ", f" {prefix}"): operation for prefix in PREFIXES for key, operation in _OPERATIONS.items()
}
