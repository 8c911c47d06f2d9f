"""The vendor's own Python client against our server: only its base URL is changed."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from wavespeed import Client

from tests.conftest import Live, LiveServer, Picture

UPSCALER = "wavespeed-ai/image-upscaler"
ESRGAN = "wavespeed-ai/real-esrgan"


@pytest.fixture
def server(live_server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    monkeypatch.setenv("NO_PROXY", "*")  # the client asks the environment, whose proxy can't reach loopback
    live = live_server(api_keys=("ws-key",))
    with live.worker.working():
        yield live


@pytest.fixture
def client(server: Live) -> Client:
    return Client(api_key="ws-key", base_url=server.url + "/")


def size_at(url: str) -> tuple[str | None, tuple[int, int]]:
    with Image.open(io.BytesIO(httpx.get(url, trust_env=False, timeout=60).raise_for_status().content)) as image:
        return image.format, image.size


def test_upload_then_both_models_then_download(client: Client, picture: Picture, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(picture(40, 20))
    url = client.upload(str(tmp_path / "in.png"))
    assert httpx.get(url, trust_env=False, timeout=60).content == picture(40, 20)
    upscaled = client.run(
        UPSCALER, {"image": url, "target_resolution": "2k", "output_format": "jpeg"}, poll_interval=0.05
    )
    assert size_at(upscaled["outputs"][0]) == ("JPEG", (2048, 1024))
    scaled = client.run(ESRGAN, {"image": url, "scale": 2.5, "face_enhance": False}, poll_interval=0.05)
    assert size_at(scaled["outputs"][0]) == ("PNG", (100, 50))


def test_upload_of_an_open_file_and_sync_mode(client: Client, picture: Picture) -> None:
    url = client.upload(io.BytesIO(picture(40, 20)))
    done = client.run(ESRGAN, {"image": url}, enable_sync_mode=True)
    assert size_at(done["outputs"][0]) == ("PNG", (160, 80))


def test_base64_in_and_out(client: Client, picture: Picture) -> None:
    body = {"image": base64.b64encode(picture(4, 4)).decode(), "scale": 1, "enable_base64_output": True}
    done = client.run(ESRGAN, body, enable_sync_mode=True)
    assert base64.b64decode(done["outputs"][0])[:4] == b"\x89PNG"


def test_a_wrong_key_is_reported(server: Live) -> None:
    with pytest.raises(RuntimeError, match="Failed to submit prediction: HTTP 401: .*Invalid API key"):
        Client(api_key="wrong", base_url=server.url).run(ESRGAN, {"image": "x"})


def test_a_missing_picture_is_reported(client: Client) -> None:
    with pytest.raises(RuntimeError, match="HTTP 400: .*is missing"):
        client.run(UPSCALER, {"creativity": 0})


@pytest.mark.parametrize("sync", [False, True])
def test_a_source_that_fails_is_reported(client: Client, sync: bool) -> None:
    with pytest.raises(
        RuntimeError, match=r"Prediction failed \(task_id: [0-9a-f]{32}\): the picture's address is not"
    ):
        client.run(UPSCALER, {"image": "http://127.0.0.1:9/a.png"}, poll_interval=0.05, enable_sync_mode=sync)


def test_an_unknown_prediction_is_reported(client: Client) -> None:
    with pytest.raises(RuntimeError, match="Failed to get result for task nope: HTTP 404"):
        client.get_result("nope")


def test_a_sync_wait_that_ran_out_can_be_picked_up_later(
    live_server: LiveServer, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    live = live_server(sync_wait_s=0.1)
    client = Client(api_key="any", base_url=live.url)
    body = {"image": base64.b64encode(picture()).decode(), "scale": 1}
    told = client.run_no_throw(ESRGAN, body, enable_sync_mode=True)
    assert (told["status"], told["outputs"]) == ("processing", None), json.dumps(told)
    live.worker.finish()
    assert client.get_result(told["task_id"])["data"]["status"] == "completed"
