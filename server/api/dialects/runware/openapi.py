"""OpenAPI description of Runware over REST. OpenAPI can't describe the WebSocket, which takes the same tasks."""

from server.api.dialects.runware.translate import (
    FACTORS,
    FORMATS_BY_NAME,
    MAX_RESULTS,
    MAX_TASKS,
    MIN_TTL_S,
    OUTPUTS,
    QUALITIES,
    UPSCALE,
)
from server.api.openapi.base import (
    FLAG,
    JSON,
    NUMBER,
    PICTURE,
    TEXT,
    UUID,
    WHOLE,
    Operation,
    Schema,
    answer,
    array,
    choice,
    request,
    whole,
)

TITLE = "Runware, on /v1"

_ERROR_ITEM = answer(
    {
        "parameter": TEXT,
        "type": TEXT,
        "documentation": TEXT,
        "taskUUID": TEXT,
        "taskType": TEXT,
        "status": choice(["error"]),
    },
    code=TEXT,
    message=TEXT,
)
ERROR = answer(errors=array(_ERROR_ITEM, minItems=1))

_OBJECT: Schema = {"type": "object"}
_PICTURE = PICTURE | {"description": "UUID, URL, data URI or base64 of the picture."}
_FACTOR = "Which factors may be asked for, and which is meant if absent, depends on the model."
_SETTINGS: dict[str, Schema] = {
    "outputFormat": choice(FORMATS_BY_NAME),
    "outputQuality": whole(*QUALITIES),
    "outputType": choice(OUTPUTS),
    "deliveryMethod": choice(["sync", "async"]),
    "webhookURL": {"type": "string", "description": "An http(s) URL; with outputType URL only."},
    "uploadEndpoint": {"type": "string", "description": "An http(s) URL."},
    "ttl": whole(MIN_TTL_S),
    "includeCost": FLAG,
    "model": TEXT,
    "upscaleFactor": {"type": "number", "minimum": 1, "maximum": FACTORS[1], "description": _FACTOR},
    "numberResults": whole(1, MAX_RESULTS),
    "routing": _OBJECT,
    "settings": _OBJECT,
    "safety": _OBJECT,
    "providerSettings": _OBJECT,
}


def _task(kinds: list[str], /, required: dict[str, Schema], **optional: Schema) -> Schema:
    return request({"taskType": choice(kinds), "taskUUID": UUID, **required}, **optional)


_TASKS: list[Schema] = [
    _task([UPSCALE, "upscale"], {"inputImage": _PICTURE}, **_SETTINGS),
    _task([UPSCALE, "upscale"], {"inputs": request({"image": _PICTURE})}, **_SETTINGS),
    _task(["imageUpload"], {"image": PICTURE}),
    _task(["mediaStorage"], {"operation": choice(["upload"]), "media": PICTURE}),
    _task(["getResponse"], {}),
    request({"taskType": choice(["ping"])}),
    request({"taskType": choice(["authentication"]), "apiKey": TEXT}),
]

_DONE = answer(
    {
        **dict.fromkeys(OUTPUTS.values(), TEXT),
        **dict.fromkeys(("imageUUID", "inputImageUUID", "mediaUUID"), UUID),
        "imageURL": TEXT,
        "taskUUID": UUID,
        "cost": NUMBER,
        "status": choice(["processing", "success"]),
        "pong": FLAG,
        "resultIndex": WHOLE,
    },
    taskType=TEXT,
)

OPERATIONS = {
    "POST /v1": Operation(
        answer({"errors": array(_ERROR_ITEM, minItems=1)}, data=array(_DONE, minItems=1)),
        (400, 404, 429, 503),
        {JSON: array({"anyOf": _TASKS}, minItems=1, maxItems=MAX_TASKS)},
    ),
}
