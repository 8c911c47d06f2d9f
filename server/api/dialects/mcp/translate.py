"""Arguments of tools → Params, jobs → what tools answer. Pure, and without the `mcp` package."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from server.api.dialects.fields import file_url, first_error, iso_time
from server.api.openapi.base import (
    FLAG,
    HEX32,
    NUMBER,
    TEXT,
    TIME,
    WHOLE,
    Schema,
    answer,
    array,
    choice,
    nullable,
    number,
    whole,
)
from server.errors import InvalidField, MissingField, UpscaleError
from server.job.creativity import MAX_CREATIVITY
from server.job.formats import FORMATS, FormatName
from server.job.job import (
    MAX_MEGAPIXELS,
    MAX_SCALE,
    MAX_SEED,
    QUALITIES,
    SIZES,
    ContentWanted,
    Faces,
    HdrWanted,
    Job,
    Params,
    State,
    Target,
    Wrap,
)
from server.job.mask import Keep, Mask
from server.job.plan import Estimate, Plan
from server.service.eta import Eta
from server.weights.catalog import Checkpoint

NAME = "mcp"
PREFIXES: tuple[str, ...] = ("/mcp",)

DEFAULT_SCALE = 4.0
WAIT_S = 45.0
"""Many clients give a call up after 60 seconds."""
LONGEST_WAIT_S = 3600.0
MAX_BODY_BYTES = 16 << 20
"""Of a message: the package parses it at once, while other callers wait. Larger pictures are sent as links."""
MAX_SESSIONS = 100
"""Of one owner."""
MAX_INLINE_BYTES = 512 * 1024
"""Of a picture that is part of an answer, before base64: clients take answers of about a megabyte."""
SHOWN = ("image/png", "image/jpeg", "image/webp", "image/gif")
"""Kinds of pictures that models and clients can look at."""
MAX_LISTED = 50

INVALID_REQUEST, INTERNAL_ERROR = -32600, -32603
"""Of JSON-RPC."""


# --- arguments ------------------------------------------------------------------------------------------------------


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_Side = Annotated[int, Field(ge=1, le=1_000_000)]
_Wait = Annotated[float, Field(ge=0, le=LONGEST_WAIT_S)]
_IMAGE = "The picture: an http(s) URL, a data URI, or base64."


class Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Kept(Arguments):
    """The argument `mask`. Mask checks the ranges."""

    boxes: list[Annotated[list[int], Field(min_length=4, max_length=4)]] = Field(
        description="[left, top, width, height] each, in pixels of the source."
    )
    keep: Keep = Field("inside", description="Whether the inside or the outside of the boxes is kept.")


class Wanted(Arguments):
    """What `upscale` and `plan` have in common. Params checks what depends on other fields."""

    image: str | None = Field(None, description=_IMAGE)
    scale: float | None = Field(
        None,
        gt=0,
        le=MAX_SCALE,
        description="Factor for both sides. Without scale, target, size and megapixels it is 4.",
    )
    target: Target | None = Field(None, description="Long edge of the result: 2048, 4096 or 8192 pixels.")
    size: Annotated[tuple[_Side, _Side], BeforeValidator(_pair)] | None = Field(
        None, description="Exact [width, height] of the result."
    )
    megapixels: float | None = Field(
        None, gt=0, le=MAX_MEGAPIXELS, description="Area of the result in millions of pixels; the shape is kept."
    )
    format: FormatName = Field("png", description="File format of the result.")
    quality: int | None = Field(None, ge=QUALITIES[0], le=QUALITIES[1], description="Of lossy formats.")
    creativity: float | None = Field(
        None,
        ge=-MAX_CREATIVITY,
        le=MAX_CREATIVITY,
        description="How much may be invented: -2 nothing, 0 sharp textures (the default), 2 new detail by diffusion.",
    )
    content: ContentWanted = Field("auto", description="What the picture shows.")
    model: str = Field("auto", description="A network by its name in `models`.")
    faces: bool = Field(False, description="Restore faces; `models` says whether that is possible here.")
    mask: Kept | None = Field(None, description="Where nothing is invented, whatever the creativity: letters, logos.")
    grain: float = Field(0.0, ge=0, le=1, description="Film grain like the source's own: 0 none, 1 as strong.")
    hdr: HdrWanted = Field(
        "tone-map",
        description="For HDR sources: the standard range, or keep, in jpeg (gain maps), avif or png (others).",
    )
    wrap: Wrap = Field("none", description="Axes along which the picture repeats: seamless textures, panoramas.")
    certificate: bool = Field(False, description="Measure what the result shows that the source does not.")
    seed: int | None = Field(None, ge=0, le=MAX_SEED)


class Upscale(Wanted):
    wait_s: _Wait = Field(
        WAIT_S,
        description="Longest time to wait for the result, in seconds. If it is not enough, ask `jobs` for the job.",
    )


class Planned(Wanted):
    width: _Side | None = Field(None, description="Of the source, instead of the picture itself.")
    height: _Side | None = None


class Asked(Arguments):
    id: str | None = Field(None, description="One job, with its picture. Without it: the newest jobs.")
    wait_s: _Wait = Field(0.0, description="With id: longest time to wait for the job's end, in seconds.")
    cancel: bool = Field(False, description="With id: stop the job.")
    state: State | None = Field(None, strict=False, description="Without id: only jobs in this state.")
    limit: int = Field(10, ge=1, le=MAX_LISTED, description="Without id: at most so many.")


class Nothing(Arguments):
    pass


def read_arguments(kind: type[Arguments], values: dict[str, Any] | None) -> Any:
    """Null counts as absent. Raises InvalidField."""
    given = {name: value for name, value in (values or {}).items() if value is not None}
    for name in {"path", "output"} & given.keys() - kind.model_fields.keys():
        raise InvalidField(f"{name}: files are read and written only by `python -m server mcp`, over stdio", field=name)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise first_error(error) from error


def image_of(wanted: Wanted) -> str:
    """Raises MissingField."""
    if not wanted.image:
        raise MissingField("image is missing: an http(s) URL, a data URI or base64", field="image")
    return wanted.image


def size_of(wanted: Planned) -> tuple[int, int] | None:
    """The size that stands for the picture. Raises InvalidField."""
    if wanted.width is None and wanted.height is None:
        return None
    if wanted.image:
        raise InvalidField("give either a picture or its width and height", field="width")
    if wanted.width is None or wanted.height is None:
        raise InvalidField("give both width and height", field="width" if wanted.width is None else "height")
    return wanted.width, wanted.height


def to_params(wanted: Wanted) -> Params:
    """Raises InvalidField."""
    values = wanted.model_dump(exclude={"image", "faces", "mask", "wait_s", "width", "height"})
    if all(values[name] is None for name in SIZES):
        values["scale"] = DEFAULT_SCALE
    mask = None if wanted.mask is None else Mask.from_dict(wanted.mask.model_dump())
    return Params(**values, animation="keep", faces=Faces() if wanted.faces else None, mask=mask)


# --- answers --------------------------------------------------------------------------------------------------------


def to_job(job: Job, base_url: str, eta: Eta | None) -> dict[str, Any]:
    result = job.result
    failed = job.state is State.FAILED
    return {
        "id": job.id,
        "state": job.state.value,
        "progress": round(job.progress, 4),
        "eta_s": eta and round(eta.seconds, 2),
        "eta_max_s": eta and round(eta.most, 2),
        "dialect": job.dialect,
        "created_at": iso_time(job.created_at),
        "result": result
        and {
            "url": file_url(base_url, result.key),
            "width": result.width,
            "height": result.height,
            "format": result.format,
            "size_bytes": result.size_bytes,
            "model": result.model,
            "notes": list(result.notes),
            "certificate": result.certificate and _to_certificate(result.certificate, base_url),
        },
        "error": {"code": job.error_code, "message": job.error_message} if failed else None,
    }


def _to_certificate(facts: dict[str, Any], base_url: str) -> dict[str, Any]:
    figures = {name: facts[name] for name in ("difference", "fine_energy", "drift", "seams")}
    return figures | {"heat_map_url": file_url(base_url, facts["heat_map"])}


def said_of(job: Job, eta: Eta | None) -> str:
    """What is being done, and how long that will take, for a progress message."""
    doing = (job.stage if job.state is State.RUNNING else None) or job.state.value
    return doing if eta is None else f"{doing}, about {math.ceil(eta.seconds)} s left"


def to_plan(plan: Plan, estimate: Estimate) -> dict[str, Any]:
    return {
        "source": list(plan.source),
        "result": list(plan.result),
        "model": plan.model,
        "notes": list(plan.notes),
        "frames": plan.frames,
        "seconds": estimate.seconds,
        "result_bytes": estimate.result_bytes,
    }


def to_model(weights: Checkpoint) -> dict[str, Any]:
    return {
        "name": weights.name,
        "scale": weights.geometry.scale,
        "licence": weights.licence,
        "note": weights.note,
    }


def advice(job: Job, closing: bool) -> str | None:
    """What to do about a job that has not ended."""
    if job.state.final:
        return None
    why = "the server restarts, and the job continues then" if closing else f"the job is {job.state.value}"
    return f'{why}: call jobs with {{"id": "{job.id}", "wait_s": {WAIT_S:g}}} for its result'


def problem(job: Job) -> str | None:
    """Why there will be no result, or None."""
    if job.state is State.CANCELLED:
        return "the job was cancelled"
    return job.error_message or "the job failed" if job.state is State.FAILED else None


def to_error(error: UpscaleError) -> tuple[dict[str, Any], int]:
    """A JSON-RPC error of a request whose id is not known."""
    said = {
        "code": INVALID_REQUEST if error.status < 500 else INTERNAL_ERROR,
        "message": error.message,
        "data": {"code": error.code, "field": error.field},
    }
    return {"jsonrpc": "2.0", "id": None, "error": said}, error.status


# --- the tools ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Described:
    """A tool as clients see it."""

    title: str
    description: str
    arguments: type[Arguments]
    answer: Schema
    """Of its structured content."""
    reads_only: bool = False

    @property
    def schema(self) -> Schema:
        """Of its arguments. Pydantic's own, without what models need not read."""
        made = self.arguments.model_json_schema()
        properties = {name: _short(each, made.get("$defs", {})) for name, each in made.get("properties", {}).items()}
        return {"type": "object", "properties": properties, "additionalProperties": False}


def _short(schema: Schema, named: dict[str, Schema]) -> Schema:
    """Without a title, and without null, which counts as absent."""
    short = {name: each for name, each in schema.items() if name not in ("title", "anyOf", "$ref")}
    kinds = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    for each in (*kinds, *([schema] if "$ref" in schema else [])):
        short |= named[each["$ref"].rpartition("/")[2]] if "$ref" in each else each
    if short.get("default", ...) is None:
        del short["default"]
    short.pop("title", None)
    return short


_AT_LEAST_0 = number(minimum=0)
_CERTIFICATE = answer(
    difference=answer(mean=_AT_LEAST_0, p99=_AT_LEAST_0, max=_AT_LEAST_0),
    fine_energy=_AT_LEAST_0,
    drift=answer(mean=_AT_LEAST_0, local=_AT_LEAST_0),
    seams=nullable(_AT_LEAST_0),
    heat_map_url=TEXT,
)
_RESULT = answer(
    url=TEXT,
    width=whole(1),
    height=whole(1),
    format=choice(FORMATS),
    size_bytes=WHOLE,
    model=TEXT,
    notes=array(TEXT),
    certificate=nullable(_CERTIFICATE),
)
_JOB = answer(
    id=HEX32,
    state=choice(each.value for each in State),
    progress=number(minimum=0, maximum=1),
    eta_s=nullable(number(minimum=0)),
    eta_max_s=nullable(number(minimum=0)),
    dialect=TEXT,
    created_at=TIME,
    result=nullable(_RESULT),
    error=nullable(answer(code=TEXT, message=TEXT)),
)
_SIZE = array(whole(1), minItems=2, maxItems=2)
_PLAN = answer(
    source=_SIZE,
    result=_SIZE,
    model=TEXT,
    notes=array(TEXT),
    frames=whole(1),
    seconds=nullable(NUMBER),
    result_bytes=WHOLE,
)
_MODELS = answer(
    models=array(answer(name=TEXT, scale=whole(1), licence=TEXT, note=TEXT)),
    faces=answer(available=FLAG, reason=nullable(TEXT)),
)

TOOLS = {
    "upscale": Described(
        "Upscale a picture",
        "Enlarge a picture with a neural network. Waits for the result, which is a link, and also the picture itself "
        "if it is small. Large pictures take seconds to minutes; `plan` says how long.",
        Upscale,
        _JOB,
    ),
    "plan": Described(
        "Plan an upscale",
        "What `upscale` would do with these arguments: sizes, network, seconds, bytes. Nothing runs.",
        Planned,
        _PLAN,
        reads_only=True,
    ),
    "jobs": Described(
        "Look at jobs",
        "The newest jobs; or with an id one job and its picture, after waiting for it or stopping it.",
        Asked,
        answer(jobs=array(_JOB), total=WHOLE),
    ),
    "models": Described(
        "List the networks",
        "The networks that `model` can name, best first, and whether faces can be restored.",
        Nothing,
        _MODELS,
        reads_only=True,
    ),
}
