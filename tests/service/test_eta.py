import time
from pathlib import Path

import pytest
from sqlalchemy import Engine

from server.blobs.base import new_key
from server.config import Config
from server.db.jobs import Jobs, WorkerInfo
from server.job.job import Job, Params, Result
from server.service.eta import _KEPT, Errors, Eta, Etas, _Said
from tests.conftest import MakeConfig

RESULT = Result(key="f" * 32, width=8, height=8, size_bytes=1, format="png", model="m", model_sha256=None)


@pytest.fixture
def table(engine: Engine) -> Jobs:
    found = Jobs(engine, lease_s=15)
    found.worker_beat(WorkerInfo("w", "cpu", True))
    return found


@pytest.fixture
def settings(config: MakeConfig) -> Config:
    return config(jobs_per_worker=1)


def put(table: Jobs, left_s: float | None, owner: str = "a", source_key: str | None = "") -> Job:
    key = new_key() if source_key == "" else source_key
    job = Job(dialect="native", owner=owner, params=Params(scale=2), source_key=key, left_s=left_s)
    table.enqueue(job)
    return job


def seconds(found: Eta | None) -> float:
    assert found is not None
    assert found.most > found.seconds
    return found.seconds


def test_a_job_waits_for_those_before_it(table: Jobs, settings: Config) -> None:
    first, second, other = put(table, 10), put(table, 20), put(table, 5, owner="b")
    etas = Etas(table, settings)
    assert seconds(etas.of(first)) == pytest.approx(10, abs=3)
    assert seconds(etas.of(other)) == pytest.approx(15, abs=3), "owners take turns"
    assert seconds(etas.of(second)) == pytest.approx(35, abs=3)


def test_one_that_came_after_the_last_look_is_added(table: Jobs, settings: Config) -> None:
    etas = Etas(table, settings)
    seconds(etas.of(put(table, 10)))
    etas._good_until = float("inf")
    assert seconds(etas.of(put(table, 20))) == pytest.approx(30, abs=3)
    assert seconds(etas.of(put(table, 5))) == pytest.approx(35, abs=3)


def test_a_worker_knows_better(table: Jobs, settings: Config) -> None:
    put(table, 10)
    claimed = table.claim("w")
    assert claimed is not None
    table.heartbeat(claimed, 0.5, "upscaling", 42.0)
    waiting = put(table, 8)
    etas = Etas(table, settings)
    assert seconds(etas.of(table.get(claimed.id))) == pytest.approx(42, abs=3)
    assert seconds(etas.of(waiting)) == pytest.approx(50, abs=3)
    table.requeue(claimed)
    assert table.get(claimed.id).left_s == 10, "all of it is to be done again"


def test_a_job_that_has_begun_since_the_last_look_does_not_wait_any_more(table: Jobs, settings: Config) -> None:
    first, second = put(table, 60), put(table, 1)
    claimed = table.claim("w")
    assert claimed is not None and claimed.id == first.id
    etas = Etas(table, settings)
    assert seconds(etas.of(second)) > 50
    etas._good_until = float("inf")
    assert table.finish(claimed, RESULT)
    assert table.claim("w") is not None
    assert seconds(etas.of(table.get(second.id))) < 10


def test_nothing_is_said_where_nothing_is_known(table: Jobs, settings: Config) -> None:
    etas = Etas(table, settings)
    assert etas.of(put(table, None)) is None
    assert etas.of(put(table, 5, source_key=None)) is None, "its picture has not been fetched"
    ended = put(table, 5)
    table.cancel(ended.id)
    assert etas.of(table.get(ended.id)) is None
    table.release("w")
    assert Etas(table, settings).of(put(table, 5)) is None, "no worker lives"


def test_what_was_said_is_compared_with_the_truth(table: Jobs, settings: Config) -> None:
    etas = Etas(table, settings)
    for _ in range(3):
        put(table, 100.0)
        claimed = table.claim("w")
        assert claimed is not None
        table.heartbeat(claimed, 0.1, "upscaling", 100.0)
        before = etas.of(table.get(claimed.id))
        assert before is not None and before.most > 1.9 * before.seconds, "the bound is wide until there is experience"
        etas._good_until = 0.0
        assert table.finish(claimed, RESULT)
        etas.of(put(table, 1.0, owner="b"))
        table.cancel(table.list(owner="b")[0][0].id)
        etas._good_until = 0.0
    errors = etas._errors._errors["running long"]
    assert len(errors) == 3
    assert all(-1 < error < -0.9 for error in errors), "it took no time, and 100 s were said"


def test_a_job_that_failed_says_nothing_of_the_time(table: Jobs, settings: Config) -> None:
    etas = Etas(table, settings)
    job = put(table, 100.0)
    etas.of(job)
    table.cancel(job.id)
    etas._good_until = 0.0
    etas.of(put(table, 1.0))
    assert not etas._said.get(job.id) and not etas._errors._errors


def test_the_bound_holds_for_95_of_100_and_is_kept(tmp_path: Path) -> None:
    errors = Errors(tmp_path)
    untried = errors.bound("running long", 10)
    assert untried == pytest.approx(10 + 10.5)
    for number in range(400):
        errors.add(_Said("running long", time.time(), 9.5), 9.5 + 10 * ((number * 37) % 100 - 50) / 100)
    assert len(errors._errors["running long"]) == _KEPT
    assert errors.bound("running long", 9.5) == pytest.approx(9.5 + 4.5, abs=0.2)
    assert errors.bound("queued long", 10) == untried, "of another kind"
    errors.write()
    assert Errors(tmp_path).bound("running long", 9.5) == errors.bound("running long", 9.5)
    (tmp_path / "eta_errors.json").write_text("[1")
    assert Errors(tmp_path).bound("running long", 10) == untried
