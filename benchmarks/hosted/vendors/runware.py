"""Runware's `imageUpscale` over REST: arrays of one task. Pictures are uploaded first and then known by their UUID.

`includeCost` makes every result tell what it cost. Today's documents want a `model` too: `--field
runware.model=runware:504@1` is their Real-ESRGAN.
"""

import uuid
from typing import Any

from benchmarks.hosted.vendors.base import Api, Ask, Order, Price, Seen, Sent, Unclear, Vendor, data_uri, merged

_FORMATS = {"jpeg": "JPG", "png": "PNG", "webp": "WEBP"}


def _upload(api: Api, picture: Sent) -> str:
    task = {"taskType": "imageUpload", "taskUUID": str(uuid.uuid4()), "image": data_uri(picture)}
    found = api.ask(Ask("POST", "/v1", [task]))["data"]
    return str((found[0] if isinstance(found, list) else found)["imageUUID"])


def _submit(image: str | Sent, order: Order) -> Ask:
    task = {
        "taskType": "imageUpscale",
        "taskUUID": order.task,
        "inputImage": image,
        "upscaleFactor": int(order.scale),
        "outputType": "URL",
        "outputFormat": _FORMATS[order.format],
        "includeCost": True,
        "deliveryMethod": "sync" if order.sync else "async",
    }
    return Ask("POST", "/v1", [merged(task, order.fields)])


def _read(answer: Any) -> Seen:
    if answer.get("errors"):
        error = answer["errors"][0]
        return Seen("failed", job=str(error.get("taskUUID", "")), why=str(error.get("message") or error.get("code")))
    task = answer["data"][0]
    job, cost = str(task["taskUUID"]), task.get("cost")
    if task.get("imageURL"):
        return Seen("done", job=job, url=str(task["imageURL"]), cost=None if cost is None else float(cost))
    if task.get("status") not in (None, "processing"):
        raise Unclear(f"status {task['status']!r}")
    return Seen("waiting", job=job)


IMAGE_UPSCALE = Vendor(
    name="runware",
    base_url="https://api.runware.ai",
    key="RUNWARE_API_KEY",
    by="scale",
    ways=("upload", "url", "inline"),
    submit=_submit,
    accepted=_read,
    poll=lambda job, order: Ask("POST", "/v1", [{"taskType": "getResponse", "taskUUID": job}]),
    read=_read,
    upload=_upload,
    price=Price(0.0013, "cost of the example in the vendor's Real-ESRGAN document"),
    scales=(1.0, 4.0),
    whole_scales=True,
)
