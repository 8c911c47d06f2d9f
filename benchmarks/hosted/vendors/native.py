"""This server's own API: the picture as a file of the submit's form. The result tells its cost."""

from typing import Any

from benchmarks.hosted.vendors.base import Ask, Order, Seen, Sent, Vendor, merged, seen

_WORDS = {"queued": "waiting", "running": "waiting", "succeeded": "done", "failed": "failed", "cancelled": "failed"}


def _submit(image: str | Sent, order: Order) -> Ask:
    body: dict[str, Any] = {"scale": order.scale, "format": order.format}
    if isinstance(image, Sent):
        return Ask("POST", "/jobs", merged(body, order.fields), file=image)
    return Ask("POST", "/jobs", merged(body | {"image": image}, order.fields))


def _read(answer: Any) -> Seen:
    result, error = answer["result"] or {}, answer["error"] or {}
    why = error.get("message")
    return seen(_WORDS, answer["state"], job=answer["id"], url=result.get("url"), cost=result.get("cost"), why=why)


JOBS = Vendor(
    name="native",
    base_url="http://127.0.0.1:8000",
    key="NATIVE_API_KEY",
    by="scale",
    ways=("form", "url", "inline"),
    submit=_submit,
    accepted=_read,
    poll=lambda job, order: Ask("GET", f"/jobs/{job}"),
    read=_read,
)
