"""`batch`: from folder to folder and from bucket to bucket, in this process and by the server's workers."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import ObjectStore
from PIL import Image

from server.blobs.bucket import open_bucket
from server.cli.places import within
from server.cli.queued import OWNER
from server.cli.run import Run as Run_
from server.cli.run import Show, Tally
from server.cli.sources import Task
from server.config import Config
from server.db.database import migrate, open_database
from server.db.jobs import Jobs
from server.errors import JobFailed
from server.errors.transient import StoreFailure
from server.job.job import State
from tests.cli.outcome import Run, complaint, lines, size_of, started
from tests.conftest import MakeConfig, StandIn, draw
from tests.seaweedfs import ACCESS, SeaweedFS

NAMES = ("a.png", "deep/er/b.jpg", "deep/ü c.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(draw(16, 12, kind=Path(name).suffix[1:].replace("jpg", "jpeg")))
    (tmp_path / "in/notes.txt").write_text("no picture")
    return tmp_path / "in"


def results(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.png")}


def records(folder: Path) -> list[list[dict[str, Any]]]:
    """The lines of each run's record."""
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(folder.glob("*.jsonl"))]


DONE = {"a.png", "deep/er/b.png", "deep/ü c.png"}


def test_all_pictures_are_done_once_and_recorded(run: Run, folder: Path, tmp_path: Path) -> None:
    outcome = run("batch", "in", "out", "-s", 2)
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    out = tmp_path / "out"
    assert results(out) == DONE and size_of(out / "deep/er/b.png")[1] == (32, 24)
    (told,) = records(out)
    assert told[0]["source"] == "in" and told[0]["params"]["scale"] == 2
    assert {line["result"] for line in told[1:]} == DONE
    assert {(line["width"], line["height"], line["model"]) for line in told[1:]} == {(32, 24, "fidelity-x4")}
    again = run("batch", "in", "out", "-s", 2)
    assert (again.exit_code, again.stdout) == (0, "")
    assert again.stderr == "3 of 3 skipped: their results exist already\n"
    assert len(records(out)) == 1, "nothing was done, so nothing is recorded"


def test_overwrite_takes_what_is_newer_than_its_result(run: Run, folder: Path, tmp_path: Path) -> None:
    run("batch", "in", "out", "-s", 1)
    os.utime(folder / "a.png", (time.time() + 5,) * 2)
    (line,) = lines(run("batch", "in", "out", "-s", 1, "--overwrite", "--json"))
    assert (line["source"], line["result"]) == ("in/a.png", "a.png")


def test_a_picture_that_fails_is_recorded_and_tried_again(run: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "a.png").write_bytes(b"not yet a picture")
    outcome = run("batch", "in", "out", "-s", 1)
    assert outcome.exit_code == 1 and "1 of 3 failed" in outcome.stderr
    ((_, *told),) = records(tmp_path / "out")
    assert [line["source"] for line in told if "error" in line] == ["in/a.png"]
    (folder / "a.png").write_bytes(draw(16, 12))
    assert run("batch", "in", "out", "-s", 1).exit_code == 0
    assert results(tmp_path / "out") == DONE


def test_ctrl_c_leaves_a_record_and_the_next_run_goes_on(run: Run, folder: Path, tmp_path: Path) -> None:
    last = folder / "z" / "z.png"
    last.parent.mkdir()
    last.write_bytes(draw(6000, 6000))  # a minute and more
    with started("batch", "in", "out", "--data-dir", tmp_path / "data", "-s", "3", cwd=tmp_path) as process:
        assert process.stdout is not None
        for _ in NAMES:
            assert b".png" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told == b"interrupted: 3 of 4 done; run the same command again to go on\n"
    ((_, *lines),) = records(tmp_path / "out")
    assert {line["result"] for line in lines} == DONE == results(tmp_path / "out")
    last.write_bytes(draw(16, 12))
    assert run("batch", "in", "out", "-s", 3).stderr == "3 of 4 skipped: their results exist already\n"


def test_places_that_make_no_sense_are_refused(run: Run, folder: Path) -> None:
    assert complaint(run("batch", "nowhere", "out"), 2) == "there is no folder nowhere"
    assert complaint(run("batch", "in", "in/../in"), 2).startswith("results need another place")
    assert complaint(run("batch", "in", "in/a.png"), 2) == "in/a.png is a file; results need a folder"
    assert complaint(run("batch", "in", "ftp://host/x")).startswith("ftp://host/x names no bucket")


@pytest.mark.parametrize(
    ("place", "other", "expected"),
    [
        ("s3://b/x/", "s3://b/x", True),
        ("s3://b/x/y", "s3://b/x", True),
        ("s3://b/xy", "s3://b/x", False),
        ("s3://b", "gs://b", False),
        ("in/out", "in", True),
        ("in", "s3://b", False),
    ],
)
def test_what_is_within_what(place: str, other: str, expected: bool) -> None:
    assert within(place, other) is expected


# --- by the server's workers ----------------------------------------------------------------------------------------


@pytest.fixture
def server(config: MakeConfig) -> Config:
    """Of a server without an API: a job table, and who plays the worker."""
    return config()


def queue(made: Config, *more: object) -> tuple[object, ...]:
    return ("batch", "in", "out", "--queue", "-s", 2, "--data-dir", made.data_dir, *more)


def test_workers_do_a_queued_batch(run: Run, folder: Path, server: Config, tmp_path: Path) -> None:
    stand_in = StandIn(server)
    stand_in.beat()
    with stand_in.working():
        outcome = run(*queue(server))
    assert (outcome.exit_code, outcome.stderr) == (0, ""), outcome.output
    assert results(tmp_path / "out") == DONE and size_of(tmp_path / "out/a.png")[1] == (32, 24)
    ((_, *told),) = records(tmp_path / "out")
    made, total = stand_in.jobs.list(owner=OWNER)
    assert total == 3 and {line["job"] for line in told} == {job.id for job in made}
    assert {line["model"] for line in told} == {"stand-in"} and not any("key" in line for line in told)


def test_every_queued_job_has_the_mask_s_picture(run: Run, folder: Path, server: Config, tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(mask := draw(9, 9))
    stand_in = StandIn(server)
    stand_in.beat()
    with stand_in.working():
        assert run(*queue(server, "--mask", "mask.png", "--mask-keep", "outside")).exit_code == 0
    masks = [job.params.mask for job in stand_in.jobs.list(owner=OWNER)[0]]
    assert len({each.image for each in masks if each is not None}) == len(masks) == 3
    assert all(each and each.keep == "outside" and stand_in.blobs.get(each.image or "") == mask for each in masks)


def test_a_queued_batch_brings_the_certificates_too(run: Run, folder: Path, server: Config, tmp_path: Path) -> None:
    stand_in = StandIn(server)
    stand_in.beat()
    with stand_in.working():
        outcome = run(*queue(server, "--certificate"))
    assert outcome.exit_code == 0, outcome.output
    facts = json.loads((tmp_path / "out/a.certificate.json").read_text())
    assert facts["version"] == 1 and "difference" in facts and "heat_map" not in facts
    with Image.open(tmp_path / "out/a.certificate.png") as heat_map:
        assert heat_map.size == (facts["source"]["width"], facts["source"]["height"])
    assert not any("heat_map" in line.get("certificate", ()) for line in records(tmp_path / "out")[0]), "a secret key"


def test_a_queued_batch_goes_on_after_the_command_was_killed(
    run: Run, folder: Path, server: Config, tmp_path: Path
) -> None:
    """Its jobs are in the table, and the second command finds them there."""
    stand_in = StandIn(server)
    with started(*queue(server), cwd=tmp_path) as process:
        deadline = time.monotonic() + 60
        while stand_in.jobs.list(owner=OWNER)[1] < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        process.communicate()
    first = {job.id for job in stand_in.jobs.list(owner=OWNER)[0]}
    stand_in.finish()  # a worker goes on meanwhile
    with stand_in.working():
        assert run(*queue(server)).exit_code == 0
    assert results(tmp_path / "out") == DONE
    jobs, total = stand_in.jobs.list(owner=OWNER)
    assert total == 3 and {job.id for job in jobs} == first and {job.attempt for job in jobs} == {1}


def test_a_job_that_failed_is_a_new_one_the_next_time(run: Run, server: Config, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(draw(16, 12))
    stand_in = StandIn(server)
    with started(*queue(server), cwd=tmp_path) as process:
        stand_in.claim(60)
        (running,) = stand_in.jobs.list(owner=OWNER)[0]
        assert stand_in.jobs.fail(running, JobFailed("it is too dark"))
        out, said = process.communicate(timeout=60)
    assert process.returncode == 1 and b"error: in/a.png: it is too dark" in said
    with stand_in.working():
        assert run(*queue(server)).exit_code == 0
    (job,) = stand_in.jobs.list(owner=OWNER)[0]
    assert job.state is State.SUCCEEDED and job.id != running.id


def test_a_full_queue_is_waited_for(
    run: Run, folder: Path, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSCALE_MAX_QUEUE", "1")
    monkeypatch.setattr("server.cli.queued._AGAIN_S", 0.05)
    made = config()
    with StandIn(made).working():
        outcome = run(*queue(made))
    assert outcome.exit_code == 0, outcome.output


def test_a_model_that_does_not_exist_is_one_error(run: Run, folder: Path, server: Config) -> None:
    assert "no-such" in complaint(run(*queue(server, "--model", "no-such")))
    assert Jobs(open_database(server.database), lease_s=15).list()[1] == 0


def test_a_bucket_that_does_not_answer_is_said_and_ends_the_command(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ACCESS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("server.cli.places._RETRY_S", 0.0)
    there = ("--endpoint", "http://127.0.0.1:9")
    for places in (("in", "s3://pictures"), ("s3://pictures", "out")):
        said = complaint(run("batch", *places, *there))
        assert said.startswith("a bucket can't be used; run the same command again to go on: Generic S3 error: ")


def test_a_bucket_that_goes_away_ends_the_run_and_files_that_fail_do_not(tmp_path: Path) -> None:
    def make(task: Task, show: Show) -> dict[str, Any]:
        tried.append(task.source.name)
        if task.source.name == "away":
            raise StoreFailure("it does not answer")
        raise OSError("this file alone")

    tried: list[str] = []
    tally = Tally(3)
    with pytest.raises(StoreFailure):
        Run_(tally, make, as_json=True).all([Task(Path(name), Path(name), 1) for name in ("a", "b", "away", "c")])
    assert tried == ["a", "b", "away"] and [str(path) for path, _ in tally.failed] == ["a", "b"]


# --- buckets --------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ObjectStore]:
    """Its URL, with pictures below `in/`."""
    for name, value in ACCESS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UPSCALE_BLOB_ENDPOINT", seaweedfs.endpoint)
    url = seaweedfs.new_url()
    store = open_bucket(url, seaweedfs.endpoint)
    for name in (*NAMES, ".hidden/x.png", "out/earlier.png"):
        obstore.put(store, f"in/{name}", draw(16, 12, kind="png"))
    obstore.put(store, "in/notes.txt", b"no picture")
    return url, store


def stored(store: ObjectStore, prefix: str) -> dict[str, int]:
    return {each["path"].removeprefix(prefix): each["size"] for each in obstore.list(store, prefix).collect()}


@pytest.mark.slow
def test_a_bucket_is_upscaled_into_a_bucket(run: Run, bucket: tuple[str, ObjectStore], tmp_path: Path) -> None:
    url, store = bucket
    outcome = run("batch", f"{url}/in", f"{url}/in/out", "-s", 2)
    assert outcome.exit_code == 0, outcome.output
    made = stored(store, "in/out/")
    assert {name for name in made if name.endswith(".png")} == DONE | {"earlier.png"}, "results are no sources"
    (tmp_path / "got.png").write_bytes(bytes(obstore.get(store, "in/out/deep/er/b.png").bytes()))
    assert size_of(tmp_path / "got.png") == ("PNG", (32, 24))
    assert obstore.get(store, "in/out/a.png").attributes["Content-Type"] == "image/png"
    (record,) = (name for name in made if name.endswith(".jsonl"))
    told = bytes(obstore.get(store, f"in/out/{record}").bytes()).decode().splitlines()
    assert len(told) == 4 and {json.loads(line)["source"] for line in told[1:]} == set(NAMES)
    again = run("batch", f"{url}/in", f"{url}/in/out", "-s", 2)
    assert again.stderr == "3 of 3 skipped: their results exist already\n"


@pytest.mark.slow
def test_a_queued_batch_moves_between_folder_and_bucket(
    run: Run, folder: Path, bucket: tuple[str, ObjectStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the server's own pictures in the bucket too."""
    url, store = bucket
    monkeypatch.setenv("UPSCALE_BLOB_URL", f"{url}/pictures")
    made = Config(data_dir=tmp_path / "server")
    migrate(made.database)
    with StandIn(made).working():
        there = run("batch", "in", f"{url}/there", "--queue", "-s", 2, "--data-dir", made.data_dir)
        back = run("batch", f"{url}/there", "back", "--queue", "-s", 2, "--data-dir", made.data_dir)
    assert (there.exit_code, back.exit_code) == (0, 0), there.output + back.output
    assert {name for name in stored(store, "there/") if name.endswith(".png")} == DONE == results(tmp_path / "back")
    assert size_of(tmp_path / "back/deep/ü c.png")[1] == (64, 48)
    assert len(stored(store, "pictures/")) == 12, "sources and results of six jobs, kept for a day"
