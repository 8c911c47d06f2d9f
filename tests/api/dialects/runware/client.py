"""What the tests of this dialect send, and how they read the answers."""

import base64
import io
import json
import re
import uuid
from collections.abc import Callable
from typing import Any

import httpx
from PIL import Image
from websockets.sync.client import ClientConnection

from tests.conftest import Live

TASK = "19abad0d-6ec5-40a6-b7af-203775fa5b7f"
INPUT = "fd613011-3872-4f37-b4aa-0d343c051a27"
UUID4 = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
BAD_KEY = {
    "code": "invalidApiKey",
    "message": "Invalid API key. Get one at https://my.runware.ai/signup",
    "parameter": "apiKey",
    "taskType": "authentication",
}


def inline(data: bytes) -> str:
    return base64.b64encode(data).decode()


def new_uuid() -> str:
    return str(uuid.uuid4())


def upscale(image: str | None = None, **fields: Any) -> dict[str, Any]:
    task = {"taskType": "imageUpscale", "taskUUID": new_uuid(), "upscaleFactor": 2, "inputImage": image, **fields}
    return {name: value for name, value in task.items() if value is not None}


def post(live: Live, *tasks: Any) -> httpx.Response:
    return live.client.post("/v1", content=json.dumps(tasks))


def data_of(answer: httpx.Response) -> list[dict[str, Any]]:
    body = answer.json()
    assert (answer.status_code, list(body)) == (200, ["data"]), answer.text
    found: list[dict[str, Any]] = body["data"]
    return found


def error_of(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    body = answer.json()
    assert (answer.status_code, list(body)) == (status, ["errors"]), answer.text
    (error,) = body["errors"]
    assert isinstance(error["message"], str) and error["message"]
    return dict(error)


def code_of(answer: httpx.Response, status: int = 400) -> tuple[str, str | None]:
    error = error_of(answer, status)
    return error["code"], error.get("parameter")


def size_at(url: str) -> tuple[str | None, tuple[int, int]]:
    with Image.open(io.BytesIO(httpx.get(url, trust_env=False, timeout=60).raise_for_status().content)) as image:
        return image.format, image.size


# --- R: WS handshake, ping, upload→upscale by UUID, result UUID re-used as input, async+getResponse < 2 polls late, ---
# ---    conflictTaskUUID, webhook ack immediate -----------------------------------------------------------------------


class Talk:
    """A caller at its end of a WebSocket."""

    def __init__(self, line: ClientConnection) -> None:
        self.line = line

    def say(self, *tasks: Any) -> None:
        self.line.send(json.dumps(list(tasks)))

    def hear(self, seconds: float = 30) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(self.line.recv(seconds))
        assert list(frame) in (["data"], ["errors"]) and len(next(iter(frame.values()))) == 1
        return frame

    def ask(self, *tasks: Any) -> dict[str, Any]:
        self.say(*tasks)
        return self.hear()

    def data(self, *tasks: Any) -> dict[str, Any]:
        frame = self.ask(*tasks)
        assert "data" in frame, frame
        item: dict[str, Any] = frame["data"][0]
        return item

    def error(self, *tasks: Any) -> dict[str, Any]:
        frame = self.ask(*tasks)
        assert "errors" in frame, frame
        item: dict[str, Any] = frame["errors"][0]
        return item

    def open(self, key: str = "key", **fields: Any) -> str:
        item = self.data({"taskType": "authentication", "apiKey": key, **fields})
        assert list(item) == ["taskType", "connectionSessionUUID"]
        assert UUID4.fullmatch(item["connectionSessionUUID"])
        return str(item["connectionSessionUUID"])


Dial = Callable[..., Talk]
PING = {"taskType": "ping", "ping": True}
PONG = {"data": [{"taskType": "ping", "pong": True}]}
