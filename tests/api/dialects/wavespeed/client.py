"""What the tests of this dialect send, and how they read the answers."""

import base64
from typing import Any

import httpx

from tests.conftest import Live

UPSCALER = "/api/v3/wavespeed-ai/image-upscaler"
ESRGAN = "/api/v3/wavespeed-ai/real-esrgan"


def inline(data: bytes) -> str:
    return base64.b64encode(data).decode()


def submit(live: Live, path: str, **body: Any) -> dict[str, Any]:
    answer = live.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return prediction(answer)


def prediction(answer: httpx.Response) -> dict[str, Any]:
    envelope = answer.json()
    assert (answer.status_code, envelope["code"], envelope["message"]) == (200, 200, "success"), answer.text
    data: dict[str, Any] = envelope["data"]
    return data


def error_body(status: int, message: str, error_code: int | None = None) -> dict[str, Any]:
    body = {"code": status, "message": message, "error": message}
    return body if error_code is None else {**body, "error_code": error_code}


SCALE_RANGE = "scale must be more than 0 and at most 10"
