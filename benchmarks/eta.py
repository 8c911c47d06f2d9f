"""How right the time left is that the server says: `python -m benchmarks.eta [--jobs N] [--json FILE]`.

A real server gets N mixed jobs: sources from 32 × 32 pixels to 2 MP in four formats, results in five, scales above and
below 1, all creativities, mostly with fidelity-x4, some with RealESRGAN_x4plus. They come in groups of 1 to
MOST_AT_ONCE at the same moment, and the next group when all have ended. Each job is asked every POLL_S, as the page
does. What it says at five moments is compared with the truth: when the whole group was submitted, when it began to run,
and when 25, 50 and 75 % of that run had passed. The jobs before, from which the server learns its first times, are not
counted.

Aim: 95 % of the estimates within 20 %, and 95 % of the bounds held. For jobs of a second or two, 20 % is less than the
time between two messages of a worker, so the error in seconds is reported too. Exit status 1 if the aim is not met.
"""

import argparse
import io
import json
import os
import random
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from server.weights.choice import FIDELITY, LARGE_X4
from tests.stress.server_process import Launched

POLL_S = 0.2
MOST_AT_ONCE = 8
WITHIN, SHARE = 0.20, 0.95
MOMENTS = ("submitted", "started", "25 %", "50 %", "75 %")
SHORT_S = 5.0
_KINDS = ("jpeg", "png", "webp", "tiff")
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


def picture(random_of: random.Random, pixels: float, kind: str) -> bytes:
    """Of about so many pixels, with edges, ramps and noise."""
    w = max(16, round((pixels * random_of.uniform(0.6, 1.6)) ** 0.5))
    h = max(16, round(pixels / w))
    y, x = np.mgrid[0:h, 0:w]
    noise = np.random.default_rng(random_of.getrandbits(32)).normal(0, 8, (h, w, 3))
    shape = (((x // 23 + y // 17) % 3) * 40)[..., None] + np.stack((x * 255 // w, y * 255 // h, (x + y) % 256), 2) / 2
    file = io.BytesIO()
    Image.fromarray(np.clip(shape + noise, 0, 255).astype(np.uint8)).save(file, kind.upper())
    return file.getvalue()


def orders(number: int, seed: int) -> list[tuple[bytes, dict[str, Any]]]:
    """The mixed jobs: a picture and the fields of POST /jobs."""
    random_of = random.Random(seed)
    found = []
    for place in range(number):
        form = random_of.choice(("png", "png", "jpeg", "jpeg", "webp", "avif", "tiff"))
        fields: dict[str, Any] = {"format": form}
        draw = random_of.random()
        if draw < 0.08:  # only reduced
            pixels, fields["scale"], fields["model"] = 10 ** random_of.uniform(4, 6.3), 0.5, FIDELITY
        elif draw < 0.16:
            pixels, fields["scale"], fields["model"] = 10 ** random_of.uniform(3, 4.1), 4.0, LARGE_X4
        elif draw < 0.22:
            pixels, fields["scale"], fields["creativity"] = 10 ** random_of.uniform(3, 4.0), 2.0, 1.0
        elif draw < 0.28:
            pixels, fields["scale"], fields["creativity"] = 10 ** random_of.uniform(3, 4.0), 4.0, -1.0
        elif draw < 0.40:
            pixels, fields["scale"], fields["creativity"] = 10 ** random_of.uniform(3, 5.3), 4.0, -2.0
        else:
            most = 5.8 if form == "avif" else 6.3
            pixels, fields["model"] = 10 ** random_of.uniform(3, most), FIDELITY
            fields["scale"] = random_of.choice((1.5, 2.0, 2.0, 4.0) if pixels < 6e5 else (1.5, 2.0))
        found.append((picture(random_of, pixels, _KINDS[place % len(_KINDS)]), fields))
    return found


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
        time.sleep(POLL_S)
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
    rows = [(name, truth, eta, most) for job in jobs for name, truth, eta, most in moments(job)]
    classes = {
        **{name: [row for row in rows if row[0] == name] for name in MOMENTS},
        f"under {SHORT_S:g} s": [row for row in rows if row[1] < SHORT_S],
        f"over {SHORT_S:g} s": [row for row in rows if row[1] >= SHORT_S],
        "all": rows,
    }
    return {
        "jobs": len(jobs),
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
