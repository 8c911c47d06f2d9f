"""How right the time left is that the server says: `python -m benchmarks.eta [--jobs N] [--json FILE]`.

A real server gets N mixed jobs, as `MIX` has them: mostly photographs of 0.2 to 2 megapixels that become 2k or 4k, by
RealESRGAN_x4plus where they are small and by fidelity-x4 where they are not, in four formats; some with added detail, a
mean of two networks or a mask; and some tiny pictures. They come in groups of 1 to MOST_AT_ONCE at the same moment, and
the next group when all have ended. Each job that runs is asked every POLL_S. What it says at five moments is compared
with the truth: when the whole group was submitted, when the job began to run, and when 25, 50 and 75 % of that run had
passed. The jobs before, from which the server learns its first times, are not counted.

Aim: 95 % of the estimates within 20 %, and 95 % of the bounds held. Exit status 1 if it is not met. For jobs of less
than a second, 20 % is less than the time between two messages of a worker, so the error in seconds is reported too. 300
jobs take about 25 minutes of two quiet cores.
"""

import argparse
import io
import json
import math
import os
import random
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image, ImageOps

from server.weights.choice import FIDELITY, LARGE_X4
from tests.stress.server_process import Launched

POLL_S, POLL_QUEUED_S = 0.2, 0.5
"""While a job runs; while it waits."""
MOST_AT_ONCE = 8
WITHIN, SHARE = 0.20, 0.95
MOMENTS = ("submitted", "started", "25 %", "50 %", "75 %")
CLASSES = (1.0, 5.0)
"""Seconds that were left, between which errors are reported."""
_PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
"""Of scikit-image."""
_FORMATS = ("jpeg", "jpeg", "png", "webp")
"""Of sources."""
_GIVE_UP_S = 3600.0


@dataclass
class Followed:
    """One job, as it was polled."""

    id: str
    wanted: dict[str, Any]
    said: list[tuple[float, str, float | None, float | None]] = field(default_factory=list)
    """When, state, eta_s, eta_max_s."""
    started: float = 0.0
    ended: float = 0.0
    state: str = ""


@dataclass(frozen=True)
class Kind:
    """Of jobs."""

    name: str
    share: float
    """Of all jobs."""
    pixels: tuple[float, float]
    """Of the sources, least and most: the logarithm is evenly spread."""
    fields: Mapping[str, Any]
    """Of POST /jobs."""
    sizes: tuple[str, ...] = ("2k", "2k", "4k")
    """`target`, or `scale`."""
    formats: tuple[str, ...] = ("jpeg", "jpeg", "png", "png", "webp", "avif")


MIX = (
    Kind("tiny", 0.15, (1e3, 1.6e4), {}, ("2", "4")),
    Kind("large network", 0.22, (2e5, 5e5), {"model": LARGE_X4}, ("2k",)),
    Kind("compact network", 0.43, (2e5, 2e6), {"model": FIDELITY}),
    Kind("strict", 0.05, (2e5, 8e5), {"creativity": -2.0}),
    Kind("mean", 0.05, (2e5, 3e5), {"creativity": -1.0}, ("2k",)),
    Kind("added detail", 0.05, (1e5, 2e5), {"creativity": 1.0}, ("2k",)),
    Kind("mask", 0.05, (2e5, 3e5), {"mask": '{"boxes": [[100, 100, 200, 150]]}'}, ("2k",)),
)
"""What servers for photographs get. Their large network is for small pictures on a CPU: README.md, Models. No faces:
their weights are not installed."""


def photos() -> list[Image.Image]:
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return [Image.open(path).convert("RGB") for path in (Path("demo/photo.jpg"), *(folder / each for each in _PHOTOS))]


def picture(random_of: random.Random, found: Sequence[Image.Image], pixels: float, form: str) -> bytes:
    """A part of a photograph at about so many pixels, with the noise of a camera."""
    aspect = random_of.choice((1.0, 4 / 3, 3 / 2, 16 / 9, 3 / 4, 2 / 3))
    size = max(16, round((pixels * aspect) ** 0.5)), max(16, round((pixels / aspect) ** 0.5))
    whole = random_of.choice(found)
    side = random_of.uniform(0.6, 1.0) * min(whole.width / size[0], whole.height / size[1])
    w, h = size[0] * side, size[1] * side
    left, top = random_of.uniform(0, whole.width - w), random_of.uniform(0, whole.height - h)
    part = whole.resize(size, Image.Resampling.LANCZOS, (left, top, left + w, top + h))
    part = ImageOps.mirror(part) if random_of.random() < 0.5 else part
    noise = np.random.default_rng(random_of.getrandbits(32)).normal(0, 2, (size[1], size[0], 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(np.rint(part + noise), 0, 255).astype(np.uint8)).save(file, form.upper(), quality=90)
    return file.getvalue()


def orders(number: int, seed: int) -> list[tuple[bytes, dict[str, Any]]]:
    """The mixed jobs: a picture and the fields of POST /jobs."""
    random_of, found = random.Random(seed), photos()
    kinds = random_of.choices(MIX, [each.share for each in MIX], k=number)
    return [_order(random_of, found, kind) for kind in kinds]


def _order(random_of: random.Random, found: Sequence[Image.Image], kind: Kind) -> tuple[bytes, dict[str, Any]]:
    size, form = random_of.choice(kind.sizes), random_of.choice(kind.formats)
    fields = {**kind.fields, "format": form, "target" if size.endswith("k") else "scale": size, "name": kind.name}
    pixels = math.exp(random_of.uniform(*map(math.log, kind.pixels)))
    return picture(random_of, found, pixels, random_of.choice(_FORMATS)), fields


def follow(client: httpx.Client, job: Followed) -> None:
    """Until it has ended."""
    give_up = time.monotonic() + _GIVE_UP_S
    while time.monotonic() < give_up:
        answer = client.get(f"/jobs/{job.id}").raise_for_status().json()
        now = time.time()
        job.said.append((now, answer["state"], answer["eta_s"], answer["eta_max_s"]))
        if answer["finished_at"] is not None:
            job.state, job.ended = answer["state"], stamp(answer["finished_at"])
            job.started = stamp(answer["started_at"] or answer["finished_at"])
            return
        time.sleep(POLL_QUEUED_S if answer["state"] == "queued" else POLL_S)
    raise SystemExit(f"job {job.id} did not end within {_GIVE_UP_S:g} s")


def stamp(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def run(address: str, wanted: list[tuple[bytes, dict[str, Any]]], seed: int) -> list[Followed]:
    random_of, done, left = random.Random(seed), [], list(wanted)
    with httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
        while left:
            group, left = left[: (size := random_of.randint(1, MOST_AT_ONCE))], left[size:]
            followed = []
            for data, fields in group:
                texts = {name: str(value) for name, value in fields.items()}
                answer = client.post("/jobs", files={"file": ("picture", data)}, data=texts).raise_for_status().json()
                followed.append(Followed(answer["id"], fields | {"bytes": len(data)}))
            threads = [threading.Thread(target=follow, args=(client, each)) for each in followed]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            done += followed
            print(f"{len(done)} of {len(wanted)} jobs", flush=True)
    return done


def moments(job: Followed) -> list[tuple[str, float, float, float]]:
    """What was said at each of MOMENTS, where something was: the moment, the truth, eta_s and eta_max_s."""
    length = job.ended - job.started
    at = [("submitted", 0.0)] + [
        (name, job.started + share * length) for name, share in zip(MOMENTS[1:], (0, 0.25, 0.5, 0.75), strict=True)
    ]
    found = []
    for name, since in at:
        said = next((each for each in job.said if each[0] >= since and each[0] < job.ended), None)
        if name != "submitted" and said is not None and said[1] == "queued":
            said = next((each for each in job.said if each[0] >= since and each[1] == "running"), None)
        if said is not None and said[2] is not None and said[3] is not None:
            found.append((name, job.ended - said[0], said[2], said[3]))
    return found


def report(jobs: list[Followed]) -> dict[str, Any]:
    of_jobs = [(job, moments(job)) for job in jobs]
    rows = [row for _, found in of_jobs for row in found]
    short, long = CLASSES
    classes = {
        **{name: [row for row in rows if row[0] == name] for name in MOMENTS},
        f"under {short:g} s": [row for row in rows if row[1] < short],
        f"{short:g} to {long:g} s": [row for row in rows if short <= row[1] < long],
        f"over {long:g} s": [row for row in rows if row[1] >= long],
        **{
            kind.name: [row for job, found in of_jobs if job.wanted["name"] == kind.name for row in found]
            for kind in MIX
        },
        "all": rows,
    }
    return {
        "jobs": len(jobs),
        "minutes": round((max(job.ended for job in jobs) - min(job.said[0][0] for job in jobs)) / 60, 1),
        "failed": sum(job.state != "succeeded" for job in jobs),
        "cores": os.cpu_count(),
        "load_average": [round(each, 1) for each in os.getloadavg()],
        "said": {name: figures(each) for name, each in classes.items() if each},
    }


def figures(rows: list[tuple[str, float, float, float]]) -> dict[str, float]:
    errors = sorted(abs(eta - truth) for _, truth, eta, _ in rows)
    return {
        "said": len(rows),
        "within_20_percent": share(abs(eta - truth) <= WITHIN * truth for _, truth, eta, _ in rows),
        "within_20_percent_or_1_s": share(abs(eta - truth) <= max(1.0, WITHIN * truth) for _, truth, eta, _ in rows),
        "bound_held": share(truth <= most for _, truth, _, most in rows),
        "median_error_s": round(errors[len(errors) // 2], 2),
        "error_s_of_95_percent": round(errors[min(len(errors) - 1, int(len(errors) * SHARE))], 2),
        "median_bound_by_eta": round(sorted(most / max(0.1, eta) for *_, eta, most in rows)[len(rows) // 2], 2),
    }


def share(found: Any) -> float:
    each = list(found)
    return round(sum(each) / len(each), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--warm", type=int, default=60, help="jobs before, from which the server learns")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--log", type=Path, help="all that was said, one job a line")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Launched(Path(folder) / "server", UPSCALE_AUTO_LIMIT_S="120")
        try:
            server.start()
            server.wait_until_ready()
            run(server.address, orders(wanted.warm, wanted.seed + 1), wanted.seed + 1)
            jobs = run(server.address, orders(wanted.jobs, wanted.seed), wanted.seed)
            if wanted.log:
                lines = [json.dumps(vars(job) | {"moments": moments(job)}) for job in jobs]
                wanted.log.write_text("\n".join(lines))
                for name in ("durations.json", "eta_errors.json"):
                    (wanted.log.parent / name).write_bytes((server.data_dir / "cache" / name).read_bytes())
        finally:
            server.end()
    found = report(jobs)
    print(json.dumps(found, indent=2))
    if wanted.json:
        wanted.json.write_text(json.dumps(found, indent=2) + "\n")
    everything = found["said"]["all"]
    if found["failed"] or everything["within_20_percent"] < SHARE or everything["bound_held"] < SHARE:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
