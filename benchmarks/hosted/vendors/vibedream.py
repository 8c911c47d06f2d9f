"""VibeDream: `image-upscaler`. Its documents know pictures by address only; a data URI is tried if there is none.

The submit's answer has the cost in whole cents.
"""

from typing import Any

from benchmarks.hosted.vendors.base import Ask, Order, Price, Seen, Sent, Vendor, merged, seen

_WORDS = {"processing": "waiting", "completed": "done", "failed": "failed"}


def _submit(image: str | Sent, order: Order) -> Ask:
    body: dict[str, Any] = {"image": image, "target_resolution": order.target, "output_format": order.format}
    body |= {"enable_base64_output": False, "enable_sync_mode": order.sync}
    return Ask("POST", "/api/v1/models/image-upscaler/generate", merged(body, order.fields))


def _read(answer: Any) -> Seen:
    url = next(iter(answer.get("outputs") or ()), "")
    cost = answer["costCents"] / 100 if "costCents" in answer else None
    return seen(_WORDS, answer["status"], job=str(answer["id"]), url=url, why=answer.get("error"), cost=cost)


IMAGE_UPSCALER = Vendor(
    name="vibedream",
    base_url="https://api.vibedream.ai",
    key="VIBEDREAM_API_KEY",
    by="target",
    ways=("url", "inline"),
    submit=_submit,
    accepted=_read,
    poll=lambda job, order: Ask("GET", f"/api/v1/predictions/{job}"),
    read=_read,
    price=Price(0.02, "costCents of the sample in the vendor's document"),
)
