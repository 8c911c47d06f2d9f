"""The Runware API, item by item, over HTTP and over WebSockets: what its documents and its clients hold us to."""

import base64
import io
import json
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from server.api.app import create_app
from server.api.dialects import dialect_of
from server.api.dialects.base import ServiceDep
from server.api.dialects.runware import routes as runware
from server.api.dialects.runware import sessions as session
from server.config import MIB
from server.errors import JobFailed, ModelNotFound, OutOfMemory, ResultImpossible
from server.job.job import Job, Params, State
from tests.conftest import Live, LiveServer, MakeConfig, Picture, Receiver, serve

TASK = "19abad0d-6ec5-40a6-b7af-203775fa5b7f"
INPUT = "fd613011-3872-4f37-b4aa-0d343c051a27"
SEED = (
    '[{"taskType":"imageUpscale","taskUUID":"19abad0d-6ec5-40a6-b7af-203775fa5b7f",'
    '"inputImage":"fd613011-3872-4f37-b4aa-0d343c051a27","outputType":"URL","outputFormat":"JPG","upscaleFactor":2}]'
)
UUID4 = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
BAD_KEY = {
    "code": "invalidApiKey",
    "message": "Invalid API key. Get one at https://my.runware.ai/signup",
    "parameter": "apiKey",
    "taskType": "authentication",
}


def inline(data: bytes) -> str:
    return base64.b64encode(data).decode()


def new_uuid() -> str:
    return str(uuid.uuid4())


def upscale(image: str | None = None, **fields: Any) -> dict[str, Any]:
    task = {"taskType": "imageUpscale", "taskUUID": new_uuid(), "upscaleFactor": 2, "inputImage": image, **fields}
    return {name: value for name, value in task.items() if value is not None}


def post(live: Live, *tasks: Any) -> httpx.Response:
    return live.client.post("/v1", content=json.dumps(tasks))


def data_of(answer: httpx.Response) -> list[dict[str, Any]]:
    body = answer.json()
    assert (answer.status_code, list(body)) == (200, ["data"]), answer.text
    found: list[dict[str, Any]] = body["data"]
    return found


def error_of(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    body = answer.json()
    assert (answer.status_code, list(body)) == (status, ["errors"]), answer.text
    (error,) = body["errors"]
    assert isinstance(error["message"], str) and error["message"]
    return dict(error)


def code_of(answer: httpx.Response, status: int = 400) -> tuple[str, str | None]:
    error = error_of(answer, status)
    return error["code"], error.get("parameter")


def keep_picture(live: Live, picture_id: str, data: bytes) -> None:
    """Under that UUID, as the source of some earlier job."""
    hex32 = picture_id.replace("-", "")
    live.worker.blobs.put(hex32, data)
    job = Job(dialect="native", owner="local", params=Params(scale=1), source_id=hex32, source_key=hex32)
    live.worker.jobs.enqueue(job)
    live.worker.finish(live.worker.claim())


def size_at(url: str) -> tuple[str | None, tuple[int, int]]:
    with Image.open(io.BytesIO(httpx.get(url, trust_env=False).raise_for_status().content)) as image:
        return image.format, image.size


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


@pytest.fixture
def locked(live_server: LiveServer) -> Live:
    return live_server(api_keys=("key",))


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


def test_a_missing_key_is_told_from_a_bad_one(locked: Live) -> None:
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


# --- R: WS handshake, ping, upload→upscale by UUID, result UUID re-used as input, async+getResponse < 2 polls late, ---
# ---    conflictTaskUUID, webhook ack immediate -----------------------------------------------------------------------


class Talk:
    """A caller at its end of a WebSocket."""

    def __init__(self, line: ClientConnection) -> None:
        self.line = line

    def say(self, *tasks: Any) -> None:
        self.line.send(json.dumps(list(tasks)))

    def hear(self, seconds: float = 10) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(self.line.recv(seconds))
        assert list(frame) in (["data"], ["errors"]) and len(next(iter(frame.values()))) == 1
        return frame

    def ask(self, *tasks: Any) -> dict[str, Any]:
        self.say(*tasks)
        return self.hear()

    def data(self, *tasks: Any) -> dict[str, Any]:
        frame = self.ask(*tasks)
        assert "data" in frame, frame
        item: dict[str, Any] = frame["data"][0]
        return item

    def error(self, *tasks: Any) -> dict[str, Any]:
        frame = self.ask(*tasks)
        assert "errors" in frame, frame
        item: dict[str, Any] = frame["errors"][0]
        return item

    def open(self, key: str = "key", **fields: Any) -> str:
        item = self.data({"taskType": "authentication", "apiKey": key, **fields})
        assert list(item) == ["taskType", "connectionSessionUUID"]
        assert UUID4.fullmatch(item["connectionSessionUUID"])
        return str(item["connectionSessionUUID"])


Dial = Callable[..., Talk]


@pytest.fixture
def dial() -> Iterator[Dial]:
    with ExitStack() as stack:

        def call(live: Live, path: str = "/v1") -> Talk:
            url = "ws" + live.url.removeprefix("http") + path
            return Talk(stack.enter_context(connect(url, max_size=None, proxy=None)))

        yield call


PING = {"taskType": "ping", "ping": True}
PONG = {"data": [{"taskType": "ping", "pong": True}]}


@pytest.mark.parametrize("path", ["/v1", "/", "/v1?sdk=js&version=1.3.2", "//v1"])
def test_r_ws_handshake_and_ping(locked: Live, dial: Dial, path: str) -> None:
    talk = dial(locked, path)
    first = talk.open()
    assert talk.ask(PING) == PONG
    assert talk.open() == first  # the session it has
    assert dial(locked).open() != first


def test_r_ws_upload_then_upscale_by_uuid_then_the_result_as_input(live: Live, dial: Dial, picture: Picture) -> None:
    talk = dial(live)
    talk.open()
    task = {
        "taskType": "imageUpload",
        "taskUUID": new_uuid(),
        "image": f"data:image/png;base64,{inline(picture(9, 8))}",
    }
    upload = talk.data(task)
    assert list(upload) == ["taskType", "taskUUID", "imageUUID", "imageURL"]
    assert (upload["taskType"], upload["taskUUID"]) == ("imageUpload", task["taskUUID"])
    assert UUID4.fullmatch(upload["imageUUID"])  # or the JS client takes it for something else
    assert httpx.get(upload["imageURL"], trust_env=False).content == picture(9, 8)
    with live.worker.working():
        once = talk.data(upscale(upload["imageUUID"]))
        twice = talk.data(upscale(inputs={"image": once["imageUUID"]}))
        again = talk.data(upscale(once["inputImageUUID"].upper()))
        by_link = talk.data(upscale(upload["imageURL"]))
    assert once["inputImageUUID"] == upload["imageUUID"] and twice["inputImageUUID"] == once["imageUUID"]
    sizes = [size_at(each["imageURL"])[1] for each in (once, twice, again, by_link)]
    assert sizes == [(18, 16), (36, 32), (18, 16), (18, 16)]
    assert UUID4.fullmatch(by_link["inputImageUUID"])


def test_r_ws_async_and_get_response(live: Live, dial: Dial, picture: Picture) -> None:
    talk = dial(live)
    talk.open()
    task = upscale(inline(picture()), deliveryMethod="async", includeCost=True)
    named = {"taskType": "imageUpscale", "taskUUID": task["taskUUID"]}
    poll = {"taskType": "getResponse", "taskUUID": task["taskUUID"]}
    assert talk.data(task) == named
    waiting = talk.data(poll)
    job = live.worker.claim()
    running = talk.data(poll)
    image_uuid = running["imageUUID"]  # without it, the Python client drops the answer and waits 30 s for another
    assert waiting == running == {**named, "status": "processing", "imageUUID": image_uuid}
    live.worker.finish(job)
    done = talk.data(poll)
    assert done == talk.data({**poll, "taskUUID": task["taskUUID"]})
    assert done == {
        **named,
        "imageUUID": image_uuid,
        "inputImageUUID": done["inputImageUUID"],
        "imageURL": done["imageURL"],
        "cost": 0,
        "status": "success",
    }


def test_r_ws_conflict_task_uuid(live: Live, dial: Dial, picture: Picture) -> None:
    talk = dial(live)
    talk.open()
    task = upscale(inline(picture()), deliveryMethod="async")
    talk.data(task)
    for again in (task, {**task, "taskUUID": task["taskUUID"].upper()}):
        error = talk.error(again)
        assert (error["code"], error["parameter"], error["taskUUID"]) == (
            "conflictTaskUUID",
            "taskUUID",
            again["taskUUID"],
        )
    assert code_of(post(live, task)) == ("conflictTaskUUID", "taskUUID")
    live.worker.finish()
    assert talk.error(task)["code"] == "conflictTaskUUID"


def test_r_ws_webhook_ack_immediate(live_server: LiveServer, dial: Dial, picture: Picture, receiver: Receiver) -> None:
    live = live_server(allow_hosts=("127.0.0.1",))
    talk = dial(live)
    talk.open()
    hook = f"{receiver.url}/hook?token=a%20b&c=d"
    task = upscale(inline(picture()), deliveryMethod="sync", webhookURL=hook, includeCost=True)
    named = {"taskType": "imageUpscale", "taskUUID": task["taskUUID"]}
    assert talk.data(task) == named  # though nobody has begun to work
    assert receiver.got == []
    live.worker.finish()
    (got,) = receiver.wait()
    assert (got.method, got.path, got.headers["content-type"]) == ("POST", "/hook?token=a%20b&c=d", "application/json")
    told = json.loads(got.body)
    assert list(told) == ["taskType", "taskUUID", "imageUUID", "inputImageUUID", "imageURL", "cost"]
    assert told == {**told, **named}
    assert size_at(told["imageURL"])[0] == "JPEG"
    polled = talk.data({"taskType": "getResponse", "taskUUID": task["taskUUID"]})
    assert polled == {**told, "status": "success"}


# --- R: 30 MB frame accepted; ping answered while a job runs ----------------------------------------------------------


def test_r_30_mb_frame_accepted(live: Live, dial: Dial, picture: Picture) -> None:
    data = picture(3000, 2500, "RGB", "tiff")  # 22.5 MB, hence 30 MB of base64
    talk = dial(live)
    talk.open()
    talk.say({"taskType": "imageUpload", "taskUUID": new_uuid(), "image": inline(data)})
    upload = talk.hear(30)["data"][0]
    assert len(inline(data)) >= 30_000_000
    assert httpx.get(upload["imageURL"], trust_env=False).content == data


def test_r_ping_answered_while_a_job_runs(live: Live, dial: Dial, picture: Picture) -> None:
    talk = dial(live)
    talk.open()
    task = upscale(inline(picture()))
    talk.say(task)
    job = live.worker.claim()
    for _ in range(3):
        assert talk.ask(PING) == PONG
    live.worker.finish(job)
    assert talk.hear()["data"][0]["taskUUID"] == task["taskUUID"]


def test_pings_go_on_while_large_frames_are_read(live: Live, dial: Dial, picture: Picture) -> None:
    """Another caller's, that is: those behind a large frame come after it."""
    large = json.dumps([{"taskType": "imageUpload", "taskUUID": new_uuid(), "image": "A" * 60 * MIB}])
    sender, talk = dial(live), dial(live)
    sender.open()
    talk.open()
    longest = 0.0
    for _ in range(2):
        sender.line.send(large)
    for _ in range(100):
        started = time.monotonic()
        assert talk.ask(PING) == PONG
        longest = max(longest, time.monotonic() - started)
        time.sleep(0.01)
    for _ in range(2):
        assert sender.hear(30)["errors"][0]["code"] == "invalidImage"
    assert longest < 2  # the Python client gives up after 30 s


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


def test_a_picture_that_cannot_be_got_is_told(live: Live) -> None:
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


def test_a_picture_by_url_that_is_none_is_told_after_the_download(live_server: LiveServer) -> None:
    other, live = live_server(), live_server(allow_hosts=("127.0.0.1",))
    other.worker.blobs.put("0" * 32, b"text")
    assert code_of(post(live, upscale(f"{other.url}/files/{'0' * 32}"))) == ("invalidInputImage", "inputImage")


def test_a_picture_of_somebody_else_is_not_there(live_server: LiveServer, picture: Picture) -> None:
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
    assert other[0]["taskUUID"] == use["taskUUID"]  # everybody has UUIDs of their own
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
    assert runware._item(runware._failure(failed))["parameter"] == "upscaleFactor"


def test_a_sync_task_that_takes_too_long_is_told_and_goes_on(live_server: LiveServer, picture: Picture) -> None:
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


def test_a_failed_task_is_told_to_its_webhook(live_server: LiveServer, picture: Picture, receiver: Receiver) -> None:
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
    pauses = runware.WEBHOOK_PAUSES_S
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
    assert got.body == httpx.get(item["imageURL"], trust_env=False).content


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
    assert httpx.get(item["imageURL"], trust_env=False).content == picture(10, 10)
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
    assert code_of(live.client.get("/v1/no/such"), 404) == ("resourceNotFound", None)
    method = live.client.get("/v1")
    assert code_of(method, 405) == ("unsupportedMethod", None)
    assert method.headers["allow"] == "POST"
    assert code_of(live.client.post("/v1", content=bytes(2 * MIB)), 413) == ("maxRequestSizeExceeded", None)


def test_a_full_queue_answers_429(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(max_queue=1)
    data_of(post(live, upscale(inline(picture()), deliveryMethod="async")))
    assert code_of(post(live, upscale(inline(picture()))), 429) == ("rateLimitExceeded", None)


def test_without_a_network_it_is_unavailable() -> None:
    answer = runware.to_error(ModelNotFound("no weights are installed"))
    assert answer.status_code == 503
    errors = [{"code": "serviceUnavailable", "message": "no weights are installed"}]
    assert json.loads(bytes(answer.body)) == {"errors": errors}


def test_what_breaks_is_an_internal_error(
    config: MakeConfig, picture: Picture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = create_app(config())

    def fail(service: ServiceDep) -> None:
        raise RuntimeError("a detail for the log alone")

    app.router.add_api_route("/v1/broken", fail)
    # One of several tasks, too: the others are answered.
    monkeypatch.setitem(runware._WORKS, "getResponse", lambda *_: 1 / 0)
    with serve(app) as url, httpx.Client(base_url=url, trust_env=False, timeout=60) as client:  # it draws a traceback
        assert code_of(client.get("/v1/broken"), 500) == ("internalServerError", None)
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
    assert dialect_of("/v1").NAME == dialect_of("/v1/x").NAME == "runware"
    for path in ("/v1x", "/v10", "/v", "/api/v1", "/v3/async/upscale", "/"):
        assert dialect_of(path).NAME != "runware"
    assert live.client.get("/").json()["name"] == "upscale-server"


# --- sockets ----------------------------------------------------------------------------------------------------------


def test_a_bad_key_is_told_as_the_clients_need_it_and_may_be_corrected(locked: Live, dial: Dial) -> None:
    talk = dial(locked)
    for key in ("wrong", "\ud800"):
        assert talk.ask({"taskType": "authentication", "apiKey": key}) == {"errors": [BAD_KEY]}
    assert talk.ask(PING) == PONG
    talk.open()


def test_a_task_before_the_key_is_told_so(live: Live, dial: Dial, picture: Picture) -> None:
    talk = dial(live)
    for task in (upscale(inline(picture())), upscale("A" * 100_000), "text", {"taskType": "authentication"}):
        error = talk.error(task)
        assert (error["code"], error["taskType"], "taskUUID" in error) == ("missingApiKey", "authentication", False)
    # In one frame they are taken in turn.
    talk.say({"taskType": "authentication", "apiKey": "any"}, PING)
    assert [list(talk.hear()["data"][0])[1] for _ in range(2)] == ["connectionSessionUUID", "pong"]


def test_each_error_has_a_frame_of_its_own(live: Live, dial: Dial) -> None:
    talk = dial(live)
    talk.open()
    tasks = [upscale("x", upscaleFactor=9), {"taskType": "getResponse", "taskUUID": TASK}, "text", {}]
    talk.say(*tasks)
    codes = sorted(talk.hear()["errors"][0]["code"] for _ in tasks)
    assert codes == ["invalidUpscaleFactor", "missingTaskType", "missingTaskType", "taskFailedOrNotFound"]


@pytest.mark.parametrize("frame", ["", "{", "[]", "[" * 100_000, "NaN", b"\xff"])
def test_a_frame_that_is_no_array_of_tasks_is_told_and_the_line_stays(live: Live, dial: Dial, frame: str) -> None:
    talk = dial(live)
    talk.open()
    talk.line.send(frame)
    assert talk.hear()["errors"][0]["code"] == "invalidRequest"
    assert talk.ask(PING) == PONG


def test_a_frame_may_be_bytes_or_a_bare_task(live: Live, dial: Dial) -> None:
    talk = dial(live)
    talk.line.send(json.dumps(PING).encode())
    assert talk.hear() == PONG


def test_a_frame_that_is_too_large_ends_the_line(live: Live, dial: Dial) -> None:
    talk = dial(live)
    talk.open()
    with pytest.raises(ConnectionClosed) as closed:
        talk.line.send("A" * (64 * MIB + 1))
        talk.hear(30)
    # The rest of the frame is on its way when the server hangs up, and a reset may overtake the reason.
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1009


def test_other_paths_take_no_sockets(live: Live) -> None:
    for path in ("/v1/x", "/jobs", "/v2"):
        with pytest.raises(InvalidStatus), connect("ws" + live.url.removeprefix("http") + path, proxy=None):
            pass


def test_so_many_tasks_at_a_time_and_no_more(
    live: Live, dial: Dial, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runware, "MAX_TASKS", 2)
    talk = dial(live)
    talk.open()
    first, second = upscale(inline(picture())), upscale(inline(picture()))
    talk.say(first, second)
    error = talk.error({"taskType": "getResponse", "taskUUID": TASK})
    assert (error["code"], error["taskUUID"], error["taskType"]) == ("rateLimitExceeded", TASK, "getResponse")
    with live.worker.working():
        assert {talk.hear()["data"][0]["taskUUID"] for _ in range(2)} == {first["taskUUID"], second["taskUUID"]}
    assert talk.error({"taskType": "getResponse", "taskUUID": TASK})["code"] == "taskFailedOrNotFound"


def test_a_result_that_came_while_the_line_was_broken_is_sent_on_the_next(
    live: Live, dial: Dial, picture: Picture
) -> None:
    talk = dial(live)
    session_id = talk.open()
    task = upscale(inline(picture()))
    talk.say(task)
    job = live.worker.claim()
    talk.line.close()
    live.worker.finish(job)
    time.sleep(0.5)
    other = dial(live)
    assert other.open() != session_id
    back = dial(live)
    assert back.open(connectionSessionUUID=session_id) == session_id
    assert back.hear()["data"][0]["taskUUID"] == task["taskUUID"]
    assert back.ask(PING) == PONG  # once, that is
    assert other.ask(PING) == PONG


def test_a_task_that_ends_after_the_caller_is_back_is_sent_there(live: Live, dial: Dial, picture: Picture) -> None:
    talk = dial(live)
    session_id = talk.open()
    task = upscale(inline(picture()))
    talk.say(task)
    job = live.worker.claim()
    back = dial(live)  # the first line looks alive yet
    back.open(connectionSessionUUID=session_id)
    talk.line.close()
    live.worker.finish(job)
    assert back.hear()["data"][0]["taskUUID"] == task["taskUUID"]


def test_a_session_belongs_to_its_key(live_server: LiveServer, dial: Dial) -> None:
    live = live_server(api_keys=("ann", "bob"))
    session_id = dial(live).open("ann")
    assert dial(live).open("bob", connectionSessionUUID=session_id) != session_id
    for wrong in (TASK, 7, [], ""):
        assert dial(live).open("ann", connectionSessionUUID=wrong) != wrong


def test_what_was_not_fetched_in_time_is_forgotten(
    live: Live, dial: Dial, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "KEEP_S", 0.2)
    talk = dial(live)
    session_id = talk.open()
    talk.say(upscale(inline(picture())))
    job = live.worker.claim()
    talk.line.close()
    live.worker.finish(job)
    time.sleep(1.2)
    assert dial(live).open(connectionSessionUUID=session_id) != session_id


def test_a_silent_line_is_closed_but_not_while_something_is_done(
    live: Live, dial: Dial, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runware, "IDLE_S", 0.3)
    quiet, busy = dial(live), dial(live)
    busy.open()
    busy.say(upscale(inline(picture())))
    job = live.worker.claim()
    with pytest.raises(ConnectionClosed) as closed:
        quiet.hear()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000
    time.sleep(0.7)
    live.worker.finish(job)
    assert "data" in busy.hear()
