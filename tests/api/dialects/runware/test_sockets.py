"""Runware over WebSockets: what its documents and its clients require."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from server.api.dialects.runware import sessions, sockets
from server.config import MIB
from tests.api.dialects.runware.client import (
    BAD_KEY,
    PING,
    PONG,
    TASK,
    UUID4,
    Dial,
    code_of,
    inline,
    new_uuid,
    post,
    size_at,
    upscale,
)
from tests.conftest import Live, LiveServer, Picture, Receiver


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
    assert httpx.get(upload["imageURL"], trust_env=False, timeout=60).content == picture(9, 8)
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
    assert talk.data(task) == named  # although no worker has begun
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
    assert httpx.get(upload["imageURL"], trust_env=False, timeout=60).content == data


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

    def send() -> list[str]:
        for _ in range(2):
            sender.line.send(large)
        return [sender.hear(60)["errors"][0]["code"] for _ in range(2)]

    answered = 0
    with ThreadPoolExecutor(1) as thread:
        sent = thread.submit(send)
        while not sent.done():
            talk.say(PING)
            assert talk.hear(30) == PONG  # the Python client gives up after 30 s
            answered += 1
    assert sent.result() == ["invalidImage"] * 2
    assert answered > 10, "while they were read"


# --- sockets ----------------------------------------------------------------------------------------------------------


def test_a_bad_key_is_reported_as_the_clients_need_it_and_may_be_corrected(locked: Live, dial: Dial) -> None:
    talk = dial(locked)
    for key in ("wrong", "\ud800"):
        assert talk.ask({"taskType": "authentication", "apiKey": key}) == {"errors": [BAD_KEY]}
    assert talk.ask(PING) == PONG
    talk.open()


def test_a_task_before_the_key_is_reported(live: Live, dial: Dial, picture: Picture) -> None:
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
def test_a_frame_that_is_no_array_of_tasks_is_reported_and_the_line_stays(live: Live, dial: Dial, frame: str) -> None:
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
    # The rest of the frame is still being sent when the server closes; a reset may arrive before the reason.
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1009


def test_other_paths_take_no_sockets(live: Live) -> None:
    for path in ("/v1/x", "/jobs", "/v2"):
        with pytest.raises(InvalidStatus), connect("ws" + live.url.removeprefix("http") + path, proxy=None):
            pass


def test_so_many_tasks_at_a_time_and_no_more(
    live: Live, dial: Dial, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "MAX_TASKS", 2)
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
    monkeypatch.setattr(sessions, "STORE_S", 0.2)
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
    monkeypatch.setattr(sockets, "IDLE_S", 0.3)
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
