"""Callers who wait: many take one look at a time and no thread, and none is left without an answer at the end."""

import asyncio
import base64
import threading
import time
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request

from server.api.app import create_app
from server.api.dialects.wavespeed import translate as wavespeed
from server.job.job import State
from server.service.waiting import Waiting
from tests.conftest import LiveServer, MakeConfig, Picture, StandIn, serve
from tests.outbound.test_source import serving

TASK = "a0a0a0a0-b1b1-4c2c-8d3d-e4e4e4e4e4e4"


def test_one_look_serves_all_who_wait() -> None:
    looks: list[int] = []
    over = threading.Event()

    def ended(ids: Collection[str]) -> set[str]:
        looks.append(len(ids))
        return set(ids) if over.is_set() else {"0"}

    async def go() -> None:
        waiting = Waiting(ended)
        threads = threading.active_count()
        tasks = [asyncio.create_task(waiting.until_ended(str(number), 30)) for number in range(300)]
        await tasks[0]
        await asyncio.sleep(0.2)
        assert sum(task.done() for task in tasks) == 1
        assert threading.active_count() <= threads + 1
        over.set()
        await asyncio.gather(*tasks)
        assert waiting._polling is None or not waiting._futures

    asyncio.run(go())
    assert max(looks) == 300 and len(looks) < 100


def test_a_wait_is_over_in_time_and_leaves_nothing() -> None:
    async def go() -> None:
        waiting = Waiting(lambda _: set())
        await waiting.until_ended("a", 0.05)
        task = asyncio.create_task(waiting.until_ended("a", 30))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not waiting._futures
        last = asyncio.create_task(waiting.until_ended("b", 30))
        await asyncio.sleep(0.05)
        waiting.close()
        await last
        await waiting.until_ended("b", 30)

    asyncio.run(go())


def test_a_caller_who_waits_is_reported_when_it_cannot_be_looked() -> None:
    def broken(_: Collection[str]) -> set[str]:
        raise OSError("the disk is gone")

    async def go() -> None:
        with pytest.raises(OSError, match="gone"):
            await Waiting(broken).until_ended("a", 30)

    asyncio.run(go())


def test_many_sync_callers_hold_up_no_one(live_server: LiveServer, picture: Picture) -> None:
    """More than the server has threads."""
    live = live_server(max_queue=100)
    body = {"image": base64.b64encode(picture()).decode(), "scale": 1, "enable_sync_mode": True}

    def ask(_: int) -> str:
        answer = httpx.post(f"{live.url}/api/v3/{wavespeed.ESRGAN}", json=body, trust_env=False, timeout=100)
        status: str = answer.json()["data"]["status"]
        return status

    with ThreadPoolExecutor(40) as threads:
        asked = threads.map(ask, range(40))
        while live.worker.jobs.counts().get("queued", 0) < 40:
            assert live.client.get("/jobs").status_code == 200
        for _ in range(10):
            assert live.client.get("/jobs").status_code == 200
        with live.worker.working():
            assert set(asked) == {"completed"}


# --- at the end -----------------------------------------------------------------------------------------------------


def at_the_end(app: FastAPI, path: str, body: Any, when: Any) -> httpx.Response:
    """What a request is answered with that is still waiting when the server is asked to end."""
    with ThreadPoolExecutor(1) as thread:
        with serve(app) as url:
            asked: Future[httpx.Response] = thread.submit(
                httpx.post, url + path, json=body, trust_env=False, timeout=60
            )
            when()
        return asked.result(60)


def waits_for(worker: StandIn, dialect: str) -> Any:
    def accepted() -> None:
        deadline = time.monotonic() + 20
        while not worker.jobs.list(dialect=dialect)[1]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)

    return accepted


def test_a_wavespeed_caller_who_waits_at_the_end_gets_the_id(config: MakeConfig, picture: Picture) -> None:
    made = config()
    worker, image = StandIn(made), base64.b64encode(picture()).decode()
    body = {"image": image, "scale": 1, "enable_sync_mode": True}
    answer = at_the_end(create_app(made), f"/api/v3/{wavespeed.ESRGAN}", body, waits_for(worker, "wavespeed"))
    data = answer.json()["data"]
    (job,) = worker.jobs.list()[0]
    assert (answer.status_code, data["id"], data["status"], data["code"]) == (200, job.id, "processing", 5004)
    assert data["error"] == "The server is restarting. The prediction is still processing asynchronously."
    assert job.state is State.QUEUED


def test_a_vibedream_caller_who_waits_at_the_end_gets_the_id(config: MakeConfig, picture: Picture) -> None:
    made = config()
    worker, image = StandIn(made), base64.b64encode(picture()).decode()
    body = {"image": image, "target_resolution": "2k", "output_format": "png", "enable_sync_mode": True}
    path = "/api/v1/models/image-upscaler/generate"
    answer = at_the_end(create_app(made), path, body, waits_for(worker, "vibedream"))
    (job,) = worker.jobs.list()[0]
    assert (answer.status_code, answer.json()["id"].replace("-", "")) == (200, job.id)
    assert answer.json()["status"] == "processing"


def test_a_runware_caller_who_waits_at_the_end_is_reported_to_ask_again(config: MakeConfig, picture: Picture) -> None:
    made = config()
    worker, image = StandIn(made), base64.b64encode(picture()).decode()
    task = {"taskType": "imageUpscale", "taskUUID": TASK, "inputImage": image, "upscaleFactor": 2}
    answer = at_the_end(create_app(made), "/v1", [task], waits_for(worker, "runware"))
    (error,) = answer.json()["errors"]
    assert (answer.status_code, error["code"], error["taskUUID"]) == (400, "providerTimeout", TASK)
    assert error["message"] == "The server is restarting. It continues: use getResponse."


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/plan", {"image": "{url}"}, '"code":"unavailable"'),
        ("/api/v3/model/price", {"model_id": wavespeed.ESRGAN, "inputs": {"image": "{url}"}}, '"code":503'),
        ("/v1", [{"taskType": "imageUpload", "taskUUID": TASK, "image": "{url}"}], '"code":"serviceUnavailable"'),
    ],
)
def test_a_caller_whose_picture_is_still_being_downloaded_is_asked_to_come_again(
    config: MakeConfig, path: str, body: Any, words: str
) -> None:
    app = create_app(config(allow_hosts=("127.0.0.1",), price_per_megapixel=1))
    arrived, goes_on = threading.Event(), threading.Event()

    def hang(_: Any) -> None:
        arrived.set()
        goes_on.wait(30)

    def named(value: Any, url: str) -> Any:
        if isinstance(value, dict):
            return {name: named(each, url) for name, each in value.items()}
        return [named(each, url) for each in value] if isinstance(value, list) else value.replace("{url}", url)

    with serving(hang, "127.0.0.1") as slow:
        answer = at_the_end(app, path, named(body, slow + "/a.png"), lambda: arrived.wait(20))
        goes_on.set()
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert words in answer.text


def test_a_caller_who_is_still_busy_when_the_patience_is_over_is_reported(config: MakeConfig) -> None:
    """uvicorn's own answer would be only "Internal Server Error"."""
    app, begun = create_app(config()), threading.Event()

    async def forever(request: Request) -> None:
        begun.set()
        await asyncio.sleep(60)

    app.router.add_route("/api/v3/forever", forever, methods=["POST"])
    answer = at_the_end(app, "/api/v3/forever", {}, lambda: begun.wait(20))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.json()["message"] == "the server is shutting down; try again"
