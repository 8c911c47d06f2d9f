"""The vendor's newest Python client, runware-sdk 1.8.0, over both of its transports, as its README uses it.

It has the import name of the older client, so `make venv` puts it into a folder of its own, and it runs in a process of
its own.
"""

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from server.api.dialects.runware import translate as runware
from server.errors import BY_CODE, JobFailed
from tests.conftest import Live, LiveServer, Picture, Receiver

NEW_CLIENTS = Path(sys.prefix) / "new-clients"

pytestmark = pytest.mark.skipif(
    not (NEW_CLIENTS / "runware_sdk-1.8.0.dist-info").is_dir(),
    reason=f"{NEW_CLIENTS} is not there: `make venv` fills it, with Python 3.11 or newer",
)

SCRIPT = """
import asyncio, json, os, sys
from importlib.metadata import version
from runware import Runware, RunwareError
from runware.errors import derive_code
assert version("runware-sdk") == "1.8.0"

async def answer_of(coroutine):
    try:
        return await coroutine
    except RunwareError as error:
        return {name: getattr(error, name) for name in ("code", "retryable", "message", "parameter")}

async def ask(url, transport, calls):
    addresses = {"ws_base_url": "ws" + url.removeprefix("http") + "/v1", "http_base_url": url + "/v1"}
    async with Runware(transport=transport, max_retries=0, **addresses) as client:
        return await asyncio.gather(*[answer_of(getattr(client, name)(params)) for name, params in calls])

async def ask_or_fail_to_connect(**question):
    found = await answer_of(ask(**question))
    return [found] if isinstance(found, dict) else found

for line in sys.stdin:
    question = json.loads(line)
    if "codes" in question:
        found = {each: derive_code(each) for each in question["codes"]}
    else:
        os.environ["RUNWARE_API_KEY"] = question.pop("key")
        found = asyncio.run(ask_or_fail_to_connect(**question))
    print(json.dumps(found), flush=True)
"""
"""Each line of stdin is a question, each of stdout its answer: to import the client takes a second."""
TRANSPORTS = ("websocket", "rest")
KEY = "0" * 32 + ".png"


@pytest.fixture
def server(live_server: LiveServer, picture: Picture) -> Live:
    live = live_server(api_keys=("rw-key",), allow_hosts=("127.0.0.1",))
    live.worker.blobs.put(KEY, picture(40, 20))
    return live


@pytest.fixture
def working(server: Live) -> Iterator[Live]:
    with server.worker.working():
        yield server


class Client:
    """A process with the new client in it."""

    def __init__(self) -> None:
        env = os.environ | {"PYTHONPATH": str(NEW_CLIENTS), "NO_PROXY": "*"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-c", SCRIPT], env=env, stdin=pipe, stdout=pipe, text=True)

    def start(self, server: Live, transport: str, *calls: tuple[str, dict[str, Any]], key: str = "rw-key") -> None:
        self._send(url=server.url, transport=transport, calls=calls, key=key)

    def end(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the client's process ended with {self._process.wait()}"
        return json.loads(line)

    def kinds(self, codes: list[str]) -> Any:
        self._send(codes=codes)
        return self.end()

    def _send(self, **question: Any) -> None:
        assert self._process.stdin is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def new_client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


Ask = Callable[..., list[Any]]


@pytest.fixture
def ask(new_client: Client) -> Ask:
    """What each call returns, or the error that it raises."""

    def answers(server: Live, transport: str, *calls: tuple[str, dict[str, Any]], key: str = "rw-key") -> list[Any]:
        new_client.start(server, transport, *calls, key=key)
        found: list[Any] = new_client.end()
        return found

    return answers


def upscale(server: Live, **fields: Any) -> tuple[str, dict[str, Any]]:
    """As the README has it."""
    inputs = {"image": f"{server.url}/files/{KEY}"}
    return "run", {"model": "runware:504@1", "taskType": "upscale", "inputs": inputs, **fields}


def size_at(url: str) -> tuple[str | None, tuple[int, int]]:
    return size_of(httpx.get(url, trust_env=False, timeout=60).raise_for_status().content)


def size_of(data: bytes) -> tuple[str | None, tuple[int, int]]:
    with Image.open(io.BytesIO(data)) as image:
        return image.format, image.size


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_its_readmes_upscale_without_a_factor_is_four_times_as_large(working: Live, ask: Ask, transport: str) -> None:
    ((result,),) = ask(working, transport, upscale(working))
    assert result["taskType"] == "imageUpscale"
    assert size_at(result["imageURL"]) == ("JPEG", (160, 80))


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("delivery", ["async", "sync"])
def test_as_many_results_come_as_it_asks_for(working: Live, ask: Ask, transport: str, delivery: str) -> None:
    asked = upscale(working, numberResults=2, includeCost=True, deliveryMethod=delivery)
    ((first, second),) = ask(working, transport, asked)
    assert (first["resultIndex"], second["resultIndex"]) == (0, 1)
    assert first["imageURL"] == second["imageURL"], "nothing is random"
    assert size_at(second["imageURL"])[1] == (160, 80)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_several_calls_at_once_and_every_way_out(working: Live, ask: Ask, transport: str) -> None:
    url, raw, uri, webp = ask(
        working,
        transport,
        upscale(working, upscaleFactor=2, outputFormat="PNG", includeCost=True, ttl=60, routing={"a": 1}),
        upscale(working, upscaleFactor=2, outputType="base64Data", deliveryMethod="sync"),
        upscale(working, upscaleFactor=2, outputType="dataURI", outputFormat="PNG"),
        upscale(working, upscaleFactor=4, outputFormat="WEBP", outputQuality=80),
    )
    assert (size_at(url[0]["imageURL"]), url[0]["cost"]) == (("PNG", (80, 40)), 0)
    assert size_of(base64.b64decode(raw[0]["imageBase64Data"])) == ("JPEG", (80, 40))
    assert size_of(base64.b64decode(uri[0]["imageDataURI"].partition(",")[2])) == ("PNG", (80, 40))
    assert size_at(webp[0]["imageURL"]) == ("WEBP", (160, 80))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_model_has_its_factors_and_its_default(server: Live, ask: Ask, transport: str) -> None:
    with server.worker.working():
        found = ask(
            server,
            transport,
            *[upscale(server, model=f"runware:{number}@1") for number in range(500, 505)],
            upscale(server, model="real-esrgan"),  # a name that the client itself turns into 504@1
            upscale(server, model="runware:500@1", upscaleFactor=1.5),
            upscale(server, model="runware:502@1", upscaleFactor=4),
            upscale(server, model="runware:504@1", upscaleFactor=8),
        )
    widths = [size_at(each[0]["imageURL"])[1][0] for each in found[:7]]
    assert widths == [160, 80, 80, 160, 160, 160, 60]
    for error, must in zip(found[7:], ("Must be 2.", "Must be one of 2, 3 or 4."), strict=True):
        assert (error["code"], error["parameter"], error["retryable"]) == ("validation", "upscaleFactor", False)
        assert error["message"].endswith(must)
    jobs, _ = server.worker.jobs.list(limit=50)
    creative = [job.params.creativity for job in jobs if job.params.creativity is not None]
    assert creative == [1.0, 1.0], "runware:500@1 alone"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_uploads_and_polls_by_hand(working: Live, ask: Ask, transport: str, picture: Picture) -> None:
    data = base64.b64encode(picture(20, 10)).decode()
    stored, image = ask(
        working, transport, ("media_storage", {"operation": "upload", "media": data}), ("image_upload", {"image": data})
    )
    task = "7a1e1c9e-31f0-4d5c-b0ab-1d2f3e4c5b6a"
    (result,), _ = ask(
        working,
        transport,
        upscale(working, inputs={"image": stored[0]["mediaUUID"]}, upscaleFactor=2, taskUUID=task),
        upscale(working, inputs={"image": image[0]["imageUUID"]}, upscaleFactor=2),
    )
    assert size_at(result["imageURL"])[1] == (40, 20)
    ((again,),) = ask(working, transport, ("get_response", {"taskUUID": task}))
    assert (again["status"], again["imageURL"]) == ("success", result["imageURL"])


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_webhook_comes_beside_the_result(working: Live, ask: Ask, transport: str, receiver: Receiver) -> None:
    ((result,),) = ask(working, transport, upscale(working, webhookURL=f"{receiver.url}/hook"))
    assert json.loads(receiver.wait()[0].body)["imageURL"] == result["imageURL"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_mistakes_are_reported_in_kinds_that_it_knows(working: Live, ask: Ask, transport: str) -> None:
    url = "http://127.0.0.1:9/a.png"
    lost, inside, none, wrong, many = ask(
        working,
        transport,
        upscale(working, inputs={"image": url}),
        upscale(working, inputs={"image": "http://10.0.0.1/a.png"}),
        upscale(working, inputs={"image": "QUJD"}),
        upscale(working, outputFormat="GIF"),
        upscale(working, numberResults=21),
    )
    assert (lost["code"], lost["retryable"]) == ("provider", True)
    assert "could not be downloaded" in lost["message"]
    for error, parameter in (
        (inside, "inputs.image"),
        (none, "inputs.image"),
        (wrong, "outputFormat"),
        (many, "numberResults"),
    ):
        assert (error["code"], error["parameter"], error["retryable"]) == ("validation", parameter, False)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_failure_while_working_is_reported(server: Live, new_client: Client, transport: str) -> None:
    new_client.start(server, transport, upscale(server))
    server.worker.jobs.fail(server.worker.claim(30), JobFailed("it broke"))
    (error,) = new_client.end()
    assert (error["code"], error["message"]) == ("provider", "it broke")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_wrong_key_is_reported(working: Live, ask: Ask, transport: str) -> None:
    (error,) = ask(working, transport, upscale(working), key="wrong")
    assert (error["code"], error["retryable"]) == ("auth", False)


def test_no_code_of_ours_is_unknown_to_it(new_client: Client) -> None:
    codes = {code for _, code in runware.CODES}
    codes |= {
        runware.to_item(each("words"))["code"] for name, each in BY_CODE.items() if name != "range_not_satisfiable"
    }
    kinds = new_client.kinds(sorted(codes))
    assert len(kinds) == len(codes) > 15
    assert [code for code, kind in kinds.items() if kind == "unknown"] == []
