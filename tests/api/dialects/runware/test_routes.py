"""Runware over REST: what its documents and its clients require."""

import base64
import json
import socket
import time
from contextlib import ExitStack

from server.job.job import Job, Params
from tests.api.dialects.runware.client import (
    BAD_KEY,
    INPUT,
    TASK,
    UUID4,
    code_of,
    data_of,
    error_of,
    inline,
    post,
    size_at,
    upscale,
)
from tests.conftest import Live, LiveServer, Picture

SEED = (
    '[{"taskType":"imageUpscale","taskUUID":"19abad0d-6ec5-40a6-b7af-203775fa5b7f",'
    '"inputImage":"fd613011-3872-4f37-b4aa-0d343c051a27","outputType":"URL","outputFormat":"JPG","upscaleFactor":2}]'
)


def keep_picture(live: Live, picture_id: str, data: bytes) -> None:
    """Under that UUID, as the source of some earlier job."""
    hex32 = picture_id.replace("-", "")
    live.worker.blobs.put(hex32, data)
    job = Job(dialect="native", owner="local", params=Params(scale=1), source_id=hex32, source_key=hex32)
    live.worker.jobs.enqueue(job)
    live.worker.finish(live.worker.claim())


# --- R: REST seed request verbatim; includeCost on/off; 2/3/4 ok, 5 and 1 error; array outputType; lower-case jpg ----


def test_r_rest_seed_request_verbatim(live: Live, picture: Picture) -> None:
    keep_picture(live, INPUT, picture(40, 20))
    with live.worker.working():
        answer = live.client.post("/v1", content=SEED, headers={"Authorization": "Bearer key"})
    (item,) = data_of(answer)
    assert list(item) == ["taskType", "taskUUID", "imageUUID", "inputImageUUID", "imageURL"]
    assert (item["taskType"], item["taskUUID"], item["inputImageUUID"]) == ("imageUpscale", TASK, INPUT)
    assert UUID4.fullmatch(item["imageUUID"])
    assert size_at(item["imageURL"]) == ("JPEG", (80, 40))


def test_r_include_cost_on_and_off(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(price_per_job=0.0013)
    with live.worker.working():
        on, off, unsaid = [
            data_of(post(live, upscale(inline(picture()), **extra)))[0]
            for extra in ({"includeCost": True}, {"includeCost": False}, {})
        ]
    assert on["cost"] == 0
    assert "cost" not in off and "cost" not in unsaid


def test_r_factors_2_3_and_4_are_ok(live: Live, picture: Picture) -> None:
    for factor in (2, 3, 4, 2.0):
        with live.worker.working():
            (item,) = data_of(post(live, upscale(inline(picture(10, 5)), upscaleFactor=factor, outputFormat="PNG")))
        assert size_at(item["imageURL"]) == ("PNG", (10 * factor, 5 * factor))


def test_r_factors_5_and_1_are_errors(live: Live, picture: Picture) -> None:
    for factor in (5, 1, 0, -2, 2.5, "2", True, [2], 10**400):
        task = upscale(inline(picture()), upscaleFactor=factor)
        assert error_of(post(live, task)) == {
            "code": "invalidUpscaleFactor",
            "message": "Invalid value for 'upscaleFactor' parameter. Must be one of 2, 3 or 4.",
            "parameter": "upscaleFactor",
            "type": "integer",
            "documentation": "https://runware.ai/docs/en/tools/upscale#request-upscalefactor",
            "taskUUID": task["taskUUID"],
            "taskType": "imageUpscale",
        }


def test_r_array_output_type(live: Live, picture: Picture) -> None:
    with live.worker.working():
        (item,) = data_of(post(live, upscale(inline(picture()), outputType=["URL"])))
        (base,) = data_of(post(live, upscale(inline(picture()), outputType=["base64Data"], outputFormat="PNG")))
        (uri,) = data_of(post(live, upscale(inline(picture()), outputType="dataURI", outputFormat="WEBP")))
    assert size_at(item["imageURL"])[0] == "JPEG"
    assert base64.b64decode(base["imageBase64Data"], validate=True).startswith(b"\x89PNG") and "imageURL" not in base
    assert uri["imageDataURI"].startswith("data:image/webp;base64,") and "imageURL" not in uri


def test_r_lower_case_jpg(live: Live, picture: Picture) -> None:
    with live.worker.working():
        (item,) = data_of(post(live, upscale(inline(picture()), outputFormat="jpg")))
    assert size_at(item["imageURL"])[0] == "JPEG"


# --- R: no `errors` key on success; bad key body + 401; auth as first element; two tasks in one array ----------------


def test_r_no_errors_key_on_success(live: Live, picture: Picture) -> None:
    answer = post(live, upscale(inline(picture()), deliveryMethod="async"))
    assert (answer.status_code, list(answer.json())) == (200, ["data"])


def test_r_bad_key_body_and_401(locked: Live) -> None:
    wrong = {"taskType": "authentication", "apiKey": "wrong"}
    for answer in (
        locked.client.post("/v1", content=SEED, headers={"Authorization": "Bearer wrong"}),
        post(locked, wrong, upscale("x")),
        post(locked, wrong | {"apiKey": "\ud800"}, upscale("x")),
        # the header decides, if there is one
        locked.client.post("/v1", json=[wrong | {"apiKey": "key"}], headers={"Authorization": "wrong"}),
    ):
        assert (answer.status_code, answer.json()) == (401, {"errors": [BAD_KEY]})


def test_a_missing_key_is_distinguished_from_a_bad_one(locked: Live) -> None:
    late = [upscale("x"), {"taskType": "authentication", "apiKey": "key"}]
    for content in (SEED, b"", b"[", b"7", b"[" * 70000, json.dumps(late), '[{"taskType":"authentication"}]'):
        error = error_of(locked.client.post("/v1", content=content), 401)
        assert (error["code"], error["parameter"], error["taskType"]) == ("missingApiKey", "apiKey", "authentication")


def test_r_auth_as_first_element(locked: Live, picture: Picture) -> None:
    key = {"taskType": "authentication", "apiKey": "key"}
    with locked.worker.working():
        long = upscale(inline(picture(400, 400, "RGB", "tiff")))
        assert size_at(data_of(post(locked, key, long))[0]["imageURL"]) == ("JPEG", (800, 800))
        header = locked.client.post(
            "/v1", json=[key, upscale(inline(picture()))], headers={"Authorization": "Bearer key"}
        )
    assert len(data_of(header)) == 1
    assert code_of(post(locked, key)) == ("invalidRequest", None)


def test_a_long_body_is_not_read_before_its_key(locked: Live) -> None:
    with socket.create_connection(("127.0.0.1", locked.client.base_url.port or 0)) as line:
        line.sendall(b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n[" + bytes(70000))
        assert line.recv(1000).startswith(b"HTTP/1.1 401")


def test_r_two_tasks_in_one_array(live: Live, picture: Picture) -> None:
    good, bad = upscale(inline(picture())), upscale(inline(picture()), upscaleFactor=9)
    with live.worker.working():
        both = data_of(post(live, good, upscale(inline(picture()))))
        mixed = post(live, upscale(inline(picture())), bad)
    assert [each["taskUUID"] for each in both][0] == good["taskUUID"] and len(both) == 2
    assert mixed.status_code == 200
    assert [len(mixed.json()[name]) for name in ("data", "errors")] == [1, 1]
    assert mixed.json()["errors"][0]["taskUUID"] == bad["taskUUID"]


def test_two_bad_tasks_have_two_errors_and_the_gravest_status(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(max_queue=1)
    data_of(post(live, upscale(inline(picture()), deliveryMethod="async")))
    answer = post(live, upscale(inline(picture()), deliveryMethod="async"), {"taskType": "unheardOf"}, "text")
    assert answer.status_code == 429
    assert [each["code"] for each in answer.json()["errors"]] == [
        "rateLimitExceeded",
        "invalidTaskType",
        "missingTaskType",
    ]


def test_tasks_of_one_array_run_at_the_same_time(live: Live, picture: Picture) -> None:
    with ExitStack() as stack:
        stack.enter_context(live.worker.working())
        started = time.monotonic()
        assert len(data_of(post(live, *[upscale(inline(picture())) for _ in range(20)]))) == 20
    assert time.monotonic() - started < 10


def test_a_bare_task_is_an_array_of_one(live: Live, picture: Picture) -> None:
    task = upscale(inline(picture()), deliveryMethod="async")
    assert data_of(live.client.post("/v1", json=task)) == [{"taskType": "imageUpscale", "taskUUID": task["taskUUID"]}]
