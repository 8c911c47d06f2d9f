"""The vendor's own Python client against our server: only its base URL is changed."""

import base64
import gc
import io
from collections.abc import Iterator

import pytest
from novita_client import NovitaClient
from novita_client.exceptions import NovitaResponseError
from novita_client.proto import V3TaskResponse, V3TaskResponseStatus
from PIL import Image

from tests.conftest import Live, LiveServer, Picture

UPSCALER = "/v3/async/image-upscaler"
LEGACY = "/v3/async/upscale"

# The client downloads in a thread pool that it never closes.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")


@pytest.fixture
def server(live_server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Live:
    monkeypatch.setenv("NO_PROXY", "*")  # the client asks the environment, whose proxy can't reach loopback
    return live_server(api_keys=("nov-key",))


@pytest.fixture
def client(server: Live) -> Iterator[NovitaClient]:
    client = NovitaClient("nov-key", base_url=server.url)
    with client.session:
        yield client


def inline(data: bytes) -> str:
    return base64.b64encode(data).decode()


def downloaded(result: V3TaskResponse) -> tuple[str | None, tuple[int, int]]:
    result.download_images()
    gc.collect()  # the pool goes here, and not in the middle of another test
    with Image.open(io.BytesIO(base64.b64decode(result.images_encoded[0]))) as image:
        return image.format, image.size


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_submit_wait_and_download(server: Live, client: NovitaClient, picture: Picture, kind: str) -> None:
    with server.worker.working():
        body = {"image": inline(picture(40, 20)), "resolution": "2k", "output_format": kind}
        result = client.wait_for_task_v3(client._post(UPSCALER, body)["task_id"])
    assert result.task.status is V3TaskResponseStatus.TASK_STATUS_SUCCEED
    assert (result.task.eta, result.task.progress_percent, result.task.task_type) == (0, 100, "IMAGE_UPSCALER")
    assert (result.images[0].image_type, result.images[0].nsfw_detection_result) == (kind, None)
    assert result.images[0].image_url_ttl == server.config.keep_s
    debug = result.extra.debug_info
    assert 0 < debug.submit_time_ms <= debug.execute_time_ms <= debug.complete_time_ms
    assert downloaded(result) == (kind.upper(), (2048, 1024))


def test_the_older_upscaler(server: Live, client: NovitaClient, picture: Picture) -> None:
    request = {"model_name": "RealESRGAN_x4plus_anime_6B", "scale_factor": 2, "image_base64": inline(picture(40, 20))}
    with server.worker.working():
        sent = client._post(LEGACY, {"extra": {"response_image_type": "jpeg"}, "request": request})
        result = client.wait_for_task_v3(sent["task_id"])
    assert result.task.task_type == "UPSCALE"
    assert downloaded(result) == ("JPEG", (80, 40))


def test_queued_and_processing_are_understood(server: Live, client: NovitaClient, picture: Picture) -> None:
    task_id = client._post(UPSCALER, {"image": inline(picture())})["task_id"]
    queued = client.async_task_result(task_id)
    assert (queued.task.status, queued.finished()) == (V3TaskResponseStatus.TASK_STATUS_QUEUED, False)
    server.worker.jobs.heartbeat(server.worker.claim(), 0.123456)
    running = client.async_task_result(task_id)
    assert (running.task.status, running.finished()) == (V3TaskResponseStatus.TASK_STATUS_PROCESSING, False)
    assert (running.task.progress_percent, running.images) == (12, [])


def test_a_failure_is_returned_with_its_reason(client: NovitaClient) -> None:
    for image, reason in ((inline(b"text"), "not a picture"), ("http://127.0.0.1:9/a.png", "may fetch from")):
        result = client.wait_for_task_v3(client._post(UPSCALER, {"image": image})["task_id"])
        assert result.task.status is V3TaskResponseStatus.TASK_STATUS_FAILED
        assert reason in result.task.reason
        assert result.images == []


def test_a_cancelled_task_has_failed(server: Live, client: NovitaClient, picture: Picture) -> None:
    task_id = client._post(UPSCALER, {"image": inline(picture())})["task_id"]
    server.worker.jobs.cancel(task_id.replace("-", ""))
    assert client.wait_for_task_v3(task_id).task.reason == "the task was cancelled"


def test_a_task_in_test_mode_is_understood(server: Live, client: NovitaClient, picture: Picture) -> None:
    for status in ("TASK_STATUS_SUCCEED", "TASK_STATUS_FAILED"):
        hook = {"url": "https://hooks.invalid/", "test_mode": {"enabled": True, "return_task_status": status}}
        sent = client._post(UPSCALER, {"image": inline(picture()), "extra": {"webhook": hook}})
        assert client.wait_for_task_v3(sent["task_id"]).task.status.value == status


def test_what_is_refused_is_reported(server: Live, client: NovitaClient) -> None:
    with pytest.raises(NovitaResponseError, match="401, .*FAILED_TO_AUTH"):
        NovitaClient("bad", base_url=server.url)._post(UPSCALER, {"image": "x"})
    with pytest.raises(NovitaResponseError, match="400, .*INVALID_REQUEST_BODY.*image is required"):
        client._post(UPSCALER, {"resolution": "4k"})
    with pytest.raises(NovitaResponseError, match="404"):
        client.async_task_result("nope")


def test_a_base_url_that_ends_in_a_slash_works(server: Live, picture: Picture) -> None:
    client = NovitaClient("nov-key", base_url=server.url + "/")
    with client.session:
        task_id = client._post(UPSCALER, {"image": inline(picture())})["task_id"]
        assert client.async_task_result(task_id).task.task_id == task_id
