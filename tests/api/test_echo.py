"""The caller's own text is never sent back whole: names are cut, unknown fields are not stored."""

import base64
from typing import Any

import pytest

from server.errors import InvalidField, cut
from tests.conftest import Live, Picture

LONG = "x" * 5_000_000
SMALL = 8000
"""More than any answer that only repeats a little of what was sent."""
WAVESPEED, LEGACY = "/api/v3/wavespeed-ai/real-esrgan", "/v3/async/upscale"
TASK = "a0a0a0a0-b1b1-4c2c-8d3d-e4e4e4e4e4e4"


@pytest.fixture(scope="module")
def live(shared: Live) -> Live:
    return shared


def test_a_name_is_cut_and_a_short_one_is_not() -> None:
    assert cut("short") == "short"
    assert len(cut(LONG)) <= 101 and cut(LONG).endswith("…")
    error = InvalidField(f"there is no field {LONG}", field=LONG)
    assert len(error.message) < 3000 and error.field is not None and len(error.field) <= 101


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/jobs", {LONG: 1}),
        ("/jobs", {"image": "aaaa", "model": LONG}),
        ("/jobs", {"image": "aaaa", "format": LONG}),
        ("/jobs", {"image": "aaaa", "size": LONG}),
        ("/jobs", {"image": LONG + "!"}),
        ("/plan", {"width": 8, "height": 8, LONG: 1}),
        (WAVESPEED, {"image": "aaaa", "scale": LONG}),
        (WAVESPEED, {"image": "aaaa", "webhook": LONG}),
        ("/api/v3/model/price", {"model_id": LONG}),
        ("/api/v3/predictions", {"status": LONG}),
        ("/api/v3/predictions/delete", {"ids": LONG}),
        ("/api/v3/media/uploads", {"filename": "a.png", "content_type": "image/" + LONG}),
        ("/api/v1/models/image-upscaler/generate", {"image": "aaaa", "target_resolution": LONG}),
        ("/v3/async/image-upscaler", {"image": "aaaa", "resolution": LONG}),
        (LEGACY, {"request": {"image_base64": "aaaa", "model_name": LONG, "scale_factor": 2}}),
        ("/v1", [{"taskType": LONG}]),
        ("/v1", [{"taskType": "imageUpscale", "taskUUID": LONG}]),
        ("/v1", [{"taskType": "getResponse", "taskUUID": LONG}]),
        ("/v1", [{"taskType": "imageUpscale", "taskUUID": TASK, "inputImage": LONG + "!", "upscaleFactor": 2}]),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_what_is_refused_is_not_sent_back(live: Live, path: str, body: Any) -> None:
    answer = live.client.post(path, json=body)
    assert answer.status_code >= 400 or path == "/api/v3/media/uploads"
    assert len(answer.content) < SMALL


@pytest.mark.parametrize("path", ["/jobs/", "/files/", "/api/v3/predictions/", "/api/v3/a/", "/web/", "/v3/async/"])
def test_long_addresses_are_not_sent_back(live: Live, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = live.client.request(method, path + "x" * 50_000, json={})
        assert answer.status_code >= 400 and len(answer.content) < SMALL


def test_unknown_and_unused_values_are_not_kept(live: Live, picture: Picture) -> None:
    image = base64.b64encode(picture()).decode()
    body = {"image": image, "scale": 2, "guidance_scale": LONG, "unknown": LONG, "face_enhance": None}
    accepted = live.client.post(WAVESPEED, json=body)
    assert accepted.status_code == 200 and len(accepted.content) < SMALL
    job_id = accepted.json()["data"]["id"]
    polled = live.client.get(f"/api/v3/predictions/{job_id}/result")
    assert len(polled.content) < SMALL and "guidance_scale" not in polled.json()["data"]["input"]
    assert len(str(live.worker.jobs.get(job_id).request)) < SMALL


def test_what_was_meant_is_still_reported(live: Live, picture: Picture) -> None:
    image = base64.b64encode(picture()).decode()
    body = {"image": image, "guidance_scale": 3, "enable_base64_output": True}
    told = live.client.post(WAVESPEED, json=body).json()["data"]["input"]
    assert (told["guidance_scale"], told["enable_base64_output"]) == (3, True)


def test_a_host_as_long_as_no_name_is_becomes_no_link(live: Live, picture: Picture) -> None:
    host = "x" * 20_000
    body = {"image": base64.b64encode(picture()).decode(), "scale": 2}
    answer = live.client.post("/jobs", json=body, headers={"X-Forwarded-Host": host})
    assert answer.status_code == 202 and len(answer.content) < SMALL
