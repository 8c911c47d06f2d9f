"""OpenAPI description of Novita."""

from server.api.dialects.fields import TARGETS, VENDOR_FORMATS
from server.api.dialects.novita.translate import LEGACY, MAX_FACTOR, MIN_FACTOR, MOCKS, MODELS, STATUS, UPSCALER
from server.api.openapi.base import (
    ANY,
    FLAG,
    JSON,
    NOTHING,
    PICTURE,
    TEXT,
    UUID,
    WHOLE,
    Operation,
    Schema,
    answer,
    array,
    choice,
    number,
    request,
    whole,
)

TITLE = "Novita, under /v3"
ERROR = answer(code=WHOLE, reason=TEXT, message=TEXT, metadata={"type": "object"})

_WEBHOOK = request(
    {"url": {"type": "string", "description": "An http(s) URL."}},
    test_mode=request({}, enabled=FLAG, return_task_status=choice(MOCKS)),
)
_MILLISECONDS: Schema = {"type": "string", "pattern": "^[0-9]+$"}
_RESULT = answer(
    extra=answer(
        {
            "debug_info": answer(
                request_info=TEXT,
                submit_time_ms=_MILLISECONDS,
                execute_time_ms=_MILLISECONDS,
                complete_time_ms=_MILLISECONDS,
            )
        },
        seed=TEXT,
        enable_nsfw_detection=FLAG,
    ),
    task=answer(
        task_id=UUID,
        status=choice(STATUS.values()),
        reason=TEXT,
        task_type=choice((UPSCALER, LEGACY)),
        eta=WHOLE,
        progress_percent=whole(0, 100),
    ),
    images=array(
        answer(
            image_url=TEXT,
            image_url_ttl=WHOLE,
            image_type=choice(VENDOR_FORMATS),
            nsfw_detection_result=NOTHING,
        )
    ),
    videos=array(ANY, maxItems=0),
    audios=array(ANY, maxItems=0),
)
_REQUEST = request(
    {"image": PICTURE},
    resolution=choice(TARGETS),
    output_format=choice(VENDOR_FORMATS),
    extra=request({}, webhook=_WEBHOOK),
)
_LEGACY_REQUEST = request(
    {
        "request": request(
            {
                "model_name": choice(MODELS),
                "image_base64": PICTURE,
                "scale_factor": number(exclusiveMinimum=MIN_FACTOR, maximum=MAX_FACTOR),
            }
        )
    },
    extra=request({}, response_image_type=choice(VENDOR_FORMATS), webhook=_WEBHOOK, custom_storage=NOTHING),
)
_SUBMITTED, _REFUSED = answer(task_id=UUID), (400, 429, 503)

OPERATIONS = {
    "POST /v3/async/image-upscaler": Operation(_SUBMITTED, _REFUSED, {JSON: _REQUEST}),
    "POST /v3/async/upscale": Operation(_SUBMITTED, _REFUSED, {JSON: _LEGACY_REQUEST}),
    "GET /v3/async/task-result": Operation(_RESULT, (400, 404), path={"task_id": UUID}),
}
