"""The job table as a queue: `python -m benchmarks.queue [--only PART,PART] [--json FILE]`.

* Cost: CPU per job of submit, claim, three heartbeats and finish, with 1,000 jobs waiting of 50 owners and with 20,000
  of 200 and 50,000 that have ended. Required: at most twice as much. Of PostgreSQL it is the CPU of its own processes;
  SQLite has none, so it is that of this process.
* Fetches, deliveries: CPU of a claim and of its end, with 1,000 waiting of 50 owners and with 20,000 of 200, each owner
  at 7 hosts. Each owner has had a turn before. Required: at most twice as much.
* Efficiency: simulated claimers, threads of a few processes, whose jobs take 2 s. It is the share of a claimer's time,
  from its first claim to its last finish, in which it works. Required: 0.95 for 1 to 256 claimers (on SQLite to 8),
  every job done once, and at most 6 connections of one process.
* Idle: CPU of the API process and the worker process of a server without work, and how long after the commit of its row
  a job starts. Required: 0.5 % of a core, 50 ms (median).

PostgreSQL is the one that the tests start. Exit status 1 if a requirement is not met.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, insert, select, text

from server.db import database
from server.db.database import migrate, open_database, reading
from server.db.deliveries import WEBHOOK, Deliveries, Delivery
from server.db.fairness import host_of
from server.db.jobs import HeartbeatResult, Jobs
from server.db.notify import POLL_S, Listener, Topic
from server.db.rows import to_row
from server.job.job import Job, Params, Result, State
from tests.conftest import draw
from tests.postgres import running_postgres
from tests.stress.server_process import Launched

SIZES = {"small": (1_000, 50, 0), "large": (20_000, 200, 50_000)}
"""Jobs that wait, their owners, jobs that have ended."""
COUNTED, WARM, ROUNDS = 400, 50, 3
HOSTS, CLAIMS, CLAIMS_BEFORE = 7, 150, 250
CLAIMERS = {"sqlite": (1, 2, 4, 8), "postgresql": (1, 2, 4, 8, 64, 256)}
"""SQLite has one writer at a time, and is for the few workers of one machine."""
JOB_S, BEAT_S, JOBS_OF_EACH = 2.0, 0.5, 5
PARTS = "claim", "no_work", "work", "late", "finish"
"""What a claimer does with its time. `late`: its sleep, which stands for the work, ended that much too late."""
PROCESSES = 4
"""The most; each stands for many machines."""
MOST_TIMES, LEAST_EFFICIENCY, MOST_CONNECTIONS = 2.0, 0.95, 6
IDLE_S, STARTS = 40.0, 30
MOST_IDLE_PERCENT, MOST_START_MS = 0.5, 50.0

RESULT = Result(
    key="f" * 32, width=8, height=8, size_bytes=1, format="png", model="m", model_sha256=None, seconds={"upscale": 1.0}
)


def job_of(owner: str) -> Job:
    request = {"image": "https://example.com/pictures/1.jpg", "target_resolution": "4k", "output_format": "jpeg"}
    key = uuid.uuid4().hex
    return Job(dialect="wavespeed", owner=owner, params=Params(scale=4.0), request=request, source_key=key)


def fill(url: str, waiting: int, owners: int, ended: int) -> None:
    """Exactly these jobs and no other rows."""
    engine = open_database(url)
    now = time.time()
    done = {"state": State.SUCCEEDED.value, "finished_at": now - 1000, "attempt": 1, "result": RESULT.to_dict()}

    def rows(number: int, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for place in range(number):
            yield to_row(job_of(f"o{place % owners}")) | {"created_at": now - number + place} | values

    with engine.begin() as db:
        for table in database.metadata.sorted_tables:
            db.execute(table.delete())
        for number, values in ((waiting, {}), (ended, done)):
            if number:
                db.execute(insert(database.jobs), list(rows(number, values)))
    if engine.dialect.name == "postgresql":
        with reading(engine) as db:
            db.execute(text("VACUUM ANALYZE"))
    engine.dispose()


def cpu_s(pid: int) -> float:
    """Of a process, its children and those that have ended."""
    ticks = 0
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                facts = (each / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(each.name) == pid:
                ticks += sum(map(int, facts[11:15]))
            elif int(facts[1]) == pid:
                ticks += int(facts[11]) + int(facts[12])
    return ticks / os.sysconf("SC_CLK_TCK")


# --- cost -----------------------------------------------------------------------------------------------------------


def cost(url: str, postmaster: int | None) -> dict[str, Any]:
    """The median of some rounds, because a machine with other work on it takes more or less CPU for the same."""
    rounds = [_cost_once(url, postmaster) for _ in range(ROUNDS)]
    return sorted(rounds, key=lambda each: each["times"])[ROUNDS // 2] | {"rounds": [each["times"] for each in rounds]}


def _cost_once(url: str, postmaster: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, size in SIZES.items():
        fill(url, *size)
        engine = open_database(url)
        jobs = Jobs(engine, lease_s=15, max_queue=10**9)
        for number in range(WARM + COUNTED):
            if number == WARM:
                database_s, process_s = cpu_s(postmaster) if postmaster else 0.0, time.process_time()
            jobs.enqueue(job_of(f"o{number % size[1]}"))
            job = jobs.claim("w")
            assert job is not None
            for step in (0.25, 0.5, 0.75):
                assert jobs.heartbeat(job, step, "upscaling") is HeartbeatResult.CONTINUE
            assert jobs.finish(job, RESULT)
        mine = time.process_time() - process_s
        spent = cpu_s(postmaster) - database_s if postmaster else mine
        found[name] = {"waiting": size[0], "owners": size[1], "ended": size[2]}
        found[name] |= {"cpu_ms_per_job": round(1e3 * spent / COUNTED, 2)}
        found[name] |= {"client_cpu_ms_per_job": round(1e3 * mine / COUNTED, 2)}
        engine.dispose()
    found["times"] = round(found["large"]["cpu_ms_per_job"] / found["small"]["cpu_ms_per_job"], 2)
    return found


# --- claims of fetches and deliveries -------------------------------------------------------------------------------


def fill_hosts(url: str, what: str, waiting: int, owners: int) -> None:
    """Exactly so many fetches or deliveries that wait, each owner's at `HOSTS` hosts."""
    fill(url, 0, 1, 0)
    engine = open_database(url)
    rows, now = [], time.time()
    for place in range(waiting):
        address = f"https://host{place // owners % HOSTS}.example/1"
        job = replace(job_of(f"o{place % owners}"), created_at=now - waiting + place)
        if what == "fetches":
            job = replace(job, source_key=None, source_url=address)
        else:
            job = replace(job, state=State.SUCCEEDED, finished_at=now)
        host = host_of(address)
        rows.append(
            (
                to_row(job) | {"source_host": host},
                Delivery(job_id=job.id, kind=WEBHOOK, url=address, base_url="", owner=job.owner, host=host),
            )
        )
    with engine.begin() as db:
        db.execute(insert(database.jobs), [job for job, _ in rows])
        if what == "deliveries":
            db.execute(insert(database.deliveries), [asdict(delivery) for _, delivery in rows])
    if engine.dialect.name == "postgresql":
        with reading(engine) as db:
            db.execute(text("VACUUM ANALYZE"))
    engine.dispose()


def claims(url: str, postmaster: int | None, what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (waiting, owners, _) in SIZES.items():
        fill_hosts(url, what, waiting, owners)
        engine = open_database(url)
        fetches, deliveries = Jobs(engine, lease_s=15).fetches, Deliveries(engine)
        for number in range(CLAIMS_BEFORE + CLAIMS):
            if number == CLAIMS_BEFORE:
                before = cpu_s(postmaster) if postmaster else time.process_time()
            if what == "fetches":
                job = fetches.claim("f", 60)
                assert job is not None and fetches.give(job.id, "f", "f" * 32)
            else:
                delivery = deliveries.claim(60)
                assert delivery is not None
                deliveries.delivered(delivery)
        spent = (cpu_s(postmaster) if postmaster else time.process_time()) - before
        engine.dispose()
        found[name] = {"waiting": waiting, "owners": owners, "hosts": HOSTS, "cpu_ms": round(1e3 * spent / CLAIMS, 2)}
    return found | {"times": round(found["large"]["cpu_ms"] / found["small"]["cpu_ms"], 2)}


# --- efficiency -----------------------------------------------------------------------------------------------------


def claim_in_threads(
    url: str, claimers: int, first: int, out: "multiprocessing.Queue[Any]", ready: Any, go: Any
) -> None:
    """One process: claimers as threads, which work on `JOBS_OF_EACH` jobs each."""
    engine = open_database(url)
    jobs, listener = Jobs(engine, lease_s=15), Listener(engine)
    parts: list[dict[str, float]] = []
    done: list[tuple[str, int]] = []

    def one(number: int) -> None:
        name, come, worked = f"simulated-{first + number}", listener.subscribe(Topic.WORK), 0
        spent = dict.fromkeys(PARTS, 0.0)

        def timed(part: str, call: Callable[[], Any]) -> Any:
            begun = time.monotonic()
            result = call()
            spent[part] += time.monotonic() - begun
            return result

        go.wait()
        time.sleep(JOB_S * number / claimers)  # machines don't begin at the same moment
        started = time.monotonic()
        while worked < JOBS_OF_EACH:
            job = timed("claim", lambda: jobs.claim(name))
            if job is None:
                timed("no_work", lambda: come.wait(POLL_S))
                continue
            begun = time.monotonic()
            until = begun + JOB_S
            while (left := until - time.monotonic()) > 0:
                time.sleep(min(left, BEAT_S))
                if time.monotonic() < until:
                    assert jobs.heartbeat(job, 1 - left / JOB_S, "upscaling") is HeartbeatResult.CONTINUE
            spent["late"] += time.monotonic() - until
            spent["work"] += JOB_S
            assert timed("finish", lambda job=job: jobs.finish(job, RESULT))
            worked += 1
            done.append((job.id, job.attempt))
        parts.append(spent | {"all": time.monotonic() - started})

    with listener.running():
        threads = [threading.Thread(target=one, args=[number]) for number in range(claimers)]
        for thread in threads:
            thread.start()
        ready.release()
        go.wait()
        before = time.process_time()
        for thread in threads:
            thread.join()
    out.put((parts, done, time.process_time() - before))
    engine.dispose()


def efficiency(url: str, postmaster: int | None, claimers: int) -> dict[str, Any]:
    number = claimers * JOBS_OF_EACH
    fill(url, number, min(50, number), 0)
    context = multiprocessing.get_context("spawn")
    out, ready, go = context.Queue(), context.Semaphore(0), context.Event()
    processes = min(PROCESSES, claimers)
    each = claimers // processes
    running = [
        context.Process(target=claim_in_threads, args=(url, each, place * each, out, ready, go))
        for place in range(processes)
    ]
    for process in running:
        process.start()
    for _ in running:
        ready.acquire()
    most, before = 0, cpu_s(postmaster) if postmaster else 0.0
    started = time.monotonic()
    go.set()
    found: list[Any] = []
    engine = open_database(url)
    while len(found) < processes:
        if postmaster:
            with reading(engine) as db:
                others = "backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name = ''"
                count: int = db.execute(text(f"SELECT count(*) FROM pg_stat_activity WHERE {others}")).scalar_one()
                most = max(most, count)
        while not out.empty():
            found.append(out.get())
        time.sleep(0.2)
    took = time.monotonic() - started
    for process in running:
        process.join()
    spent = [each for part in found for each in part[0]]
    # A sleep that ends late, as on a busy machine, is neither work nor the queue's doing.
    shares = [each["work"] / (each["all"] - each["late"]) for each in spent]
    of_a_job = {f"{name}_ms": round(1e3 * sum(each[name] for each in spent) / number, 1) for name in PARTS}
    done = [job for part in found for job in part[1]]
    with reading(engine) as db:
        states = select(database.jobs.c.state, database.jobs.c.attempt, func.count())
        rows = [tuple(row) for row in db.execute(states.group_by(database.jobs.c.state, database.jobs.c.attempt))]
    engine.dispose()
    database_s = cpu_s(postmaster) - before if postmaster else None
    return {
        "claimers": claimers,
        "jobs": number,
        "efficiency": round(statistics.mean(shares), 3),
        "least_of_one": round(min(shares), 3),
        "jobs_per_s": round(number / took, 1),
        "each_once": rows == [("succeeded", 1, number)] and len(set(done)) == number,
        "of_a_job": of_a_job,
        "database_cores": None if database_s is None else round(database_s / took, 2),
        "client_cores": round(sum(part[2] for part in found) / took, 2),
        "connections_of_a_process": most / processes,
    }


# --- idle -----------------------------------------------------------------------------------------------------------


def idle(url: str | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="queue-") as folder:
        settings = {"UPSCALE_DATABASE_URL": url} if url else {}
        server = Launched(Path(folder) / "server", UPSCALE_DEVICE="cpu", **settings)
        try:
            server.start()
            server.wait_until_ready()
            time.sleep(2 * POLL_S)
            pids = {each.role: each.pid for each in server.processes()}
            before, started = {role: cpu_s(pid) for role, pid in pids.items()}, time.monotonic()
            time.sleep(IDLE_S)
            seconds = time.monotonic() - started
            percent = {role: round(100 * (cpu_s(pid) - before[role]) / seconds, 3) for role, pid in pids.items()}
            starts = _starts(server)
        finally:
            server.end()
    return {
        "percent_of_a_core": percent,
        "api_and_worker_percent": round(percent["api"] + percent["worker"], 3),
        "start_ms": {"median": round(statistics.median(starts), 1), "most": round(max(starts), 1)},
    }


def _starts(server: Launched) -> list[float]:
    """Milliseconds from just before a row is written, which is when its job is made, to its start."""
    engine = open_database(
        server.environment.get("UPSCALE_DATABASE_URL") or f"sqlite:///{server.data_dir}/jobs.sqlite3"
    )
    jobs = Jobs(engine, lease_s=15)
    found = []
    with httpx.Client(base_url=server.address, trust_env=False, timeout=30) as client:
        for _ in range(STARTS):
            answer = client.post("/jobs", files={"file": ("x.png", draw(8, 8), "image/png")}, data={"scale": "2"})
            while not (job := jobs.get(answer.json()["id"])).state.final:
                time.sleep(0.05)
            assert job.started_at is not None
            found.append(1e3 * (job.started_at - job.created_at))
            time.sleep(0.2)
    engine.dispose()
    return found


# --- all ------------------------------------------------------------------------------------------------------------


@contextmanager
def databases() -> Iterator[dict[str, tuple[str, int | None]]]:
    """URL of each, and the process id of the server."""
    with running_postgres(fsync=True) as server, tempfile.TemporaryDirectory(prefix="queue-") as folder:
        sqlite = f"sqlite:///{folder}/jobs.sqlite3"
        for each in (sqlite, server.url):
            migrate(each)
        yield {"sqlite": (sqlite, None), "postgresql": (server.url, server.pid)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="cost,fetches,deliveries,efficiency,idle")
    parser.add_argument("--database", default="sqlite,postgresql")
    parser.add_argument("--claimers", type=int, nargs="*", help="only so many")
    parser.add_argument("--json", type=Path, help="results are added to this file")
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    found: dict[str, Any] = {}
    missed: list[str] = []
    with databases() as urls:
        for name in arguments.database.split(","):
            url, pid = urls[name]
            if "cost" in parts:
                found[f"cost_{name}"] = part = cost(url, pid)
                print(name, "cost", part, flush=True)
                missed += [f"{name}: cost"] * (part["times"] > MOST_TIMES)
            for what in (each for each in ("fetches", "deliveries") if each in parts):
                found[f"{what}_{name}"] = part = claims(url, pid, what)
                print(name, what, part, flush=True)
                missed += [f"{name}: {what}"] * (part["times"] > MOST_TIMES)
            if "efficiency" in parts:
                lines = found[f"efficiency_{name}"] = []
                for claimers in arguments.claimers or CLAIMERS[name]:
                    line = efficiency(url, pid, claimers)
                    print(name, line, flush=True)
                    lines.append(line)
                    few = line["connections_of_a_process"] <= MOST_CONNECTIONS
                    if line["efficiency"] < LEAST_EFFICIENCY or not line["each_once"] or not few:
                        missed.append(f"{name}: {claimers} claimers")
            if "idle" in parts:
                fill(url, 0, 1, 0)
                found[f"idle_{name}"] = part = idle(url if pid else None)
                print(name, "idle", part, flush=True)
                right = part["api_and_worker_percent"] <= MOST_IDLE_PERCENT
                missed += [f"{name}: idle"] * (not right or part["start_ms"]["median"] > MOST_START_MS)
    found |= {"cores": os.cpu_count(), "load_at_end": round(os.getloadavg()[0], 1)}
    if arguments.json:
        before = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        arguments.json.write_text(json.dumps(before | found, indent=1) + "\n")
    print("missed:", ", ".join(missed) or "nothing")
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
