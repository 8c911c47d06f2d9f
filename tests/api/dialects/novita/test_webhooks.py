"""Novita's webhooks and its test mode."""

import io
import json
from datetime import datetime

import httpx
import pytest
from PIL import Image

from server.api.dialects.novita import translate as novita
from server.api.webhooks import RETRIES, Retries
from tests.api.dialects.novita.client import EXTRA, LEGACY, Receiver, finished, kept_for, legacy, poll, submit, task
from tests.conftest import Live, Picture


def test_a_webhook_tells_of_the_end_as_the_result_would(hooked: Live, receiver: Receiver, picture: Picture) -> None:
    task_id = submit(hooked, picture(), extra={"webhook": {"url": receiver.url}})
    hooked.worker.finish()
    event = receiver.wait()
    assert list(event) == ["event_type", "payload"] and event["event_type"] == "ASYNC_TASK_RESULT"
    payload, polled = event["payload"], poll(hooked, task_id)
    assert payload["extra"].pop("webhook") == {"url": receiver.url}
    assert int(payload["images"][0].pop("image_url_ttl")) >= polled["images"][0].pop("image_url_ttl")
    assert payload == polled
    assert receiver.headers[0]["content-type"] == "application/json"
    assert httpx.get(payload["images"][0]["image_url"], trust_env=False, timeout=60).status_code == 200


def test_a_webhooks_body_field_by_field() -> None:
    request = {"task_type": "IMAGE_UPSCALER", "webhook": "https://hook.example"}
    done = finished(request=request, keep_s=kept_for(3600))
    webhook = novita.to_webhook(done, "http://here", b"")
    assert webhook is not None and webhook.headers == {"Content-Type": "application/json"}
    payload = json.loads(webhook.body)["payload"]
    assert payload["task"] == task("TASK_STATUS_SUCCEED", 100)
    assert payload["extra"].items() >= {**EXTRA, "webhook": {"url": "https://hook.example"}}.items()
    assert payload["images"] == [
        {
            "image_url": f"http://here/files/{'0' * 32}.jpeg",
            "image_url_ttl": "3600",
            "image_type": "jpeg",
            "nsfw_detection_result": None,
        }
    ]
    assert (payload["videos"], payload["audios"]) == ([], [])


def test_a_webhook_tells_of_failures_too(hooked: Live, receiver: Receiver) -> None:
    submit(hooked, b"text", extra={"webhook": {"url": receiver.url}})
    payload = receiver.wait()["payload"]
    assert (payload["task"]["status"], payload["images"]) == ("TASK_STATUS_FAILED", [])
    assert "not a picture" in payload["task"]["reason"]


def test_a_webhook_is_tried_again_five_times_and_waited_for_five_seconds(
    hooked: Live, receiver: Receiver, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses_s, timeout_s = RETRIES["novita"].pauses_s, RETRIES["novita"].timeout_s
    assert (len(pauses_s), timeout_s) == (5, 5.0)
    assert list(pauses_s) == sorted(pauses_s)
    monkeypatch.setitem(RETRIES, "novita", Retries((0.01,) * 5, timeout_s))
    receiver.refuse = 5
    submit(hooked, picture(), LEGACY, **legacy(picture(), {"webhook": {"url": receiver.url}}))
    hooked.worker.finish()
    assert receiver.wait(6)["payload"]["task"]["task_type"] == "UPSCALE"


def test_test_mode_sends_a_success_that_never_ran(hooked: Live, receiver: Receiver) -> None:
    test_mode = {"enabled": True, "return_task_status": "TASK_STATUS_SUCCEED"}
    hook = {"webhook": {"url": receiver.url, "test_mode": test_mode}}
    # The address could not be fetched, and is not.
    task_id = submit(hooked, b"", image="http://127.0.0.1:9/a.png", output_format="webp", extra=hook)
    payload = receiver.wait()["payload"]
    assert (payload["task"]["task_id"], payload["task"]["status"]) == (task_id, "TASK_STATUS_SUCCEED")
    assert poll(hooked, task_id)["task"] == payload["task"]
    with Image.open(
        io.BytesIO(httpx.get(payload["images"][0]["image_url"], trust_env=False, timeout=60).content)
    ) as image:
        assert (image.format, image.size) == ("WEBP", (1, 1))
    assert hooked.worker.jobs.claim("stand-in") is None


def test_test_mode_sends_a_failure_that_never_ran(hooked: Live, receiver: Receiver, picture: Picture) -> None:
    test_mode = {"enabled": True, "return_task_status": "TASK_STATUS_FAILED"}
    submit(hooked, picture(), extra={"webhook": {"url": receiver.url, "test_mode": test_mode}})
    payload = receiver.wait()["payload"]
    assert (payload["task"]["status"], payload["images"]) == ("TASK_STATUS_FAILED", [])
    assert payload["task"]["reason"] == "test mode: this task was asked to fail"


def test_a_mocks_picture_is_removed_with_it(hooked: Live, picture: Picture) -> None:
    test_mode = {"enabled": True, "return_task_status": "TASK_STATUS_SUCCEED"}
    hook = {"webhook": {"url": "http://127.0.0.1:9", "test_mode": test_mode}}
    task_id = submit(hooked, picture(), extra=hook)
    url = poll(hooked, task_id)["images"][0]["image_url"]
    assert hooked.client.delete(f"/jobs/{task_id.replace('-', '')}").status_code == 204
    assert httpx.get(url, trust_env=False, timeout=60).status_code == 404


def test_times_are_milliseconds_of_now(live: Live, picture: Picture) -> None:
    task_id = submit(live, picture())
    live.worker.finish()
    told = int(poll(live, task_id)["extra"]["debug_info"]["complete_time_ms"]) / 1000
    assert abs(datetime.now().timestamp() - told) < 10
