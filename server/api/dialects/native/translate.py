"""Requests of the native API → Params, jobs → its bodies. Pure."""

import re
from contextlib import suppress
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, WithJsonSchema

from server.api.bodies import check_readable
from server.api.dialects.fields import FORM_REMEDY, file_url, first_error, iso_time, read_json
from server.db.uploads import clean_name
from server.errors import InvalidField, InvalidRequest, MissingField, UpscaleError
from server.job.formats import FormatName
from server.job.job import (
    FACE_STRENGTH,
    SIZES,
    WHITE,
    Animated,
    Colour,
    ContentWanted,
    Faces,
    HdrWanted,
    Job,
    Metadata,
    Params,
    State,
    Target,
    Wrap,
)
from server.job.mask import Keep, Mask, of_mask
from server.outbound.source import Source, parse_source
from server.service.eta import Eta
from server.service.previews import SIDES

NAME = "native"
PREFIXES: tuple[str, ...] = ("/",)

DEFAULT_SCALE = 4.0

Side = Annotated[int, Field(ge=1, le=1_000_000)]
"""Pixels; no format can hold more."""
Place = Annotated[int, Field(ge=0, le=1_000_000)]
Byte = Annotated[int, Field(ge=0, le=255)]
MAX_FRAMES = 1_000_000
_LONGEST_NAME = 512


def _read_size(value: Any) -> Any:
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,7})[x×]([0-9]{1,7})", value.strip().lower())):
        return int(match[1]), int(match[2])
    if isinstance(value, list) and len(value) == 2:
        return tuple(value)
    raise ValueError('must be [width, height] or "WIDTHxHEIGHT"')


def _read_point(value: Any) -> Any:
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,7}),([0-9]{1,7})", value.replace(" ", ""))):
        return int(match[1]), int(match[2])
    if isinstance(value, list) and len(value) == 2:
        return tuple(value)
    raise ValueError('must be [x, y] or "X,Y"')


def _read_colour(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return tuple(bytes.fromhex(value[1:]))
    if isinstance(value, list) and len(value) == 3:
        return tuple(value)
    raise ValueError('must be [red, green, blue] or "#rrggbb"')


def _from_form(value: Any) -> Any:
    """The value of JSON in a form's text; other values as they are."""
    if isinstance(value, str):
        with suppress(InvalidRequest):
            return read_json(value)
    return value


def _read_faces(value: Any) -> Faces | None:
    """A boolean, or an object with the fields of Faces; in a form, the same as JSON text."""
    value = _from_form(value)
    if isinstance(value, bool):
        return Faces() if value else None
    if not isinstance(value, dict) or not set(value) <= {"strength", "only"}:
        raise ValueError("must be true, false, or an object with strength and only")
    strength, only = value.get("strength", FACE_STRENGTH), value.get("only", "all")
    if isinstance(strength, bool) or not isinstance(strength, int | float):
        raise ValueError("strength must be a number between 0 and 1")
    if isinstance(only, list) and all(type(number) is int for number in only):
        return Faces(strength=strength, only=tuple(only))
    if only not in ("all", "largest"):
        raise ValueError('only must be "all", "largest" or a list of whole numbers')
    return Faces(strength=strength, only=only)


class WantedMask(BaseModel):
    """The field `mask`. Mask checks the ranges."""

    model_config = ConfigDict(extra="forbid", strict=True)

    boxes: list[Annotated[list[int], Field(min_length=4, max_length=4)]] | None = None
    image: str | None = None
    """URL, data URI or base64; a form may carry a `mask_file` instead."""
    keep: Keep = "inside"


def _read_mask(value: Any) -> WantedMask:
    """In a form, the same as JSON text."""
    value = _from_form(value)
    try:
        return WantedMask.model_validate(value)
    except ValidationError as error:
        raise ValueError(f"must be an object with boxes or image, and keep: {first_error(error).message}") from error


class JobRequest(BaseModel):
    """The body of POST /jobs. Params checks the ranges."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    image: str | None = None
    """URL, data URI or base64; a form may carry a `file` instead."""
    scale: float | None = None
    target: Target | None = None
    size: Annotated[tuple[Side, Side], BeforeValidator(_read_size)] | None = None
    megapixels: float | None = None
    format: FormatName = "png"
    quality: int | None = None
    lossless: bool = False
    progressive: bool = False
    depth: int | None = None
    metadata: Metadata = "keep"
    colour: Colour = "keep"
    background: Annotated[tuple[Byte, Byte, Byte], BeforeValidator(_read_colour)] = WHITE
    animation: Animated = "keep"
    hdr: HdrWanted = "keep"
    wrap: Wrap = "none"
    model: str = "auto"
    denoise: float | None = None
    creativity: float | None = None
    content: ContentWanted = "auto"
    faces: Annotated[Faces | None, PlainValidator(_read_faces), WithJsonSchema({})] = None
    mask: Annotated[WantedMask | None, PlainValidator(_read_mask), WithJsonSchema({})] = None
    grain: float = 0.0
    seed: int | None = None
    sweep: bool = False
    sweep_at: Annotated[tuple[Place, Place], BeforeValidator(_read_point)] | None = None
    certificate: bool = False
    name: str | None = None
    """The picture's file name, also with folders; a form's file brings its own."""


class PlanRequest(JobRequest):
    """The body of POST /plan."""

    width: Side | None = None
    height: Side | None = None
    frames: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 1
    """With width and height: of how many frames, for an animation."""
    preview: Annotated[int, Field(ge=SIDES[0], le=SIDES[1])] | None = None
    """With a picture: the answer has a preview of it, no side longer than so many pixels."""


class ZipEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    key: str
    name: str | None = None
    """As which the file is in the archive, also with folders. Without one: its key."""


class ZipRequest(BaseModel):
    """The body of POST /zip."""

    model_config = ConfigDict(extra="forbid", strict=True)

    files: Annotated[list[ZipEntry], Field(min_length=1)]


RequestT = TypeVar("RequestT", bound=BaseModel)
_NO_OBJECT = "the body must be a JSON object, or a form"


# --- requests -------------------------------------------------------------------------------------------------------


def read_json_request(kind: type[RequestT], body: bytes) -> RequestT:
    """Raises InvalidRequest and UnsupportedMedia."""
    try:
        return kind.model_validate(_read_object(body))
    except ValidationError as error:
        raise first_error(error, _NO_OBJECT) from error


def read_form_request(kind: type[RequestT], texts: dict[str, str]) -> RequestT:
    """The text fields of a form. Raises InvalidRequest."""
    try:
        return kind.model_validate_strings(texts)
    except ValidationError as error:
        raise first_error(error, _NO_OBJECT) from error


def _read_object(body: bytes) -> dict[str, Any]:
    """A JSON object in which null counts as absent. Raises InvalidRequest and UnsupportedMedia."""
    check_readable(body, FORM_REMEDY)
    try:
        value = read_json(body)
    except InvalidRequest as error:
        raise InvalidRequest(_NO_OBJECT) from error
    if not isinstance(value, dict):
        raise InvalidRequest(_NO_OBJECT)
    return {name: each for name, each in value.items() if each is not None}


def to_params(request: JobRequest, mask_file: bytes | None = None) -> Params:
    """Raises InvalidField."""
    values = request.model_dump(exclude={"image", "name", "width", "height", "frames", "preview", "faces", "mask"})
    if all(getattr(request, name) is None for name in SIZES):
        values["scale"] = DEFAULT_SCALE
    return Params(**values, faces=request.faces, mask=_to_mask(request.mask, mask_file))


def _to_mask(wanted: WantedMask | None, file: bytes | None) -> Mask | None:
    """Raises InvalidField."""
    if wanted is None and file is None:
        return None
    wanted = wanted or WantedMask()
    boxes = None if wanted.boxes is None else tuple((box[0], box[1], box[2], box[3]) for box in wanted.boxes)
    # "": it gets its blob when the job is stored.
    return Mask(boxes=boxes, image="" if wanted.image is not None or file is not None else None, keep=wanted.keep)


def to_mask_source(request: JobRequest, file: bytes | None, own_bases: tuple[str, ...]) -> Source | None:
    """The picture of the mask, if it has one. Raises InvalidField."""
    image = request.mask.image if request.mask is not None else None
    if image is None and file is None:
        return None
    try:
        return to_source(image, file, own_bases)
    except InvalidRequest as error:
        raise of_mask(error) from error


def clean_path(name: str) -> str:
    """A caller's file name, with its folders, as a relative path that any system can hold; "" if nothing is left."""
    parts = [part.strip() for part in re.split(r"[/\\]", name)]
    kept = [re.sub(r'[<>:"|?*]', "_", clean_name(part)) for part in parts if part not in ("", ".", "..")]
    return "/".join(kept)[-_LONGEST_NAME:].lstrip("/")


def to_source(image: str | None, file: bytes | None, own_bases: tuple[str, ...]) -> Source:
    """Raises MissingField, InvalidField."""
    if image and file is not None:
        raise InvalidField("give either image or file, not both", field="image")
    if file is not None:
        return Source(data=file)
    if not image:
        raise MissingField("image is missing: a URL, a data URI or base64, or a form with a file", field="image")
    return parse_source(image, own_bases)


# --- answers --------------------------------------------------------------------------------------------------------


def to_response(job: Job, base_url: str, eta: Eta | None) -> dict[str, Any]:
    """A job as callers see it."""
    here = f"{base_url}/jobs/{job.id}"
    result = job.result and {"url": file_url(base_url, job.result.key), **job.result.to_dict()}
    if result and result["certificate"]:
        key = result["certificate"]["heat_map"]
        result["certificate"] |= {"heat_map": {"url": file_url(base_url, key), "key": key}}
    failed = job.state is State.FAILED
    source = job.source_key and {"url": file_url(base_url, job.source_key), "key": job.source_key}
    return {
        "id": job.id,
        "name": job.request.get("name") if job.dialect == NAME else None,
        "state": job.state.value,
        "progress": round(job.progress, 4),
        "stage": job.stage if job.state is State.RUNNING else None,
        "eta_s": eta and round(eta.seconds, 2),
        "eta_max_s": eta and round(eta.most, 2),
        "dialect": job.dialect,
        "params": _params(job.params, base_url),
        "created_at": iso_time(job.created_at),
        "started_at": iso_time(job.started_at) if job.started_at is not None else None,
        "finished_at": iso_time(job.finished_at) if job.finished_at is not None else None,
        "attempt": job.attempt,
        "cancel_requested": job.cancel_requested,
        "source": source,
        "result": result,
        "error": {"code": job.error_code, "message": job.error_message} if failed else None,
        "urls": {"self": here, "events": f"{here}/events", "result": f"{here}/result"},
    }


def _params(params: Params, base_url: str) -> dict[str, Any]:
    values = params.to_dict()
    if values["mask"] is not None and values["mask"]["image"]:
        values["mask"]["image"] = file_url(base_url, values["mask"]["image"])
    return values


def to_error(error: UpscaleError) -> tuple[dict[str, Any], int]:
    return {"error": {"code": error.code, "message": error.message, "field": error.field}}, error.status
