"""WaveSpeed's predictions, field by field: what its documents and its clients require.

Tests named `test_w1_…` to `test_w8_…` are the lines of the acceptance list.
"""

import base64
import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from server.api.dialects.wavespeed import translate as wavespeed
from server.errors import OutOfMemory
from server.job.job import Faces, Job, State
from tests.api.dialects.wavespeed.client import ESRGAN, SCALE_RANGE, UPSCALER, error_body, inline, prediction, submit
from tests.conftest import Live, LiveServer, Picture


def wait_for_end(live: Live, data: dict[str, Any]) -> dict[str, Any]:
    for _ in range(500):
        data = prediction(live.client.get(data["urls"]["get"]))
        if data["status"] in ("completed", "failed"):
            return data
    raise AssertionError(f"still {data['status']}")


# --- the life of a prediction ---------------------------------------------------------------------------------------


def test_w1_submit_created_poll_completed_outputs_without_auth_and_urls_get_is_absolute_and_the_polled_url(
    live_server: LiveServer, picture: Picture
) -> None:
    live = live_server(api_keys=("key",))
    live.client.headers["Authorization"] = "Bearer key"
    data = submit(live, UPSCALER, image=inline(picture()), target_resolution="2k", output_format="webp")
    made = datetime.fromisoformat(data.pop("created_at").replace("Z", "+00:00"))
    assert abs(datetime.now(timezone.utc) - made) < timedelta(seconds=10)
    assert re.fullmatch("[0-9a-f]{32}", data["id"])
    assert data == {
        "id": data["id"],
        "model": "wavespeed-ai/image-upscaler",
        "outputs": [],
        "urls": {"get": f"{live.url}/api/v3/predictions/{data['id']}/result"},
        "has_nsfw_contents": [],
        "status": "created",
        "error": "",
        "code": 0,
        "executionTime": 0,
        "timings": {"inference": 0},
        "input": {"image": inline(picture()), "target_resolution": "2k", "output_format": "webp"},
    }

    job = live.worker.claim()
    assert prediction(live.client.get(data["urls"]["get"]))["status"] == "processing"
    live.worker.finish(job)
    done = prediction(live.client.get(data["urls"]["get"]))
    assert done == prediction(live.client.get(f"/api/v3/predictions/{data['id']}"))
    assert (done["status"], done["has_nsfw_contents"], done["error"], done["code"]) == ("completed", [False], "", 0)
    assert done["executionTime"] == done["timings"]["inference"] > 0
    result = httpx.get(done["outputs"][0], trust_env=False, timeout=60)
    assert (result.status_code, result.headers["content-type"]) == (200, "image/webp")


def test_defaults_are_the_documented_ones() -> None:
    upscaler = wavespeed.to_params(wavespeed.UPSCALER, {"image": "x"})
    assert (upscaler.target, upscaler.format, upscaler.creativity) == ("4k", "jpeg", None)
    assert wavespeed.to_params(wavespeed.UPSCALER, {"image": "x", "creativity": -1}).creativity == -1
    esrgan = wavespeed.to_params(wavespeed.ESRGAN, {"image": "x"})
    assert (esrgan.scale, esrgan.format, esrgan.faces) == (4.0, "png", None)
    assert wavespeed.to_params(wavespeed.ESRGAN, {"image": "x", "face_enhance": True}).faces == Faces()


def test_guidance_scale_stands_in_for_an_absent_scale() -> None:
    assert wavespeed.to_params(wavespeed.ESRGAN, {"guidance_scale": 3}).scale == 3
    assert wavespeed.to_params(wavespeed.ESRGAN, {"guidance_scale": 3, "scale": 2}).scale == 2
    assert wavespeed.to_params(wavespeed.ESRGAN, {"guidance_scale": 3, "scale": None}).scale == 3


def test_a_cancelled_prediction_has_failed() -> None:
    params = wavespeed.to_params(wavespeed.ESRGAN, {})
    job = Job(dialect="wavespeed", owner="local", params=params, request={"model": "m", "base64": False, "input": {}})
    data = wavespeed.to_response(Job(**{**vars(job), "state": State.CANCELLED}), "http://here")
    assert (data["status"], data["error"], data["code"]) == ("failed", "the prediction was cancelled", 1405)


GOOD: list[tuple[str, dict[str, Any]]] = [
    (UPSCALER, {"creativity": -2}),
    (UPSCALER, {"creativity": 2.0, "target_resolution": "8k", "output_format": "png"}),
    (UPSCALER, {"creativity": 0, "target_resolution": None, "surprise": [1, {"a": 2}]}),
    (UPSCALER, {"enable_sync_mode": False, "enable_base64_output": False, "webhook_url": ""}),
    (ESRGAN, {"scale": 10}),
    (ESRGAN, {"scale": 0.5, "face_enhance": False}),
    (ESRGAN, {"enable_base64_output": True}),
]


def test_w4_boundary_values_are_accepted(live: Live, picture: Picture) -> None:
    for path, body in GOOD:
        assert submit(live, path, image=inline(picture()), **body)["status"] == "created", body


TARGETS, FORMATS = "2k, 4k, 8k", "jpeg, png, webp"
BAD: list[tuple[str, dict[str, Any], str, int]] = [
    (UPSCALER, {"image": None}, 'property "image" is missing', 1400),
    (UPSCALER, {"image": ""}, 'property "image" is missing', 1400),
    (UPSCALER, {"image": 5}, "image must be a string", 1401),
    (UPSCALER, {"image": "/etc/passwd:"}, "image must be an http(s) URL, a data URI of a picture, or base64", 1401),
    (UPSCALER, {"image": "data:text/html,x"}, "image must be an http(s) URL, a data URI of a picture, or base64", 1401),
    (UPSCALER, {"creativity": 2.1}, "creativity must be between -2 and 2", 1401),
    (UPSCALER, {"creativity": -2.1}, "creativity must be between -2 and 2", 1401),
    (UPSCALER, {"creativity": 10**400}, "creativity must be between -2 and 2", 1401),
    (UPSCALER, {"creativity": "1"}, "creativity must be a number", 1401),
    (UPSCALER, {"creativity": True}, "creativity must be a number", 1401),
    (UPSCALER, {"target_resolution": "16k"}, f"target_resolution must be one of {TARGETS}", 1401),
    (UPSCALER, {"target_resolution": 4}, f"target_resolution must be one of {TARGETS}", 1401),
    (UPSCALER, {"output_format": "gif"}, f"output_format must be one of {FORMATS}", 1401),
    (UPSCALER, {"output_format": ["png"]}, f"output_format must be one of {FORMATS}", 1401),
    (UPSCALER, {"enable_sync_mode": 1}, "enable_sync_mode must be a boolean", 1401),
    (UPSCALER, {"enable_base64_output": "true"}, "enable_base64_output must be a boolean", 1401),
    (UPSCALER, {"webhook_url": "hook.example"}, "webhook must be an http(s) URL", 1401),
    (UPSCALER, {"webhookURL": "ftp://hook.example/"}, "webhook must be an http(s) URL", 1401),
    (UPSCALER, {"webhook_url": "http://hook.example:99999/"}, "webhook must be an http(s) URL", 1401),
    (UPSCALER, {"webhook": ["https://hook.example"]}, "webhook must be an http(s) URL", 1401),
    (ESRGAN, {"image": None}, 'property "image" is missing', 1400),
    (ESRGAN, {"scale": 0}, SCALE_RANGE, 1401),
    (ESRGAN, {"scale": -1}, SCALE_RANGE, 1401),
    (ESRGAN, {"scale": 10.5}, SCALE_RANGE, 1401),
    (ESRGAN, {"scale": "4"}, "scale must be a number", 1401),
    (ESRGAN, {"guidance_scale": []}, "guidance_scale must be a number", 1401),
    (ESRGAN, {"face_enhance": "true"}, "face_enhance must be a boolean", 1401),
]


def test_w4_missing_image_and_what_is_out_of_range_is_400_in_the_vendors_form(live: Live, picture: Picture) -> None:
    for path, body, message, code in BAD:
        answer = live.client.post(path, json={"image": inline(picture()), **body})
        assert (answer.status_code, answer.json()) == (400, error_body(400, message, code)), body
    assert live.worker.jobs.counts() == {}


def test_faces_without_their_weights_are_an_error_at_once(live: Live, picture: Picture) -> None:
    answer = live.client.post(ESRGAN, json={"image": inline(picture()), "face_enhance": True})
    assert answer.status_code == 503 and "weights pull gfpgan" in answer.json()["message"]
    assert live.worker.jobs.counts() == {}


def test_faces_with_their_weights_are_restored(live: Live, picture: Picture) -> None:
    for name in ("GFPGANv1.4.pth", "detection_Resnet50_Final.pth"):
        (live.config.weights_path / name).write_bytes(b"the API half only looks whether it is there")
    assert live.client.post(ESRGAN, json={"image": inline(picture()), "face_enhance": True}).status_code == 200
    assert live.worker.claim().params.faces == Faces()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"creativity": NaN}'])
def test_a_body_that_is_no_json_object_is_refused(live: Live, body: bytes) -> None:
    answer = live.client.post(UPSCALER, content=body)
    assert (answer.status_code, answer.json()) == (400, error_body(400, "invalid request body"))


def test_infinity_by_way_of_an_exponent_is_out_of_range(live: Live, picture: Picture) -> None:
    answer = live.client.post(ESRGAN, content=f'{{"image": "{inline(picture())}", "scale": 1e999}}')
    assert answer.json() == error_body(400, SCALE_RANGE, 1401)


# --- what is wrong with the picture ---------------------------------------------------------------------------------


def test_a_bad_picture_is_accepted_and_fails(live: Live, picture: Picture) -> None:
    failures = {
        inline(b"some text in a file named .jpg"): (1402, "not a picture"),
        inline(picture()[:20]): (1402, "damaged"),
        "data:image/png,%89PNG": (1402, "not a picture"),
        f"{live.url}/files/{'0' * 32}.png": (1402, "no such file"),
    }
    for image, (code, text) in failures.items():
        data = submit(live, ESRGAN, image=image)
        assert (data["status"], data["code"], data["outputs"]) == ("failed", code, [])
        assert text in data["error"]
        assert prediction(live.client.get(data["urls"]["get"])) == data


def test_a_picture_with_too_many_pixels_fails_before_it_is_decoded(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(max_source_pixels=100)
    data = submit(live, ESRGAN, image=inline(picture(20, 20)))
    assert (data["code"], "20×20 pixels" in data["error"]) == (1402, True)


def test_a_result_that_no_file_can_hold_fails_as_an_invalid_parameter(live: Live, picture: Picture) -> None:
    data = submit(live, ESRGAN, image=inline(picture(9000, 1000)), scale=10)
    assert (data["status"], data["code"]) == ("failed", 1401)
    assert "limit" in data["error"]


def test_w5_bad_download_is_failed_1402_unknown_id_is_404_and_no_key_is_401(live_server: LiveServer) -> None:
    live = live_server(api_keys=("key",))
    live.client.headers["Authorization"] = "Bearer key"
    data = wait_for_end(live, submit(live, UPSCALER, image="http://nowhere.invalid/a.png"))
    assert (data["status"], data["code"]) == ("failed", 1402)
    assert data["error"] == "the picture could not be downloaded: its server can't be reached"
    for path in ("/api/v3/predictions/nope/result", f"/api/v3/predictions/{'0' * 32}"):
        answer = live.client.get(path)
        assert (answer.status_code, answer.json()) == (404, error_body(404, "prediction not found"))
    answer = live.client.get(data["urls"]["get"], headers={"Authorization": ""})
    assert (answer.status_code, answer.json()) == (401, error_body(401, "Invalid API key"))


def test_an_address_that_may_not_be_fetched_fails(live: Live) -> None:
    data = wait_for_end(live, submit(live, UPSCALER, image="http://127.0.0.1:9/a.png"))
    assert (data["status"], data["code"]) == ("failed", 1402)
    assert data["error"] == "the picture's address is not one that this server may fetch from"


def test_a_picture_by_url_is_fetched_in_the_background(live_server: LiveServer, picture: Picture) -> None:
    other, live = live_server(), live_server(allow_hosts=("127.0.0.1",))
    other.worker.blobs.put("0" * 32, picture(10, 10))
    good = submit(live, ESRGAN, image=f"{other.url}/files/{'0' * 32}?cache=no", scale=2)
    assert good["status"] == "created"
    assert live.worker.finish().id == good["id"]
    missing = wait_for_end(live, submit(live, ESRGAN, image=f"{other.url}/files/{'1' * 32}"))
    assert (missing["code"], missing["error"]) == (
        1402,
        "the picture could not be downloaded: its server answered 404",
    )


def test_a_worker_that_fails_is_a_failed_task(live: Live, picture: Picture) -> None:
    data = submit(live, ESRGAN, image=inline(picture()))
    live.worker.fail(OutOfMemory("even the smallest tile does not fit"))
    data = prediction(live.client.get(data["urls"]["get"]))
    assert (data["status"], data["code"], data["error"]) == ("failed", 1403, "even the smallest tile does not fit")


# --- modes ----------------------------------------------------------------------------------------------------------


def test_w2_sync_completed_sync_failed_and_sync_timeout_with_5004(live_server: LiveServer, picture: Picture) -> None:
    live = live_server()
    with live.worker.working():
        data = submit(live, UPSCALER, image=inline(picture()), target_resolution="2k", enable_sync_mode=True)
    assert data["status"] == "completed"
    assert live.client.get(data["outputs"][0]).status_code == 200

    data = submit(live, ESRGAN, image=inline(b"text"), enable_sync_mode=True)  # with status 200
    assert (data["status"], data["code"]) == ("failed", 1402)

    live = live_server(sync_wait_s=0.2)
    data = submit(live, ESRGAN, image=inline(picture()), scale=1, enable_sync_mode=True)
    assert (data["status"], data["code"], data["outputs"]) == ("processing", 5004, [])
    assert data["error"] == (
        "Sync mode timed out after 0.2 seconds. The prediction is still processing asynchronously."
    )
    live.worker.finish()  # and it goes on
    assert prediction(live.client.get(data["urls"]["get"]))["status"] == "completed"


def test_w3_base64_naked_sync_and_polled_and_base64_with_webhook_is_400(live: Live, picture: Picture) -> None:
    flags = {"enable_base64_output": True, "enable_sync_mode": True}
    with live.worker.working():
        data = submit(live, ESRGAN, image=inline(picture()), scale=1, **flags)
    assert base64.b64decode(data["outputs"][0], validate=True).startswith(b"\x89PNG")
    assert prediction(live.client.get(data["urls"]["get"]))["outputs"] == data["outputs"]

    body = {"image": inline(picture()), "enable_base64_output": True}
    for query, field in (("?webhook=https%3A%2F%2Fhook.example", {}), ("", {"webhook_url": "https://hook.example"})):
        answer = live.client.post(UPSCALER + query, json={**body, **field})
        words = "webhook callback does not support base64 output, please use the normal API to use base64 output"
        assert (answer.status_code, answer.json()) == (400, {"error": words})


def test_a_long_inline_picture_is_not_echoed(live: Live, picture: Picture) -> None:
    long = inline(picture(200, 200, "RGB", "tiff"))
    assert submit(live, ESRGAN, image=long)["input"] == {"image": f"<base64, {len(long)} characters>"}
    uri = f"data:image/tiff;base64,{long}"
    assert submit(live, ESRGAN, image=uri)["input"] == {"image": f"<data:image/tiff;base64, {len(uri)} characters>"}
    trap = "http" + long  # base64 may begin like a URL
    assert len(json.dumps(submit(live, ESRGAN, image=trap[: len(trap) // 4 * 4])["input"])) < 100
