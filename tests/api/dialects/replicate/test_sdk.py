"""The vendor's own Python client against our server: only its base URL is changed."""

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from replicate import Client
from replicate.exceptions import ModelError, ReplicateError
from replicate.prediction import Prediction
from replicate.webhook import InvalidSignatureError, Webhooks

from server.api.dialects.replicate.models import REAL_ESRGAN_MODEL
from tests.conftest import Live, LiveServer, Picture, Receiver

MODEL = REAL_ESRGAN_MODEL.id
PINNED = f"{MODEL}:{REAL_ESRGAN_MODEL.versions[1]}"


@pytest.fixture
def server(live_server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Live:
    monkeypatch.setenv("NO_PROXY", "*")  # the client asks the environment, whose proxy can't reach loopback
    monkeypatch.setenv("REPLICATE_POLL_INTERVAL", "0.02")
    return live_server(api_keys=("r8-key",), allow_hosts=("127.0.0.1",))


def client_of(server: Live, key: str = "r8-key") -> Client:
    return Client(api_token=key, base_url=server.url)


@pytest.fixture
def client(server: Live) -> Iterator[Client]:
    client = client_of(server)
    yield client
    client._client.close()


@pytest.fixture
def photo(picture: Picture, tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    path.write_bytes(picture(40, 20))
    return path


def size_at(url: object) -> tuple[str | None, tuple[int, int]]:
    assert isinstance(url, str)
    with Image.open(io.BytesIO(httpx.get(url, trust_env=False, timeout=60).raise_for_status().content)) as image:
        return image.format, image.size


@pytest.mark.parametrize("ref", [MODEL, PINNED])
def test_run_uploads_the_file_waits_and_returns_the_link(server: Live, client: Client, photo: Path, ref: str) -> None:
    with server.worker.working(), photo.open("rb") as file:
        output = client.run(ref, input={"image": file, "scale": 2})
    assert size_at(output) == ("PNG", (80, 40))


def test_run_without_a_wait_polls(server: Live, client: Client, photo: Path) -> None:
    with server.worker.working(), photo.open("rb") as file:
        output = client.run(MODEL, input={"image": file}, wait=False, file_encoding_strategy="base64")
    assert size_at(output) == ("PNG", (160, 80))


def test_a_wait_that_was_too_short_is_followed_by_polls(server: Live, client: Client, photo: Path) -> None:
    with photo.open("rb") as file:
        url = client.files.create(file).urls["get"]
    first = client.models.predictions.create(MODEL, input={"image": url, "scale": 2}, wait=1)
    assert (first.status, first.output, first.metrics) == ("starting", None, {})
    server.worker.finish()
    first.wait()
    assert (first.status, size_at(first.output)) == ("succeeded", ("PNG", (80, 40)))
    assert first.metrics is not None and 0 <= first.metrics["predict_time"] <= first.metrics["total_time"]


def test_a_prediction_that_runs_is_starting_to_who_waited_and_processing_to_who_asks(
    server: Live, client: Client, photo: Path
) -> None:
    with photo.open("rb") as file:
        made = client.predictions.create(version=PINNED, input={"image": file, "scale": 2})
    assert made.status == "starting" and made.model == MODEL and made.version == REAL_ESRGAN_MODEL.versions[1]
    job = server.worker.claim()
    server.worker.jobs.heartbeat(job, 0.42, "upscaling")
    made.reload()
    assert made.status == "processing"
    assert made.progress == Prediction.Progress(percentage=0.42, current=42, total=100)
    server.worker.finish(job)
    made.reload()
    assert made.progress == Prediction.Progress(percentage=1.0, current=100, total=100)
    assert made.logs is not None and "stand-in: 80 x 40 pixels, png" in made.logs


def test_a_cancelled_prediction(client: Client, photo: Path) -> None:
    with photo.open("rb") as file:
        made = client.predictions.create(version=MODEL, input={"image": file})
    made.cancel()
    assert (made.status, made.error, made.output) == ("canceled", None, None)
    made.cancel()  # again: nothing happens
    assert client.predictions.get(made.id).status == "canceled"


def test_a_failure_is_raised_with_its_reason(client: Client) -> None:
    with pytest.raises(ModelError, match="is not a picture") as raised:
        client.run(MODEL, input={"image": "data:image/png;base64,AAAA"})
    assert raised.value.prediction.status == "failed"


def test_a_wrong_input_is_named(client: Client) -> None:
    with pytest.raises(ReplicateError) as raised:
        client.run(MODEL, input={"image": "https://example.com/a.png", "scale": 11})
    error = raised.value
    assert (error.status, error.title) == (422, "Input validation failed")
    assert error.detail == "- input.scale: must be less than or equal to 10"


def test_a_bad_token(server: Live) -> None:
    client = client_of(server, "wrong")
    with client._client, pytest.raises(ReplicateError) as raised:
        client.predictions.list()
    assert (raised.value.status, raised.value.title) == (401, "Unauthenticated")


def test_unknown_things(client: Client) -> None:
    for call, status in (
        (lambda: client.predictions.get("nope"), 404),
        (lambda: client.models.get("someone/something"), 404),
        (lambda: client.run("someone/something", input={}), 404),
        (lambda: client.predictions.create(version="0" * 64, input={}), 422),
        (lambda: client.files.get("nope"), 404),
        (lambda: client.deployments.get("a/b"), 404),
    ):
        with pytest.raises(ReplicateError) as raised:
            call()
        assert raised.value.status == status and raised.value.detail and raised.value.title


def test_the_list_is_newest_first_and_has_pages(client: Client, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.api.dialects.replicate.routes.PAGE", 2)
    monkeypatch.setattr("server.api.dialects.replicate.translate.PAGE", 2)
    with photo.open("rb") as file:
        url = client.files.create(file).urls["get"]
    ids = [client.predictions.create(version=MODEL, input={"image": url}).id for _ in range(5)]
    first = client.predictions.list()
    newer = client.predictions.create(version=MODEL, input={"image": url}).id
    second = client.predictions.list(first.next)
    third = client.predictions.list(second.next)
    found = [each.id for page in (first, second, third) for each in page]
    assert found == ids[::-1]
    assert (first.previous, third.next) == (None, None)
    assert [each.id for each in client.predictions.list(third.previous)] == found[2:4]
    assert client.predictions.list()[0].id == newer


def test_files(client: Client, photo: Path) -> None:
    made = client.files.create(photo, metadata={"for": "a test"})
    assert (made.name, made.content_type, made.size) == ("in.png", "image/png", photo.stat().st_size)
    assert made.metadata == {"for": "a test"} and set(made.checksums) == {"sha256", "md5"}
    assert client.files.get(made.id) == made
    assert client.files.list() == [made]
    assert client.files.delete(made.id)
    assert client.files.list() == []
    with pytest.raises(ReplicateError):
        client.files.get(made.id)


def test_models_versions_and_what_there_is_beside(server: Live, client: Client) -> None:
    server.worker.beat()
    model = client.models.get(MODEL)
    assert (model.id, model.run_count, model.visibility) == (MODEL, 0, "public")
    assert model.latest_version is not None
    versions = model.versions.list()
    assert [each.id for each in versions] == list(REAL_ESRGAN_MODEL.versions)
    schemas = model.versions.get(versions[1].id).openapi_schema["components"]["schemas"]
    assert schemas["Input"]["properties"]["scale"]["maximum"] == 10
    assert schemas["Output"]["type"] == "string"
    ids = [each.id for each in client.models.list()]
    assert {MODEL, "philz1337x/clarity-upscaler", "tencentarc/gfpgan", "local/fidelity-x4"} <= set(ids)
    assert client.accounts.current().type == "organization"
    assert [each.sku for each in client.hardware.list()] == ["cpu"]
    (collection,) = client.collections.list()
    assert len(client.collections.get(collection.slug).models or []) == len(ids)


def test_a_webhook_is_validated_by_the_client(server: Live, client: Client, photo: Path, receiver: Receiver) -> None:
    with photo.open("rb") as file:
        client.predictions.create(
            version=MODEL,
            input={"image": file, "scale": 2},
            webhook=f"{receiver.url}/hook",
            webhook_events_filter=["completed"],
        )
    done = server.worker.finish()
    (got,) = receiver.wait()
    secret = client.webhooks.default.secret()
    headers, body = dict(got.headers), got.body.decode()
    Webhooks.validate(headers=headers, body=body, secret=secret, tolerance=300)
    with pytest.raises(InvalidSignatureError):
        Webhooks.validate(headers=headers, body=body + " ", secret=secret)
    sent = json.loads(body)
    assert (sent["id"], sent["status"], headers["webhook-id"]) == (done.id, "succeeded", done.id)
    assert size_at(sent["output"]) == ("PNG", (80, 40))


async def _async_run(server: Live, photo: Path) -> object:
    client = client_of(server)
    async with client._async_client:
        with photo.open("rb") as file:
            return await client.async_run(MODEL, input={"image": file, "scale": 2})


def test_run_in_an_event_loop(server: Live, photo: Path) -> None:
    with server.worker.working():
        assert size_at(asyncio.run(_async_run(server, photo))) == ("PNG", (80, 40))
