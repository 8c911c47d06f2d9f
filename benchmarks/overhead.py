"""The time that the server adds to the work itself: `python -m benchmarks.overhead [--jobs N] [--pollers N] [--json
FILE]`.

A real server (launcher, API process, worker process) gets pictures so small that the pipeline takes one or two
milliseconds, while other clients poll. For every job, in milliseconds:

* `first_answer`: from sending the submit request to receiving the response to the first poll;
* `visible`: from the moment the worker finished the job to the first poll that reports it (one poll every 2 ms);
* `overhead`: from sending the submit request to that moment, minus the seconds that the pipeline reports.

Clients and server share the machine, so the clients' own time is part of every figure.
"""

import argparse
import asyncio
import base64
import io
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from demo.__main__ import server

SUBMIT = "/api/v3/wavespeed-ai/real-esrgan"
_POLL_S = 0.002
_BACKGROUND_POLL_S = 0.1


def tiny_picture() -> str:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((8, 8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


async def run_one(client: httpx.AsyncClient) -> dict[str, float]:
    """One job from submit to result; at scale 1 no network runs, so only the server's time is measured."""
    started = time.time()
    job = (await client.post(SUBMIT, json={"image": tiny_picture(), "scale": 1})).raise_for_status().json()["data"]
    first = None
    while True:
        job = (await client.get(job["urls"]["get"])).raise_for_status().json()["data"]
        seen = time.time()
        first = first or seen
        if job["status"] == "completed":
            break
        assert job["status"] != "failed", job["error"]
        await asyncio.sleep(_POLL_S)
    native = (await client.get(f"/jobs/{job['id']}")).raise_for_status().json()
    finished = datetime.fromisoformat(native["finished_at"].replace("Z", "+00:00")).timestamp()
    worked = sum(native["result"]["seconds"].values())
    return {
        "first_answer": (first - started) * 1000,
        "visible": max(0.0, seen - finished) * 1000,
        "overhead": (seen - started - worked) * 1000,
    }


async def poll_forever(client: httpx.AsyncClient, job_id: str, taken: list[float]) -> None:
    while True:
        started = time.perf_counter()
        (await client.get(f"/api/v3/predictions/{job_id}/result")).raise_for_status()
        taken.append((time.perf_counter() - started) * 1000)
        await asyncio.sleep(_BACKGROUND_POLL_S)


async def measure(address: str, jobs: int, pollers: int) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=pollers + 4, max_keepalive_connections=pollers + 4)
    async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=30, limits=limits) as client:
        for _ in range(5):
            await run_one(client)
        body = {"image": tiny_picture(), "scale": 1}
        polled = (await client.post(SUBMIT, json=body)).raise_for_status().json()["data"]["id"]
        polls: list[float] = []
        background = [asyncio.create_task(poll_forever(client, polled, polls)) for _ in range(pollers)]
        rows = [await run_one(client) for _ in range(jobs)]
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
    columns: dict[str, list[float]] = {name: [row[name] for row in rows] for name in rows[0]} | {"poll": polls}
    return {
        name: {"p50": round(float(np.percentile(values, 50)), 1), "p99": round(float(np.percentile(values, 99)), 1)}
        for name, values in columns.items()
        if values
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--pollers", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with server() as address:
        figures = asyncio.run(measure(address, args.jobs, args.pollers))
    print("| ms | p50 | p99 |\n|---|---|---|")
    for name, row in figures.items():
        print(f"| {name} | {row['p50']} | {row['p99']} |")
    facts = {"jobs": args.jobs, "pollers": args.pollers, "milliseconds": figures}
    if args.json:
        args.json.write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
