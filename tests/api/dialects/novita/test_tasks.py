"""Novita's tasks, field by field: what its documents and its clients require."""

import io
from typing import Any

import httpx
import pytest
from PIL import Image

from server.api.app import create_app
from server.api.dialects import dialect_of
from server.api.dialects.depends import ServiceDep
from server.api.dialects.novita import translate as novita
from server.errors import ModelNotFound, OutOfMemory
from server.job.job import State
from tests.api.dialects.novita.client import (
    ANIME,
    EXTRA,
    LEGACY,
    RESULT,
    SHARP,
    UPSCALER,
    finished,
    inline,
    job,
    kept_for,
    legacy,
    poll,
    submit,
    task,
)
from tests.conftest import Live, LiveServer, MakeConfig, Picture, serve


def wait_for_end(live: Live, task_id: str) -> dict[str, Any]:
    for _ in range(500):
        found = poll(live, task_id)
        if found["task"]["status"] in ("TASK_STATUS_SUCCEED", "TASK_STATUS_FAILED"):
            return found
    raise AssertionError(f"still {found['task']['status']}")


def error_body(code: int, reason: str, message: str) -> dict[str, Any]:
    return {"code": code, "reason": reason, "message": message, "metadata": {}}


NOTHING: dict[str, Any] = {"images": [], "videos": [], "audios": []}


# --- N: novita-client end to end; queued/processing/succeed/failed parse; bare key accepted; error bodies flat --------
#     (the client itself: test_novita_sdk.py)


def test_n_queued_and_processing_field_by_field() -> None:
    body = novita.to_response(job(), "http://here")
    assert body == {"extra": EXTRA, "task": task("TASK_STATUS_QUEUED"), **NOTHING}
    body = novita.to_response(job(State.RUNNING, progress=0.428), "http://here")
    assert body == {"extra": EXTRA, "task": task("TASK_STATUS_PROCESSING", 42), **NOTHING}


def test_n_succeeded_field_by_field() -> None:
    assert novita.to_response(finished(keep_s=kept_for(3600)), "http://here") == {
        "extra": {
            **EXTRA,
            "debug_info": {
                "request_info": "",
                "submit_time_ms": "1795167185066",
                "execute_time_ms": "1795167185366",
                "complete_time_ms": "1795167186266",
            },
        },
        "task": task("TASK_STATUS_SUCCEED", 100),
        "images": [
            {
                "image_url": f"http://here/files/{'0' * 32}.jpeg",
                "image_url_ttl": 3600,
                "image_type": "jpeg",
                "nsfw_detection_result": None,
            }
        ],
        "videos": [],
        "audios": [],
    }


def test_n_failed_field_by_field() -> None:
    failed = job(State.FAILED, progress=0.4, error_message="failed to download image")
    assert novita.to_response(failed, "http://here") == {
        "extra": EXTRA,
        "task": task("TASK_STATUS_FAILED", reason="failed to download image"),
        **NOTHING,
    }
    cancelled = novita.to_response(job(State.CANCELLED), "http://here")
    assert cancelled["task"] == task("TASK_STATUS_FAILED", reason="the task was cancelled")


def test_n_the_bare_key_is_accepted(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(api_keys=("nov-key",))
    for header in ("nov-key", "Bearer nov-key"):
        live.client.headers["Authorization"] = header
        assert poll(live, submit(live, picture()))["task"]["status"] == "TASK_STATUS_QUEUED"


def test_n_error_bodies_are_flat_validation(live: Live, picture: Picture) -> None:
    for fields, message in BAD:
        answer = live.client.post(UPSCALER, json={"image": inline(picture()), **fields})
        assert (answer.status_code, answer.json()) == (400, error_body(400, "INVALID_REQUEST_BODY", message)), fields
    for sent in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"image": NaN}'):
        answer = live.client.post(UPSCALER, content=sent)
        assert answer.json() == error_body(400, "INVALID_REQUEST_BODY", "invalid request body")
    answer = live.client.get(RESULT)
    assert (answer.status_code, answer.json()) == (400, error_body(400, "INVALID_REQUEST_BODY", "task_id is required"))
    assert live.worker.jobs.counts() == {}


def test_n_error_bodies_are_flat_auth(live_server: LiveServer) -> None:
    live = live_server(api_keys=("key",))
    for headers in ({}, {"Authorization": ""}, {"Authorization": "bad"}, {"Authorization": "Bearer bad"}):
        for method, path in (("POST", UPSCALER), ("POST", LEGACY), ("GET", RESULT + "?task_id=x")):
            answer = live.client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()) == (
                401,
                error_body(401, "FAILED_TO_AUTH", "failed to authenticate API key"),
            )


def test_n_error_bodies_are_flat_not_found(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(api_keys=("ann", "bob"))
    live.client.headers["Authorization"] = "ann"
    anns = submit(live, picture())
    native = live.client.post("/jobs", json={"image": inline(picture())}).json()["id"]
    missing = error_body(404, "TASK_NOT_FOUND", "task not found")
    for written in ("nope", "550e8400-e29b-41d4-a716-446655440000", "\x00", native):
        answer = live.client.get(RESULT, params={"task_id": written})
        assert (answer.status_code, answer.json()) == (404, missing)
    answer = live.client.get(RESULT, params={"task_id": anns}, headers={"Authorization": "bob"})
    assert (answer.status_code, answer.json()) == (404, missing)
    answer = live.client.post("/v3/async/txt2img", json={})
    assert (answer.status_code, answer.json()) == (
        404,
        error_body(404, "NOT_FOUND", "there is nothing at this address"),
    )


def test_n_error_bodies_are_flat_method_not_allowed(live: Live) -> None:
    answer = live.client.get(UPSCALER)
    assert (answer.status_code, answer.json()) == (
        405,
        error_body(405, "METHOD_NOT_ALLOWED", "this address does not take GET"),
    )
    assert answer.headers["allow"] == "POST"


def test_n_error_bodies_are_flat_too_large(live_server: LiveServer) -> None:
    answer = live_server(max_source_bytes=3000).client.post(UPSCALER, content=bytes(2_000_000))
    message = answer.json()["message"]
    assert (answer.status_code, answer.json()) == (413, error_body(413, "TOO_LARGE", message))


def test_n_error_bodies_are_flat_queue_full(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(max_queue=1)
    submit(live, picture())
    answer = live.client.post(UPSCALER, json={"image": inline(picture())})
    assert (answer.status_code, answer.json()) == (
        429,
        error_body(429, "RATE_LIMIT_EXCEEDED", "the queue is full; try again later"),
    )


def test_n_error_bodies_are_flat_internal(config: MakeConfig) -> None:
    app = create_app(config())

    def fail(service: ServiceDep) -> None:
        raise RuntimeError("a detail for the log alone")

    app.router.add_api_route("/v3/broken", fail)
    with serve(app) as url:
        answer = httpx.get(url + "/v3/broken", trust_env=False, timeout=60)  # drawing the traceback takes its time
    assert (answer.status_code, answer.json()) == (
        500,
        error_body(500, "INTERNAL", "something went wrong inside the server"),
    )


def test_n_error_bodies_are_flat_no_network() -> None:
    body, status = novita.to_error(ModelNotFound("no weights are installed"))
    assert status == 503
    assert body == error_body(503, "SERVICE_NOT_AVAILABLE", "no weights are installed")


# --- N: no floats in eta/progress; `extra` present; nsfw null -------------------------------------------------------


@pytest.mark.parametrize("progress", [0.0, 0.001, 0.29, 0.999, 1.0])
def test_n_no_floats_in_eta_and_progress_and_extra_present(progress: float) -> None:
    for state in State:
        body = novita.to_response(finished() if state is State.SUCCEEDED else job(state, progress=progress), "http://x")
        assert "float" not in {type(value).__name__ for value in body["task"].values()}
        assert 0 <= body["task"]["progress_percent"] <= (100 if state is State.SUCCEEDED else 99)
        assert body["extra"].items() >= EXTRA.items()


def test_n_the_times_are_never_empty_text_and_nsfw_is_null() -> None:
    body = novita.to_response(finished(started_at=None), "http://here")
    times = {name: value for name, value in body["extra"]["debug_info"].items() if name.endswith("_ms")}
    assert len(times) == 3 and all(value.isdecimal() for value in times.values())
    assert body["images"][0]["nsfw_detection_result"] is None


# --- the life of a task ---------------------------------------------------------------------------------------------


BAD: list[tuple[dict[str, Any], str]] = [
    ({"image": None}, "image is required"),
    ({"image": ""}, "image is required"),
    ({"image": 5}, "image must be a string"),
    ({"image": "/etc/passwd:"}, "image must be an http(s) URL, a data URI of a picture, or base64"),
    ({"resolution": "16k"}, "resolution must be one of 2k, 4k, 8k"),
    ({"resolution": 4}, "resolution must be one of 2k, 4k, 8k"),
    ({"output_format": "gif"}, "output_format must be one of jpeg, png, webp"),
    ({"output_format": ["png"]}, "output_format must be one of jpeg, png, webp"),
    ({"extra": "x"}, "extra must be an object"),
    ({"extra": {"webhook": "https://hook.example"}}, "webhook must be an object"),
    ({"extra": {"webhook": {"test_mode": {"enabled": True}}}}, "url is required"),
    ({"extra": {"webhook": {"url": 5}}}, "url must be a string"),
    ({"extra": {"webhook": {"url": "ftp://hook.example"}}}, "extra.webhook.url must be an http(s) URL"),
    ({"extra": {"webhook": {"url": "http://a:99999/"}}}, "extra.webhook.url must be an http(s) URL"),
    ({"extra": {"webhook": {"url": "http://a", "test_mode": 1}}}, "test_mode must be an object"),
    (
        {"extra": {"webhook": {"url": "http://a", "test_mode": {"enabled": 1}}}},
        "extra.webhook.test_mode.enabled must be a boolean",
    ),
    (
        {"extra": {"webhook": {"url": "http://a", "test_mode": {"enabled": True}}}},
        "return_task_status is required",
    ),
    (
        {"extra": {"webhook": {"url": "http://a", "test_mode": {"enabled": True, "return_task_status": "DONE"}}}},
        "return_task_status must be one of TASK_STATUS_SUCCEED, TASK_STATUS_FAILED",
    ),
]


def test_defaults_are_the_documented_ones() -> None:
    params = novita.to_params({"image": "x"})
    assert (params.target, params.format, params.model) == ("4k", "jpeg", "auto")


def test_what_lies_within_the_documents_is_accepted(live: Live, picture: Picture) -> None:
    for fields in (
        {"resolution": "8k", "output_format": "webp"},
        {"resolution": None, "extra": None, "target_resolution": "ignored"},
        {"extra": {"response_image_type": "ignored", "webhook": None}},
        {"extra": {"webhook": {"url": "https://hook.example/x?a=1&b=2", "test_mode": {"enabled": False}}}},
    ):
        submit(live, picture(), **fields)


def test_submit_then_poll_until_done_then_download_without_a_key(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(api_keys=("key",), keep_s=1000)
    live.client.headers["Authorization"] = "Bearer key"
    task_id = submit(live, picture(), resolution="2k", output_format="webp")
    assert poll(live, task_id)["task"]["status"] == "TASK_STATUS_QUEUED"
    claimed = live.worker.claim()
    live.worker.jobs.heartbeat(claimed, 0.5, "upscaling", 70.0)
    half = poll(live, task_id)["task"]
    assert (half["progress_percent"], type(half["eta"])) == (50, int)
    assert poll(live, task_id)["task"]["status"] == "TASK_STATUS_PROCESSING"
    live.worker.finish(claimed)
    done = poll(live, task_id)
    assert done["task"]["task_id"] == task_id
    assert (done["task"]["status"], done["task"]["progress_percent"]) == ("TASK_STATUS_SUCCEED", 100)
    assert done["task"]["eta"] == 0
    assert 990 <= done["images"][0]["image_url_ttl"] <= 1000
    answer = httpx.get(done["images"][0]["image_url"], trust_env=False, timeout=60)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")


def test_ids_are_uuids_and_found_without_their_dashes_too(live: Live, picture: Picture) -> None:
    task_id = submit(live, picture())
    assert [len(part) for part in task_id.split("-")] == [8, 4, 4, 4, 12]
    for written in (task_id, task_id.replace("-", ""), task_id.upper()):
        assert poll(live, written)["task"]["task_id"] == task_id


def test_the_ttl_is_what_is_left() -> None:
    for seconds, told in ((3000, 3000), (1, 1), (0, 0), (-600, 0)):
        done = finished(keep_s=kept_for(seconds))
        assert novita.to_response(done, "http://here")["images"][0]["image_url_ttl"] == told


def test_a_bad_picture_is_accepted_and_fails(live: Live) -> None:
    failed = poll(live, submit(live, b"some text in a file named .jpg"))
    assert failed["task"]["status"] == "TASK_STATUS_FAILED"
    assert "not a picture" in failed["task"]["reason"]
    failed = wait_for_end(live, submit(live, b"", image="http://127.0.0.1:9/a.png"))
    assert failed["task"]["reason"] == "the picture's address is not one that this server may fetch from"


def test_a_worker_that_fails_is_a_failed_task(live: Live, picture: Picture) -> None:
    task_id = submit(live, picture())
    live.worker.fail(OutOfMemory("even the smallest tile does not fit"))
    assert poll(live, task_id)["task"]["reason"] == "even the smallest tile does not fit"


def test_doubled_slashes_lead_to_the_same(live: Live, picture: Picture) -> None:
    answer = live.client.post(f"{live.url}/{UPSCALER}", json={"image": inline(picture())})
    assert answer.status_code == 200
    assert live.client.get(f"{live.url}/{RESULT}", params=answer.json()).status_code == 200


def test_its_paths_are_its_own() -> None:
    assert dialect_of(UPSCALER).NAME == dialect_of("/v3").NAME == "novita"
    for path in ("/api/v3/models", "/api/v1/x", "/v30", "/v1", "/v2/upscale"):
        assert dialect_of(path).NAME != "novita"


def test_it_is_a_job_like_any_other(live: Live, picture: Picture) -> None:
    task_id = submit(live, picture())
    found = live.client.get(f"/jobs/{task_id.replace('-', '')}").json()
    assert (found["dialect"], found["params"]["target"]) == ("novita", "4k")


def test_the_older_api_scales_and_answers_with_its_own_type(live: Live, picture: Picture) -> None:
    ignored = {"enterprise_plan": {"enabled": False}, "enable_nsfw_detection": True, "nsfw_detection_level": 0}
    body = legacy(picture(40, 20), {"response_image_type": "jpeg", **ignored}, scale_factor=2.5)
    task_id = live.client.post(LEGACY, json=body).json()["task_id"]
    assert poll(live, task_id)["task"]["task_type"] == "UPSCALE"
    live.worker.finish()
    done = poll(live, task_id)
    assert (done["images"][0]["image_type"], done["extra"]["enable_nsfw_detection"]) == ("jpeg", False)
    with Image.open(
        io.BytesIO(httpx.get(done["images"][0]["image_url"], trust_env=False, timeout=60).content)
    ) as image:
        assert (image.format, image.size) == ("JPEG", (100, 50))


def test_the_older_apis_model_runs_if_it_is_installed() -> None:
    for name in (ANIME, "RealESRNet_x4plus"):
        assert novita.to_legacy_params(legacy(b"", model_name=name), ["fidelity-x4", name]).model == name
        assert novita.to_legacy_params(legacy(b"", model_name=name), ["fidelity-x4"]).model == "real-esrgan"
    assert novita.to_legacy_params(legacy(b"", model_name=SHARP), ["fidelity-x4", ANIME]).model == "real-esrgan"
    assert novita.to_legacy_params(legacy(b""), []).format == "png"


def test_what_the_older_api_does_not_take_is_refused(live: Live, picture: Picture) -> None:
    names = f"{ANIME}, RealESRNet_x4plus, {SHARP}"
    bad: list[tuple[dict[str, Any], str]] = [
        ({}, "image_base64 is required"),
        ({"request": []}, "request must be an object"),
        (legacy(picture(), image_base64=5), "image_base64 must be a string"),
        (legacy(picture(), image_base64="%%"), "image_base64 must be a picture in base64"),
        (legacy(picture(), model_name=None), "model_name is required"),
        (legacy(picture(), model_name="unheard-of"), f"model_name must be one of {names}"),
        (legacy(picture(), scale_factor=None), "scale_factor is required"),
        (legacy(picture(), scale_factor="2"), "scale_factor must be a number"),
        (legacy(picture(), scale_factor=True), "scale_factor must be a number"),
        (legacy(picture(), scale_factor=1), "scale_factor must be more than 1 and at most 4"),
        (legacy(picture(), scale_factor=4.1), "scale_factor must be more than 1 and at most 4"),
        (legacy(picture(), scale_factor=10**400), "scale_factor must be more than 1 and at most 4"),
        (legacy(picture(), {"response_image_type": "gif"}), "response_image_type must be one of jpeg, png, webp"),
        (legacy(picture(), {"custom_storage": {"aws_s3": {}}}), "extra.custom_storage is not supported"),
        (legacy(picture(), {"webhook": {"url": "x"}}), "extra.webhook.url must be an http(s) URL"),
    ]
    for body, message in bad:
        answer = live.client.post(LEGACY, json=body)
        assert (answer.status_code, answer.json()) == (400, error_body(400, "INVALID_REQUEST_BODY", message)), body
    assert live.worker.jobs.counts() == {}
