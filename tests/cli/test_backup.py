"""`backup` while the server works, and what a server makes of the copy."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from server.api.app import create_app
from server.config import Config
from server.db.keys import Keys
from server.db.limits import Limits
from server.db.webhook_secret import load_secret
from server.job.job import State
from tests.cli.outcome import Run, complaint
from tests.conftest import LOOPBACK, Live, MakeConfig, StandIn, draw, serve
from tests.paths import ROOT
from upscale_client import Client

OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")


def backed_up(run: Run, live: Live, to: Path) -> str:
    outcome = run("backup", to, "--data-dir", live.config.data_dir)
    assert outcome.exit_code == 0, outcome.output
    return outcome.stderr


def documented(name: str, data_dir: Path, backup: Path) -> None:
    """Run the commands of docs/operations.md as they stand, but for the places."""
    found = re.search(rf"^<!-- run: {name} -->\n```sh\n(.*?)^```$", OPERATIONS, re.MULTILINE | re.DOTALL)
    assert found is not None
    code = found[1].replace("~/.local/share/upscale-server", str(data_dir))
    code = code.replace("/backup/upscale", str(backup)).replace(".venv/bin/python", sys.executable)
    env = os.environ | {"UPSCALE_DATA_DIR": str(data_dir), "PYTHONPATH": str(ROOT)}
    subprocess.run(["bash", "-euc", code], env=env, check=True, capture_output=True)


def restored(backup: Path, data_dir: Path) -> Config:
    subprocess.run(["cp", "-a", backup, data_dir], check=True)
    return Config(data_dir=data_dir)


def test_a_backup_taken_while_jobs_run_restores(config: MakeConfig, tmp_path: Path) -> None:
    made = config(lease_s=1)
    secret = load_secret(made)
    stop = threading.Event()
    with serve(create_app(made)) as url, Client(url, **LOOPBACK) as client:
        worker = StandIn(made)
        done = client.submit(draw(40, 20), scale=2)
        worker.finish()
        before = client.result(done)
        running = client.submit(draw(20, 40), scale=2)
        assert worker.claim().id == running.id
        submitted: list[str] = []

        def submit() -> None:
            while not stop.wait(0.05):
                submitted.append(client.submit(draw(16, 8), scale=2).id)

        thread = threading.Thread(target=submit)
        thread.start()
        try:
            while len(submitted) < 3:
                stop.wait(0.01)
            certain = list(submitted)
            documented("backup", made.data_dir, tmp_path / "backup")
        finally:
            stop.set()
            thread.join()
    documented("restore", made.data_dir, tmp_path / "backup")
    assert load_secret(made) == secret
    with serve(create_app(made)) as url, StandIn(made).working(), Client(url, **LOOPBACK) as client:
        assert client.result(done) == before
        found = {job.id for job in client.jobs(limit=500)}
        assert found >= {done.id, running.id, *certain}
        for job in found:
            assert client.wait(job, timeout_s=60).state == "succeeded"
        assert client.get(running).raw["attempt"] == 2


def test_what_is_in_it_is_for_its_owner_alone(run: Run, live: Live, tmp_path: Path) -> None:
    live.client.post("/jobs", files={"file": draw()})
    backed_up(run, live, tmp_path / "backup")
    made = [tmp_path / "backup", *(tmp_path / "backup").rglob("*")]
    assert len(made) > 5
    assert [path for path in made if path.stat().st_mode & 0o077] == []


def test_the_next_backup_copies_only_what_is_new(run: Run, live: Live, tmp_path: Path) -> None:
    with Client(live.url, **LOOPBACK) as client:
        first = client.submit(draw(), scale=2)
        live.worker.finish()
        backed_up(run, live, tmp_path / "backup")
        client.delete(first)
        second = client.submit(draw(), scale=2)
        said = backed_up(run, live, tmp_path / "backup")
    assert said.startswith("1 new files copied")
    (blob,) = (tmp_path / "backup" / "blobs").iterdir()
    config = restored(tmp_path / "backup", tmp_path / "data")
    jobs = StandIn(config).jobs
    assert jobs.get(second.id).source_key == blob.name and jobs.get(second.id).state is State.QUEUED


def test_keys_are_in_it(run: Run, live: Live, tmp_path: Path) -> None:
    engine = StandIn(live.config).jobs._engine
    _, secret = Keys(engine).create("ann", Limits())
    backed_up(run, live, tmp_path / "backup")
    with serve(create_app(restored(tmp_path / "backup", tmp_path / "data"))) as url:
        assert httpx.get(f"{url}/jobs", timeout=60, **LOOPBACK).status_code == 401
        with Client(url, key=secret, **LOOPBACK) as client:
            assert client.jobs() == []


@pytest.mark.parametrize("place", ["within", "other", "file"])
def test_a_place_that_would_do_harm_is_refused(run: Run, live: Live, tmp_path: Path, place: str) -> None:
    (tmp_path / "other").mkdir()
    for path in (tmp_path / "other" / "mine.txt", tmp_path / "file"):
        path.write_text("mine")
    to = {"within": live.config.data_dir / "backup"}.get(place, tmp_path / place)
    outcome = run("backup", to, "--data-dir", live.config.data_dir)
    expected = {
        "within": "the backup must not be in the data folder",
        "other": f"{to} is neither empty nor a backup",
        "file": f"{to} is neither empty nor a backup",
    }
    assert complaint(outcome) == expected[place]
    assert (tmp_path / "other" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "mine"


def test_where_no_server_has_run_there_is_nothing_to_back_up(run: Run, tmp_path: Path) -> None:
    assert "no server has run there" in complaint(run("backup", tmp_path / "backup"))
    assert not (tmp_path / "backup").exists()
