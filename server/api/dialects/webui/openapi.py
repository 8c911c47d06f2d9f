"""OpenAPI description of the web UI's extras."""

from server.api.dialects.webui.translate import GENERATES, MAX_IMAGES, MAX_SIDE
from server.api.openapi.base import (
    FLAG,
    JSON,
    NOTHING,
    NUMBER,
    PICTURE,
    TEXT,
    WHOLE,
    Operation,
    Schema,
    answer,
    array,
    choice,
    nullable,
    number,
    request,
    whole,
)
from server.job.job import MAX_SCALE

TITLE = "Stable Diffusion web UI's extras, under /sdapi/v1"
ERROR: Schema = {
    "anyOf": [
        answer(error=TEXT, detail=TEXT, body=TEXT, errors=TEXT),
        answer(detail=array(answer(loc=array({"type": ["string", "integer"]}), msg=TEXT, type=TEXT))),
    ]
}

_SHARE = number(minimum=0, maximum=1)
_SIDE = whole(1, MAX_SIDE)
_EXTRAS: dict[str, Schema] = {
    "resize_mode": choice([0, 1]),
    "show_extras_results": FLAG,
    "gfpgan_visibility": _SHARE,
    "codeformer_visibility": choice([0]),
    "codeformer_weight": _SHARE,
    "upscaling_resize": number(exclusiveMinimum=0, maximum=MAX_SCALE),
    "upscaling_resize_w": _SIDE,
    "upscaling_resize_h": _SIDE,
    "upscaling_crop": FLAG,
    "upscaler_1": TEXT,
    "upscaler_2": TEXT,
    "extras_upscaler_2_visibility": _SHARE,
    "upscale_first": FLAG,
}
_INFO: Schema = {"type": "string", "description": "For people, as HTML."}
_IMAGE: Schema = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
_BATCH = array(request({"data": PICTURE}, name=TEXT), minItems=1, maxItems=MAX_IMAGES)
_STATE = answer(
    skipped=FLAG,
    interrupted=FLAG,
    job=TEXT,
    job_count=WHOLE,
    job_no=WHOLE,
    sampling_step=WHOLE,
    sampling_steps=WHOLE,
)
_PROGRESS = answer(progress=_SHARE, eta_relative=NUMBER, state=_STATE, current_image=NOTHING, textinfo=NOTHING)
_UPSCALER = answer(
    name=TEXT, model_name=nullable(TEXT), model_path=nullable(TEXT), model_url=nullable(TEXT), scale=whole(1)
)
_REFUSED = (404, 409, 422, 429, 503)
_LISTS = Operation(array({}), ())

OPERATIONS = {
    "POST /sdapi/v1/extra-single-image": Operation(
        answer(html_info=_INFO, image=_IMAGE), _REFUSED, {JSON: request({"image": PICTURE}, **_EXTRAS)}
    ),
    "POST /sdapi/v1/extra-batch-images": Operation(
        answer(html_info=_INFO, images=array(_IMAGE)), _REFUSED, {JSON: request({"imageList": _BATCH}, **_EXTRAS)}
    ),
    "GET /sdapi/v1/upscalers": Operation(array(_UPSCALER), ()),
    "GET /sdapi/v1/face-restorers": Operation(array(answer(name=TEXT, cmd_dir=nullable(TEXT))), ()),
    "GET /sdapi/v1/progress": Operation(_PROGRESS, (422,)),
    "POST /sdapi/v1/interrupt": Operation(answer(), ()),
    "GET /sdapi/v1/options": Operation(
        answer(samples_format=TEXT, sd_model_checkpoint=TEXT, upscaler_for_img2img=TEXT), ()
    ),
    "GET /sdapi/v1/cmd-flags": Operation(answer(api=FLAG, nowebui=FLAG), ()),
    "GET /sdapi/v1/scripts": Operation(answer(txt2img=array({}), img2img=array({})), ()),
    "GET /sdapi/v1/sd-models": _LISTS,
    "GET /sdapi/v1/samplers": _LISTS,
    "POST /sdapi/v1/png-info": Operation(
        answer(info=TEXT, items={"type": "object", "additionalProperties": TEXT}, parameters={"type": "object"}),
        (404, 422, 503),
        {JSON: request({"image": PICTURE})},
    ),
} | {f"POST /sdapi/v1/{name}": Operation(None, (404,)) for name in GENERATES}
