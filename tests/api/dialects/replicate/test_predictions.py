"""Replicate's predictions field by field, and what no client shows: headers, words of errors, prefixes."""

import base64
import json
import time
from typing import Any

import pytest

from server.api.dialects import dialect_of
from server.api.dialects.replicate import models
from server.api.dialects.replicate import translate as replicate
from server.job.job import MAX_SEED, Faces, Job, Params, Result, State
from server.weights.choice import REAL_ESRGAN
from tests.conftest import Live, LiveServer, draw

ESRGAN = "/v1/models/nightmareai/real-esrgan/predictions"
PICTURE = "data:image/png;base64," + base64.b64encode(draw(40, 20)).decode()
NOW = 1795167186.266
VERSION = models.REAL_ESRGAN_MODEL.versions[0]
REQUEST = {"model": "nightmareai/real-esrgan", "version": VERSION, "input": {"scale": 2}, "events": []}


def job(state: State = State.QUEUED, **fields: Any) -> Job:
    named = {"id": "1" * 32, "dialect": "replicate", "owner": "ann", "request": REQUEST, "created_at": NOW - 2}
    return Job(**{**named, "params": Params(scale=2), "state": state, **fields})


def finished() -> Job:
    result = Result(key="0" * 32 + ".png", width=4, height=3, size_bytes=1, format="png", model="m", model_sha256=None)
    return job(State.SUCCEEDED, result=result, progress=1.0, started_at=NOW - 1, finished_at=NOW)


def params_of(model: models.Model, **given: Any) -> Params:
    return model.read(models.read_inputs(model, {model.picture: "https://a.example/b.png", **given}))


def create(live: Live, body: dict[str, Any] | None = None, path: str = ESRGAN, **headers: str) -> dict[str, Any]:
    asked = {"input": {"image": PICTURE, "scale": 2}} | (body or {})
    answer = live.client.post(
        path, json=asked, headers={name.replace("_", "-"): each for name, each in headers.items()}
    )
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


# --- answers --------------------------------------------------------------------------------------------------------


def test_a_prediction_field_by_field() -> None:
    here = f"http://here/v1/predictions/{'1' * 32}"
    assert replicate.to_response(finished(), "http://here") == {
        "id": "1" * 32,
        "model": "nightmareai/real-esrgan",
        "version": VERSION,
        "input": {"scale": 2},
        "output": f"http://here/files/{'0' * 32}.png",
        "logs": "100%|██████████| 100/100\nm: 4 x 3 pixels, png\n",
        "error": None,
        "status": "succeeded",
        "created_at": "2026-11-20T09:33:04.266Z",
        "started_at": "2026-11-20T09:33:05.266Z",
        "completed_at": "2026-11-20T09:33:06.266Z",
        "metrics": {"predict_time": 1.0, "total_time": 2.0},
        "data_removed": False,
        "source": "api",
        "urls": {"get": here, "cancel": f"{here}/cancel", "web": f"http://here/jobs/{'1' * 32}"},
    }


@pytest.mark.parametrize(
    ("state", "fields", "status", "error", "logs"),
    [
        (State.QUEUED, {}, "starting", None, ""),
        (State.RUNNING, {"started_at": NOW}, "processing", None, "loading\n"),
        (
            State.RUNNING,
            {"started_at": NOW, "progress": 0.429, "stage": "upscaling"},
            "processing",
            None,
            " 42%|████      | 42/100\n",
        ),
        (
            State.RUNNING,
            {"started_at": NOW, "progress": 1.0, "stage": "encoding"},
            "processing",
            None,
            "100%|██████████| 100/100\nencoding\n",
        ),
        (State.FAILED, {"finished_at": NOW, "error_message": "it broke"}, "failed", "it broke", ""),
        (State.CANCELLED, {"started_at": NOW - 1, "finished_at": NOW}, "canceled", None, "loading\ncanceled\n"),
    ],
)
def test_states(state: State, fields: dict[str, Any], status: str, error: str | None, logs: str) -> None:
    found = replicate.to_response(job(state, **fields), "http://here")
    assert (found["status"], found["error"], found["logs"], found["output"]) == (status, error, logs, None)


def test_who_waited_in_vain_sees_starting_and_who_did_not_sees_the_end() -> None:
    running = job(State.RUNNING, started_at=NOW)
    assert replicate.to_response(running, "http://here", waited=True)["status"] == "starting"
    assert replicate.to_response(finished(), "http://here", waited=True)["status"] == "succeeded"


def test_data_is_removed_when_the_results_file_is_gone(live: Live) -> None:
    made = create(live)
    done = live.worker.finish()
    assert done.result is not None
    live.worker.blobs.delete(done.result.key)
    found = live.client.get(f"/v1/predictions/{made['id']}").json()
    assert (found["status"], found["output"], found["data_removed"]) == ("succeeded", None, True)


def test_a_long_picture_is_not_repeated(live: Live) -> None:
    long = "data:image/png;base64," + base64.b64encode(draw(400, 300)).decode()
    given = {"image": long, "scale": 2, "other": "x" * 5000}
    shown = create(live, {"input": given})["input"]
    assert shown == {"image": f"<data:image/png;base64, {len(long)} characters>", "scale": 2}


def test_short_inputs_that_a_model_does_not_know_are_repeated(live: Live) -> None:
    given = {"image": PICTURE, "scale": 2, "prompt": "größer\n", "tiling": True, "steps": 18, "scheduler": None}
    refused = {"mask": [1], "large": 10**400, "nul": "\0", "half": "\ud800", "x" * 600: 1}
    more = {f"n{index}": index for index in range(60)}
    body = json.dumps({"input": given | refused | more})  # with escapes for what is no text
    shown = live.client.post(ESRGAN, content=body).json()["input"]
    assert shown.pop("image") == PICTURE
    assert {name: shown.pop(name) for name in ("scale", "prompt", "tiling", "steps")} == {
        "scale": 2,
        "prompt": "größer\n",
        "tiling": True,
        "steps": 18,
    }
    assert shown == {f"n{index}": index for index in range(47)}, "with the other three 50 of them"


def test_a_number_that_is_no_json_is_not_repeated(live: Live) -> None:
    body = b'{"input": {"image": "%s", "scale": 2, "far": 1e999}}' % PICTURE.encode()
    assert "far" not in live.client.post(ESRGAN, content=body).json()["input"]


# --- inputs ---------------------------------------------------------------------------------------------------------


def test_what_each_models_inputs_mean() -> None:
    assert params_of(models.REAL_ESRGAN_MODEL) == Params(scale=4, model=REAL_ESRGAN)
    assert params_of(models.REAL_ESRGAN_MODEL, scale=2.5, face_enhance=True).faces == Faces()
    assert params_of(models.CLARITY) == Params(scale=2, creativity=1.0, seed=1337)
    assert params_of(models.CLARITY, seed=-1, output_format="jpg", creativity=0, resemblance=3) == Params(
        scale=2, creativity=0.0, format="jpeg"
    )
    assert params_of(models.GFPGAN, version="v1.3") == Params(scale=2, faces=Faces())
    local = models.all_models(["fidelity-x4"])["local/fidelity-x4"]
    assert params_of(local, scale=3) == Params(scale=3, model="fidelity-x4")


@pytest.mark.parametrize(("theirs", "ours"), [(0, 0), (0.175, 0.5), (0.35, 1), (0.675, 1.5), (1, 2)])
def test_creativity_is_linear_between_the_points_of_the_table(theirs: float, ours: float) -> None:
    assert models.creativity_of(theirs) == ours


@pytest.mark.parametrize(
    ("model", "given", "detail"),
    [
        (models.REAL_ESRGAN_MODEL, {"scale": 10.5}, "scale: must be less than or equal to 10"),
        (models.REAL_ESRGAN_MODEL, {"scale": 0}, "scale: must be greater than 0"),
        (models.REAL_ESRGAN_MODEL, {"scale": "4"}, "scale: must be of type number"),
        (models.REAL_ESRGAN_MODEL, {"scale": True}, "scale: must be of type number"),
        (models.REAL_ESRGAN_MODEL, {"scale": 10**400}, "scale: must be less than or equal to 10"),
        (models.REAL_ESRGAN_MODEL, {"face_enhance": 1}, "face_enhance: must be of type boolean"),
        (models.REAL_ESRGAN_MODEL, {"image": 5}, "image: must be of type string"),
        (models.CLARITY, {"creativity": -0.1}, "creativity: must be greater than or equal to 0"),
        (models.CLARITY, {"seed": MAX_SEED + 1}, "seed: must be less than or equal to"),
        (models.CLARITY, {"output_format": "gif"}, "output_format: must be one of png, jpg, webp"),
        (models.GFPGAN, {"version": "v9"}, "version: must be one of v1.2, v1.3, v1.4, RestoreFormer"),
    ],
)
def test_a_wrong_input_is_refused_with_its_name(model: models.Model, given: dict[str, Any], detail: str) -> None:
    with pytest.raises(replicate.InvalidField, match=f"- input.{detail}"):
        params_of(model, **given)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, "- input: must be an object"),
        ({"input": {}}, "- input: image is required"),
        ({"input": {"image": "no picture!"}}, "- input.image: must be an http(s) URL or a data URI of a picture"),
        ({"input": {"image": PICTURE}, "webhook": "ftp://a"}, "- webhook: must be an http(s) URL"),
        ({"input": {"image": PICTURE}, "webhook": "http://127.0.0.1:1/"}, "- webhook: the port is not one that"),
        (
            {"input": {"image": PICTURE}, "webhook": "https://a.example", "webhook_events_filter": ["all"]},
            "- webhook_events_filter: must be a list of start, output, logs, completed",
        ),
        (
            {"input": {"image": PICTURE}, "webhook_events_filter": "completed"},
            "- webhook_events_filter: must be a list of start, output, logs, completed",
        ),
    ],
)
def test_a_wrong_request_is_refused(live: Live, body: dict[str, Any], detail: str) -> None:
    answer = live.client.post(ESRGAN, json=body)
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["title"]) == (422, 422, "Input validation failed")
    assert problem["detail"].startswith(detail)
    assert live.worker.jobs.counts() == {}


def test_faces_without_their_weights_are_refused(live: Live) -> None:
    answer = live.client.post("/v1/models/tencentarc/gfpgan/predictions", json={"input": {"img": PICTURE}})
    assert (answer.status_code, "weights pull gfpgan" in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize("version", [VERSION, "nightmareai/real-esrgan", f"nightmareai/real-esrgan:{VERSION}"])
def test_a_version_in_each_form(live: Live, version: str) -> None:
    made = create(live, {"version": version}, "/v1/predictions")
    assert (made["model"], made["version"]) == ("nightmareai/real-esrgan", VERSION)


@pytest.mark.parametrize("version", ["0" * 64, f"tencentarc/gfpgan:{VERSION}", "a/b", "nightmareai/real-esrgan:", ":"])
def test_an_unknown_version(live: Live, version: str) -> None:
    answer = live.client.post("/v1/predictions", json={"version": version, "input": {"image": PICTURE}})
    assert (answer.status_code, answer.json()["title"]) == (422, "Invalid version or not permitted")


# --- headers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [("", 0), ("wait", 60), ("wait=5", 5), ("respond-async, wait=7", 7), ("wait=0", 1), ("wait=900", 60), ("await", 0)],
)
def test_prefer(prefer: str, seconds: int) -> None:
    assert replicate.wait_of(prefer) == seconds


def test_a_wait_answers_with_the_end(live: Live) -> None:
    with live.worker.working():
        made = create(live, prefer="wait=20")
    assert (made["status"], made["data_removed"]) == ("succeeded", False)


def test_a_wait_is_no_longer_than_the_operator_allows(live_server: LiveServer) -> None:
    assert create(live_server(sync_wait_s=0.05), prefer="wait")["status"] == "starting"


@pytest.mark.parametrize(
    ("text", "seconds"), [("", None), ("30s", 30), ("90", 90), ("1m30s", 90), ("2h", 7200), (" 5S ", 5)]
)
def test_cancel_after(text: str, seconds: int | None) -> None:
    assert replicate.cancel_after_of(text) == seconds


@pytest.mark.parametrize("text", ["0", "soon", "-5s", "25h", "5s1m", "99999h"])
def test_a_wrong_cancel_after_is_refused(text: str) -> None:
    with pytest.raises(replicate.InvalidField, match="Cancel-After"):
        replicate.cancel_after_of(text)


def test_a_prediction_is_cancelled_when_its_time_is_over(live: Live) -> None:
    made, kept = create(live, cancel_after="1s"), create(live, cancel_after="1h")
    deadline = time.monotonic() + 20
    while live.worker.jobs.get(made["id"]).state is not State.CANCELLED:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert live.worker.jobs.get(kept["id"]).state is State.QUEUED


def test_cancelling_one_that_runs_waits_for_its_worker(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.api.dialects.replicate.routes.CANCEL_WAIT_S", 0.1)
    made = create(live)
    running = live.worker.claim()
    assert live.client.post(f"/v1/predictions/{made['id']}/cancel").json()["status"] == "processing"
    live.worker.jobs.cancelled(running)
    assert live.client.post(f"/v1/predictions/{made['id']}/cancel").json()["status"] == "canceled"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Token", "token"])
def test_both_schemes_of_keys(live_server: LiveServer, scheme: str) -> None:
    live = live_server(api_keys=("r8-key",))
    assert live.client.get("/v1/account", headers={"Authorization": f"{scheme} r8-key"}).status_code == 200
    refused = live.client.get("/v1/account", headers={"Authorization": f"{scheme} other"})
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")


# --- errors and addresses -------------------------------------------------------------------------------------------


def test_addresses_below_v1_are_answered_in_replicates_words_and_v1_itself_in_runwares(live: Live) -> None:
    for path in ("/v1/predictions", "/v1/x", "/v1/models/a/b"):
        assert dialect_of(path).NAME == "replicate"
    assert dialect_of("/v1").NAME == "runware"
    answer = live.client.get("/v1/deployments/a/b")
    assert (answer.status_code, answer.json()) == (
        404,
        {"title": "Not found", "detail": "there is nothing at this address", "status": 404},
    )
    assert live.client.delete("/v1/predictions").json()["title"] == "Method Not Allowed"
    assert "errors" in live.client.post("/v1", json=[]).json()


def test_a_body_that_is_no_json_is_refused(live: Live) -> None:
    answer = live.client.post(ESRGAN, content=b"{")
    assert (answer.status_code, answer.json()["title"]) == (400, "Invalid request")


@pytest.mark.parametrize("cursor", ["x", "", "MTIz", base64.urlsafe_b64encode(b"nan:0").decode(), "é"])
def test_a_cursor_that_is_none_of_ours_is_refused(live: Live, cursor: str) -> None:
    for path in ("/v1/predictions", "/v1/files"):
        answer = live.client.get(path, params={"cursor": cursor})
        assert (answer.status_code, answer.json()["title"]) == (422, "Input validation failed")


def test_another_keys_things_are_not_found(live_server: LiveServer) -> None:
    live = live_server(api_keys=("ann", "bob"))
    ann, bob = ({"Authorization": f"Bearer {key}"} for key in ("ann", "bob"))
    made = live.client.post(ESRGAN, json={"input": {"image": PICTURE}}, headers=ann).json()
    file = live.client.post("/v1/files", files={"content": ("a.png", draw())}, headers=ann).json()
    for path in (f"/v1/predictions/{made['id']}", f"/v1/files/{file['id']}"):
        assert (live.client.get(path, headers=ann).status_code, live.client.get(path, headers=bob).status_code) == (
            200,
            404,
        )
    assert live.client.delete(f"/v1/files/{file['id']}", headers=bob).status_code == 404
    assert live.client.get("/v1/predictions", headers=bob).json()["results"] == []
    assert live.client.get("/v1/files", headers=bob).json()["results"] == []


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_is_a_picture_also_under_another_name_of_this_server(live: Live) -> None:
    made = live.client.post("/v1/files", files={"content": ("a.png", draw(8, 8))})
    assert made.status_code == 201
    url = made.json()["urls"]["get"]
    assert url.endswith(f"/v1/files/{made.json()['id']}")
    for base in (url, url.replace("127.0.0.1", "localhost"), "https://elsewhere.example" + url.partition(live.url)[2]):
        job_id = create(live, {"input": {"image": base}})["id"]
        assert live.worker.jobs.get(job_id).source_key is not None


def test_metadata_may_be_a_file_of_the_form(live: Live) -> None:
    """As the vendor's client for JavaScript sends it."""
    parts = {"content": ("a.png", draw()), "metadata": ("blob", b'{"a": 1}', "application/json")}
    assert live.client.post("/v1/files", files=parts).json()["metadata"] == {"a": 1}


@pytest.mark.parametrize("metadata", [b"[]", b"{", b'"a"', b"{" + b" " * 70000 + b"}"])
def test_wrong_metadata_is_refused(live: Live, metadata: bytes) -> None:
    parts = {"content": ("a.png", draw()), "metadata": ("blob", metadata, "application/json")}
    answer = live.client.post("/v1/files", files=parts)
    assert (answer.status_code, "metadata" in answer.json()["detail"]) == (422, True)


def test_an_upload_without_its_file_is_refused(live: Live) -> None:
    answer = live.client.post("/v1/files", files={"other": ("a.png", draw())})
    assert (answer.status_code, answer.json()["detail"][:9]) == (422, "- content")


def test_uploads_of_other_dialects_are_no_files_here(live: Live) -> None:
    sent = live.client.post("/api/v3/media/upload/binary", files={"file": ("one.png", draw())}).json()["data"]
    key = sent["download_url"].rpartition("/")[2]
    assert live.client.get(f"/v1/files/{key[:32]}").status_code == 404
    assert live.client.get("/v1/files").json()["results"] == []
