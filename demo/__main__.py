"""`make demo`: start the server, send it a real photo through WaveSpeed's documented API, save before and after, stop.

The photo (demo/photo.jpg, 630×420) is a reduced copy of "Indri" by Hans-Jurgen Mager, CC0, from Ubuntu MATE's
wallpapers. It is of the validation split: the bundled network has never been trained on it.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import httpx
from PIL import Image, ImageDraw

FOLDER = Path(__file__).parent
PHOTO = FOLDER / "photo.jpg"
READY_S, JOB_S = 120, 300
PANEL = (760, 760)
"""Size of the cut that is shown of each, at full resolution."""


def main() -> None:
    with server() as address, httpx.Client(base_url=address, timeout=60) as client:
        started = time.perf_counter()
        result = upscale(client, PHOTO)
        seconds = time.perf_counter() - started
    (FOLDER / "after.png").write_bytes(result)
    before, after = Image.open(PHOTO).convert("RGB"), Image.open(BytesIO(result)).convert("RGB")
    side_by_side(before, after).save(FOLDER / "before_after.png")
    print(f"{before.width}×{before.height} → {after.width}×{after.height} in {seconds:.1f} s, download included")
    print(f"result:             {FOLDER / 'after.png'} ({len(result) / 1e6:.1f} MB)")
    print(f"bicubic next to it: {FOLDER / 'before_after.png'}")


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
            print(f"server: {address}")
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


def upscale(client: httpx.Client, photo: Path) -> bytes:
    """Upload, submit, poll, download: what every client of the hosted API does."""
    upload = client.post("/api/v3/media/upload/binary", files={"file": photo.open("rb")}).raise_for_status()
    request = {
        "image": upload.json()["data"]["download_url"],
        "target_resolution": "2k",
        "output_format": "png",
        "creativity": 0,
    }
    submit = client.post("/api/v3/wavespeed-ai/image-upscaler", json=request).raise_for_status()
    job = submit.json()["data"]
    print(f"job {job['id']}: {job['status']}")
    deadline = time.monotonic() + JOB_S
    while time.monotonic() < deadline:
        job = client.get(job["urls"]["get"]).raise_for_status().json()["data"]
        if job["status"] == "completed":
            print(f"job {job['id']}: completed, {job['timings']['inference'] / 1000:.1f} s of work")
            return client.get(job["outputs"][0]).raise_for_status().content
        if job["status"] == "failed":
            raise SystemExit(f"the job failed: {job['error']}")
        time.sleep(0.25)
    raise SystemExit(f"the job did not finish within {JOB_S} s")


def side_by_side(before: Image.Image, after: Image.Image) -> Image.Image:
    """The same cut of both at the result's resolution: bicubic on the left, ours on the right."""
    bicubic = before.resize(after.size, Image.Resampling.BICUBIC)
    left, top = int(after.width * 0.30), int(after.height * 0.10)
    box = (left, top, left + PANEL[0], min(after.height, top + PANEL[1]))
    sheet = Image.new("RGB", (2 * PANEL[0] + 8, box[3] - top), "white")
    sheet.paste(bicubic.crop(box), (0, 0))
    sheet.paste(after.crop(box), (PANEL[0] + 8, 0))
    draw = ImageDraw.Draw(sheet)
    for x, label in ((0, "bicubic"), (PANEL[0] + 8, "upscale-server")):
        draw.rectangle((x, 0, x + 14 * len(label) + 24, 40), fill="black")
        draw.text((x + 12, 8), label, fill="white", font_size=24)
    return sheet


if __name__ == "__main__":
    main()
