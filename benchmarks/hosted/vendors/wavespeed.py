"""WaveSpeedAI: `wavespeed-ai/image-upscaler` by size, `wavespeed-ai/real-esrgan` by factor.

Pictures are uploaded by ticket, as the current clients do. What a job costs is asked of the pricing endpoint, once for
each picture; answers to jobs don't tell. real-esrgan has no field for the result's format.
"""

from typing import Any

from benchmarks.hosted.vendors.base import Api, Ask, Order, Seen, Sent, Unclear, Vendor, merged, seen

_WORDS = {"created": "waiting", "processing": "waiting", "completed": "done"}
_WORDS |= dict.fromkeys(("failed", "cancelled", "timeout", "deleted"), "failed")


def _upload(api: Api, picture: Sent) -> str:
    file = {"filename": picture.name, "size": len(picture.data), "content_type": picture.mime}
    ticket = api.ask(Ask("POST", "/api/v3/media/uploads", file))["data"]
    api.put(ticket["upload"]["url"], ticket["upload"]["headers"], picture.data)
    return str(ticket["download_url"])


def _read(answer: Any) -> Seen:
    found = answer["data"]
    url = next(iter(found["outputs"] or ()), "")
    return seen(_WORDS, found["status"], job=str(found["id"]), url=url, why=found.get("error"))


def _image_upscaler(image: Any, order: Order) -> dict[str, Any]:
    return {"image": image, "target_resolution": order.target, "output_format": order.format}


def _real_esrgan(image: Any, order: Order) -> dict[str, Any]:
    return {"image": image, "scale": order.scale}


def _vendor(name: str, model: str, by: Any, body: Any) -> Vendor:
    def inputs(image: Any, order: Order) -> dict[str, Any]:
        return merged(body(image, order) | ({"enable_sync_mode": True} if order.sync else {}), order.fields)

    def quote(image: str | Sent, order: Order) -> Ask:
        return Ask("POST", "/api/v3/model/pricing", {"model_id": model, "inputs": inputs(image, order)})

    def quoted(answer: Any) -> float:
        if answer["data"].get("currency", "USD") != "USD":
            raise Unclear("a price that is not in USD")
        return float(answer["data"]["unit_price"])

    return Vendor(
        name=name,
        base_url="https://api.wavespeed.ai",
        key="WAVESPEED_API_KEY",
        by=by,
        ways=("upload", "url", "inline"),
        submit=lambda image, order: Ask("POST", f"/api/v3/{model}", inputs(image, order)),
        accepted=_read,
        poll=lambda job, order: Ask("GET", f"/api/v3/predictions/{job}/result"),
        read=_read,
        upload=_upload,
        quote=quote,
        quoted=quoted,
    )


IMAGE_UPSCALER = _vendor("wavespeed", "wavespeed-ai/image-upscaler", "target", _image_upscaler)
REAL_ESRGAN = _vendor("wavespeed-real-esrgan", "wavespeed-ai/real-esrgan", "scale", _real_esrgan)
