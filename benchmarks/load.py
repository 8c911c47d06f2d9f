"""Many callers at once, and many jobs in sequence: `python -m benchmarks.load [--seconds N] [--json FILE]`.

* Load: POLLERS callers poll a job every second, as the vendors' clients do, while SUBMITS pictures of 8 × 8 are
  submitted per second, for a minute. Required: no errors, and all jobs done. The time of a poll is reported.
* Memory: 2,000 jobs of mixed sizes and formats, with the network. Required: no process grows by more than 5 % after the
  warm-up.

Callers and server share the machine, so the callers' own time is part of every figure. Exit status 1 if a requirement
is not met.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.stress.clients import NATIVE, Ask, Seen, inline, png
from tests.stress.server_process import Launched, memory_mib

POLL_EVERY_S = 1.0
SUBMIT_LINES = 32
"""Connections for submits."""
KNOWN = 2000
"""Number of the newest jobs from which a poller chooses when its job has ended."""
WARM_JOBS, WARM_LOAD_S = 300, 5.0
AT_ONCE = 6
"""Concurrent jobs while memory is measured."""
MOST_GROWTH = 0.05
_SAMPLE_S = 1.0
_DRAIN_S = 300.0
_TIMEOUT_S = 60.0
_SUBMIT, _POLL = "/api/v3/wavespeed-ai/real-esrgan", "/api/v3/predictions/{}/result"


class Line:
    """A minimal keep-alive connection: httpx would take more time than the server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, ask: Ask) -> tuple[int, Any]:
        """Status and JSON. Raises OSError and asyncio.IncompleteReadError."""
        if self._streams is not None and self._streams[0].at_eof():
            self.close()  # closed by the server because it was idle
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        body = b"" if ask.body is None else json.dumps(ask.body).encode()
        head = f"{ask.method} {ask.path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nAuthorization: Bearer any\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                start = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.lower().split(b": ", 1) for line in start.split(b"\r\n")[1:] if line)
                content = await reader.readexactly(int(fields[b"content-length"]))
        except BaseException:
            self.close()
            raise
        return int(start.split(b" ", 2)[1]), json.loads(content)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass
class Watch:
    """The measurements."""

    polls: list[float] = field(default_factory=list)
    submits: list[float] = field(default_factory=list)
    """Milliseconds."""
    errors: Counter[str] = field(default_factory=Counter)
    late: float = 0.0
    """How far the callers were behind their schedule, in seconds: then the load was less than stated."""
    memory: dict[str, list[float]] = field(default_factory=lambda: {"api": [], "worker": []})
    """MiB, by process, once per _SAMPLE_S."""


# --- load -----------------------------------------------------------------------------------------------------------


class Load:
    def __init__(self, server: Launched, pollers: int, submits_per_s: float) -> None:
        self._server = server
        self._pollers = pollers
        self._gap_s = 1 / submits_per_s
        self._picture = inline(png(8, 8, (90, 140, 30)))
        self._jobs: deque[str] = deque(maxlen=KNOWN)
        self._all: list[str] = []
        self._watch = Watch()
        self._lines: asyncio.Queue[Line] = asyncio.Queue()

    async def run(self, seconds: float) -> dict[str, Any]:
        for _ in range(SUBMIT_LINES):
            self._lines.put_nowait(Line(self._server.port))
        await self._submit_for(WARM_LOAD_S)
        self._watch = Watch()
        polling = [asyncio.create_task(self._poll(number)) for number in range(self._pollers)]
        sampling = asyncio.create_task(sample(self._server, self._watch))
        started = time.monotonic()
        await self._submit_for(seconds)
        lasted = time.monotonic() - started
        for task in polling:
            task.cancel()
        await asyncio.gather(*polling, return_exceptions=True)
        ends = await self._drain()
        sampling.cancel()
        watch = self._watch
        failures = [f"{count} × {error}" for error, count in watch.errors.items()]
        failures += [f"{count} jobs are {state}" for state, count in ends.items() if state != "succeeded"]
        return {
            "pollers": self._pollers,
            "submits_per_s": round(len(watch.submits) / lasted, 1),
            "polls_per_s": round(len(watch.polls) / lasted, 1),
            "seconds": round(lasted, 1),
            "callers_late_s": round(watch.late, 2),
            "poll_ms": percentiles(watch.polls),
            "submit_ms": percentiles(watch.submits),
            "jobs": dict(ends),
            "memory_mib": watch.memory,
            "failures": failures,
        }

    async def _submit_for(self, seconds: float) -> None:
        """At fixed times, whether or not earlier requests have been answered."""
        started = time.monotonic()
        tasks = set()
        for number in range(round(seconds / self._gap_s)):
            due = started + number * self._gap_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._watch.late = max(self._watch.late, time.monotonic() - due)
            task = asyncio.create_task(self._submit())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def _submit(self) -> None:
        started = time.perf_counter()
        line = await self._lines.get()
        answer = await self._ask(line, Ask("POST", _SUBMIT, {"image": self._picture, "scale": 1}))
        self._lines.put_nowait(line)
        self._watch.submits.append((time.perf_counter() - started) * 1000)
        if answer is not None:
            self._jobs.append(answer["data"]["id"])
            self._all.append(answer["data"]["id"])

    async def _poll(self, number: int) -> None:
        """One caller: polls a job until it has ended, then another."""
        chance, line = random.Random(number), Line(self._server.port)
        await asyncio.sleep(chance.uniform(0, POLL_EVERY_S))
        job, due = self._jobs[-1], time.monotonic()
        while True:
            started = time.perf_counter()
            answer = await self._ask(line, Ask("GET", _POLL.format(job)))
            self._watch.polls.append((time.perf_counter() - started) * 1000)
            if answer is None or answer["data"]["status"] in ("completed", "failed"):
                job = chance.choice(self._jobs)
            due += POLL_EVERY_S
            self._watch.late = max(self._watch.late, time.monotonic() - due)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _ask(self, line: Line, ask: Ask) -> Any:
        """The response, or None after an error, which is counted."""
        try:
            status, answer = await line.ask(ask)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self._watch.errors[type(error).__name__] += 1
            return None
        if status != 200:
            self._watch.errors[f"{ask.method} answered with {status}: {str(answer)[:100]}"] += 1
            return None
        return answer

    async def _drain(self) -> Counter[str]:
        """The number of jobs by final state."""
        line, ends = Line(self._server.port), Counter[str]()
        deadline = time.monotonic() + _DRAIN_S
        for job in self._all:
            while True:
                _, answer = await line.ask(Ask("GET", f"/jobs/{job}"))
                seen = NATIVE.read(answer)
                if seen.state != "waiting" or time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.05)
            ends[seen.state] += 1
        line.close()
        return ends


# --- memory ---------------------------------------------------------------------------------------------------------


async def memory_over(server: Launched, jobs: int) -> dict[str, Any]:
    """The memory of both processes, over so many jobs after WARM_JOBS."""
    watch, chance = Watch(), random.Random(1)
    numbers = iter(range(WARM_JOBS + jobs))
    warm: dict[str, int] = {}

    async def work() -> None:
        line = Line(server.port)
        for number in numbers:
            if number == WARM_JOBS:
                warm.update({role: len(values) for role, values in watch.memory.items()})
            seen = await _one(line, _mixed(number, chance))
            watch.errors[seen.state] += 1
        line.close()

    sampling = asyncio.create_task(sample(server, watch))
    await asyncio.gather(*[work() for _ in range(AT_ONCE)])
    await asyncio.sleep(2 * _SAMPLE_S)
    sampling.cancel()
    figures, failures = {}, [f"{count} jobs {state}" for state, count in watch.errors.items() if state != "succeeded"]
    for role, values in watch.memory.items():
        since = values[warm.get(role, 0) :]
        # Single samples include the work of that moment.
        part = max(1, len(since) // 10)
        before, after = float(np.median(since[:part])), float(np.median(since[-part:]))
        growth = after / before - 1
        figures[role] = {
            "before": round(before, 1),
            "after": round(after, 1),
            "growth": round(growth, 4),
            "most": max(values),
        }
        failures += [f"{role} grew by {growth:.1%}"] if growth > MOST_GROWTH else []
    return {"jobs": jobs, "memory_mib": figures, "samples": watch.memory, "failures": failures}


def _mixed(number: int, chance: random.Random) -> dict[str, Any]:
    """The largest come first, so that their memory is part of the warm-up."""
    sides = (64, 48) if number < 8 else (chance.randint(4, 64), chance.randint(4, 48))
    kind = ("png", "jpeg", "webp", "tiff", "avif")[number % 5]
    return {"image": inline(png(*sides, (200, 60, 90))), "scale": (4, 2, 1, 3.5)[number // 5 % 4], "format": kind}


async def _one(line: Line, body: dict[str, Any]) -> Seen:
    status, answer = await line.ask(Ask("POST", "/jobs", body))
    assert status == 202, answer
    while (seen := NATIVE.read(answer)).state == "waiting":
        await asyncio.sleep(0.02)
        _, answer = await line.ask(Ask("GET", f"/jobs/{answer['id']}"))
    return seen


async def sample(server: Launched, watch: Watch) -> None:
    while True:
        for each in server.processes():
            if each.role in watch.memory:
                watch.memory[each.role].append(memory_mib(each.pid))
        await asyncio.sleep(_SAMPLE_S)


def percentiles(values: list[float]) -> dict[str, float]:
    found = {name: float(np.percentile(values or [0.0], at)) for name, at in (("p50", 50), ("p99", 99), ("most", 100))}
    return {name: round(value, 1) for name, value in found.items()}


# --- both -----------------------------------------------------------------------------------------------------------


def measure(folder: Path, pollers: int, submits_per_s: float, seconds: float, jobs: int) -> dict[str, Any]:
    server = Launched(folder)
    facts: dict[str, Any] = {}
    try:
        server.start()
        server.wait_until_ready()
        if seconds:
            facts["load"] = asyncio.run(Load(server, pollers, submits_per_s).run(seconds))
            print(json.dumps(facts["load"] | {"memory_mib": "…"}, indent=1))
        if jobs:
            facts["memory"] = asyncio.run(memory_over(server, jobs))
        server.stop()
    finally:
        server.end()
    errors = [event for event in server.events() if event.get("level") not in ("info", "debug")]
    failures = [f"logged: {json.dumps(event)[:500]}" for event in errors[:20]]
    failures += [f"{name}: {each}" for name, part in facts.items() for each in part.pop("failures")]
    return {"cores": os.cpu_count(), **facts, "failures": failures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pollers", type=int, default=500)
    parser.add_argument("--submits", type=float, default=50.0, help="per second")
    parser.add_argument("--seconds", type=float, default=60.0, help="0: no load")
    parser.add_argument("--jobs", type=int, default=2000, help="for memory; 0: none")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="load-") as folder, suppress(KeyboardInterrupt):
        facts = measure(Path(folder), args.pollers, args.submits, args.seconds, args.jobs)
        if args.json:
            args.json.write_text(json.dumps(facts, indent=1) + "\n")
        print(json.dumps(facts.get("memory", {}).get("memory_mib"), indent=1), json.dumps(facts["failures"], indent=1))
        raise SystemExit(1 if facts["failures"] else 0)


if __name__ == "__main__":
    main()
