"""The WaveSpeed API, field by field: what its documents and its clients hold us to."""

import base64
import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from server.dialects import wavespeed
from server.errors import OutOfMemory
from server.job import Job, State
from tests.conftest import Live, LiveServer, Picture

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


def wait_for_end(live: Live, data: dict[str, Any]) -> dict[str, Any]:
    for _ in range(500):
        data = prediction(live.client.get(data["urls"]["get"]))
        if data["status"] in ("completed", "failed"):
            return data
    raise AssertionError(f"still {data['status']}")


# --- the life of a prediction ---------------------------------------------------------------------------------------


def test_submit_then_poll_until_completed_then_download_without_a_key(
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
    result = httpx.get(done["outputs"][0], trust_env=False)
    assert (result.status_code, result.headers["content-type"]) == (200, "image/webp")


def test_defaults_are_the_documented_ones() -> None:
    upscaler = wavespeed.to_params(wavespeed.UPSCALER, {"image": "x"})
    assert (upscaler.target, upscaler.format, upscaler.creativity) == ("4k", "jpeg", 0.0)
    esrgan = wavespeed.to_params(wavespeed.ESRGAN, {"image": "x"})
    assert (esrgan.scale, esrgan.format, esrgan.faces) == (4.0, "png", False)


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


def test_what_lies_within_the_documents_is_accepted(live: Live, picture: Picture) -> None:
    for path, body in GOOD:
        assert submit(live, path, image=inline(picture()), **body)["status"] == "created", body


SCALE_RANGE = "scale must be more than 0 and at most 10"
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
    (UPSCALER, {"webhook_url": "https://hook.example"}, "webhooks are not supported yet", 1401),
    (ESRGAN, {"image": None}, 'property "image" is missing', 1400),
    (ESRGAN, {"scale": 0}, SCALE_RANGE, 1401),
    (ESRGAN, {"scale": -1}, SCALE_RANGE, 1401),
    (ESRGAN, {"scale": 10.5}, SCALE_RANGE, 1401),
    (ESRGAN, {"scale": "4"}, "scale must be a number", 1401),
    (ESRGAN, {"guidance_scale": []}, "guidance_scale must be a number", 1401),
    (ESRGAN, {"face_enhance": "true"}, "face_enhance must be a boolean", 1401),
    (ESRGAN, {"face_enhance": True}, "face_enhance is not available in this version yet", 1401),
]


def test_what_lies_outside_is_refused_in_the_vendors_form(live: Live, picture: Picture) -> None:
    for path, body, message, code in BAD:
        answer = live.client.post(path, json={"image": inline(picture()), **body})
        assert (answer.status_code, answer.json()) == (400, error_body(400, message, code)), body
    assert live.worker.jobs.counts() == {}


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


def test_sync_mode_answers_with_the_end(live: Live, picture: Picture) -> None:
    with live.worker.working():
        data = submit(live, UPSCALER, image=inline(picture()), target_resolution="2k", enable_sync_mode=True)
    assert data["status"] == "completed"
    assert live.client.get(data["outputs"][0]).status_code == 200


def test_sync_mode_answers_a_failure_with_200(live: Live) -> None:
    data = submit(live, ESRGAN, image=inline(b"text"), enable_sync_mode=True)
    assert (data["status"], data["code"]) == ("failed", 1402)


def test_sync_mode_that_runs_out_says_so_and_goes_on(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(sync_wait_s=0.2)
    data = submit(live, ESRGAN, image=inline(picture()), scale=1, enable_sync_mode=True)
    assert (data["status"], data["code"]) == ("processing", 5004)
    assert data["error"] == (
        "Sync mode timed out after 0.2 seconds. The prediction is still processing asynchronously."
    )
    live.worker.finish()
    assert prediction(live.client.get(data["urls"]["get"]))["status"] == "completed"


def test_base64_output_is_naked_in_sync_answers_and_when_polled(live: Live, picture: Picture) -> None:
    with live.worker.working():
        flags = {"enable_base64_output": True, "enable_sync_mode": True}
        data = submit(live, ESRGAN, image=inline(picture()), scale=1, **flags)
    polled = prediction(live.client.get(data["urls"]["get"]))
    assert polled["outputs"] == data["outputs"]
    assert base64.b64decode(data["outputs"][0], validate=True).startswith(b"\x89PNG")


def test_a_long_inline_picture_is_not_echoed(live: Live, picture: Picture) -> None:
    long = inline(picture(200, 200, "RGB", "tiff"))
    assert submit(live, ESRGAN, image=long)["input"] == {"image": f"<base64, {len(long)} characters>"}
    uri = f"data:image/tiff;base64,{long}"
    assert submit(live, ESRGAN, image=uri)["input"] == {"image": f"<data:image/tiff;base64, {len(uri)} characters>"}
    trap = "http" + long  # base64 may begin like a URL
    assert len(json.dumps(submit(live, ESRGAN, image=trap[: len(trap) // 4 * 4])["input"])) < 100


@pytest.mark.parametrize(
    "query", ["?webhook=https%3A%2F%2Fhook.example", "?webhook=https://hook.example/x?token=1&b=2"]
)
def test_webhooks_are_refused_for_now_and_with_base64_in_the_documented_words(
    live: Live, picture: Picture, query: str
) -> None:
    body = {"image": inline(picture())}
    answer = live.client.post(UPSCALER + query, json=body)
    assert answer.json() == error_body(400, "webhooks are not supported yet", 1401)
    answer = live.client.post(UPSCALER + query, json={**body, "enable_base64_output": True})
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "webhook callback does not support base64 output, please use the normal API to use base64 output"},
    )


# --- uploads --------------------------------------------------------------------------------------------------------


def test_a_ticket_takes_the_bytes_without_a_key_and_its_link_is_a_source(
    live_server: LiveServer, picture: Picture
) -> None:
    live = live_server(api_keys=("key",))
    live.client.headers["Authorization"] = "Bearer key"
    body = {"filename": "dir/in.png", "size": 157, "content_type": "image/png"}
    data = prediction(live.client.post("/api/v3/media/uploads", json=body))
    put = data["upload"]
    assert (data["type"], data["filename"], data["size"]) == ("image", "in.png", 157)
    assert (put["method"], put["headers"]) == ("PUT", {"Content-Type": "image/png"})
    assert datetime.fromisoformat(put["expires_at"].replace("Z", "+00:00")) > datetime.now(timezone.utc)
    assert httpx.put(put["url"], content=picture(), headers=put["headers"], trust_env=False).status_code == 200
    assert httpx.get(data["download_url"], trust_env=False).content == picture()
    assert submit(live, ESRGAN, image=data["download_url"], scale=1)["status"] == "created"
    live.worker.finish()


@pytest.mark.parametrize("path", ["/api/v3/media/upload/binary", "/api/v3/upload", "/api/v2/media/upload/binary"])
def test_a_form_upload_is_a_source(live: Live, picture: Picture, path: str) -> None:
    data = prediction(live.client.post(path, files={"file": ("in.png", picture())}))
    assert (data["type"], data["filename"], data["size"]) == ("image", "in.png", len(picture()))
    assert data["url"] == data["download_url"]
    assert submit(live, ESRGAN, image=data["download_url"])["status"] == "created"


def test_uploads_that_cannot_be_are_refused(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(max_source_bytes=1000)
    tickets = "/api/v3/media/uploads"
    too_large = error_body(413, "the file is over this server's limit of 1000 bytes")
    assert live.client.post(tickets, json={"filename": "a.png", "size": 1001}).json() == too_large
    assert live.client.post("/api/v3/upload", files={"file": ("a.png", b"x" * 1001)}).json() == too_large
    for body, name in (({}, "filename"), ({"filename": 3}, "filename")):
        assert live.client.post(tickets, json=body).json() == error_body(400, f'property "{name}" is missing', 1400)
    for extra in ({"size": -1}, {"size": True}, {"size": "1"}, {"content_type": "a\r\nb"}, {"content_type": 1}):
        answer = live.client.post(tickets, json={"filename": "a.png", **extra})
        assert (answer.status_code, answer.json()["error_code"]) == (400, 1401), extra
    payloads: tuple[dict[str, Any], ...] = (
        {"files": {"other": ("a.png", picture())}},
        {"data": {"file": "text"}},
        {"json": {}},
    )
    for payload in payloads:
        answer = live.client.post("/api/v3/upload", **payload)
        assert answer.json() == error_body(400, 'property "file" is missing', 1400)


@pytest.mark.parametrize("name", ["..", "a\x00.png", "\ud800.png", "x" * 5000, "photo.JPEG", "noending", "a.b-c"])
def test_any_filename_makes_a_ticket(live: Live, name: str) -> None:
    data = prediction(live.client.post("/api/v3/media/uploads", content=json.dumps({"filename": name})))
    assert live.client.put(data["upload"]["url"], content=b"x").status_code == 200


# --- keys, paths, versions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "wrong", "Basic a2V5"])
def test_without_the_right_key_nothing_is_answered(live_server: LiveServer, header: str | None) -> None:
    live = live_server(api_keys=("key",))
    headers = {} if header is None else {"Authorization": header}
    for method, path in (
        ("POST", UPSCALER),
        ("GET", "/api/v3/predictions/x/result"),
        ("POST", "/api/v3/media/uploads"),
    ):
        answer = live.client.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()) == (401, error_body(401, "Invalid API key"))


def test_a_prediction_is_found_only_by_its_owner_and_only_here(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(api_keys=("ann", "bob"))
    ann, bob = {"Authorization": "ann"}, {"Authorization": "bob"}
    data = prediction(live.client.post(ESRGAN, json={"image": inline(picture())}, headers=ann))
    native = live.client.post("/jobs", json={"image": inline(picture())}, headers=ann).json()
    not_found = error_body(404, "prediction not found")
    assert live.client.get(data["urls"]["get"], headers=bob).json() == not_found
    assert live.client.get("/api/v3/predictions/nope/result", headers=ann).json() == not_found
    assert live.client.get(f"/api/v3/predictions/{native['id']}", headers=ann).json() == not_found


def test_unknown_models_and_paths_are_not_found_and_other_methods_not_allowed(live: Live) -> None:
    unknown = live.client.post("/api/v3/wavespeed-ai/unheard-of", json={"image": "x"})
    assert (unknown.status_code, unknown.json()) == (404, error_body(404, "model wavespeed-ai/unheard-of not found"))
    nowhere = live.client.post("/api/v3/other/model", json={})
    assert (nowhere.status_code, nowhere.json()) == (404, error_body(404, "there is nothing at this address"))
    method = live.client.get(UPSCALER)
    assert (method.status_code, method.json()) == (405, error_body(405, "this address does not take GET"))
    assert method.headers["allow"] == "POST"


def test_the_second_version_and_doubled_slashes_lead_to_the_same(live: Live, picture: Picture) -> None:
    data = submit(live, "/api/v2/wavespeed-ai/real-esrgan", image=inline(picture()))
    assert prediction(live.client.get(f"/api/v2/predictions/{data['id']}/result"))["id"] == data["id"]
    assert prediction(live.client.get(f"{live.url}//api/v3//predictions/{data['id']}"))["id"] == data["id"]


def test_a_full_queue_answers_429(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(max_queue=1)
    submit(live, ESRGAN, image=inline(picture()))
    answer = live.client.post(ESRGAN, json={"image": inline(picture())})
    assert (answer.status_code, answer.json()["code"]) == (429, 429)
