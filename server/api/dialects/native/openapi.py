"""OpenAPI description of our own API."""

from typing import Any, get_args

from server.api.archive import MIME
from server.api.dialects.native.translate import JobRequest, PlanRequest
from server.api.openapi.base import (
    BYTES,
    FLAG,
    FORM,
    HEX32,
    JSON,
    KEY,
    NOTHING,
    NUMBER,
    PICTURE,
    TEXT,
    TIME,
    WHOLE,
    Operation,
    Schema,
    answer,
    array,
    choice,
    nullable,
    number,
    whole,
)
from server.job.creativity import MAX_CREATIVITY
from server.job.formats import FORMATS, Hdr
from server.job.job import (
    MAX_MEGAPIXELS,
    MAX_SCALE,
    MAX_SEED,
    QUALITIES,
    TARGET_LONG_EDGE,
    WHITE,
    Animated,
    Colour,
    ContentWanted,
    HdrWanted,
    Metadata,
    State,
    Wrap,
)
from server.job.mask import MOST_BOXES, Keep

TITLE = "upscale-server's own API"
ERROR = answer(error=answer(code=TEXT, message=TEXT, field=nullable(TEXT)))

_SIZE = array(whole(1), minItems=2, maxItems=2)
_POINT = array(WHOLE, minItems=2, maxItems=2)
_RANGES: dict[str, Schema] = {
    "scale": number(exclusiveMinimum=0, maximum=MAX_SCALE),
    "megapixels": number(exclusiveMinimum=0, maximum=MAX_MEGAPIXELS),
    "quality": whole(*QUALITIES),
    "denoise": number(minimum=0, maximum=1),
    "creativity": number(minimum=-MAX_CREATIVITY, maximum=MAX_CREATIVITY),
    "grain": number(minimum=0, maximum=1),
    "seed": whole(0, MAX_SEED),
}
_DEPTH: Schema = {"enum": [8, 16]}
_COLOUR = array(whole(0, 255), minItems=3, maxItems=3)
_FACES = answer(
    strength=number(minimum=0, maximum=1),
    only={"anyOf": [choice(["all", "largest"]), array(WHOLE)]},
)
_WANTED_FACES: Schema = {"type": "object", "properties": _FACES["properties"], "additionalProperties": False}
_BOXES = array(array(WHOLE, minItems=4, maxItems=4), maxItems=MOST_BOXES)
_MASK = answer(boxes=nullable(_BOXES), image=nullable(TEXT), keep=choice(get_args(Keep)))
_WANTED_MASK: Schema = {
    "type": "object",
    "properties": {"boxes": _BOXES, "image": PICTURE, "keep": choice(get_args(Keep))},
    "additionalProperties": False,
}
_PARAMS = answer(
    scale=nullable(_RANGES["scale"]),
    target=nullable(choice(TARGET_LONG_EDGE)),
    size=nullable(_SIZE),
    megapixels=nullable(_RANGES["megapixels"]),
    format=choice(FORMATS),
    quality=nullable(_RANGES["quality"]),
    lossless=FLAG,
    progressive=FLAG,
    depth=nullable(_DEPTH),
    metadata=choice(get_args(Metadata)),
    colour=choice(get_args(Colour)),
    background=_COLOUR,
    animation=choice(get_args(Animated)),
    hdr=choice(get_args(HdrWanted)),
    wrap=choice(get_args(Wrap)),
    model=TEXT,
    denoise=nullable(_RANGES["denoise"]),
    creativity=nullable(_RANGES["creativity"]),
    content=choice(get_args(ContentWanted)),
    faces=nullable(_FACES),
    mask=nullable(_MASK),
    grain=_RANGES["grain"],
    seed=nullable(_RANGES["seed"]),
    sweep=FLAG,
    sweep_at=nullable(_POINT),
    certificate=FLAG,
)
_FACE = answer(
    box=array(NUMBER, minItems=4, maxItems=4),
    score=number(minimum=0, maximum=1),
    landmarks=array(array(NUMBER, minItems=2, maxItems=2), minItems=5, maxItems=5),
    applied=FLAG,
    reason=nullable(TEXT),
)
_REFINEMENT = answer(
    recipe=answer(
        fidelity=number(minimum=0, maximum=1),
        strength=number(minimum=0, maximum=1),
        steps=WHOLE,
        gain=number(minimum=0),
        lock=number(minimum=0),
        back_projection=number(minimum=0, maximum=1),
        sdxl_strength=number(minimum=0, maximum=1),
        sdxl_steps=WHOLE,
        sdxl_control=number(minimum=0),
        sdxl_guidance=number(minimum=0),
    ),
    refiner=nullable(TEXT),
    sha256=nullable(TEXT),
    seed=whole(0, MAX_SEED),
)
_AREA = answer(width=whole(1), height=whole(1))
_CERTIFICATE = answer(
    version=WHOLE,
    source=answer(sha256=TEXT, width=whole(1), height=whole(1)),
    result=_AREA,
    colours=choice(["as stored", "converted to sRGB"]),
    background={"type": "string", "pattern": "^#[0-9a-f]{6}$"},
    tiles=answer(columns=array(WHOLE), rows=array(WHOLE)),
    difference=answer(mean=number(minimum=0), p99=number(minimum=0), max=number(minimum=0)),
    fine_energy=number(minimum=0),
    drift=answer(mean=number(minimum=0), local=number(minimum=0)),
    seams=nullable(number(minimum=0)),
    faces=array(
        answer(
            box=array(NUMBER, minItems=4, maxItems=4),
            correlation=nullable(number(minimum=-1, maximum=1)),
            difference=number(minimum=0),
        )
    ),
    heat_map=answer(url=TEXT, key=KEY),
)
_RESULT = answer(
    url=TEXT,
    key=KEY,
    width=whole(1),
    height=whole(1),
    size_bytes=WHOLE,
    format=choice(FORMATS),
    model=TEXT,
    model_sha256=nullable(TEXT),
    model_form=nullable(TEXT),
    notes=array(TEXT),
    frames=whole(1),
    duration_s=nullable(number(minimum=0)),
    network_pixels=WHOLE,
    refinement=nullable(_REFINEMENT),
    faces=nullable(array(_FACE)),
    certificate=nullable(_CERTIFICATE),
    seconds={"type": "object", "additionalProperties": NUMBER},
    cost=number(minimum=0),
)
_JOB = answer(
    id=HEX32,
    name=nullable(TEXT),
    state=choice(state.value for state in State),
    progress=number(minimum=0, maximum=1),
    stage=nullable(choice(["loading", "upscaling", "refining", "encoding"])),
    eta_s=nullable(number(minimum=0)),
    eta_max_s=nullable(number(minimum=0)),
    dialect=TEXT,
    params=_PARAMS,
    created_at=TIME,
    started_at=nullable(TIME),
    finished_at=nullable(TIME),
    attempt=WHOLE,
    cancel_requested=FLAG,
    source=nullable(answer(url=TEXT, key=KEY)),
    result=nullable(_RESULT),
    error=nullable(answer(code=TEXT, message=TEXT)),
    urls=answer(self=TEXT, events=TEXT, result=TEXT),
)
_EVENT = answer(
    event=choice(["progress", "done"]),
    data={"type": "string", "contentMediaType": "application/json", "contentSchema": _JOB},
)
_BORDER = array(WHOLE, minItems=2, maxItems=2)
_PASS = answer(source=_SIZE, result=_SIZE, tiles=whole(1), border=_BORDER)
_ESTIMATE = answer(seconds=nullable(NUMBER), memory_bytes=WHOLE, result_bytes=WHOLE)
_PLAN = answer(
    source=_SIZE,
    result=_SIZE,
    model=TEXT,
    networks=array(TEXT),
    notes=array(TEXT),
    passes=array(_PASS),
    frames=whole(1),
    border=_BORDER,
    result_border=_BORDER,
    tiles=WHOLE,
    estimate=_ESTIMATE,
    preview=nullable(TEXT),
    hdr=nullable(choice(get_args(Hdr))),
)
_MODEL = answer(
    name=TEXT,
    scale=whole(1),
    licence=TEXT,
    author=nullable(TEXT),
    source=nullable(TEXT),
    note=TEXT,
    form=TEXT,
    sha256=nullable(TEXT),
    seconds_per_megapixel=nullable(NUMBER),
)
_LIMITS = answer(source_bytes=WHOLE, source_pixels=WHOLE, result_pixels=WHOLE)
_UPLOADED = answer(url=TEXT, size_bytes=WHOLE)
_PICTURES = (*(each.mime for each in FORMATS.values()), "image/bmp", "image/heic")
_FILE: dict[str, Any] = {
    "answer": BYTES,
    "also": (206, 304, 307),  # the last where links lead straight to a bucket
    "answer_types": (*_PICTURES, "application/octet-stream"),
}


def _bodies(kind: type[JobRequest]) -> dict[str, Schema]:
    """As JSON, or as a form with the picture's file."""
    schema = kind.model_json_schema()
    properties = schema["properties"]
    for name, limits in _RANGES.items():
        optional = any(each == NOTHING for each in properties[name].get("anyOf", ()))
        properties[name] = nullable(limits) if optional else limits
    text = {"type": "string", "pattern": "^[0-9]{1,7}[x×][0-9]{1,7}$"}
    properties["size"]["anyOf"].append(text)
    point = {"type": "string", "pattern": "^[0-9]{1,7},[0-9]{1,7}$"}
    properties["sweep_at"]["anyOf"].append(point)
    properties["depth"] = nullable(_DEPTH)
    hex_colour = {"type": "string", "pattern": "^#[0-9a-fA-F]{6}$"}
    properties["background"] = {"anyOf": [_COLOUR, hex_colour], "default": list(WHITE)}
    properties["faces"] = {"anyOf": [{"type": "boolean"}, _WANTED_FACES], "default": False}
    properties["mask"] = nullable(_WANTED_MASK)
    texts = {name: _not_null(each) for name, each in properties.items()}
    texts["faces"] = {"type": "boolean"}  # or the object as JSON, which forms have no type for
    texts |= {"mask": TEXT, "mask_file": BYTES}  # the object as JSON
    texts |= {"size": text, "sweep_at": point, "background": hex_colour, "image": PICTURE, "file": BYTES}
    form = schema | {"properties": texts}
    if kind is JobRequest:
        schema |= {"properties": {**properties, "image": PICTURE}, "required": ["image"]}
    return {JSON: schema, FORM: form}


def _not_null(schema: Schema) -> Schema:
    """A form has no null."""
    rest = [each for each in schema.get("anyOf", ()) if each != NOTHING]
    return {"anyOf": rest} if rest else schema


_ID = {"job_id": HEX32}

OPERATIONS = {
    "POST /jobs": Operation(_JOB, (400, 422, 429, 503), _bodies(JobRequest), status=202),
    "GET /jobs": Operation(answer(jobs=array(_JOB), total=WHOLE), (400,)),
    "GET /jobs/{job_id}": Operation(_JOB, (404,), path=_ID),
    "GET /jobs/{job_id}/events": Operation(_EVENT, (404,), path=_ID, answer_types=("text/event-stream",)),
    "GET /jobs/{job_id}/result": Operation(**_FILE, errors=(404, 409, 416), path=_ID),
    "GET /jobs/{job_id}/source": Operation(**_FILE, errors=(404, 409, 416), path=_ID),
    "POST /jobs/{job_id}/cancel": Operation(_JOB, (404, 409), path=_ID),
    "DELETE /jobs/{job_id}": Operation(_JOB, (404, 409), path=_ID, status=202, also=(204,)),
    "POST /plan": Operation(_PLAN, (400, 422), _bodies(PlanRequest)),
    "GET /models": Operation(
        answer(models=array(_MODEL), faces=answer(available=FLAG, reason=nullable(TEXT)), limits=_LIMITS), ()
    ),
    "GET /files/{key}": Operation(**_FILE, errors=(404, 416), path={"key": KEY}, key=False),
    "HEAD /files/{key}": Operation(None, (404, 416), also=(206, 304), path={"key": KEY}, key=False),
    "GET /files/{key}/preview": Operation(
        BYTES, (400, 404, 422, 503), path={"key": KEY}, answer_types=("image/webp",), key=False
    ),
    "POST /zip": Operation(
        BYTES,
        (400, 404),
        {JSON: answer(files=array(answer({"name": nullable(TEXT)}, key=KEY), minItems=1))},
        answer_types=(MIME,),
        key=False,
    ),
    "POST /uploads": Operation(_UPLOADED, (503,), {"application/octet-stream": BYTES}, status=201),
    "PUT /uploads/{key}": Operation(
        _UPLOADED,
        (404, 413),
        {"application/octet-stream": BYTES},
        path={"key": KEY},
        key=False,
    ),
}
