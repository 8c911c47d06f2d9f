"""Novita: `image-upscaler`. Its document knows pictures by address only; a data URI is tried if there is none.

Neither answers nor documents say what a job costs: `--price` does. There is no synchronous form.
"""

from typing import Any

from benchmarks.hosted.vendors.base import Ask, Order, Seen, Sent, Vendor, merged, seen

_WORDS = {
    "TASK_STATUS_QUEUED": "waiting",
    "TASK_STATUS_PROCESSING": "waiting",
    "TASK_STATUS_SUCCEED": "done",
    "TASK_STATUS_FAILED": "failed",
}


def _submit(image: str | Sent, order: Order) -> Ask:
    body = {"image": image, "resolution": order.target, "output_format": order.format}
    return Ask("POST", "/v3/async/image-upscaler", merged(body, order.fields))


def _read(answer: Any) -> Seen:
    task = answer["task"]
    url = answer["images"][0]["image_url"] if answer.get("images") else ""
    return seen(_WORDS, task["status"], job=str(task["task_id"]), url=url, why=task.get("reason"))


IMAGE_UPSCALER = Vendor(
    name="novita",
    base_url="https://api.novita.ai",
    key="NOVITA_API_KEY",
    by="target",
    ways=("url", "inline"),
    submit=_submit,
    accepted=lambda answer: Seen("waiting", job=str(answer["task_id"])),
    poll=lambda job, order: Ask("GET", f"/v3/async/task-result?task_id={job}"),
    read=_read,
)
