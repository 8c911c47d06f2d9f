"""What the tests of this dialect send, and how they read the answers."""

import base64
import time
from typing import Any

from server.job.job import Job, Params, Result, State
from tests.conftest import Live

UPSCALER = "/v3/async/image-upscaler"
LEGACY = "/v3/async/upscale"
RESULT = "/v3/async/task-result"
ANIME, SHARP = "RealESRGAN_x4plus_anime_6B", "4x-UltraSharp"


def inline(data: bytes) -> str:
    return base64.b64encode(data).decode()


def submit(live: Live, data: bytes, path: str = UPSCALER, **fields: Any) -> str:
    answer = live.client.post(path, json={"image": inline(data), **fields})
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["task_id"]
    task_id: str = answer.json()["task_id"]
    return task_id


def poll(live: Live, task_id: str) -> dict[str, Any]:
    answer = live.client.get(RESULT, params={"task_id": task_id})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


NOW = 1795167186.266


def kept_for(seconds: int) -> float:
    """The `keep_s` by which something finished at NOW is removed so many seconds from now, rounded up."""
    return time.time() - NOW + seconds - 0.5


def job(state: State = State.QUEUED, **fields: Any) -> Job:
    """The one of the contract's samples."""
    made = {
        "id": "27d9d67a3b5c409abf328671bdf76a78",
        "dialect": "novita",
        "owner": "local",
        "params": Params(target="4k", format="jpeg"),
        "request": {"task_type": "IMAGE_UPSCALER"},
        "created_at": 1795167185.066,
        "keep_s": 3600.0,
        "state": state,
    }
    return Job(**{**made, **fields})


def finished(**fields: Any) -> Job:
    result = Result(
        key="0" * 32 + ".jpeg", width=4, height=3, size_bytes=1, format="jpeg", model="m", model_sha256=None
    )
    times = {"started_at": 1795167185.366, "finished_at": NOW}
    return job(State.SUCCEEDED, **{"result": result, "progress": 1.0, **times, **fields})


def task(status: str, percent: int = 0, reason: str = "", task_type: str = "IMAGE_UPSCALER") -> dict[str, Any]:
    return {
        "task_id": "27d9d67a-3b5c-409a-bf32-8671bdf76a78",
        "status": status,
        "reason": reason,
        "task_type": task_type,
        "eta": 0,
        "progress_percent": percent,
    }


EXTRA = {"seed": "0", "enable_nsfw_detection": False}


# --- the older API --------------------------------------------------------------------------------------------------


def legacy(data: bytes, extra: Any = None, **fields: Any) -> dict[str, Any]:
    request = {"model_name": ANIME, "image_base64": inline(data), "scale_factor": 2, **fields}
    return {"request": request} | ({"extra": extra} if extra is not None else {})


# --- webhooks -------------------------------------------------------------------------------------------------------


class Receiver:
    """Where webhooks go: what came, and how many are to be refused first."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.events: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.refuse = 0

    def wait(self, number: int = 1) -> dict[str, Any]:
        deadline = time.monotonic() + 10
        while len(self.events) < number:
            assert time.monotonic() < deadline, "no webhook came"
            time.sleep(0.01)
        return self.events[number - 1]
