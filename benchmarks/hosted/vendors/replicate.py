"""Replicate's `nightmareai/real-esrgan`, by factor. Pictures are uploaded first and then known by their address.

Neither answers nor documents say what a prediction costs, because the vendor charges by the second: `--price` does. The
model has no field for the result's format.
"""

from typing import Any

from benchmarks.hosted.vendors.base import Api, Ask, Order, Seen, Sent, Vendor, merged, seen

_WORDS = {"starting": "waiting", "processing": "waiting", "succeeded": "done"}
_WORDS |= dict.fromkeys(("failed", "canceled", "aborted"), "failed")


def _upload(api: Api, picture: Sent) -> str:
    return str(api.ask(Ask("POST", "/v1/files", file=picture, part="content"))["urls"]["get"])


def _submit(image: str | Sent, order: Order) -> Ask:
    body = {"input": merged({"image": image, "scale": order.scale}, order.fields)}
    headers = {"Prefer": "wait=60"} if order.sync else {}
    return Ask("POST", "/v1/models/nightmareai/real-esrgan/predictions", body, headers=headers)


def _read(answer: Any) -> Seen:
    return seen(_WORDS, answer["status"], job=str(answer["id"]), url=answer.get("output"), why=answer.get("error"))


REAL_ESRGAN = Vendor(
    name="replicate",
    base_url="https://api.replicate.com",
    key="REPLICATE_API_TOKEN",
    by="scale",
    ways=("upload", "url", "inline"),
    submit=_submit,
    accepted=_read,
    poll=lambda job, order: Ask("GET", f"/v1/predictions/{job}"),
    read=_read,
    upload=_upload,
)
