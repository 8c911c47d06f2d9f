"""The VibeDream API, field by field; and, as the vendor has no SDK, by the client that its documents lead to."""

import base64
import re
import time
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from server.api.app import create_app
from server.api.dialects import dialect_of
from server.api.dialects.depends import ServiceDep
from server.api.dialects.fields import iso_time
from server.api.dialects.vibedream import translate as vibedream
from server.errors import OutOfMemory
from server.job.formats import FormatName
from server.job.job import Job, Params, Result, State
from server.job.tiling import Size
from tests.conftest import Live, LiveServer, MakeConfig, Picture, serve

GENERATE = "/api/v1/models/image-upscaler/generate"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
MOMENT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def body(data: bytes, **fields: Any) -> dict[str, Any]:
    image = base64.b64encode(data).decode()
    return {"image": image, "target_resolution": "2k", "output_format": "png", **fields}


def generate(live: Live, data: bytes, **fields: Any) -> dict[str, Any]:
    answer = live.client.post(GENERATE, json=body(data, **fields))
    assert answer.status_code == 200, answer.text
    submitted: dict[str, Any] = answer.json()
    return submitted


def poll(live: Live, submitted: dict[str, Any]) -> dict[str, Any]:
    answer = live.client.get(submitted["statusUrl"])
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def error_body(message: str) -> dict[str, Any]:
    return {"error": message, "message": message}


def job(state: State = State.QUEUED, **fields: Any) -> Job:
    """The one of the vendor's samples."""
    made = {
        "id": "550e8400e29b41d4a716446655440000",
        "dialect": "vibedream",
        "owner": "local",
        "params": Params(target="2k", format="png"),
        "request": {"base64": False},
        "created_at": 1736942400.0,
        "state": state,
    }
    return Job(**{**made, **fields})


def result(cost: float = 0.0, size: Size = (2048, 1536), kind: FormatName = "png") -> Result:
    return Result(
        key="0" * 32 + ".png",
        width=size[0],
        height=size[1],
        size_bytes=1,
        format=kind,
        model="m",
        model_sha256=None,
        cost=cost,
    )


# --- V: three response bodies field by field (nulls, not empty arrays); missing target_resolution → 400 --------------

SAMPLE = {
    "id": "550e8400-e29b-41d4-a716-446655440000",
    "modelId": "image-upscaler",
    "modelName": "WaveSpeed AI Image Upscaler",
    "createdAt": "2025-01-15T12:00:00.000Z",
}


def test_v_the_submit_body_field_by_field() -> None:
    assert vibedream.to_submitted(job(), "http://127.0.0.1:8000", 0.02) == {
        "id": "550e8400-e29b-41d4-a716-446655440000",
        "status": "processing",
        "statusUrl": "http://127.0.0.1:8000/api/v1/predictions/550e8400-e29b-41d4-a716-446655440000",
        "estimatedTime": "Fast & Efficient",
        "costCents": 2,
        "createdAt": "2025-01-15T12:00:00.000Z",
    }


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_v_the_processing_body_field_by_field(state: State) -> None:
    assert vibedream.to_response(job(state), "http://here") == {
        **SAMPLE,
        "status": "processing",
        "outputs": None,
        "error": None,
        "completedAt": None,
    }


def test_v_the_completed_body_field_by_field() -> None:
    done = job(State.SUCCEEDED, finished_at=1736942430.0, result=result())
    assert vibedream.to_response(done, "http://here") == {
        **SAMPLE,
        "status": "completed",
        "outputs": [f"http://here/files/{'0' * 32}.png"],
        "error": None,
        "completedAt": "2025-01-15T12:00:30.000Z",
    }


def test_v_the_failed_body_field_by_field() -> None:
    failed = job(State.FAILED, finished_at=1736942405.0, error_code="job_failed", error_message="It broke.")
    assert vibedream.to_response(failed, "http://here") == {
        **SAMPLE,
        "status": "failed",
        "outputs": None,
        "error": "It broke.",
        "completedAt": "2025-01-15T12:00:05.000Z",
    }
    cancelled = vibedream.to_response(job(State.CANCELLED, finished_at=1736942405.0), "http://here")
    assert (cancelled["status"], cancelled["outputs"]) == ("failed", None)
    assert cancelled["error"] == "the prediction was cancelled"


def test_v_missing_target_resolution_and_the_other_required_fields_are_400(live: Live, picture: Picture) -> None:
    for name in ("target_resolution", "output_format", "image"):
        absent = body(picture())
        del absent[name]
        for sent in (absent, absent | {name: None}, absent | {name: ""}):
            answer = live.client.post(GENERATE, json=sent)
            assert (answer.status_code, answer.json()) == (400, error_body(f"{name} is required")), sent


# --- the life of a prediction ---------------------------------------------------------------------------------------


def test_submit_then_poll_until_completed_then_download_without_a_key(
    live_server: LiveServer, picture: Picture
) -> None:
    live = live_server(api_keys=("key",))
    live.client.headers["Authorization"] = "Bearer key"
    submitted = generate(live, picture(), output_format="webp")
    assert submitted == {
        "id": submitted["id"],
        "status": "processing",
        "statusUrl": f"{live.url}/api/v1/predictions/{submitted['id']}",
        "estimatedTime": "Fast & Efficient",
        "costCents": 0,
        "createdAt": submitted["createdAt"],
    }
    assert re.fullmatch(UUID, submitted["id"]) and re.fullmatch(MOMENT, submitted["createdAt"])
    assert poll(live, submitted)["status"] == "processing"
    claimed = live.worker.claim()
    assert poll(live, submitted)["status"] == "processing"
    live.worker.finish(claimed)
    done = poll(live, submitted)
    assert done["status"] == "completed"
    assert done["createdAt"] == submitted["createdAt"] < done["completedAt"]
    answer = httpx.get(done["outputs"][0], trust_env=False, timeout=60)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")


def test_ids_are_uuids_and_found_without_their_dashes_too(live: Live, picture: Picture) -> None:
    shown = generate(live, picture())["id"]
    assert [len(part) for part in shown.split("-")] == [8, 4, 4, 4, 12]
    for written in (shown, shown.replace("-", ""), shown.upper()):
        assert live.client.get(f"/api/v1/predictions/{written}").json()["id"] == shown


def test_times_have_three_decimals_even_on_the_second() -> None:
    assert iso_time(1736942400.0) == "2025-01-15T12:00:00.000Z"
    assert iso_time(1736942400.5) == "2025-01-15T12:00:00.500Z"


def test_a_bad_picture_is_accepted_and_fails(live: Live) -> None:
    submitted = generate(live, b"some text in a file named .jpg")
    assert (submitted["status"], submitted["costCents"]) == ("processing", 0)
    failed = poll(live, submitted)
    assert (failed["status"], failed["outputs"]) == ("failed", None)
    assert "not a picture" in failed["error"]
    assert failed["completedAt"] is not None


def test_an_address_that_may_not_be_fetched_fails(live: Live, picture: Picture) -> None:
    submitted = generate(live, picture(), image="http://127.0.0.1:9/a.png")
    for _ in range(500):
        failed = poll(live, submitted)
        if failed["status"] == "failed":
            break
    assert failed["error"] == "the picture's address is not one that this server may fetch from"


def test_a_worker_that_fails_is_a_failed_prediction(live: Live, picture: Picture) -> None:
    submitted = generate(live, picture())
    live.worker.fail(OutOfMemory("even the smallest tile does not fit"))
    failed = poll(live, submitted)
    assert (failed["status"], failed["error"]) == ("failed", "even the smallest tile does not fit")


def test_the_client_of_the_documents_gets_its_picture(live: Live, picture: Picture) -> None:
    with live.worker.working():
        submitted = generate(live, picture(), enable_base64_output=False, enable_sync_mode=False)
        while (found := poll(live, submitted))["status"] == "processing":
            time.sleep(0.02)
    assert (found["outputs"] and found["error"]) is None
    assert httpx.get(found["outputs"][0], trust_env=False, timeout=60).status_code == 200


def test_a_gif_is_taken(live: Live, picture: Picture) -> None:
    submitted = generate(live, picture(40, 20, "P", "gif"))
    live.worker.finish()
    assert poll(live, submitted)["status"] == "completed"


# --- sync mode, base64, cost ----------------------------------------------------------------------------------------


def test_sync_mode_answers_with_the_fields_of_both_bodies(live: Live, picture: Picture) -> None:
    with live.worker.working():
        answer = generate(live, picture(), enable_sync_mode=True)
    found = poll(live, answer)
    assert found["status"] == answer["status"] == "completed"
    assert answer == {
        **found,
        "statusUrl": f"{live.url}/api/v1/predictions/{found['id']}",
        "estimatedTime": "Fast & Efficient",
        "costCents": 0,
    }


def test_sync_mode_answers_a_failure_with_200(live: Live) -> None:
    answer = generate(live, b"text", enable_sync_mode=True)
    assert (answer["status"], answer["outputs"], answer["costCents"]) == ("failed", None, 0)
    assert "not a picture" in answer["error"]


def test_sync_mode_that_runs_out_answers_as_a_submit_and_goes_on(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(sync_wait_s=0.2)
    answer = generate(live, picture(), enable_sync_mode=True)
    assert set(answer) == {"id", "status", "statusUrl", "estimatedTime", "costCents", "createdAt"}
    assert answer["status"] == "processing"
    live.worker.finish()
    assert poll(live, answer)["status"] == "completed"


def test_base64_output_is_naked_in_sync_answers_and_when_polled(live: Live, picture: Picture) -> None:
    with live.worker.working():
        answer = generate(live, picture(), enable_sync_mode=True, enable_base64_output=True)
    assert base64.b64decode(answer["outputs"][0], validate=True).startswith(b"\x89PNG")
    assert poll(live, answer)["outputs"] == answer["outputs"]


@pytest.mark.parametrize(
    ("dollars", "cents"), [(0, 0), (0.02, 2), (0.07, 7), (0.57, 57), (0.020001, 3), (0.000001, 1), (1.1, 110)]
)
def test_cents_are_rounded_up_and_only_up(dollars: float, cents: int) -> None:
    told = vibedream.to_submitted(job(), "http://here", dollars)["costCents"]
    assert (told, type(told)) == (cents, int)


def test_the_cost_is_that_of_the_results_size_where_it_is_known(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(price_per_job=0.05, price_per_megapixel=0.1)
    assert generate(live, picture(64, 32))["costCents"] == 26  # 5 cents and 2048 · 1024 pixels at 10 cents a million
    assert generate(live, picture(), image="http://127.0.0.1:9/a.png")["costCents"] == 5
    assert generate(live, b"text")["costCents"] == 0


def test_the_cost_of_a_finished_prediction_is_the_one_it_had(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(price_per_job=0.05)
    with live.worker.working():  # its results cost nothing
        assert generate(live, picture(), enable_sync_mode=True)["costCents"] == 0


# --- errors ---------------------------------------------------------------------------------------------------------

TARGETS, FORMATS = "2k, 4k, 8k", "jpeg, png, webp"
BAD: list[tuple[dict[str, Any], str]] = [
    ({"image": 5}, "image must be a string"),
    ({"image": "/etc/passwd:"}, "image must be an http(s) URL, a data URI of a picture, or base64"),
    ({"target_resolution": "16k"}, f"target_resolution must be one of {TARGETS}"),
    ({"target_resolution": 4}, f"target_resolution must be one of {TARGETS}"),
    ({"output_format": "gif"}, f"output_format must be one of {FORMATS}"),
    ({"output_format": ["png"]}, f"output_format must be one of {FORMATS}"),
    ({"enable_sync_mode": "true"}, "enable_sync_mode must be a boolean"),
    ({"enable_base64_output": 1}, "enable_base64_output must be a boolean"),
]


def test_what_lies_outside_the_documents_is_refused(live: Live, picture: Picture) -> None:
    for fields, message in BAD:
        answer = live.client.post(GENERATE, json=body(picture(), **fields))
        assert (answer.status_code, answer.json()) == (400, error_body(message)), fields
    assert live.worker.jobs.counts() == {}


def test_what_lies_within_is_accepted(live: Live, picture: Picture) -> None:
    for fields in (
        {"target_resolution": "8k", "output_format": "jpeg"},
        {"target_resolution": "4k", "output_format": "webp", "enable_sync_mode": None, "creativity": "ignored"},
    ):
        assert generate(live, picture(), **fields)["status"] == "processing"


def test_a_body_that_is_no_json_object_is_refused(live: Live) -> None:
    for sent in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"image": NaN}'):
        answer = live.client.post(GENERATE, content=sent)
        assert (answer.status_code, answer.json()) == (400, error_body("invalid request body"))


def test_without_the_right_key_nothing_is_answered(live_server: LiveServer) -> None:
    live = live_server(api_keys=("key",))
    for headers in ({}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer wrong"}):
        for method, path in (("POST", GENERATE), ("GET", "/api/v1/predictions/x")):
            answer = live.client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()) == (401, error_body("Invalid API key"))


def test_unknown_models_predictions_and_paths_are_not_found(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(api_keys=("ann", "bob"))
    live.client.headers["Authorization"] = "Bearer ann"
    anns = generate(live, picture())["id"]
    native = live.client.post("/jobs", json={"image": body(picture())["image"]}).json()["id"]
    for written in ("nope", "550e8400-e29b-41d4-a716-446655440000", native):
        answer = live.client.get(f"/api/v1/predictions/{written}")
        assert (answer.status_code, answer.json()) == (404, error_body("prediction not found"))
    answer = live.client.get(f"/api/v1/predictions/{anns}", headers={"Authorization": "Bearer bob"})
    assert (answer.status_code, answer.json()) == (404, error_body("prediction not found"))
    answer = live.client.post("/api/v1/models/unheard-of/generate", json={})
    assert (answer.status_code, answer.json()) == (404, error_body("model unheard-of not found"))
    answer = live.client.get("/api/v1/no/such")
    assert (answer.status_code, answer.json()) == (404, error_body("there is nothing at this address"))


def test_other_methods_are_not_allowed(live: Live) -> None:
    answer = live.client.get(GENERATE)
    assert (answer.status_code, answer.json()) == (405, error_body("this address does not take GET"))
    assert answer.headers["allow"] == "POST"


def test_too_large_a_body_is_refused(live_server: LiveServer) -> None:
    answer = live_server(max_source_bytes=3000).client.post(GENERATE, content=bytes(2_000_000))
    assert answer.status_code == 413
    assert answer.json()["error"] == answer.json()["message"]
    assert "over this server's limit" in answer.json()["error"]


def test_a_full_queue_answers_429(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(max_queue=1)
    generate(live, picture())
    answer = live.client.post(GENERATE, json=body(picture()))
    assert (answer.status_code, answer.json()) == (429, error_body("the queue is full; try again later"))


def test_what_breaks_is_said_in_few_words(config: MakeConfig) -> None:
    app: FastAPI = create_app(config())

    def fail(service: ServiceDep) -> None:
        raise RuntimeError("a detail for the log alone")

    app.router.add_api_route("/api/v1/broken", fail)
    with serve(app) as url:
        answer = httpx.get(url + "/api/v1/broken", trust_env=False, timeout=60)
    assert (answer.status_code, answer.json()) == (500, error_body("something went wrong inside the server"))


def test_its_paths_are_its_own() -> None:
    assert dialect_of(GENERATE).NAME == dialect_of("/api/v1").NAME == "vibedream"
    for path in ("/api/v3/models", "/api/v2/x", "/api/v10", "/api", "/v1", "/v1/x", "/v3/async"):
        assert dialect_of(path).NAME != "vibedream"


def test_it_is_a_job_like_any_other(live: Live, picture: Picture) -> None:
    submitted = generate(live, picture())
    found = live.client.get(f"/jobs/{submitted['id'].replace('-', '')}").json()
    assert (found["dialect"], found["params"]["target"]) == ("vibedream", "2k")
