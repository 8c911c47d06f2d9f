"""OpenAPI description of VibeDream."""

from server.api.dialects.fields import TARGETS, VENDOR_FORMATS
from server.api.dialects.vibedream.translate import MODEL, STATUS
from server.api.openapi.base import (
    FLAG,
    JSON,
    PICTURE,
    TEXT,
    TIME,
    UUID,
    WHOLE,
    Operation,
    answer,
    array,
    choice,
    nullable,
    request,
)

TITLE = "VibeDream, under /api/v1"
ERROR = answer(error=TEXT, message=TEXT)

_SUBMITTED = {
    "id": UUID,
    "status": choice(STATUS.values()),
    "statusUrl": TEXT,
    "estimatedTime": TEXT,
    "costCents": WHOLE,
    "createdAt": TIME,
}
_PREDICTION = {
    "id": UUID,
    "modelId": TEXT,
    "modelName": TEXT,
    "status": choice(STATUS.values()),
    "outputs": nullable(array(TEXT)),
    "error": nullable(TEXT),
    "createdAt": TIME,
    "completedAt": nullable(TIME),
}
_REQUEST = request(
    {
        "image": PICTURE,
        "target_resolution": choice(TARGETS),
        "output_format": choice(VENDOR_FORMATS),
    },
    enable_base64_output=FLAG,
    enable_sync_mode=FLAG,
)

OPERATIONS = {
    "POST /api/v1/models/{model}/generate": Operation(
        {"anyOf": [answer(**_SUBMITTED), answer(**{**_SUBMITTED, **_PREDICTION})]},
        (400, 404, 429, 503),
        {JSON: _REQUEST},
        path={"model": choice([MODEL])},
    ),
    "GET /api/v1/predictions/{prediction_id}": Operation(answer(**_PREDICTION), (404,), path={"prediction_id": UUID}),
}
