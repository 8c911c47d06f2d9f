"""The models that can be named, with their inputs as JSON Schema, and what each input means. Pure."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from server.errors import InvalidField, InvalidRequest, MissingField, NotFound, cut
from server.job.formats import FormatName
from server.job.job import MAX_SCALE, MAX_SEED, Faces, Params
from server.weights.choice import AUTO, REAL_ESRGAN

Schema = dict[str, Any]
Inputs = dict[str, Any]

LOCAL = "local"
"""Owner of the models that are named after a network of this server."""
COG_VERSION = "0.14.0"
"""Of Cog, the original's packaging tool. Clients read it only to find out how lists are written."""
CREATED_AT = 1_735_689_600.0
"""Of every version, in Unix seconds: the start of 2025. The server does not know when the original's were made."""

CREATIVITY = ((0.0, 0.0), (0.35, 1.0), (1.0, 2.0))
"""clarity-upscaler's `creativity`, and ours; linear between these points."""
FORMATS: dict[str, FormatName] = {"png": "png", "jpg": "jpeg", "webp": "webp"}
GFPGAN_VERSIONS = ("v1.2", "v1.3", "v1.4", "RestoreFormer")


class UnknownVersion(InvalidRequest):
    """A `version` that is none of this server's."""


def _scale(default: float) -> Schema:
    return {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_SCALE, "default": default}


def _share(default: float, most: float = 1) -> Schema:
    return {"type": "number", "minimum": 0, "maximum": most, "default": default}


_PICTURE: Schema = {"type": "string", "format": "uri", "description": "URL or data URI of the picture."}
_FLAG: Schema = {"type": "boolean", "default": False}


@dataclass(frozen=True)
class Model:
    owner: str
    name: str
    description: str
    inputs: dict[str, Schema]
    """The first is the picture, which is required."""
    read: Callable[[Inputs], Params]
    """Of inputs that fit the schema, with their defaults. Raises InvalidField."""
    versions: tuple[str, ...]
    """Newest first."""
    github_url: str | None = None
    paper_url: str | None = None

    @property
    def id(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def picture(self) -> str:
        """Name of the input that is the picture."""
        return next(iter(self.inputs))

    @property
    def schema(self) -> Schema:
        """OpenAPI document of one version."""
        inputs = {name: {**each, "title": name, "x-order": n} for n, (name, each) in enumerate(self.inputs.items())}
        schemas = {
            "Input": {"type": "object", "title": "Input", "required": [self.picture], "properties": inputs},
            "Output": {"type": "string", "title": "Output", "format": "uri"},
        }
        info = {"title": self.id, "version": "0.1.0"}
        return {"openapi": "3.1.0", "info": info, "paths": {}, "components": {"schemas": schemas}}


def creativity_of(value: float) -> float:
    """clarity-upscaler's 0 … 1 as ours, 0 … 2."""
    for (low, ours_low), (high, ours_high) in zip(CREATIVITY, CREATIVITY[1:], strict=False):
        if value <= high:
            return round(ours_low + (value - low) / (high - low) * (ours_high - ours_low), 6)
    raise InvalidField("- input.creativity: must be less than or equal to 1", field="creativity")


def _read_real_esrgan(inputs: Inputs) -> Params:
    faces = Faces() if inputs["face_enhance"] else None
    return Params(scale=inputs["scale"], model=REAL_ESRGAN, faces=faces)


def _read_clarity(inputs: Inputs) -> Params:
    return Params(
        scale=inputs["scale_factor"],
        creativity=creativity_of(inputs["creativity"]),
        seed=inputs["seed"] if inputs["seed"] >= 0 else None,
        format=FORMATS[inputs["output_format"]],
    )


def _read_gfpgan(inputs: Inputs) -> Params:
    return Params(scale=inputs["scale"], faces=Faces(), model=AUTO)


REAL_ESRGAN_MODEL = Model(
    "nightmareai",
    "real-esrgan",
    "Enlarges a picture with Real-ESRGAN, by a factor of up to 10.",
    {"image": _PICTURE, "scale": _scale(4), "face_enhance": _FLAG},
    _read_real_esrgan,
    (
        "f121d640bd286e1fdc67f9799164c1d5be36ff74576ee11c803ae5b665dd46aa",
        "42fed1c4974146d4d2414e2be2c5277c7fcf05fcc3a73abf41610695738c1d7b",
    ),
    "https://github.com/xinntao/Real-ESRGAN",
    "https://arxiv.org/abs/2107.10833",
)
CLARITY = Model(
    "philz1337x",
    "clarity-upscaler",
    "Enlarges a picture and adds detail that it lacks.",
    {
        "image": _PICTURE,
        "scale_factor": _scale(2),
        "creativity": _share(0.35),
        "resemblance": _share(0.6, 3),
        "seed": {"type": "integer", "minimum": -1, "maximum": MAX_SEED, "default": 1337},
        "output_format": {"type": "string", "enum": list(FORMATS), "default": "png"},
    },
    _read_clarity,
    ("dfad41707589d68ecdccd1dfa600d55a208f9310748e44bfe35b4a6291453d5e",),
)
GFPGAN = Model(
    "tencentarc",
    "gfpgan",
    "Enlarges a picture and restores the faces in it.",
    {
        "img": _PICTURE,
        "scale": _scale(2),
        "version": {"type": "string", "enum": list(GFPGAN_VERSIONS), "default": "v1.4"},
    },
    _read_gfpgan,
    (
        "0fbacf7afc6c144e5be9767cff80f25aff23e52b0708f17e20f9879b2f21516c",
        "9283608cc6b7be6b65a8e44983db012355fde4132009bf99d976b2f0896856a3",
    ),
    "https://github.com/TencentARC/GFPGAN",
    "https://arxiv.org/abs/2101.04061",
)
VENDORS = (REAL_ESRGAN_MODEL, CLARITY, GFPGAN)


def _local(name: str) -> Model:
    def read(inputs: Inputs) -> Params:
        return Params(scale=inputs["scale"], model=name)

    version = hashlib.sha256(f"{LOCAL}/{name}".encode()).hexdigest()
    description = f"Enlarges a picture with the network {name} of this server."
    return Model(LOCAL, name, description, {"image": _PICTURE, "scale": _scale(4)}, read, (version,))


def all_models(installed: Iterable[str]) -> dict[str, Model]:
    """By `owner/name`: the vendors', and one for each of the installed networks, which are given by their names."""
    return {each.id: each for each in (*VENDORS, *map(_local, installed))}


def named(models: Mapping[str, Model], owner: str, name: str) -> Model:
    """Raises NotFound."""
    found = models.get(f"{owner}/{name}")
    if found is None:
        raise NotFound(f"there is no model {cut(f'{owner}/{name}')}; there are {', '.join(models)}")
    return found


def versioned(models: Mapping[str, Model], text: str) -> tuple[Model, str]:
    """Model and version of a `version`: 64 hex digits, `owner/name` or both with a colon between them. Raises
    UnknownVersion."""
    name, colon, version = text.rpartition(":") if "/" in text and ":" in text else ("", "", text)
    if "/" in version and version in models:
        return models[version], models[version].versions[0]
    for each in models.values():
        if version in each.versions and (not colon or each.id == name):
            return each, version
    raise UnknownVersion("The specified version does not exist (or perhaps you don't have permission to use it?)")


# --- inputs ---------------------------------------------------------------------------------------------------------

_TYPES: dict[str, tuple[type, ...]] = {
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "string": (str,),
}


def read_inputs(model: Model, values: Any) -> Inputs:
    """The known inputs of a request, each as its schema wants it, with defaults for absent ones. Null counts as absent.
    Raises MissingField and InvalidField, in the vendor's words."""
    if not isinstance(values, dict):
        raise MissingField("- input: must be an object", field="input")
    if values.get(model.picture) in (None, ""):
        raise MissingField(f"- input: {model.picture} is required", field=model.picture)
    found = {}
    for name, schema in model.inputs.items():
        value = values.get(name)
        reason = None if value is None else _why_wrong(value, schema)
        if reason:
            raise InvalidField(f"- input.{name}: {reason}", field=name)
        found[name] = schema.get("default") if value is None else value
    return found


def _why_wrong(value: Any, schema: Schema) -> str | None:
    kind = schema["type"]
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return f"must be of type {kind}"
    if "enum" in schema and value not in schema["enum"]:
        return f"must be one of {', '.join(schema['enum'])}"
    if "maximum" in schema and value > schema["maximum"]:
        return f"must be less than or equal to {schema['maximum']:g}"
    if "minimum" in schema and value < schema["minimum"]:
        return f"must be greater than or equal to {schema['minimum']:g}"
    if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
        return f"must be greater than {schema['exclusiveMinimum']:g}"
    return None
