"""Picture files of every kind that is read, damaged, and what becomes of them: on their own, and through a server."""

import io
import os
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyvips
from PIL import Image, ImageDraw

from server.errors import UpscaleError
from server.images.metadata.metadata import attach_metadata
from server.images.read.open import read_header
from server.images.write.save import save
from server.job.job import Params
from server.pipeline import decode
from tests.stress.awkward import Run
from tests.stress.mutate import mutate_file
from tests.stress.server_process import memory_mib

MAX_PIXELS = 25_000_000
"""Damage must not order hours of work."""
SLOW_S = 20.0
WARM = 5
"""The first fifth does not count for memory."""
_TIMEOUT_S = 60.0


def picture_files(folder: Path | None = None) -> list[bytes]:
    """Valid ones of every kind that is read, small; and those of a folder, if they are small."""
    scene = Image.radial_gradient("L").resize((48, 36)).convert("RGB")
    ImageDraw.Draw(scene).line((0, 0, 47, 35), fill="red", width=3)
    clear = scene.copy()
    clear.putalpha(Image.linear_gradient("L").resize((48, 36)))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a scene"
    made: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (scene, "JPEG", {"exif": exif, "dpi": (300, 300), "comment": b"words"}),
        (scene, "JPEG", {"progressive": True, "quality": 60}),
        (scene.convert("CMYK"), "JPEG", {}),
        (scene.convert("L"), "JPEG", {}),
        (clear, "PNG", {"exif": exif}),
        (scene.quantize(16), "PNG", {"transparency": 3}),
        (scene.convert("1"), "PNG", {}),
        (clear, "WEBP", {"lossless": True, "exif": exif}),
        (scene, "WEBP", {"quality": 50}),
        (scene.quantize(8), "GIF", {"save_all": True, "append_images": [scene.quantize(4)], "duration": 50}),
        (scene, "BMP", {}),
        (clear, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (scene.convert("CMYK"), "TIFF", {"compression": "tiff_lzw"}),
        (clear, "AVIF", {"quality": 50, "exif": exif}),
        (scene.convert("L"), "AVIF", {}),
    ]
    files = []
    for image, kind, options in made:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    deep = pyvips.Image.new_from_array(np.arange(48 * 36 * 3, dtype=np.uint16).reshape(36, 48, 3) * 12)
    deep = deep.copy(interpretation="rgb16")
    files += [deep.write_to_buffer(".png"), deep.write_to_buffer(".tif")]
    folders = [Path(__file__).parents[1] / "images"] + ([folder] if folder else [])
    for path in sorted(path for each in folders for path in each.rglob("*") if path.is_file()):
        if path.suffix not in (".py", ".pyc", ".csv", ".md", ".txt") and path.stat().st_size < 60_000:
            files.append(path.read_bytes())
    return files


def damaged_files(seeds: Sequence[bytes], number: int, seed: str) -> Iterator[bytes]:
    chance = random.Random(seed)
    for _ in range(number):
        yield mutate_file(chance.choice(seeds), chance.choice(seeds), chance)


def digest(data: bytes) -> tuple[str, float]:
    """What becomes of one file, and this process's memory afterwards, in MiB."""
    try:
        read_header(data, MAX_PIXELS)
        run = Run(data, MAX_PIXELS)
        decode.run(run)  # type: ignore[arg-type]
        samples = run.samples
        grey, deep = samples.shape[2] < 3, samples.dtype == np.uint16
        space = ("grey16" if deep else "b-w") if grey else ("rgb16" if deep else "srgb")
        image = pyvips.Image.new_from_array(samples, interpretation=space)
        with tempfile.TemporaryDirectory() as folder:
            save(attach_metadata(image, run.metadata), Path(folder) / "result.png", Params(scale=1))
        outcome = "read"
    except UpscaleError as error:
        outcome = "refused: " + re.sub("[0-9]+", "N", error.message)[:90]
    except Exception as error:
        outcome = f"broke: {type(error).__name__}: {error}"[:300]
    return outcome, memory_mib(os.getpid())


@dataclass
class Digested:
    outcomes: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        warm = self.memory_mib[len(self.memory_mib) // WARM :]
        return {
            "files": self.outcomes.total(),
            "outcomes": dict(self.outcomes.most_common()),
            "memory_mib": {"before": warm[0], "after": warm[-1], "most": max(self.memory_mib)} if warm else None,
            "complaints": self.complaints[:20],
        }


def digest_all(files: Iterator[bytes], keep: Path | None = None) -> Digested:
    """In a process of its own, and in another when that has died. What is complained of is kept in that folder."""
    found = Digested()
    pool = _pool()
    for number, data in enumerate(files):
        try:
            outcome, memory = pool.submit(digest, data).result(timeout=SLOW_S)
            found.memory_mib.append(memory)
        except (BrokenProcessPool, TimeoutError) as error:
            outcome = "crashed" if isinstance(error, BrokenProcessPool) else "hung"
            for process in list(pool._processes.values()):
                process.kill()
            pool = _pool()
        found.outcomes[outcome] += 1
        if outcome.startswith(("crashed", "hung", "broke")):
            found.complaints.append(f"file {number}, {len(data)} bytes: {outcome}")
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"file-{number}").write_bytes(data)
    pool.shutdown()
    return found


def _pool() -> ProcessPoolExecutor:
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    pool.submit(digest, b"").result()  # that starting it does not count
    return pool


def send_files(address: str, files: Iterator[bytes]) -> dict[str, Any]:
    """Through the server, to the end of each job."""
    outcomes: Counter[str] = Counter()
    wrong = []
    with httpx.Client(base_url=address, trust_env=False, timeout=_TIMEOUT_S) as client:
        for data in files:
            form: dict[str, Any] = {"files": {"file": ("p.png", data)}, "data": {"scale": "1"}}
            while (answer := client.post("/jobs", **form)).status_code == 429:
                time.sleep(0.2)  # the queue is full of what damaged requests have asked for
            if answer.status_code != 202:
                outcomes[f"refused with {answer.status_code}"] += 1
                wrong += [answer.text[:300]] if answer.status_code not in (400, 413, 422) else []
                continue
            job, deadline = answer.json(), time.monotonic() + _TIMEOUT_S
            while job["state"] in ("queued", "running") and time.monotonic() < deadline:
                time.sleep(0.02)
                job = client.get(f"/jobs/{job['id']}").json()
            code = job["error"]["code"] if job["error"] else ""
            outcomes[f"{job['state']} {code}".strip()] += 1
            if code == "job_failed" or job["state"] not in ("succeeded", "failed"):
                wrong.append(f"{job['state']}: {job['error']}")
    return {"files": outcomes.total(), "outcomes": dict(outcomes), "complaints": wrong[:20]}
