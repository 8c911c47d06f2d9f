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
from collections.abc import Iterator
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
import asyncio, json, sys
from importlib.metadata import version
from runware import Runware, RunwareError
assert version("runware-sdk") == "1.8.0"
url, transport, calls = json.loads(sys.argv[1])

async def told(coroutine):
    try:
        return await coroutine
    except RunwareError as error:
        return {name: getattr(error, name) for name in ("code", "retryable", "message", "parameter")}

async def main():
    addresses = {"ws_base_url": "ws" + url.removeprefix("http") + "/v1", "http_base_url": url + "/v1"}
    async with Runware(transport=transport, max_retries=0, **addresses) as client:
        asked = [told(getattr(client, name)(params)) for name, params in calls]
        print(json.dumps(await asyncio.gather(*asked)))

async def entered():
    return await told(main())

found = asyncio.run(entered())
if found is not None:
    print(json.dumps([found]))
"""
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


def start(
    server: Live, transport: str, *calls: tuple[str, dict[str, Any]], key: str = "rw-key"
) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SCRIPT, json.dumps([server.url, transport, calls])]
    env = os.environ | {"PYTHONPATH": str(NEW_CLIENTS), "NO_PROXY": "*", "RUNWARE_API_KEY": key}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: "subprocess.Popen[str]") -> list[Any]:
    try:
        out, complaints = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 0, complaints
    answers: list[Any] = json.loads(out)
    return answers


def ask(server: Live, transport: str, *calls: tuple[str, dict[str, Any]], key: str = "rw-key") -> list[Any]:
    """What each call returns, or the error that it raises."""
    return end(start(server, transport, *calls, key=key))


def upscale(server: Live, **fields: Any) -> tuple[str, dict[str, Any]]:
    """As the README has it."""
    inputs = {"image": f"{server.url}/files/{KEY}"}
    return "run", {"model": "runware:504@1", "taskType": "upscale", "inputs": inputs, **fields}


def size_at(url: str) -> tuple[str | None, tuple[int, int]]:
    return size_of(httpx.get(url, trust_env=False).raise_for_status().content)


def size_of(data: bytes) -> tuple[str | None, tuple[int, int]]:
    with Image.open(io.BytesIO(data)) as image:
        return image.format, image.size


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_its_readmes_upscale_without_a_factor_is_four_times_as_large(working: Live, transport: str) -> None:
    ((result,),) = ask(working, transport, upscale(working))
    assert result["taskType"] == "imageUpscale"
    assert size_at(result["imageURL"]) == ("JPEG", (160, 80))


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("delivery", ["async", "sync"])
def test_as_many_results_come_as_it_asks_for(working: Live, transport: str, delivery: str) -> None:
    asked = upscale(working, numberResults=2, includeCost=True, deliveryMethod=delivery)
    ((first, second),) = ask(working, transport, asked)
    assert (first["resultIndex"], second["resultIndex"]) == (0, 1)
    assert first["imageURL"] == second["imageURL"], "nothing is random"
    assert size_at(second["imageURL"])[1] == (160, 80)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_several_calls_at_once_and_every_way_out(working: Live, transport: str) -> None:
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
def test_every_model_has_its_factors_and_its_default(server: Live, transport: str) -> None:
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
def test_uploads_and_polls_by_hand(working: Live, transport: str, picture: Picture) -> None:
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
def test_a_webhook_comes_beside_the_result(working: Live, transport: str, receiver: Receiver) -> None:
    ((result,),) = ask(working, transport, upscale(working, webhookURL=f"{receiver.url}/hook"))
    assert json.loads(receiver.wait()[0].body)["imageURL"] == result["imageURL"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_mistakes_are_reported_in_kinds_that_it_knows(working: Live, transport: str) -> None:
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
def test_a_failure_while_working_is_reported(server: Live, transport: str) -> None:
    process = start(server, transport, upscale(server))
    server.worker.jobs.fail(server.worker.claim(30), JobFailed("it broke"))
    (error,) = end(process)
    assert (error["code"], error["message"]) == ("provider", "it broke")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_wrong_key_is_reported(working: Live, transport: str) -> None:
    (error,) = ask(working, transport, upscale(working), key="wrong")
    assert (error["code"], error["retryable"]) == ("auth", False)


KINDS = """
import json, sys
from runware.errors import derive_code
print(json.dumps({each: derive_code(each) for each in json.loads(sys.argv[1])}))
"""


def test_no_code_of_ours_is_unknown_to_it() -> None:
    codes = {code for _, code in runware.CODES}
    codes |= {
        runware.to_item(each("words"))["code"] for name, each in BY_CODE.items() if name != "range_not_satisfiable"
    }
    env = os.environ | {"PYTHONPATH": str(NEW_CLIENTS)}
    command = [sys.executable, "-c", KINDS, json.dumps(sorted(codes))]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    kinds = json.loads(run.stdout)
    assert len(kinds) == len(codes) > 15
    assert [code for code, kind in kinds.items() if kind == "unknown"] == []
