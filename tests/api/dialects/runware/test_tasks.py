"""Runware's tasks, item by item: inputs, ends, uploads and errors."""

import json
from typing import Any

import httpx
import pytest

from server.api.app import create_app
from server.api.dialects import dialect_of
from server.api.dialects.depends import ServiceDep
from server.api.dialects.runware import tasks
from server.api.dialects.runware import translate as runware
from server.api.webhooks import RETRIES
from server.config import MIB
from server.errors import JobFailed, ModelNotFound, OutOfMemory, ResultImpossible
from server.job.job import Job, Params, State
from tests.api.dialects.runware.client import (
    INPUT,
    PING,
    PONG,
    TASK,
    UUID4,
    Dial,
    code_of,
    data_of,
    error_of,
    inline,
    new_uuid,
    post,
    size_at,
    upscale,
)
from tests.conftest import Live, LiveServer, MakeConfig, Picture, Receiver, serve

# --- inputs -----------------------------------------------------------------------------------------------------------


def test_a_picture_is_a_url_a_data_uri_base64_or_the_newer_inputs(live_server: LiveServer, picture: Picture) -> None:
    other, live = live_server(), live_server(allow_hosts=("127.0.0.1",))
    other.worker.blobs.put("0" * 32, picture(10, 10))
    link = f"{other.url}/files/{'0' * 32}"
    data = inline(picture(10, 10))
    with live.worker.working():
        items = data_of(
            post(
                live,
                upscale(link),
                upscale(f"data:image/png;base64,{data}"),
                upscale(data),
                upscale(inputs={"image": link}),
                upscale(taskType="upscale", inputs={"image": data}, model="runware:504@1", settings={"steps": 4}),
            )
        )
    assert {size_at(each["imageURL"])[1] for each in items} == {(20, 20)}
    assert {each["taskType"] for each in items} == {"imageUpscale"}
    assert len({each["inputImageUUID"] for each in items}) == 5


def test_what_a_task_asks_for_becomes_the_params() -> None:
    task = {"upscaleFactor": 3, "outputFormat": "Webp", "outputQuality": 20}
    assert runware.to_params(task) == Params(scale=3, format="webp", quality=20)
    assert runware.to_params({"upscaleFactor": 4.0}) == Params(scale=4, format="jpeg", quality=95)


def test_null_is_absent_and_unknown_fields_are_ignored(live: Live, picture: Picture) -> None:
    fields = ("model", "outputType", "outputFormat", "outputQuality", "includeCost", "deliveryMethod", "webhookURL")
    fields += ("uploadEndpoint", "ttl", "safety", "settings", "providerSettings", "inputs")
    task = upscale(inline(picture()), surprise=[1]) | dict.fromkeys(fields)
    with live.worker.working():
        assert len(data_of(post(live, task))) == 1


@pytest.mark.parametrize("data", [b"some text in a file named .jpg", b"\x89PNG\r\n\x1a\n"])
def test_a_picture_that_is_none_is_refused(live: Live, data: bytes) -> None:
    assert code_of(post(live, upscale(inline(data)))) == ("invalidInputImage", "inputImage")
    assert code_of(post(live, upscale(inputs={"image": inline(data)}))) == ("invalidInputImage", "inputs.image")
    assert live.worker.jobs.counts() == {}


def test_a_picture_that_cannot_be_got_is_reported(live: Live) -> None:
    task = upscale("http://127.0.0.1:9/a.png")
    error = error_of(post(live, task))
    assert error.pop("message") == "the picture's address is not one that this server may fetch from"
    assert error == {
        "code": "invalidInputImage",
        "parameter": "inputImage",
        "type": "string",
        "documentation": "https://runware.ai/docs/en/tools/upscale#request-inputimage",
        "taskUUID": task["taskUUID"],
        "taskType": "imageUpscale",
    }
    polled = error_of(post(live, {"taskType": "getResponse", "taskUUID": task["taskUUID"]}))
    assert (polled["code"], polled["status"], polled["taskType"]) == ("invalidInputImage", "error", "imageUpscale")
    gone = upscale(f"{live.url}/files/{'0' * 32}.png")
    assert code_of(post(live, gone)) == ("downloadFailed", "inputImage")


def test_a_picture_by_url_that_is_none_is_reported_after_the_download(live_server: LiveServer) -> None:
    other, live = live_server(), live_server(allow_hosts=("127.0.0.1",))
    other.worker.blobs.put("0" * 32, b"text")
    assert code_of(post(live, upscale(f"{other.url}/files/{'0' * 32}"))) == ("invalidInputImage", "inputImage")


def test_a_picture_of_another_caller_is_not_there(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(api_keys=("ann", "bob"))
    task = {"taskType": "imageUpload", "taskUUID": new_uuid(), "image": inline(picture())}
    ann, bob = {"Authorization": "ann"}, {"Authorization": "bob"}
    upload = data_of(live.client.post("/v1", json=[task], headers=ann))[0]
    use = upscale(upload["imageUUID"], deliveryMethod="async")
    assert code_of(live.client.post("/v1", json=[use], headers=bob)) == ("invalidInputImage", "inputImage")
    data_of(live.client.post("/v1", json=[use], headers=ann))
    poll = {"taskType": "getResponse", "taskUUID": use["taskUUID"]}
    assert code_of(live.client.post("/v1", json=[poll], headers=bob), 404) == ("taskFailedOrNotFound", None)
    other = data_of(live.client.post("/v1", json=[use | {"inputImage": inline(picture())}], headers=bob))
    assert other[0]["taskUUID"] == use["taskUUID"]  # every caller has its own UUIDs
    result = data_of(live.client.post("/v1", json=[poll], headers=ann))[0]["imageUUID"]
    early = live.client.post("/v1", json=[upscale(result)], headers=ann)
    assert code_of(early) == ("invalidInputImage", "inputImage")  # not done yet


def test_limits_hold_for_what_comes_inline(live_server: LiveServer, dial: Dial, picture: Picture) -> None:
    live = live_server(max_source_bytes=1000, max_source_pixels=100_000)
    talk = dial(live)
    talk.open()
    error = talk.error(upscale(inline(bytes(1001))))
    assert (error["code"], error["message"]) == (
        "invalidInputImage",
        "the picture's file is over this server's limit of 1000 bytes",
    )
    wide = live_server(max_source_pixels=100)
    assert code_of(post(wide, upscale(inline(picture(20, 20))))) == ("invalidInputImage", "inputImage")


def test_a_result_that_no_file_can_hold_is_the_factors_fault(live: Live, picture: Picture) -> None:
    tall = picture(2, 20_000)
    assert code_of(post(live, upscale(inline(tall), upscaleFactor=4))) == ("invalidUpscaleFactor", "upscaleFactor")


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"upscaleFactor": None}, "missingUpscaleFactor", "upscaleFactor"),
    ({"upscaleFactor": None, "targetMegapixels": 4}, "missingUpscaleFactor", "upscaleFactor"),
    ({"taskUUID": None}, "missingTaskUUID", "taskUUID"),
    ({"taskUUID": ""}, "missingTaskUUID", "taskUUID"),
    ({"taskUUID": "no uuid"}, "invalidTaskUUID", "taskUUID"),
    ({"taskUUID": 7}, "invalidTaskUUID", "taskUUID"),
    ({"taskType": None}, "missingTaskType", "taskType"),
    ({"taskType": "imageInference"}, "invalidTaskType", "taskType"),
    ({"taskType": "modelSearch"}, "invalidTaskType", "taskType"),
    ({"taskType": "\ud800"}, "invalidTaskType", "taskType"),
    ({"taskType": ["imageUpscale"]}, "invalidTaskType", "taskType"),
    ({"inputImage": None}, "missingInputImage", "inputImage"),
    ({"inputImage": ""}, "missingInputImage", "inputImage"),
    ({"inputImage": 5}, "invalidInputImage", "inputImage"),
    ({"inputImage": "/etc/passwd:"}, "invalidInputImage", "inputImage"),
    ({"inputImage": "data:text/html,x"}, "invalidInputImage", "inputImage"),
    ({"inputImage": "\ud800"}, "invalidInputImage", "inputImage"),
    ({"inputImage": INPUT}, "invalidInputImage", "inputImage"),
    ({"inputs": {"image": INPUT}}, "invalidInputImage", "inputImage"),
    ({"inputs": "text"}, "invalidInputs", "inputs"),
    ({"inputImage": None, "inputs": {"image": 5}}, "invalidInputImage", "inputs.image"),
    ({"outputType": "url"}, "invalidOutputType", "outputType"),
    ({"outputType": ["URL", "dataURI"]}, "invalidOutputType", "outputType"),
    ({"outputType": []}, "invalidOutputType", "outputType"),
    ({"outputType": [["URL"]]}, "invalidOutputType", "outputType"),
    ({"outputFormat": "GIF"}, "invalidOutputFormat", "outputFormat"),
    ({"outputFormat": 1}, "invalidOutputFormat", "outputFormat"),
    ({"outputQuality": 19}, "invalidOutputQuality", "outputQuality"),
    ({"outputQuality": 100}, "invalidOutputQuality", "outputQuality"),
    ({"outputQuality": "90"}, "invalidOutputQuality", "outputQuality"),
    ({"includeCost": 1}, "invalidIncludeCost", "includeCost"),
    ({"deliveryMethod": "later"}, "invalidDeliveryMethod", "deliveryMethod"),
    ({"webhookURL": "ftp://x"}, "invalidWebhookURL", "webhookURL"),
    ({"webhookURL": True}, "invalidWebhookURL", "webhookURL"),
    ({"webhookURL": "http://127.0.0.1:99999/"}, "invalidWebhookURL", "webhookURL"),
    ({"webhookURL": "http://x", "outputType": "base64Data"}, "invalidOutputType", "outputType"),
    ({"uploadEndpoint": "here"}, "invalidUploadEndpoint", "uploadEndpoint"),
    ({"uploadEndpoint": "http://xn--/"}, "invalidUploadEndpoint", "uploadEndpoint"),
    ({"ttl": 59}, "invalidTtl", "ttl"),
    ({"ttl": 60.5}, "invalidTtl", "ttl"),
    ({"ttl": 60, "outputType": "dataURI"}, "invalidTtl", "ttl"),
    ({"model": 504}, "invalidModel", "model"),
    ({"settings": []}, "invalidSettings", "settings"),
    ({"safety": "full"}, "invalidSafety", "safety"),
    ({"providerSettings": 1}, "invalidProviderSettings", "providerSettings"),
]


def test_validation_errors_name_the_parameter(live: Live, picture: Picture) -> None:
    for fields, code, parameter in BAD:
        task = upscale(inline(picture())) | fields
        task = {name: value for name, value in task.items() if value is not None}
        answer = live.client.post("/v1", content=json.dumps([task]))
        error = error_of(answer)
        assert (error["code"], error["parameter"]) == (code, parameter), fields
        assert error.get("taskUUID") == (task.get("taskUUID") if isinstance(task.get("taskUUID"), str) else None)
        kind = task.get("taskType")
        assert error.get("taskType") == (kind if isinstance(kind, str) else None)
        assert error["type"] in ("string", "integer", "boolean", "object")
    assert live.worker.jobs.counts() == {}


GOOD: list[dict[str, Any]] = [
    {"outputQuality": 20},
    {"outputQuality": 99},
    {"ttl": 60},
    {"ttl": 10**300},
    {"uploadEndpoint": ""},
    {"inputs": {}},
    {"taskUUID": "00000000-0000-0000-0000-000000000000"},
    {"safety": {"checkContent": True, "mode": "full"}, "settings": {"seed": 1}, "providerSettings": {}},
]


def test_what_lies_within_the_documents_is_accepted(live: Live, picture: Picture) -> None:
    for fields in GOOD:
        assert len(data_of(post(live, upscale(inline(picture()), deliveryMethod="async", **fields)))) == 1, fields


# --- how it ends ------------------------------------------------------------------------------------------------------


def test_a_task_that_fails_is_an_error_and_so_when_polled(live: Live, dial: Dial, picture: Picture) -> None:
    talk = dial(live)
    talk.open()
    for error, code in ((JobFailed("it broke"), "taskFailed"), (OutOfMemory("too large"), "processingFailed")):
        task = upscale(inline(picture()))
        talk.say(task)
        live.worker.fail(error)
        told = {
            "code": code,
            "message": error.message,
            "taskType": "imageUpscale",
            "taskUUID": task["taskUUID"],
        }
        assert talk.hear() == {"errors": [told]}
        polled = error_of(post(live, {"taskType": "getResponse", "taskUUID": task["taskUUID"]}))
        assert polled == {**told, "status": "error"}


def test_a_cancelled_task_is_an_error(live: Live, picture: Picture) -> None:
    task = upscale(inline(picture()), deliveryMethod="async")
    data_of(post(live, task))
    (job,) = live.client.get("/jobs").json()["jobs"]
    assert live.client.post(f"/jobs/{job['id']}/cancel").status_code == 200
    assert code_of(post(live, {"taskType": "getResponse", "taskUUID": task["taskUUID"]})) == ("taskCancelled", None)


def test_a_task_whose_result_is_impossible_after_the_download_names_the_factor() -> None:
    job = Job(dialect="runware", owner="x", params=Params(scale=2), request={"parameter": "inputImage"})
    failed = Job(**{**vars(job), "state": State.FAILED, "error_code": ResultImpossible.code, "error_message": "no"})
    assert runware.to_item(runware.failure_of(failed))["parameter"] == "upscaleFactor"


def test_a_sync_task_that_takes_too_long_is_reported_and_goes_on(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(sync_wait_s=0.2)
    task = upscale(inline(picture()))
    error = error_of(post(live, task))
    assert (error["code"], error["taskUUID"], error["taskType"]) == (
        "providerTimeout",
        task["taskUUID"],
        "imageUpscale",
    )
    live.worker.finish()
    assert data_of(post(live, {"taskType": "getResponse", "taskUUID": task["taskUUID"]}))[0]["status"] == "success"


def test_an_unknown_task_is_not_found(live: Live) -> None:
    poll = {"taskType": "getResponse", "taskUUID": TASK}
    assert error_of(post(live, poll), 404) == {
        "code": "taskFailedOrNotFound",
        "message": "Task not found",
        "taskUUID": TASK,
        "taskType": "getResponse",
    }
    assert code_of(post(live, {"taskType": "getResponse"})) == ("missingTaskUUID", "taskUUID")


def test_the_job_is_the_same_job_everywhere(live: Live, picture: Picture) -> None:
    data_of(post(live, upscale(inline(picture()), deliveryMethod="async")))
    (job,) = live.client.get("/jobs").json()["jobs"]
    assert (job["dialect"], job["params"]["scale"], job["params"]["quality"]) == ("runware", 2, 95)
    assert live.client.get(f"/jobs/{job['id']}").json()["id"] == job["id"]


def test_a_failed_task_is_sent_to_its_webhook(live_server: LiveServer, picture: Picture, receiver: Receiver) -> None:
    live = live_server(allow_hosts=("127.0.0.1",))
    receiver.answers = [500]
    task = upscale(inline(picture()), webhookURL=receiver.url)
    data_of(post(live, task))
    live.worker.fail(JobFailed("it broke"))
    first, second = receiver.wait(2)
    assert first.body == second.body
    named = {"taskType": "imageUpscale", "taskUUID": task["taskUUID"]}
    assert json.loads(first.body) == {"code": "taskFailed", "message": "it broke", **named}


def test_webhooks_are_repeated_as_documented() -> None:
    pauses = RETRIES["runware"].pauses_s
    assert pauses[0] == 0.25 and max(pauses) == 8
    assert all(later in (2 * sooner, 8) for sooner, later in zip(pauses, pauses[1:], strict=False))


def test_the_result_is_put_where_the_caller_wants_it(
    live_server: LiveServer, picture: Picture, receiver: Receiver
) -> None:
    live = live_server(allow_hosts=("127.0.0.1",))
    with live.worker.working():
        (item,) = data_of(post(live, upscale(inline(picture()), uploadEndpoint=f"{receiver.url}/put/here?sig=1")))
    (got,) = receiver.wait()
    assert (got.method, got.path, got.headers["content-type"]) == ("PUT", "/put/here?sig=1", "image/jpeg")
    assert got.body == httpx.get(item["imageURL"], trust_env=False, timeout=60).content


def test_ttl_shortens_how_long_a_result_is_kept(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(keep_s=3600)
    for ttl, kept in ((60, 60), (10**300, 3600), (None, None)):
        data_of(post(live, upscale(inline(picture()), deliveryMethod="async", ttl=ttl)))
        assert live.worker.claim().keep_s == kept


# --- uploads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif"])
def test_media_storage_keeps_pictures_too(live: Live, picture: Picture, kind: str) -> None:
    task = {"taskType": "mediaStorage", "taskUUID": new_uuid(), "operation": "upload"}
    data = picture(6, 4, "RGB", kind)
    (item,) = data_of(post(live, task | {"media": inline(data)}))
    assert list(item) == ["taskType", "taskUUID", "mediaUUID"] and UUID4.fullmatch(item["mediaUUID"])
    with live.worker.working():
        assert size_at(data_of(post(live, upscale(item["mediaUUID"])))[0]["imageURL"])[1] == (12, 8)


def test_an_upload_by_url_is_fetched(live_server: LiveServer, picture: Picture) -> None:
    other, live = live_server(), live_server(allow_hosts=("127.0.0.1",))
    other.worker.blobs.put("0" * 32, picture(10, 10))
    task = {"taskType": "imageUpload", "taskUUID": new_uuid()}
    (item,) = data_of(post(live, task | {"image": f"{other.url}/files/{'0' * 32}"}))
    assert item["imageURL"].startswith(live.url) and item["imageURL"].endswith(".png")
    assert httpx.get(item["imageURL"], trust_env=False, timeout=60).content == picture(10, 10)
    again = data_of(post(live, task | {"image": item["imageURL"]}))[0]  # one of our own
    assert again["imageUUID"] != item["imageUUID"]
    assert code_of(post(live, task | {"image": f"{other.url}/files/none"})) == ("downloadFailed", "image")


def test_uploads_that_cannot_be_are_refused(live: Live, picture: Picture) -> None:
    task = {"taskType": "imageUpload", "taskUUID": new_uuid(), "image": inline(picture())}
    media = {"taskType": "mediaStorage", "taskUUID": new_uuid(), "operation": "upload"}
    assert code_of(post(live, task | {"image": ""})) == ("missingImage", "image")
    assert code_of(post(live, task | {"image": 7})) == ("invalidImage", "image")
    assert code_of(post(live, task | {"image": "not base64!"})) == ("invalidImage", "image")
    assert code_of(post(live, task | {"image": inline(b"text")})) == ("invalidImage", "image")
    assert code_of(post(live, task | {"taskUUID": "x"})) == ("invalidTaskUUID", "taskUUID")
    assert code_of(post(live, media)) == ("missingMedia", "media")
    assert code_of(post(live, media | {"operation": "delete"})) == ("invalidOperation", "operation")
    assert code_of(post(live, media | {"media": inline(b"text")})) == ("invalidMedia", "media")


# --- error forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'[{"upscaleFactor": NaN}]', b"[" + b"0," * 100 + b"0]"]
)
def test_a_body_that_is_no_array_of_tasks_is_refused(live: Live, body: bytes) -> None:
    assert code_of(live.client.post("/v1", content=body)) == ("invalidRequest", None)


def test_error_forms_of_what_lies_around_the_tasks(live_server: LiveServer) -> None:
    live = live_server(max_source_bytes=1000)
    assert live.client.get("/v1/no/such").json()["status"] == 404, "below /v1/ it is Replicate that answers"
    method = live.client.get("/v1")
    assert code_of(method, 405) == ("unsupportedMethod", None)
    assert method.headers["allow"] == "POST"
    assert code_of(live.client.post("/v1", content=bytes(2 * MIB)), 413) == ("maxRequestSizeExceeded", None)


def test_a_full_queue_answers_429(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(max_queue=1)
    data_of(post(live, upscale(inline(picture()), deliveryMethod="async")))
    assert code_of(post(live, upscale(inline(picture()))), 429) == ("rateLimitExceeded", None)


def test_without_a_network_it_is_unavailable() -> None:
    body, status = runware.to_error(ModelNotFound("no weights are installed"))
    assert status == 503
    errors = [{"code": "serviceUnavailable", "message": "no weights are installed"}]
    assert body == {"errors": errors}


def test_what_breaks_is_an_internal_error(
    config: MakeConfig, picture: Picture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = create_app(config())

    def fail(service: ServiceDep) -> None:
        raise RuntimeError("a detail for the log alone")

    app.router.add_api_route("/v1", fail, methods=["PATCH"])
    # One of several tasks, too: the others are answered.
    monkeypatch.setitem(tasks.HANDLERS, "getResponse", lambda *_: 1 / 0)
    with serve(app) as url, httpx.Client(base_url=url, trust_env=False, timeout=60) as client:  # it draws a traceback
        assert code_of(client.patch("/v1"), 500) == ("internalServerError", None)
        broken = {"taskType": "getResponse", "taskUUID": TASK}
        assert error_of(client.post("/v1", json=[broken]), 500) == {
            "code": "internalServerError",
            "message": "Something went wrong inside the server.",
            "taskUUID": TASK,
            "taskType": "getResponse",
        }
        mixed = client.post("/v1", json=[PING, broken])
        assert (mixed.status_code, mixed.json()["data"]) == (200, PONG["data"])
    assert "a detail for the log alone" in "".join(capsys.readouterr())


def test_the_prefix_is_a_whole_word(live: Live) -> None:
    assert dialect_of("/v1").NAME == "runware"
    for path in ("/v1/x", "/v1x", "/v10", "/v", "/api/v1", "/v3/async/upscale", "/"):
        assert dialect_of(path).NAME != "runware"
    assert live.client.get("/").json()["name"] == "upscale-server"
