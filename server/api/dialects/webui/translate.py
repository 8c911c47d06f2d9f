"""The web UI's extras: requests → what each upscaler has to do, jobs and errors → the web UI's bodies. Pure."""

import html
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from server.api.dialects.fields import read_flag, read_number
from server.errors import (
    BadSource,
    InvalidField,
    InvalidRequest,
    JobCancelled,
    MissingField,
    ModelNotFound,
    Unauthorized,
    UpscaleError,
    cut,
)
from server.images.metadata.texts import Texts
from server.job.job import MAX_SCALE, Faces, Job, Params
from server.job.plan import result_size
from server.job.tiling import Size

NAME = "webui"
PREFIXES: tuple[str, ...] = ("/sdapi",)
CHALLENGE = 'Basic realm="sdapi", charset="UTF-8"'

Kernel = Literal["lanczos3", "nearest"]
NONE = "None"
KERNELS: dict[str, Kernel] = {"Lanczos": "lanczos3", "Nearest": "nearest"}
ALIASES = {
    "R-ESRGAN 4x+": "RealESRGAN_x4plus",
    "R-ESRGAN 4x+ Anime6B": "RealESRGAN_x4plus_anime_6B",
    "R-ESRGAN 2x+": "RealESRGAN_x2plus",
    "R-ESRGAN General 4xV3": "realesr-general-x4v3",
    "R-ESRGAN General WDN 4xV3": "realesr-general-wdn-x4v3",
    "R-ESRGAN AnimeVideo": "realesr-animevideov3",
}
"""The original's names of the official networks."""
MAX_IMAGES = 100
MAX_SIDE = 65_536

GENERATES = ("txt2img", "img2img", "interrogate")
NO_GENERATION = "this server upscales pictures and does not make new ones: use extra-single-image"


@dataclass(frozen=True)
class Layer:
    """What one upscaler has to do."""

    name: str
    """As the caller wrote it."""
    network: str | None
    kernel: Kernel | None
    """Without a network the picture is resized with this; with neither it keeps its size."""


@dataclass(frozen=True)
class Extras:
    """What an extras call wants of each of its pictures."""

    factor: float
    size: Size | None
    """To this size instead."""
    crop: bool
    first: Layer
    second: Layer | None
    share: float
    """Of the second upscaler's result, 0 … 1."""
    faces: Faces | None

    @property
    def layers(self) -> list[Layer]:
        return [self.first] if self.second is None else [self.first, self.second]

    def params_of(self, layer: Layer, source: Size) -> Params:
        """Of the job that does the layer's work. A layer without a network only gets its picture decoded, and its faces
        restored. Raises InvalidField."""
        if layer.network is None:
            return Params(scale=1, faces=self.faces)
        if self.size is None:
            return Params(scale=self.factor, model=layer.network, faces=self.faces)
        return Params(size=self.target(source), model=layer.network, faces=self.faces)

    def target(self, source: Size) -> Size:
        """The size before anything is cut off."""
        if self.size is None:
            return result_size(source, Params(scale=self.factor))
        ratios = self.size[0] / source[0], self.size[1] / source[1]
        by = max(ratios) if self.crop else min(ratios)
        return max(1, round(source[0] * by)), max(1, round(source[1] * by))

    @property
    def cut_to(self) -> Size | None:
        return self.size if self.crop and self.first.name != NONE else None


# --- requests -------------------------------------------------------------------------------------------------------


def names_of(installed: Sequence[str]) -> dict[str, str]:
    """Names of upscalers, the original's first, and the networks that they mean."""
    return {name: network for name, network in ALIASES.items() if network in installed} | {
        name: name for name in installed
    }


def read_extras(body: Mapping[str, Any], installed: Sequence[str]) -> Extras:
    """Raises InvalidField. Null counts as absent."""
    names = names_of(installed)
    mode = _within(body, "resize_mode", 0, 0, 1)
    if mode not in (0, 1):
        raise InvalidField("resize_mode must be 0 or 1", field="resize_mode")
    if _within(body, "codeformer_visibility", 0, 0, 1):
        message = "CodeFormer is not installed here and can't be; gfpgan_visibility restores faces"
        raise InvalidField(message, field="codeformer_visibility")
    _within(body, "codeformer_weight", 0, 0, 1)
    for name in ("upscale_first", "show_extras_results"):
        read_flag(body, name)
    crop = True if body.get("upscaling_crop") is None else read_flag(body, "upscaling_crop")
    factor = _within(body, "upscaling_resize", 2, 0, MAX_SCALE)
    if factor == 0:
        raise InvalidField("upscaling_resize must be more than 0", field="upscaling_resize")
    size = _side(body, "upscaling_resize_w"), _side(body, "upscaling_resize_h")
    share, strength = (
        _within(body, "extras_upscaler_2_visibility", 0, 0, 1),
        _within(body, "gfpgan_visibility", 0, 0, 1),
    )
    first, second = _layer(body, "upscaler_1", names), _layer(body, "upscaler_2", names)
    blends = share > 0 and NONE not in (first.name, second.name)
    return Extras(
        factor=factor,
        size=size if mode == 1 else None,
        crop=bool(mode) and crop,
        first=first,
        second=second if blends else None,
        share=share if blends else 0.0,
        faces=Faces(strength=strength) if strength else None,
    )


def _within(body: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = read_number(body, name, default)
    if not low <= value <= high:
        raise InvalidField(f"{name} must be between {low:g} and {high:g}", field=name)
    return value


def _side(body: Mapping[str, Any], name: str) -> int:
    value = _within(body, name, 512, 1, MAX_SIDE)
    if value != int(value):
        raise InvalidField(f"{name} must be a whole number", field=name)
    return int(value)


def _layer(body: Mapping[str, Any], field: str, names: Mapping[str, str]) -> Layer:
    name = body.get(field)
    if name in (None, "", NONE):
        return Layer(NONE, None, None)
    if not isinstance(name, str):
        raise InvalidField(f"{field} must be the name of an upscaler", field=field)
    if name in KERNELS:
        return Layer(name, None, KERNELS[name])
    if name not in names:
        known = ", ".join((NONE, *KERNELS, *names))
        raise InvalidField(f"there is no upscaler {cut(name)}; there are {known}", field=field)
    return Layer(name, names[name], None)


def image_of(body: Mapping[str, Any], field: str) -> str:
    """Raises MissingField, InvalidField."""
    image = body.get(field)
    if image is None or image == "":
        raise MissingField(f"{field} is missing: a picture in base64", field=field)
    if not isinstance(image, str):
        raise InvalidField(f"{field} must be a picture in base64", field=field)
    return image


def images_of(body: Mapping[str, Any]) -> dict[str, str]:
    """Of a batch, by their places in the body: "imageList.0.data", … Raises MissingField, InvalidField."""
    entries = body.get("imageList")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_IMAGES:
        raise InvalidField(f"imageList must be a list of 1 to {MAX_IMAGES} pictures", field="imageList")
    if not all(isinstance(each, dict) for each in entries):
        raise InvalidField("imageList must be a list of objects with `data` and `name`", field="imageList")
    images = {}
    for index, each in enumerate(entries):
        with of_picture(place := f"imageList.{index}.data"):
            images[place] = image_of(each, "data")
    return images


@contextmanager
def of_picture(place: str) -> Iterator[None]:
    """Errors of a picture are those of its place in the body."""
    try:
        yield
    except (InvalidRequest, BadSource) as error:
        if isinstance(error, BadSource) or error.field in (None, "image", "data"):
            error.field = place
        raise


# --- answers --------------------------------------------------------------------------------------------------------


def to_html(extras: Extras, sizes: Sequence[Size]) -> str:
    """`sizes`: of the results."""
    names = " + ".join(f"{each.name}" for each in extras.layers)
    return "".join(f"<p>{html.escape(names)}: {w} × {h}</p>" for w, h in sizes)


def to_upscaler(name: str, network: str | None, scale: int) -> dict[str, Any]:
    return {"name": name, "model_name": network, "model_path": None, "model_url": None, "scale": scale}


def to_progress(jobs: Sequence[Job], left_s: float | None = None) -> dict[str, Any]:
    """`jobs`: of the running request; none: nothing runs. `left_s`: until the last of them ends, if known."""
    done = sum(each.state.final for each in jobs)
    progress = sum(1.0 if each.state.final else each.progress for each in jobs) / max(1, len(jobs))
    began = [each.started_at for each in jobs if each.started_at is not None]
    elapsed_s = max(0.0, time.time() - min(began)) if began else 0.0
    state = {
        "skipped": False,
        "interrupted": any(each.cancel_requested for each in jobs),
        "job": "extras" if jobs else "",
        "job_count": len(jobs),
        "job_no": done,
        "sampling_step": int(progress * 100),
        "sampling_steps": 100 if jobs else 0,
    }
    if left_s is None:
        left_s = elapsed_s / progress * (1 - progress) if progress > 0 else 0.0
    return {
        "progress": round(progress, 4),
        "eta_relative": round(left_s, 3),
        "state": state,
        "current_image": None,
        "textinfo": None,
    }


def to_info(texts: Texts) -> dict[str, Any]:
    """The texts of a PNG; `parameters` is where the original writes how a picture was made."""
    items = {each.keyword: (each.plain() or b"").decode("utf-8", "replace") for each in texts.texts}
    return {"info": items.get("parameters", ""), "items": items, "parameters": {}}


_FIELDS = {
    "faces": "gfpgan_visibility",
    "model": "upscaler_1",
    "scale": "upscaling_resize",
    "size": "upscaling_resize_w",
}
"""Our fields, which errors may name, by the web UI's names."""
_QUERY = ("skip_current_image",)


def to_error(error: UpscaleError) -> tuple[dict[str, Any], int]:
    if isinstance(error, InvalidRequest | BadSource | ModelNotFound):
        field = error.field or ("image" if isinstance(error, BadSource) else "")
        parts = [int(each) if each.isdecimal() else each for each in _FIELDS.get(field, field).split(".") if each]
        place = ["query" if field in _QUERY else "body", *parts]
        return {"detail": [{"loc": place, "msg": error.message, "type": "value_error"}]}, 422
    message = "Incorrect username or password" if isinstance(error, Unauthorized) else error.message
    status = 409 if isinstance(error, JobCancelled) else error.status
    return {"error": type(error).__name__, "detail": message, "body": "", "errors": message}, status
