"""Replicate's predictions: requests → what a job needs, jobs → the vendor's bodies. Pure."""

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping
from http import HTTPStatus
from itertools import islice
from typing import Any
from urllib.parse import quote

from server.api.dialects.base import Webhook
from server.api.dialects.fields import LONGEST_ECHO, file_url, iso_time, shown_picture
from server.api.dialects.replicate.models import COG_VERSION, CREATED_AT, Inputs, Model, UnknownVersion
from server.api.inline import to_json
from server.db.deliveries import NEWS, WEBHOOK
from server.db.uploads import Upload
from server.db.webhook_secret import webhook_secret
from server.errors import (
    BadSource,
    InvalidField,
    InvalidRequest,
    MissingField,
    ModelNotFound,
    NotFound,
    ResultImpossible,
    Unauthorized,
    UpscaleError,
)
from server.job.job import Job, State
from server.outbound.ssrf import is_web_url

NAME = "replicate"
PREFIXES: tuple[str, ...] = ("/v1/",)

EVENTS = ("start", "output", "logs", "completed")
PAGE = 100
"""Predictions or files of one page of a list."""
WAIT_S = (1, 60)
"""Least and most seconds of `Prefer: wait=N`; without a number the most."""
CANCEL_AFTER_S = (1, 86_400)
_LAST_PAGE = 1_000_000
_MOST_UNKNOWN, _LARGEST_SHOWN = 50, 1e15
"""Of inputs that a model does not know: how many are repeated in answers, and the largest number."""

STATUS = {
    State.QUEUED: "starting",
    State.RUNNING: "processing",
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "canceled",
}

COLLECTION = {"slug": "upscaling", "name": "Upscaling", "description": "Models that enlarge pictures."}


# --- requests -------------------------------------------------------------------------------------------------------


def to_echo(model: Model, given: Mapping[str, Any], inputs: Inputs) -> dict[str, Any]:
    """The inputs to be repeated in answers, as they were sent: a long data URI as its length, and of those that the
    model does not know at most _MOST_UNKNOWN, each of at most LONGEST_ECHO characters."""
    unknown = ((name, value) for name, value in given.items() if name not in inputs and _may_be_shown(name, value))
    shown = {name: value for name, value in inputs.items() if given.get(name) is not None}
    return dict(islice(unknown, _MOST_UNKNOWN)) | shown | {model.picture: shown_picture(inputs[model.picture])}


def _may_be_shown(name: str, value: Any) -> bool:
    """Whether an unknown input is a short value, and one that every database and JSON parser takes."""
    if not isinstance(value, str | int | float) or (not isinstance(value, str) and not abs(value) <= _LARGEST_SHOWN):
        return False
    text = name + value if isinstance(value, str) else name
    return len(text) <= LONGEST_ECHO and "\0" not in text and text.encode("utf-8", "ignore").decode() == text


def hook_of(body: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """The webhook's URL, and the events it is for. Raises InvalidField."""
    url, events = body.get("webhook"), body.get("webhook_events_filter")
    if url is None and body.get("webhook_completed") is not None:  # of old clients
        url, events = body["webhook_completed"], ["completed"]
    if events is None:
        events = EVENTS
    elif not isinstance(events, list) or not all(each in EVENTS for each in events):
        message = f"- webhook_events_filter: must be a list of {', '.join(EVENTS)}"
        raise InvalidField(message, field="webhook_events_filter")
    if url is None:
        return None, []
    if not isinstance(url, str) or not is_web_url(url):
        raise InvalidField("- webhook: must be an http(s) URL", field="webhook")
    return url, [each for each in EVENTS if each in events]


def deliveries_of(url: str | None, events: list[str]) -> dict[str, str]:
    """What is to be delivered: webhooks while the job runs, and at its end."""
    kinds = {NEWS: ("start", "logs"), WEBHOOK: ("output", "completed")}
    return {kind: url for kind, of in kinds.items() if url and any(each in events for each in of)}


def wait_of(prefer: str) -> int:
    """Seconds that the header `Prefer` asks to wait; 0: none. Numbers out of range are brought into it."""
    found = re.search(r"(?:^|[,;\s])wait(?:\s*=\s*\"?(\d{1,6}))?", prefer)
    if found is None:
        return 0
    return min(max(int(found[1]), WAIT_S[0]), WAIT_S[1]) if found[1] else WAIT_S[1]


def cancel_after_of(text: str) -> int | None:
    """Seconds of the header `Cancel-After`: `90`, `90s`, `1m30s`, `1h`. None: it is absent. Raises InvalidField."""
    if not text:
        return None
    found = re.fullmatch(r"(?:(\d{1,5})h)?(?:(\d{1,5})m)?(?:(\d{1,5})s?)?", text.strip().lower())
    seconds = (
        sum(int(each or 0) * unit for each, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
    )
    if not CANCEL_AFTER_S[0] <= seconds <= CANCEL_AFTER_S[1]:
        raise InvalidField("- Cancel-After: must be a time like 30s or 1m30s, at most 24h", field="Cancel-After")
    return seconds


def read_cursor(cursor: str | None) -> tuple[float | None, int]:
    """Of a list's page: the time before which its items were made, and how many of those come before them. Raises
    InvalidField."""
    if cursor is None:
        return None, 0
    try:
        before, offset = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii").split(":")
        found = float.fromhex(before), int(offset)
    except (ValueError, OverflowError) as error:
        raise InvalidField("- cursor: must be one of a list's answer", field="cursor") from error
    if not (0 <= found[0] < 1e12 and 0 <= found[1] <= _LAST_PAGE):
        raise InvalidField("- cursor: must be one of a list's answer", field="cursor")
    return found


def to_cursor(before: float, offset: int) -> str:
    return base64.urlsafe_b64encode(f"{before.hex()}:{offset}".encode()).decode().rstrip("=")


def to_page(results: list[dict[str, Any]], url: str, before: float, offset: int, total: int) -> dict[str, Any]:
    """A page of a list. `before`: of all pages, so that what is made meanwhile does not move them. `offset` of `total`
    items come first."""

    def link(at: int) -> str:
        return f"{url}?cursor={to_cursor(before, at)}"

    return {
        "previous": link(max(0, offset - PAGE)) if offset else None,
        "next": link(offset + PAGE) if total > offset + PAGE else None,
        "results": results,
    }


def metadata_of(text: bytes) -> dict[str, Any]:
    """Of a file that is uploaded. Raises InvalidField."""
    try:
        found = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidField("- metadata: must be an object as JSON", field="metadata")
    return found


# --- predictions ----------------------------------------------------------------------------------------------------


def to_response(job: Job, base_url: str, *, waited: bool = False, removed: bool = False) -> dict[str, Any]:
    """The vendor's "prediction". `waited`: the caller waited in vain, and its client takes every status but "starting"
    for the end. `removed`: the result's file is gone."""
    here = f"{base_url}/v1/predictions/{job.id}"
    output = None if job.result is None or removed else file_url(base_url, job.result.key)
    return {
        "id": job.id,
        "model": job.request["model"],
        "version": job.request["version"],
        "input": job.request["input"],
        "output": output,
        "logs": to_logs(job),
        "error": job.error_message or "the prediction failed" if job.state is State.FAILED else None,
        "status": "starting" if waited and not job.state.final else STATUS[job.state],
        "created_at": iso_time(job.created_at),
        "started_at": None if job.started_at is None else iso_time(job.started_at),
        "completed_at": None if job.finished_at is None else iso_time(job.finished_at),
        "metrics": to_metrics(job),
        "data_removed": removed,
        "source": "api",
        "urls": {"get": here, "cancel": f"{here}/cancel", "web": f"{base_url}/jobs/{job.id}"},
    }


def to_metrics(job: Job) -> dict[str, float]:
    """Seconds of a prediction that has ended; empty before."""
    if job.finished_at is None:
        return {}
    spans = {"predict_time": job.started_at, "total_time": job.created_at}
    return {name: round(max(0.0, job.finished_at - since), 6) for name, since in spans.items() if since is not None}


def to_logs(job: Job) -> str:
    """Lines on how the job went, with a bar of its progress, which clients find and read."""
    if job.started_at is None:
        return ""
    lines = ["loading"] if not job.progress else [_bar(job.progress)]
    if job.stage in ("refining", "encoding") and not job.state.final:
        lines.append(job.stage)
    if job.result is not None:
        lines += job.result.notes
        lines.append(f"{job.result.model}: {job.result.width} x {job.result.height} pixels, {job.result.format}")
    if job.state is State.FAILED and job.error_message:
        lines.append(job.error_message)
    if job.state is State.CANCELLED:
        lines.append("canceled")
    return "\n".join(lines) + "\n"


def _bar(progress: float) -> str:
    """As ` 42%|████      | 42/100`."""
    percent = int(progress * 100)
    return f"{percent:3d}%|{'█' * (percent // 10):<10}| {percent}/100"


# --- webhooks -------------------------------------------------------------------------------------------------------


def to_webhook(job: Job, base_url: str, secret: bytes) -> Webhook | None:
    wanted = job.request["events"]
    if "completed" in wanted or ("output" in wanted and job.state is State.SUCCEEDED):
        return _signed(job, base_url, secret, job.id)
    return None


def to_news(job: Job, base_url: str, secret: bytes, number: int) -> Webhook | None:
    wanted = job.request["events"]
    if "logs" in wanted or ("start" in wanted and number == 1):
        return _signed(job, base_url, secret, f"{job.id}-{number}")
    return None


def _signed(job: Job, base_url: str, secret: bytes, message_id: str) -> Webhook:
    body, timestamp = to_json(to_response(job, base_url)), int(time.time())
    signature = sign(webhook_secret(secret, job.owner), message_id, timestamp, body)
    headers = {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": signature}
    return Webhook(body, {"Content-Type": "application/json", **headers})


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` of Standard Webhooks: the key is the decoded secret."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


# --- models and files -----------------------------------------------------------------------------------------------


def to_version(model: Model, version: str) -> dict[str, Any]:
    created_at = iso_time(CREATED_AT)
    return {"id": version, "created_at": created_at, "cog_version": COG_VERSION, "openapi_schema": model.schema}


def to_model(model: Model, base_url: str, runs: int) -> dict[str, Any]:
    """`runs`: predictions of the caller that are stored."""
    return {
        "url": f"{base_url}/v1/models/{quote(model.id)}",
        "owner": model.owner,
        "name": model.name,
        "description": model.description,
        "visibility": "public",
        "github_url": model.github_url,
        "paper_url": model.paper_url,
        "license_url": None,
        "run_count": runs,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": to_version(model, model.versions[0]),
    }


def about_file(data: bytes, content_type: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """What is stored of a file beside its bytes."""
    sums = {"sha256": hashlib.sha256(data).hexdigest(), "md5": hashlib.md5(data, usedforsecurity=False).hexdigest()}
    facts = {"content_type": content_type, "size": len(data), "metadata": metadata}
    return {"dialect": NAME, **facts, "checksums": sums}


def to_file(upload: Upload, base_url: str) -> dict[str, Any]:
    about = upload.about
    return {
        "id": upload.key,
        "name": upload.filename,
        "content_type": about["content_type"],
        "size": about["size"],
        "etag": about["checksums"]["md5"],
        "checksums": about["checksums"],
        "metadata": about["metadata"],
        "created_at": iso_time(upload.created_at),
        "expires_at": iso_time(upload.expires_at),
        "urls": {"get": f"{base_url}/v1/files/{upload.key}"},
    }


# --- errors ---------------------------------------------------------------------------------------------------------

_INVALID = (InvalidField, MissingField, ResultImpossible, BadSource, ModelNotFound)


def to_error(error: UpscaleError) -> tuple[dict[str, Any], int]:
    """A problem document."""
    title, detail, status = _phrase(error.status), error.message, error.status
    if isinstance(error, Unauthorized):
        title, detail = "Unauthenticated", "You did not pass a valid authentication token"
    elif isinstance(error, UnknownVersion):
        title, status = "Invalid version or not permitted", 422
    elif isinstance(error, _INVALID):
        title, status = "Input validation failed", 422
    elif type(error) is InvalidRequest:
        title = "Invalid request"
    elif isinstance(error, NotFound):
        title = "Not found"
    return {"title": title, "detail": detail, "status": status}, status


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # 499, which HTTP does not have
        return "Canceled"
