"""What a request and a tiny job cost, in milliseconds of CPU: `python -m benchmarks.requests_cpu [--against CHECKOUT]`.

Servers with 1,000 and 100,000 ended jobs in their tables, and beside them those of a checkout of an earlier commit if
one is given, are measured in turn. A round, of the API process while the worker is held: submits, polls of a job that
waits, polls of one that has ended, by API. Then, of all processes: jobs one after the other, of pictures of 8 × 8 with
fidelity-x4. The figures are medians of the rounds. On SQLite.

Required: with 100,000 rows at most 1.5 times what it costs with 1,000; against a checkout, at most half of its cost.
Exit status 1 if one is not met.
"""

import asyncio
import json
import os
import signal
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.against import parse
from benchmarks.load import Line
from tests.stress.clients import ESRGAN, NATIVE, NOVITA, RUNWARE, VIBEDREAM, Ask, Door, Order, inline, new_uuid, png
from tests.stress.server_process import Launched

ROWS = (1_000, 100_000)
DOORS = (NATIVE, ESRGAN, NOVITA, RUNWARE, VIBEDREAM)
SUBMITS, POLLS, JOBS = 20, 150, 40
"""In a round, the first two of each API."""
MOST_BY_ROWS, MOST_OF_OLD = 1.5, 0.5
_AGE_S = 1000.0
"""Of the ended jobs: they are neither new to the metrics nor about to expire."""
_QUIET = 0.02
"""A worker that takes less than this share of a core has nothing to do, such as to compile kernels."""
_TIMEOUT_S = 300.0


def cpu_ms(pid: int) -> float:
    """Of all threads of a process, by its own clock, which is finer than the ticks in /proc."""
    return 1e3 * time.clock_gettime((~pid << 3) | 2)


class Server:
    def __init__(self, folder: Path, checkout: Path) -> None:
        self.launched = Launched(folder, checkout=checkout)
        self._file = self.launched.data_dir / "jobs.sqlite3"
        self._picture = inline(png(8, 8, (90, 140, 30)))
        self._ended: dict[str, str] = {}
        """The name of an ended job, by API."""

    async def start(self, rows: int) -> None:
        """With so many ended jobs, and until nothing is new to its processes."""
        self.launched.start()
        self.launched.wait_until_ready()
        self._pids = {each.role: each.pid for each in self.launched.processes()}
        self._line = Line(self.launched.port)
        await self._run_jobs()
        while await self._share_of_worker() > _QUIET:
            pass
        with self._held(), self._database() as db:
            for door in DOORS:
                self._ended[door.name] = await self._submit(door)
            made = "result, state, started_at, finished_at, attempt, progress, worker"
            like = "FROM jobs WHERE state = 'succeeded'"
            db.execute(f"UPDATE jobs SET ({made}) = (SELECT {made} {like}) WHERE state = 'queued'")
            columns = [row[1] for row in db.execute("PRAGMA table_info(jobs)")]
            new = dict.fromkeys(("id", "source_id", "result_id"), "lower(hex(randomblob(16)))")
            new |= dict.fromkeys(("created_at", "finished_at"), f"{time.time() - _AGE_S} + number / 1000.0")
            db.execute(
                f"WITH RECURSIVE n(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM n WHERE number < {rows}) "
                f"INSERT INTO jobs ({', '.join(columns)}) SELECT {', '.join(new.get(name, name) for name in columns)} "
                f"FROM n, (SELECT * {like} AND external_id IS NULL LIMIT 1)"
            )

    async def round(self) -> dict[str, float]:
        """Milliseconds of CPU by what was done."""
        found: dict[str, float] = {}
        with self._held():
            for door in DOORS:
                found[f"submit, {door.name}"] = await self._api_ms(SUBMITS, partial(self._submit, door))
                waits = await self._submit(door)
                for state, name in (("waits", waits), ("ended", self._ended[door.name])):
                    found[f"poll, {state}, {door.name}"] = await self._api_ms(
                        POLLS, partial(self._ask, door.poll(name))
                    )
            with self._database() as db:
                db.execute("DELETE FROM jobs WHERE state = 'queued'")
        before = self._all_ms()
        await self._run_jobs()
        after = self._all_ms()
        return found | {f"job with its submit, {role}": (after[role] - before[role]) / JOBS for role in after}

    async def _api_ms(self, number: int, act: Callable[[], Awaitable[object]]) -> float:
        before = cpu_ms(self._pids["api"])
        for _ in range(number):
            await act()
        return (cpu_ms(self._pids["api"]) - before) / number

    def _all_ms(self) -> dict[str, float]:
        return {role: cpu_ms(self._pids[role]) for role in ("api", "worker")}

    async def _run_jobs(self) -> None:
        body = {"image": self._picture, "scale": 4, "model": "fidelity-x4"}
        deadline = time.monotonic() + _TIMEOUT_S
        with self._database() as db:
            for _ in range(JOBS):
                name = (await self._ask(Ask("POST", "/jobs", body)))["id"]
                while (state := self._state(db, name)) != "succeeded":
                    assert state in ("queued", "running") and time.monotonic() < deadline, state
                    await asyncio.sleep(0.005)

    @staticmethod
    def _state(db: sqlite3.Connection, name: str) -> str:
        return str(db.execute("SELECT state FROM jobs WHERE id = ?", [name]).fetchone()[0])

    async def _submit(self, door: Door) -> str:
        return door.accepted(await self._ask(door.submit(Order(self._picture, task_uuid=new_uuid()))))

    async def _ask(self, ask: Ask) -> Any:
        status, answer = await self._line.ask(ask)
        assert status in (200, 201, 202), answer
        return answer

    async def _share_of_worker(self) -> float:
        before = cpu_ms(self._pids["worker"])
        await asyncio.sleep(2)
        return (cpu_ms(self._pids["worker"]) - before) / 2e3

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The worker does not run, and does not hold the database's lock."""
        pid = self._pids["worker"]
        while True:
            os.kill(pid, signal.SIGSTOP)
            try:
                with self._database(timeout_s=0.5) as db:
                    db.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.OperationalError:
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.1)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def _database(self, timeout_s: float = 30.0) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._file, timeout=timeout_s)) as db:
            yield db
            db.commit()


async def measure(folder: Path, checkouts: list[Path], rounds: int) -> dict[str, dict[str, float]]:
    """Medians by rows and checkout ("new 1000"), then by what was done."""
    names = ("new", "old")[: len(checkouts)]
    places = {
        f"{name} {rows}": (checkout, rows) for rows in ROWS for name, checkout in zip(names, checkouts, strict=True)
    }
    servers = {name: Server(folder / name.replace(" ", "-"), checkout) for name, (checkout, _) in places.items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
    try:
        for name, server in servers.items():
            await server.start(places[name][1])
        for number in range(rounds + 1):
            for name, server in servers.items():
                each = await server.round()
                if number:  # the first one warms
                    found[name].append(each)
    finally:
        for server in servers.values():
            server.launched.end()
    return {
        name: {what: statistics.median(each[what] for each in every) for what in every[0]}
        for name, every in found.items()
    }


def report(found: dict[str, dict[str, float]]) -> list[str]:
    """Print the figures and their ratios. Returns what is not as required."""
    few, many = ROWS
    missed = []
    print(f"{'ms of CPU':34}", *(f"{name:>11}" for name in found), "   by rows    of old")
    for what, new in found[f"new {few}"].items():
        by_rows = found[f"new {many}"][what] / new
        old = found.get(f"old {few}")
        ratios = [by_rows] if old is None else [by_rows, new / old[what]]
        print(f"{what:34}", *(f"{each[what]:11.3f}" for each in found.values()), *(f"{each:9.2f}" for each in ratios))
        missed += [f"{what}: {by_rows:.2f} × by rows"] if by_rows > MOST_BY_ROWS else []
        missed += [f"{what}: {ratios[1]:.2f} × of old"] if old is not None and ratios[1] > MOST_OF_OLD else []
    return missed


def main() -> int:
    given, checkouts = parse(__doc__)
    with tempfile.TemporaryDirectory(prefix="requests-") as folder:
        found = asyncio.run(measure(Path(folder), checkouts, given.rounds))
    missed = report(found)
    if given.json:
        given.json.write_text(json.dumps({"rounds": given.rounds, "cpu_ms": found}, indent=1) + "\n", "utf-8")
    print("missed:", "; ".join(missed) or "nothing")
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
