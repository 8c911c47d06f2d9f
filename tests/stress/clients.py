"""The APIs as their callers use them: how to submit a picture through each, ask for the job, and read the answer.

Pure: what goes over the wire is for whoever drives them (chaos, fuzz, load).
"""

import base64
import io
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

JSON = dict[str, Any]


@dataclass(frozen=True)
class Ask:
    """One request."""

    method: str
    path: str
    body: Any = None
    """JSON, or None."""


@dataclass(frozen=True)
class Seen:
    """What an answer to a poll says of a job."""

    state: str
    """waiting, succeeded or failed."""
    url: str | None = None
    """Of the result."""
    why: str = ""


@dataclass(frozen=True)
class Order:
    """A picture to be enlarged."""

    image: str
    """URL, data URI or base64."""
    task_uuid: str = ""
    """The caller's own name for it, where the API has such."""
    hook: str | None = None
    """Where to tell the end; only of doors with `tells`."""


@dataclass(frozen=True)
class Door:
    name: str
    submit: Callable[[Order], Ask]
    accepted: Callable[[JSON], str]
    """The job's name in this API, from the answer to a submit."""
    poll: Callable[[str], Ask]
    read: Callable[[JSON], Seen]
    result: Callable[[int, int], tuple[int, int]]
    """Size of the result, of a source of this width and height."""
    tells: bool = False
    """It has webhooks."""
    inline_only: bool = False
    """It takes no addresses of pictures."""


def png(width: int, height: int, colour: tuple[int, int, int]) -> bytes:
    """A picture of one colour, which a result can be told by."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def inline(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_uri(data: bytes) -> str:
    return "data:image/png;base64," + inline(data)


def _times(scale: int) -> Callable[[int, int], tuple[int, int]]:
    return lambda width, height: (width * scale, height * scale)


def _to_2k(width: int, height: int) -> tuple[int, int]:
    longest = max(width, height)
    return round(width * 2048 / longest), round(height * 2048 / longest)


def _seen(status: str, url: str | None, why: Any) -> Seen:
    """By any vendor's word for it."""
    if status in ("succeeded", "completed", "TASK_STATUS_SUCCEED", "success"):
        return Seen("succeeded", url)
    if status in ("failed", "cancelled", "TASK_STATUS_FAILED", "error"):
        return Seen("failed", why=str(why))
    assert status in ("queued", "running", "created", "processing", "TASK_STATUS_QUEUED", "TASK_STATUS_PROCESSING")
    return Seen("waiting")


# --- native ---------------------------------------------------------------------------------------------------------


def _read_native(answer: JSON) -> Seen:
    url = answer["result"]["url"] if answer["result"] else None
    return _seen(answer["state"], url, answer["error"])


NATIVE = Door(
    "native",
    lambda order: Ask("POST", "/jobs", {"image": order.image, "scale": 2}),
    lambda answer: str(answer["id"]),
    lambda name: Ask("GET", f"/jobs/{name}"),
    _read_native,
    _times(2),
)

# --- wavespeed ------------------------------------------------------------------------------------------------------


def _read_wavespeed(answer: JSON) -> Seen:
    found = answer["data"]
    return _seen(found["status"], next(iter(found["outputs"]), None), found["error"])


def _wavespeed(name: str, model: str, result: Callable[[int, int], tuple[int, int]], **fields: Any) -> Door:
    def submit(order: Order) -> Ask:
        query = f"?webhook={order.hook}" if order.hook else ""
        return Ask("POST", f"/api/v3/wavespeed-ai/{model}{query}", {"image": order.image, **fields})

    return Door(
        name,
        submit,
        lambda answer: str(answer["data"]["id"]),
        lambda job: Ask("GET", f"/api/v3/predictions/{job}/result"),
        _read_wavespeed,
        result,
        tells=True,
    )


UPSCALER = _wavespeed("wavespeed image-upscaler", "image-upscaler", _to_2k, target_resolution="2k")
ESRGAN = _wavespeed("wavespeed real-esrgan", "real-esrgan", _times(4), scale=4)

# --- vibedream ------------------------------------------------------------------------------------------------------

VIBEDREAM = Door(
    "vibedream",
    lambda order: Ask(
        "POST",
        "/api/v1/models/image-upscaler/generate",
        {"image": order.image, "target_resolution": "2k", "output_format": "webp"},
    ),
    lambda answer: str(answer["id"]),
    lambda name: Ask("GET", f"/api/v1/predictions/{name}"),
    lambda answer: _seen(answer["status"], next(iter(answer["outputs"] or ()), None), answer["error"]),
    _to_2k,
)

# --- novita ---------------------------------------------------------------------------------------------------------


def _read_novita(answer: JSON) -> Seen:
    url = answer["images"][0]["image_url"] if answer["images"] else None
    return _seen(answer["task"]["status"], url, answer["task"]["reason"])


def _extra(order: Order) -> JSON:
    return {"extra": {"webhook": {"url": order.hook}}} if order.hook else {}


def _novita_task(name: str) -> Ask:
    return Ask("GET", f"/v3/async/task-result?task_id={name}")


NOVITA = Door(
    "novita image-upscaler",
    lambda order: Ask("POST", "/v3/async/image-upscaler", {"image": order.image, "resolution": "2k", **_extra(order)}),
    lambda answer: str(answer["task_id"]),
    _novita_task,
    _read_novita,
    _to_2k,
    tells=True,
)
NOVITA_OLD = Door(
    "novita upscale",
    lambda order: Ask(
        "POST",
        "/v3/async/upscale",
        {
            "request": {"model_name": "RealESRNet_x4plus", "image_base64": order.image, "scale_factor": 2},
            **_extra(order),
        },
    ),
    lambda answer: str(answer["task_id"]),
    _novita_task,
    _read_novita,
    _times(2),
    tells=True,
    inline_only=True,
)

# --- runware --------------------------------------------------------------------------------------------------------


def runware_task(order: Order, delivery: str) -> JSON:
    task = {"taskType": "imageUpscale", "taskUUID": order.task_uuid, "inputImage": order.image, "upscaleFactor": 2}
    hook = {"webhookURL": order.hook} if order.hook else {}
    return task | {"outputFormat": "PNG", "deliveryMethod": delivery} | hook


def runware_question(name: str) -> JSON:
    return {"taskType": "getResponse", "taskUUID": name}


def read_runware(answer: JSON) -> Seen:
    """The first answer of a body or a frame."""
    item = (answer.get("data") or answer["errors"])[0]
    return _seen(item["status"], item.get("imageURL"), item.get("message"))


def new_uuid() -> str:
    return str(uuid.uuid4())


RUNWARE = Door(
    "runware",
    lambda order: Ask("POST", "/v1", [runware_task(order, "async")]),
    lambda answer: str(answer["data"][0]["taskUUID"]),
    lambda name: Ask("POST", "/v1", [runware_question(name)]),
    read_runware,
    _times(2),
    tells=True,
)

DOORS = (NATIVE, UPSCALER, ESRGAN, VIBEDREAM, NOVITA, NOVITA_OLD, RUNWARE)
