"""The vendor's own Python client against our server, over its WebSocket: only the address is changed."""

import asyncio
import base64
import gc
import io
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from runware import IAsyncTaskResponse, IImageUpscale, IInputs, Runware, RunwareAPIError

from server.errors import JobFailed
from tests.conftest import Live, LiveServer, Picture, Receiver

Use = Callable[[Runware], Awaitable[Any]]


@pytest.fixture
def server(live_server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Live:
    monkeypatch.setenv("NO_PROXY", "*")  # the client asks the environment, whose proxy can't reach loopback
    return live_server(api_keys=("rw-key",), allow_hosts=("127.0.0.1",))


@pytest.fixture
def working(server: Live) -> Iterator[Live]:
    with server.worker.working():
        yield server


def run(server: Live, use: Use, key: str = "rw-key") -> Any:
    async def session() -> Any:
        client = Runware(api_key=key, url="ws" + server.url.removeprefix("http") + "/v1")
        await client.connect()
        try:
            return await use(client)
        finally:
            await client.disconnect()

    return asyncio.run(asyncio.wait_for(session(), 60))


def upscaled(server: Live, image: str | None = None, **fields: Any) -> Any:
    """The one picture that comes of it."""
    request = IImageUpscale(inputImage=image, upscaleFactor=2, **fields)

    async def use(client: Runware) -> Any:
        return await client.imageUpscale(request)

    (result,) = run(server, use)
    return result


def size_at(url: str) -> tuple[str | None, tuple[int, int]]:
    return size_of(httpx.get(url, trust_env=False, timeout=60).raise_for_status().content)


def size_of(data: bytes) -> tuple[str | None, tuple[int, int]]:
    with Image.open(io.BytesIO(data)) as image:
        return image.format, image.size


def test_by_url(working: Live, picture: Picture) -> None:
    working.worker.blobs.put("0" * 32, picture(40, 20))
    link = f"{working.url}/files/{'0' * 32}?by=url"
    result = upscaled(working, link, outputType="URL", outputFormat="JPG", includeCost=True)
    assert (result.taskType, result.cost) == ("imageUpscale", 0)
    assert size_at(result.imageURL) == ("JPEG", (80, 40))
    inputs = upscaled(working, inputs=IInputs(image=link), model="runware:504@1")
    assert size_at(inputs.imageURL) == ("JPEG", (80, 40))


def test_by_local_file_and_out_as_base64(working: Live, picture: Picture, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(picture(40, 20))
    result = upscaled(working, str(tmp_path / "in.png"), outputType="base64Data", outputFormat="PNG")
    assert size_of(base64.b64decode(result.imageBase64Data)) == ("PNG", (80, 40))


def test_by_data_uri_and_base64_and_out_as_data_uri(working: Live, picture: Picture) -> None:
    data = base64.b64encode(picture(40, 20)).decode()
    result = upscaled(working, f"data:image/png;base64,{data}", outputType="dataURI", outputFormat="WEBP")
    head, _, body = result.imageDataURI.partition(",")
    assert (head, size_of(base64.b64decode(body))) == ("data:image/webp;base64", ("WEBP", (80, 40)))
    assert size_at(upscaled(working, data).imageURL) == ("JPEG", (80, 40))


def test_upload_then_by_uuid_then_the_result_by_uuid(working: Live, picture: Picture, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(picture(40, 20))

    async def use(client: Runware) -> Any:
        upload = await client.uploadImage(str(tmp_path / "in.png"))
        (once,) = await client.imageUpscale(IImageUpscale(inputImage=upload.imageUUID, upscaleFactor=2))
        (twice,) = await client.imageUpscale(IImageUpscale(inputImage=once.imageUUID, upscaleFactor=2))
        media = await client.uploadMedia(str(tmp_path / "in.png"))
        (stored,) = await client.imageUpscale(IImageUpscale(inputImage=media.mediaUUID, upscaleFactor=4))
        return upload, once, twice, stored

    upload, once, twice, stored = run(working, use)
    assert httpx.get(upload.imageURL, trust_env=False, timeout=60).content == picture(40, 20)
    assert (once.inputImageUUID, twice.inputImageUUID) == (upload.imageUUID, once.imageUUID)
    assert [size_at(each.imageURL)[1] for each in (once, twice, stored)] == [(80, 40), (160, 80), (160, 80)]


def test_several_at_once_over_one_line(working: Live, picture: Picture) -> None:
    data = base64.b64encode(picture(40, 20)).decode()

    async def use(client: Runware) -> Any:
        requests = [IImageUpscale(inputImage=data, upscaleFactor=factor) for factor in (2, 3, 4)]
        return await asyncio.gather(*[client.imageUpscale(each) for each in requests])

    assert [size_at(each[0].imageURL)[1][0] for each in run(working, use)] == [80, 120, 160]


def test_async_and_poll_without_waiting_for_a_second_answer(server: Live, picture: Picture) -> None:
    data = base64.b64encode(picture(40, 20)).decode()
    request = IImageUpscale(inputImage=data, upscaleFactor=2, deliveryMethod="async")

    async def use(client: Runware) -> Any:
        accepted = await client.imageUpscale(request)
        assert isinstance(accepted, IAsyncTaskResponse)
        job = await asyncio.to_thread(server.worker.claim)
        polling = asyncio.create_task(client.getResponse(accepted.taskUUID))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.worker.finish, job)
        # It asks once a second; of an answer that it does not understand it would wait 30 s for a better one.
        return await asyncio.wait_for(polling, 5)

    (result,) = run(server, use)
    assert size_at(result.imageURL) == ("JPEG", (80, 40))


def test_a_webhook_is_acknowledged_at_once_and_called_later(server: Live, picture: Picture, receiver: Receiver) -> None:
    data = base64.b64encode(picture(40, 20)).decode()
    request = IImageUpscale(inputImage=data, upscaleFactor=2, webhookURL=f"{receiver.url}/hook?token=1")

    async def use(client: Runware) -> Any:
        return await client.imageUpscale(request)

    accepted = run(server, use)
    assert isinstance(accepted, IAsyncTaskResponse)
    server.worker.finish()
    told = json.loads(receiver.wait()[0].body)
    assert told["taskUUID"] == accepted.taskUUID
    assert size_at(told["imageURL"]) == ("JPEG", (80, 40))


def test_a_failure_is_reported(server: Live, picture: Picture) -> None:
    data = base64.b64encode(picture()).decode()

    async def use(client: Runware) -> Any:
        task = asyncio.create_task(client.imageUpscale(IImageUpscale(inputImage=data, upscaleFactor=2)))
        await asyncio.to_thread(server.worker.fail, JobFailed("it broke"))
        return await task

    with pytest.raises(RunwareAPIError) as failure:
        run(server, use)
    assert (failure.value.code, failure.value.error_data["message"]) == ("taskFailed", "it broke")


@pytest.mark.parametrize(
    ("image", "factor", "code"),
    [
        ("http://127.0.0.1:9/a.png", 2, "downloadFailed"),
        ("fd613011-3872-4f37-b4aa-0d343c051a27", 2, "invalidInputImage"),
        ("QUJD", 2, "invalidInputImage"),
        ("QUJD", 5, "invalidUpscaleFactor"),
    ],
)
def test_a_mistake_is_reported(working: Live, image: str, factor: int, code: str) -> None:
    async def use(client: Runware) -> Any:
        return await client.imageUpscale(IImageUpscale(inputImage=image, upscaleFactor=factor))

    with pytest.raises(RunwareAPIError) as failure:
        run(working, use)
    assert failure.value.code == code


def test_a_task_no_one_knows_is_reported(working: Live) -> None:
    async def use(client: Runware) -> Any:
        return await client.getResponse("19abad0d-6ec5-40a6-b7af-203775fa5b7f")

    with pytest.raises(RunwareAPIError) as failure:
        run(working, use)
    assert failure.value.code == "taskFailedOrNotFound"


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_wrong_key_is_reported(working: Live) -> None:
    async def use(client: Runware) -> Any:
        return await client.imageUpscale(IImageUpscale(inputImage="QUJD", upscaleFactor=2))

    with pytest.raises(ConnectionError, match="Invalid API key"):
        run(working, use, key="wrong")
    gc.collect()  # it tries again on new lines, and drops the old ones without closing them
