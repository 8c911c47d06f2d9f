"""A real photo through the documented API, with the vendor's own client; and everything a caller can get wrong.

Nothing here plays a part: launcher, API process, worker process, database, network and weights are those that ship.
"""

import http.server
import io
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from wavespeed import Client

from tests.conftest import Served, draw
from tests.paths import PHOTO
from tests.pipeline.recomputed import recomputed

UPSCALER = "wavespeed-ai/image-upscaler"
ESRGAN = "wavespeed-ai/real-esrgan"


@pytest.fixture
def client(served: Served, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setenv("NO_PROXY", "*")  # the client asks the environment, whose proxy can't reach loopback
    return Client(api_key="any", base_url=served.url)


@pytest.fixture(scope="module")
def small_photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "indri.jpg"
    with Image.open(PHOTO) as photo:
        photo.crop((200, 60, 440, 220)).save(path, quality=95)
    return path


@pytest.fixture(scope="module")
def website(small_photo: Path) -> Iterator[str]:
    """Serves the photo, something too large, and nothing else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/photo.jpg":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(small_photo.read_bytes())
            elif self.path == "/huge.jpg":
                self.send_response(200)
                self.send_header("Content-Length", str(500 * 1024 * 1024))
                self.end_headers()
            else:
                self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def picture_at(url: str) -> Image.Image:
    return Image.open(io.BytesIO(httpx.get(url, trust_env=False, timeout=60).raise_for_status().content))


def assert_upscaled(result: Image.Image, source: Path, size: tuple[int, int]) -> None:
    """Right size, and the same picture."""
    assert result.size == size
    with Image.open(source) as original:
        bicubic = np.asarray(original.resize(size, Image.Resampling.BICUBIC).convert("L")).astype(float)
    ours = np.asarray(result.convert("L")).astype(float)
    assert 0.2 < np.abs(ours - bicubic).mean() < 6


@pytest.mark.parametrize("sync", [False, True])
def test_a_photo_is_uploaded_upscaled_by_both_models_and_downloaded(
    client: Client, small_photo: Path, sync: bool
) -> None:
    url = client.upload(str(small_photo))
    options = {"enable_sync_mode": sync, "poll_interval": 0.1}
    wanted = {"image": url, "target_resolution": "2k", "output_format": "jpeg", "creativity": 0}
    out = client.run(UPSCALER, wanted, **options)
    assert_upscaled(picture_at(out["outputs"][0]), small_photo, (2048, 1365))
    out = client.run(ESRGAN, {"image": url, "scale": 2.5, "face_enhance": False}, **options)
    assert_upscaled(picture_at(out["outputs"][0]), small_photo, (600, 400))


def test_a_photo_at_a_url_is_fetched(client: Client, small_photo: Path, website: str) -> None:
    out = client.run(ESRGAN, {"image": f"{website}/photo.jpg", "scale": 4}, poll_interval=0.1)
    assert_upscaled(picture_at(out["outputs"][0]), small_photo, (960, 640))


def test_a_reduced_photo_comes_back_nearer_to_the_original_than_bicubic_makes_it(
    client: Client, tmp_path: Path
) -> None:
    with Image.open(PHOTO) as photo:
        original = photo.crop((100, 15, 500, 335))
    small = original.resize((100, 80), Image.Resampling.BICUBIC)
    small.save(tmp_path / "small.png")
    out = client.run(ESRGAN, {"image": client.upload(str(tmp_path / "small.png")), "scale": 4}, poll_interval=0.1)

    def error_of(picture: Image.Image) -> float:
        difference = np.asarray(picture.convert("L")).astype(float) - np.asarray(original.convert("L"))
        return float(np.square(difference).mean())

    assert error_of(picture_at(out["outputs"][0])) < 0.95 * error_of(small.resize((400, 320), Image.Resampling.BICUBIC))


def test_the_native_api_tells_progress_and_which_model_ran(served: Served, small_photo: Path) -> None:
    answer = served.post("/jobs", files={"file": small_photo.read_bytes()}, data={"target": "2k", "format": "webp"})
    job = answer.json()
    seen = []
    with httpx.stream("GET", f"{served.url}/jobs/{job['id']}/events", trust_env=False, timeout=60) as events:
        seen = [line for line in events.iter_lines() if line.startswith("event:")]
    assert seen[-1] == "event: done"
    job = served.get(f"/jobs/{job['id']}").json()
    assert (job["state"], job["result"]["model"], job["result"]["width"]) == ("succeeded", "fidelity-x4", 2048)
    result = served.get(f"/jobs/{job['id']}/result")
    assert result.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(result.content)).size == (2048, 1365)


@pytest.mark.parametrize(
    ("model", "body", "word"),
    [
        (UPSCALER, {}, "image"),
        (UPSCALER, {"image": "", "creativity": 0}, "image"),
        (UPSCALER, {"image": "https://example.com/a.png", "creativity": 2.1}, "creativity"),
        (UPSCALER, {"image": "https://example.com/a.png", "target_resolution": "16k"}, "target_resolution"),
        (ESRGAN, {"image": "https://example.com/a.png", "scale": 0}, "scale"),
        (ESRGAN, {"image": "https://example.com/a.png", "scale": 10.5}, "scale"),
    ],
)
def test_a_wrong_request_is_refused_at_once(served: Served, model: str, body: dict[str, Any], word: str) -> None:
    started = time.monotonic()
    answer = served.post(f"/api/v3/{model}", json=body)
    assert time.monotonic() - started < 1
    assert answer.status_code == 400
    assert answer.json()["code"] == 400 and word in answer.json()["message"]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    idat = b"IDAT" + zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + body + struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat))


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("unreachable", "could not be"),
        ("404", "404"),
        ("huge", "bytes"),
        ("text", "not a picture"),
        ("bomb", "100000×100000"),
        ("private", "may fetch from"),
    ],
)
def test_a_bad_source_is_a_failed_prediction_soon_and_the_server_goes_on(
    served: Served, client: Client, website: str, tmp_path: Path, source: str, word: str
) -> None:
    if source in ("text", "bomb"):
        file = tmp_path / "picture.jpg"
        file.write_bytes(b"I am not a picture. " * 100 if source == "text" else png_header(100_000, 100_000))
        image = client.upload(str(file))
    else:
        image = {
            "unreachable": f"http://127.0.0.1:{closed_port()}/a.png",
            "404": f"{website}/nothing.png",
            "huge": f"{website}/huge.jpg",
            "private": "http://10.0.0.1/a.png",
        }[source]
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="Prediction failed") as error:
        client.run(UPSCALER, {"image": image, "target_resolution": "2k"}, poll_interval=0.05)
    assert time.monotonic() - started < 2
    assert word in str(error.value)
    assert served.get("/readyz").status_code == 200


def test_a_small_job_after_all_that_still_works(client: Client, served: Served) -> None:
    url = served.post("/api/v3/media/upload/binary", files={"file": ("a.png", draw(20, 10), "image/png")})
    out = client.run(ESRGAN, {"image": url.json()["data"]["download_url"]}, enable_sync_mode=True)
    assert picture_at(out["outputs"][0]).size == (80, 40)


def test_what_the_server_keeps_is_for_its_user_alone(served: Served) -> None:
    """It was started under the tests' umask, which lets others read."""
    kept = [served.data_dir, *served.data_dir.rglob("*")]
    assert {"jobs.sqlite3", "blobs"} <= {path.name for path in kept}
    assert any(path.parent.name == "blobs" and path.is_file() for path in kept)
    for path in kept:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_certificate_comes_with_its_heat_map_and_goes_with_its_job(
    served: Served, small_photo: Path, tmp_path: Path
) -> None:
    files = {"file": ("indri.jpg", small_photo.read_bytes())}
    job = served.post("/jobs", files=files, data={"scale": "2", "certificate": "true"}).json()
    served.wait_for(lambda: served.get(f"/jobs/{job['id']}").json()["state"] == "succeeded")
    result = served.get(f"/jobs/{job['id']}").json()["result"]
    (tmp_path / "result.png").write_bytes(httpx.get(result["url"]).content)
    figures, map_ = recomputed(small_photo, tmp_path / "result.png", result["certificate"])
    for name in ("mean", "p99", "max"):
        assert abs(result["certificate"]["difference"][name] - figures["difference"][name]) < 1
    heat_map = httpx.get(result["certificate"]["heat_map"]["url"])
    assert heat_map.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(heat_map.content)) as image:
        assert image.size == (240, 160) and np.abs(np.asarray(image, np.float64) - map_).max() <= 4
    address = f"{served.url}/jobs/{job['id']}"
    assert httpx.delete(address).status_code == 204
    assert {httpx.get(url).status_code for url in (result["url"], result["certificate"]["heat_map"]["url"])} == {404}
