"""Clocks that are wrong: on PostgreSQL its own clock counts, on SQLite the time since the machine started."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from server.blobs.base import new_key
from server.blobs.folder import FolderBlobs
from server.db import clock
from server.db.clock import NOW, TICKS
from server.db.database import migrate, open_database, reading
from server.db.deliveries import UPLOAD, Deliveries, Delivery
from server.db.jobs import HeartbeatResult, Jobs, WorkerInfo
from server.db.uploads import Uploads
from server.job.job import Job, Params, State
from tests.conftest import Served, draw
from tests.db.test_jobs import add, take

HOUR_S = 3600.0
Move = Callable[[float], None]

MOVED = """
import os, time
_time = time.time
time.time = lambda: _time() + float(os.environ["MOVED_S"])
"""
"""As `sitecustomize`: a process whose clock is wrong."""


@pytest.fixture
def table(engine: Engine) -> Jobs:
    return Jobs(engine, lease_s=15)


@pytest.fixture
def move(monkeypatch: pytest.MonkeyPatch) -> Iterator[Move]:
    """Set this machine's clock forward, or back."""
    real = time.time

    def moved(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    yield moved
    monkeypatch.undo()


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """For SQLite."""
    real = time.monotonic
    monkeypatch.setattr(clock, "ticks", lambda: real() + seconds)


def now(engine: Engine) -> tuple[float, float]:
    with reading(engine) as db:
        wall, ticks = db.execute(select(NOW, TICKS)).one()
        return wall, ticks


def test_the_time_is_that_of_the_database(engine: Engine, move: Move) -> None:
    before = time.time()
    move(HOUR_S)
    wall, ticks = now(engine)
    if engine.dialect.name == "postgresql":
        assert wall == ticks and abs(wall - before) < 60
    else:
        assert abs(wall - before - HOUR_S) < 60 and abs(ticks - time.monotonic()) < 60


@pytest.mark.parametrize("seconds", [HOUR_S, 60.0, -60.0, -HOUR_S])
def test_no_live_job_is_taken_whatever_the_clock_says(table: Jobs, move: Move, seconds: float) -> None:
    add(table)
    job = take(table, "a")
    table.worker_beat(WorkerInfo("a", "cpu", True))
    move(seconds)
    assert table.claim("b") is None
    assert [each.id for each in table.live_workers()] == ["a"]
    assert table.heartbeat(job, 0.5) is HeartbeatResult.CONTINUE
    assert table.cancel(job.id).state is State.RUNNING
    move(0)
    assert table.heartbeat(job, 0.6) is HeartbeatResult.CANCEL


@pytest.mark.parametrize("seconds", [HOUR_S, 60.0, -60.0, -HOUR_S])
def test_a_lease_of_a_machine_with_a_wrong_clock_is_as_good_as_any(table: Jobs, move: Move, seconds: float) -> None:
    add(table)
    move(seconds)
    job = take(table, "wrong")
    table.worker_beat(WorkerInfo("wrong", "cpu", True))
    move(0)
    assert table.claim("b") is None
    assert [each.id for each in table.live_workers()] == ["wrong"]
    assert table.heartbeat(job, 0.5) is HeartbeatResult.CONTINUE


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S])
def test_a_delivery_is_due_after_its_pause_whatever_the_clock_says(
    engine: Engine, table: Jobs, move: Move, seconds: float
) -> None:
    deliveries = Deliveries(engine)
    job = Job(dialect="native", owner="ann", params=Params(scale=2), state=State.FAILED)
    table.enqueue(job, [Delivery(job_id=job.id, kind=UPLOAD, url="http://a.example/", base_url="")])
    claimed = deliveries.claim(10)
    assert claimed is not None
    deliveries.retry(claimed, 30, "no answer")
    move(seconds)
    assert deliveries.claim(10) is None
    waits = deliveries.next_due_s()
    assert waits is not None and 0 < waits <= 30
    deliveries.hold(claimed, 0)
    assert deliveries.claim(10) is not None


def test_on_postgresql_a_machine_with_a_wrong_clock_neither_ends_nor_keeps_what_has_a_time(
    engine: Engine, table: Jobs, move: Move, tmp_path: Path
) -> None:
    if engine.dialect.name == "sqlite":
        return  # its only clock is the one that is wrong
    uploads = Uploads(engine, FolderBlobs(tmp_path), keep_s=100)
    ticket = uploads.issue("ann", "a.png", ".png")
    over = add(table, state=State.FAILED, finished_at=time.time() - 100)
    kept = add(table, state=State.FAILED, finished_at=time.time() - 10)
    move(2 * HOUR_S)
    late = add(table, cancel_at=time.time() + 1000)
    assert uploads.expired() == [] and uploads.ticket(ticket.key) == ticket
    assert [job.id for job in table.expired(keep_s=50)] == [over.id] != [kept.id]
    move(0)
    stored = table.get(late.id).cancel_at
    assert stored is not None and abs(stored - time.time() - 1000) < 60


# --- SQLite: one machine --------------------------------------------------------------------------------------------


@pytest.fixture
def sqlite(empty_database: Path, tmp_path: Path) -> Iterator[Jobs]:
    url = f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    migrate(url)
    engine = open_database(url)
    yield Jobs(engine, lease_s=15)
    engine.dispose()


def test_after_a_crash_and_a_clock_set_back_a_job_waits_for_a_lease_and_no_longer(
    sqlite: Jobs, move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = add(sqlite), add(sqlite)
    take(sqlite, "dead")
    take(sqlite, "dead")
    sqlite.worker_beat(WorkerInfo("dead", "cpu", True))
    monkeypatch.setattr(clock, "wall", lambda: time.time() - HOUR_S)
    pass_time(monkeypatch, 16)
    assert sqlite.live_workers() == []
    assert sqlite.cancel(first.id).state is State.CANCELLED
    again = take(sqlite, "b")
    assert (again.id, again.attempt) == (second.id, 2)


def test_a_restart_of_the_machine_frees_its_jobs(sqlite: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time begins at 0 again; this machine has run for longer than a lease."""
    pass_time(monkeypatch, 1000)
    add(sqlite)
    take(sqlite, "dead")
    sqlite.worker_beat(WorkerInfo("dead", "cpu", True))
    monkeypatch.setattr(clock, "ticks", lambda: 5.0)
    assert sqlite.live_workers() == []
    assert take(sqlite, "b").attempt == 2


# --- real processes -------------------------------------------------------------------------------------------------


def wrong_clock(folder: Path, seconds: float) -> dict[str, str]:
    """The environment of a process whose clock is so many seconds ahead."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(MOVED)
    return {"PYTHONPATH": f"{folder}:{os.getcwd()}", "MOVED_S": str(seconds)}


CLAIMS = """
import sys, time
from server.db.database import open_database
from server.db.jobs import Jobs, WorkerInfo
jobs = Jobs(open_database(sys.argv[1]), lease_s=3)
print(abs(time.time() - float(sys.argv[2])) > 50, flush=True)
until = time.monotonic() + 5
while time.monotonic() < until:
    job = jobs.claim("wrong")
    print("claimed" if job else "none", [each.id for each in jobs.live_workers()], flush=True)
    time.sleep(0.2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [60.0, -60.0])
def test_a_process_whose_clock_is_a_minute_off_takes_no_live_job(postgres: str, tmp_path: Path, seconds: float) -> None:
    engine = open_database(postgres)
    jobs = Jobs(engine, lease_s=3)
    with engine.begin() as db:
        db.exec_driver_sql("DELETE FROM jobs")
        db.exec_driver_sql("DELETE FROM workers")
    add(jobs)
    job = take(jobs, "right")
    jobs.worker_beat(WorkerInfo("right", "cpu", True))
    command = [sys.executable, "-c", CLAIMS, postgres, str(time.time())]
    environment = os.environ | wrong_clock(tmp_path / "clock", seconds)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            assert jobs.heartbeat(job, 0.5) is HeartbeatResult.CONTINUE
            time.sleep(0.1)
        assert process.stdout is not None
        first, *lines = process.stdout.read().splitlines()
    assert first == "True", "its clock is wrong"
    assert process.returncode == 0 and set(lines) == {"none ['right']"}
    engine.dispose()


@pytest.mark.slow
def test_a_server_whose_clock_was_set_back_an_hour_after_a_crash_runs_the_job(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    migrate(f"sqlite:///{data / 'jobs.sqlite3'}")
    engine = open_database(f"sqlite:///{data / 'jobs.sqlite3'}")
    jobs, key = Jobs(engine, lease_s=15), new_key()
    FolderBlobs(data / "blobs").put(key, draw(8, 8))
    jobs.enqueue(Job(dialect="native", owner="local", params=Params(scale=2), source_key=key))
    job = take(jobs, "dead")
    jobs.worker_beat(WorkerInfo("dead", "cpu", True))
    server = Served(data, **wrong_clock(tmp_path / "clock", -HOUR_S))
    try:
        server.start()
        server.wait_for(lambda: jobs.get(job.id).state is State.SUCCEEDED, 120)
        assert jobs.get(job.id).attempt == 2
        assert "dead" not in [each["id"] for each in server.get("/readyz").json()["workers"]]
    finally:
        server.stop()
    engine.dispose()
