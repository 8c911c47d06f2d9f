"""`make demo`: start the server, send it a real photo through WaveSpeed's documented API, save before and after, stop.

The photo (demo/photo.jpg, 512×341) is a reduced copy of "Indri" by Hans-Jurgen Mager, CC0, from Ubuntu MATE's
wallpapers. It is in the validation split: this project's networks were not trained on it, and it is in none of the data
sets that Real-ESRGAN's networks were trained on (DIV2K, Flickr2K, OutdoorSceneTraining).
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageDraw

FOLDER = Path(__file__).parent
PHOTO = FOLDER / "photo.jpg"
READY_S, JOB_S = 300, 600

CUT = (256, 176)
"""Width and height of each crop, in pixels of the result."""
ENLARGED = 2
"""Pixels of the sheet per pixel of the result."""
PLACES = ((0.47, 0.24), (0.10, 0.62), (0.80, 0.47))
"""Left and top of the crops, as shares of the result: eyes, fur and leaves."""
_GAP, _LINE = 8, 32


def main() -> None:
    with server() as address, httpx.Client(base_url=address, timeout=60) as client:
        started = time.perf_counter()
        result, job = upscale(client, PHOTO)
        seconds = time.perf_counter() - started
    (FOLDER / "after.png").write_bytes(result)
    before, after = Image.open(PHOTO).convert("RGB"), Image.open(BytesIO(result)).convert("RGB")
    side_by_side(before, after, job["model"]).save(FOLDER / "before_after.png")
    print(f"{before.width}×{before.height} → {after.width}×{after.height} in {seconds:.1f} s, transfers included")
    print(f"network:            {job['model']} ({job['model_form']})")
    for note in job["notes"]:
        print(f"note:               {note}")
    print(f"result:             {FOLDER / 'after.png'} ({len(result) / 1e6:.1f} MB)")
    print(f"bicubic next to it: {FOLDER / 'before_after.png'}, parts at {ENLARGED}:1")
    print("your own pictures:  .venv/bin/python -m server upscale PICTURE -o big.png --target 2k")
    print("                    or `make serve`, which has a page at http://127.0.0.1:8000")


@contextmanager
def server() -> Iterator[str]:
    """A server on a free loopback port with an empty data folder; yields its address once it is ready."""
    with tempfile.TemporaryDirectory(prefix="upscale-demo-") as data_dir:
        command = [sys.executable, "-m", "server", "serve", "--port", "0", "--data-dir", data_dir]
        with (FOLDER / "server.log").open("w") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if "http://" not in line:
                raise SystemExit(f"the server did not start; see {FOLDER / 'server.log'}")
            address = line.split()[-1]
            print(f"server: {address}, loading its networks", flush=True)
            wait_until_ready(address)
            yield address
        finally:
            process.terminate()
            process.wait(30)


def wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{address}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"the server was not ready within {READY_S} s; see {FOLDER / 'server.log'}")


def upscale(client: httpx.Client, photo: Path) -> tuple[bytes, Mapping[str, Any]]:
    """Upload, submit, poll, download, as every client of the hosted API. Returns the picture, and the result's facts
    from the server's own API."""
    upload = client.post("/api/v3/media/upload/binary", files={"file": photo.open("rb")}).raise_for_status()
    image = upload.json()["data"]["download_url"]
    request = {"image": image, "target_resolution": "2k", "output_format": "png"}
    submit = client.post("/api/v3/wavespeed-ai/image-upscaler", json=request).raise_for_status()
    job = submit.json()["data"]
    print(f"job {job['id']}: {job['status']}", flush=True)
    deadline = time.monotonic() + JOB_S
    while time.monotonic() < deadline:
        job = client.get(job["urls"]["get"]).raise_for_status().json()["data"]
        if job["status"] == "completed":
            print(f"job {job['id']}: completed, {job['timings']['inference'] / 1000:.1f} s of work")
            picture = client.get(job["outputs"][0]).raise_for_status().content
            return picture, client.get(f"/jobs/{job['id']}").raise_for_status().json()["result"]
        if job["status"] == "failed":
            raise SystemExit(f"the job failed: {job['error']}")
        if sys.stdout.isatty():
            share = client.get(f"/jobs/{job['id']}").raise_for_status().json()["progress"]
            print(f"{share:4.0%}", end="\r", flush=True)
        time.sleep(0.25)
    raise SystemExit(f"the job did not finish within {JOB_S} s")


def side_by_side(
    before: Image.Image, after: Image.Image, network: str, places: Sequence[tuple[float, float]] = PLACES
) -> Image.Image:
    """The same crops of both, enlarged pixel by pixel: bicubic on the left, the result on the right."""
    bicubic = before.resize(after.size, Image.Resampling.BICUBIC)
    width, height = CUT[0] * ENLARGED, CUT[1] * ENLARGED
    sheet = Image.new("RGB", (2 * width + _GAP, _LINE + len(places) * (height + _GAP) - _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (name, picture) in enumerate((("bicubic", bicubic), (network, after))):
        left = column * (width + _GAP)
        draw.text((left + 4, 4), f"{name}, {ENLARGED}:1", fill="black", font_size=20)
        for row, place in enumerate(places):
            x, y = round(place[0] * after.width), round(place[1] * after.height)
            part = picture.crop((x, y, x + CUT[0], y + CUT[1])).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(part, (left, _LINE + row * (height + _GAP)))
    return sheet


if __name__ == "__main__":
    main()
