"""What a plan depends on besides the request: the workers that are alive, and the operator's policy."""

import base64
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from server.api.app import create_app
from server.db.jobs import MAX_ATTEMPTS, WorkerInfo
from server.errors import ModelNotFound, Unavailable
from server.images.read.open import Header, read_header
from server.job.job import Job, Params, State
from server.outbound.source import Source
from server.service import service
from server.service.service import LOOKS, READERS
from tests.conftest import Live, LiveServer, MakeConfig, Picture
from tests.outbound.test_source import say, serving


def plan(live: Live, **wanted: object) -> dict[str, object]:
    answer = live.client.post("/plan", json={"width": 64, "height": 48, "scale": 4, **wanted})
    result: dict[str, object] = answer.json()
    return result


def test_a_plan_is_for_the_devices_of_the_workers(live: Live) -> None:
    (live.config.weights_path / "RealESRGAN_x4plus.pth").touch()
    before = plan(live)["model"]
    assert before != "RealESRGAN_x4plus"
    live.worker.beat()
    assert plan(live)["model"] == before, "the worker has a CPU"
    live.worker.jobs.worker_beat(WorkerInfo("gpu", "NVIDIA H200 (cuda:0)", True, "cuda"))
    assert plan(live)["model"] == "RealESRGAN_x4plus"
    assert plan(live, creativity=-2)["model"] == "fidelity-x4"


def test_a_name_decides_by_itself(live: Live) -> None:
    assert plan(live, model="realesr-animevideov3")["model"] == "realesr-animevideov3"


def test_denoise_needs_its_network(live: Live) -> None:
    error = plan(live, model="fidelity-x4", denoise=0.5)["error"]
    assert error == {
        "code": "invalid_field",
        "message": "fidelity-x4 has no denoise strength; realesr-general-x4v3 has",
        "field": "denoise",
    }
    words = plan(live, denoise=0.5)["error"]
    assert "`python -m server weights pull realesr-general-x4v3` gets them" in str(words)


def test_denoise_is_reported_as_the_mix_it_is(live: Live) -> None:
    for name in ("realesr-general-x4v3", "realesr-general-wdn-x4v3"):
        (live.config.weights_path / f"{name}.pth").touch()
    mixed = plan(live, denoise=0.25)["model"]
    assert mixed == "realesr-general-x4v3 0.25 + realesr-general-wdn-x4v3 0.75"


def test_the_policy_holds_for_what_callers_name(live_server: LiveServer) -> None:
    live = live_server(licence_policy="commercial")
    assert plan(live, model="realesr-animevideov3")["model"] == "realesr-animevideov3"
    error = plan(live, model="GFPGANv1.4")["error"]
    assert "GFPGANv1.4 is not an upscaling network" in str(error)


def test_a_source_that_kills_callers_who_reads_it_is_not_read_for_ever(live: Live) -> None:
    url = "http://127.0.0.1:9/picture.png"
    job = Job(dialect="native", owner="local", params=Params(scale=2), source_url=url, attempt=MAX_ATTEMPTS)
    live.worker.jobs.enqueue(job)
    deadline = time.monotonic() + 10
    while (found := live.worker.jobs.get(job.id)).state is not State.FAILED and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found.error_message == "the server's process died 3 times while it read this picture"


def test_pictures_that_are_slow_to_read_delay_neither_polls_nor_other_keys(
    live_server: LiveServer, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than the server has threads. The slow read stands for an unexpected kind of file."""
    live = live_server(api_keys=("key-one", "key-two"))
    arrived, goes_on = threading.Semaphore(0), threading.Event()

    def slow(data: bytes, max_pixels: int) -> Header:
        if data[-4:] == b"slow":
            arrived.release()
            goes_on.wait(60)
        return read_header(data, max_pixels)

    monkeypatch.setattr(service, "read_header", slow)
    one, two = {"Authorization": "Bearer key-one"}, {"Authorization": "Bearer key-two"}
    image = base64.b64encode(picture() + b"slow").decode()

    def send(number: int) -> int:
        path = ("/plan", "/jobs", "/api/v3/wavespeed-ai/real-esrgan", "/v3/async/image-upscaler")[number % 4]
        return httpx.post(live.url + path, json={"image": image}, headers=one, trust_env=False, timeout=100).status_code

    with ThreadPoolExecutor(24) as threads:
        sent = [threads.submit(send, number) for number in range(24)]
        try:
            for _ in range(READERS - 1):
                assert arrived.acquire(timeout=30)
            for _ in range(20):
                assert live.client.get("/jobs", headers=one).status_code == 200
            quick = {"image": base64.b64encode(picture()).decode()}
            assert live.client.post("/plan", json=quick, headers=two).status_code == 200
            assert not arrived.acquire(blocking=False), "one place was left for the other key"
        finally:
            goes_on.set()
        assert {each.result() for each in sent} == {200, 202}


def test_a_picture_that_takes_too_long_to_look_at_is_refused(
    live: Live, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(service, "_LOOK_S", 0.2)
    monkeypatch.setattr(service, "read_header", lambda *_: goes_on.wait(60))
    answer = live.client.post("/plan", json={"image": base64.b64encode(picture()).decode()})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "source_unreadable")
    goes_on.set()


def test_a_missing_model_is_reported_before_a_bad_picture(config: MakeConfig) -> None:
    """Also where a bad picture would make a job that has failed."""
    wanted = Params(scale=2.0, model="missing")
    made: service.Service = create_app(config()).state.service
    for source in (Source(data=b"no picture"), Source(data=b""), Source(url="https://example.com/a.png")):
        for strict in (True, False):
            with pytest.raises(ModelNotFound):
                made.submit(dialect="native", owner="local", params=wanted, source=source, strict=strict)
    assert made.list("local") == ([], 0)


def test_a_picture_for_which_no_thread_is_free_is_refused_as_busy(
    config: MakeConfig, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(service, "_LOOK_S", 0.2)
    made: service.Service = create_app(config()).state.service
    for _ in range(READERS + 2):
        made._readers.submit(goes_on.wait, 60)
    try:
        with pytest.raises(Unavailable, match="busy with other pictures"):
            made.header(Source(data=picture()))
    finally:
        goes_on.set()
    monkeypatch.undo()
    assert made.header(Source(data=picture(32, 24))).size == (32, 24)
    made.stop_readers()


def test_looking_at_pictures_of_slow_hosts_starves_no_one(live_server: LiveServer) -> None:
    """More of such requests than the server has threads; all other requests are answered meanwhile."""
    live = live_server(allow_hosts=("127.0.0.1",), fetch_timeout_s=60, price_per_megapixel=1)
    arrived, goes_on = threading.Semaphore(0), threading.Event()

    def answer(connection: socket.socket) -> None:
        arrived.release()
        goes_on.wait(60)
        say("404 Not Found")(connection)

    with serving(answer, "127.0.0.1") as slow, ThreadPoolExecutor(60) as threads:

        def look(number: int) -> int:
            wanted = {"image": f"{slow}/{number}.png", "scale": 2}
            priced = {"model_id": "wavespeed-ai/real-esrgan", "inputs": wanted}
            path, body = ("/plan", wanted) if number % 2 else ("/api/v3/model/price", priced)
            return httpx.post(live.url + path, json=body, trust_env=False, timeout=100).status_code

        waiting = [threads.submit(look, number) for number in range(60)]
        try:
            for _ in range(LOOKS):
                assert arrived.acquire(timeout=30)
            until = time.monotonic() + 3
            while time.monotonic() < until:
                assert live.client.get("/jobs").status_code == 200
            assert not arrived.acquire(blocking=False), "no more than so many at a time"
        finally:
            goes_on.set()
        assert {each.result() for each in waiting} == {400, 422}
