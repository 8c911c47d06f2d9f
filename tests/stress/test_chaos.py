"""A short form of tests/stress/chaos.py: jobs through every dialect while processes are killed.

And whether it would see what it looks for.
"""

import gc
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.blobs.base import new_key
from server.blobs.folder import FolderBlobs
from server.db.database import open_database
from server.db.jobs import Jobs
from server.job.job import Job, Params, Result, State
from tests.stress.audit import all_ended, read_books, strays
from tests.stress.chaos import measure
from tests.stress.server_process import Launched

JOBS, KILLS = 32, 4

# Clients leave sockets to the collector whose server was killed while they talked.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.mark.slow
@pytest.mark.timeout(1500)  # a minute where nothing else runs; most of it is workers starting
def test_whatever_is_killed_every_accepted_job_ends_once(tmp_path: Path) -> None:
    facts = measure(tmp_path / "run", JOBS, KILLS, seed=1, limit_s=600)
    gc.collect()  # here, or the next test would be blamed for them
    assert facts["failures"] == []
    assert sum(facts["counts"][f"killed {role}"] for role in ("worker", "api", "serve")) == KILLS
    assert sum(facts["ends"].values()) == JOBS


@pytest.fixture
def server(tmp_path: Path, empty_database: Path) -> Launched:
    """One that was never started, with an empty job table."""
    made = Launched(tmp_path / "run")
    made.data_dir.mkdir()
    shutil.copy(empty_database, made.data_dir / "jobs.sqlite3")
    return made


def finished_job(server: Launched) -> Job:
    jobs = Jobs(open_database(f"sqlite:///{server.data_dir / 'jobs.sqlite3'}"), lease_s=15)
    blobs = FolderBlobs(server.data_dir / "blobs")
    job = Job(dialect="native", owner="local", params=Params(scale=2), source_key=new_key())
    result = Result(
        key=new_key(".png"), width=2, height=2, size_bytes=5, format="png", model="stand-in", model_sha256=None
    )
    for key in (job.source_key, result.key):
        assert key is not None
        blobs.put(key, b"bytes")
    jobs.enqueue(job)
    leased = jobs.claim("stand-in")
    assert leased is not None and jobs.finish(leased, result)
    return jobs.get(job.id)


def test_files_that_no_row_names_are_seen(server: Launched) -> None:
    finished_job(server)
    assert strays(server, read_books(server.data_dir)) == []
    blobs = FolderBlobs(server.data_dir / "blobs")
    orphan, staged, temporary = new_key(), blobs.stage(), server.temporary / "upload"
    blobs.put(orphan, b"bytes")
    staged.write_bytes(b"part")
    temporary.write_bytes(b"part")
    found = {path.name for path in strays(server, read_books(server.data_dir))}
    assert found == {orphan, staged.name, temporary.name}


def test_a_lost_result_is_seen(server: Launched) -> None:
    job = finished_job(server)
    assert read_books(server.data_dir).broken == [] and all_ended(server.data_dir)
    assert job.result is not None
    FolderBlobs(server.data_dir / "blobs").delete(job.result.key)
    assert read_books(server.data_dir).broken == [f"file {job.result.key} is missing"]


def test_a_job_that_has_not_ended_is_seen(server: Launched) -> None:
    Jobs(open_database(f"sqlite:///{server.data_dir / 'jobs.sqlite3'}"), lease_s=15).enqueue(
        Job(dialect="native", owner="local", params=Params(scale=2), source_url="http://127.0.0.1:9/x.png")
    )
    assert not all_ended(server.data_dir)
    assert read_books(server.data_dir).states == {State.QUEUED.value: 1}


def test_a_process_that_outlives_its_parent_is_seen(server: Launched) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    parent = [sys.executable, "-c", f"import subprocess; print(subprocess.Popen({sleep!r}, stdout=-3, stderr=-3).pid)"]
    orphan = int(subprocess.run(parent, env=server.environment, capture_output=True, check=True).stdout)
    try:
        assert [each.pid for each in server.processes()] == [orphan]
        assert all(server.alive(each) for each in server.processes())
    finally:
        server.end()
    deadline = time.monotonic() + 10
    while server.processes():
        assert time.monotonic() < deadline
        time.sleep(0.02)
