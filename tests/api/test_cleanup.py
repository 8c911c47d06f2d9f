"""Pictures that cleanup removes, and pictures that it never removes."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore
from sqlalchemy import update

from server.api.cleanup import Cleanup
from server.api.metrics import Metrics
from server.blobs.base import Blobs, new_key
from server.blobs.bucket import BucketBlobs
from server.blobs.folder import FolderBlobs
from server.config import Config
from server.db.database import open_database, uploads
from server.db.deliveries import Deliveries
from server.db.jobs import Jobs
from server.db.uploads import Uploads
from server.errors import NotFound
from server.job.job import Job, Params, Result, State
from server.service.service import Service
from server.weights.catalog import Catalog
from tests.api.test_metrics import value
from tests.conftest import MakeConfig

DAY_S = 86400.0


class House:
    """Everything that cleanup looks after."""

    def __init__(self, config: Config, blobs: Blobs | None = None) -> None:
        self.engine = open_database(config.database)
        self.folder = config.blobs_dir
        self.blobs: Blobs = blobs or FolderBlobs(self.folder)
        self.jobs = Jobs(self.engine, lease_s=60)
        self.uploads = Uploads(self.engine, self.blobs, keep_s=config.keep_s)
        self.metrics = Metrics(self.jobs, Deliveries(self.engine))
        service = Service(config, self.jobs, self.uploads, self.blobs, Catalog.of(config))
        self.cleanup = Cleanup(config, service, self.jobs, self.uploads, self.blobs, self.metrics)

    def picture(self, size: int, age_s: float = 0.0) -> str:
        key = new_key()
        self.blobs.put(key, bytes(size))
        os.utime(self.folder / key, (time.time() - age_s,) * 2)
        return key

    def job(self, size: int, ended_s_ago: float | None = None, *, certificate: bool = False, **values: Any) -> Job:
        """With a source and, when it has ended, a result of that size each, and a heat map if it has a certificate."""
        source = self.picture(size, ended_s_ago or 0.0)
        job = Job(dialect="native", owner="local", params=Params(scale=2), source_key=source, **values)
        if ended_s_ago is not None:
            result = Result(
                key=self.picture(size, ended_s_ago),
                width=1,
                height=1,
                size_bytes=size,
                format="png",
                model="one",
                model_sha256=None,
                certificate={"heat_map": self.picture(size, ended_s_ago)} if certificate else None,
            )
            job = replace(job, state=State.SUCCEEDED, finished_at=time.time() - ended_s_ago, result=result)
        self.jobs.enqueue(job)
        return job

    def upload(self, size: int, age_s: float) -> str:
        key = self.uploads.fill(self.uploads.issue("local", "a.png", ".png").key, bytes(size)).key
        with self.engine.begin() as db:
            db.execute(update(uploads).where(uploads.c.key == key).values(created_at=time.time() - age_s))
        return key

    def there(self, job: Job) -> bool:
        """Whether the job exists with all of its pictures; False: neither it nor any of them exists."""
        keys = [key for key in (job.source_key, *(job.result.keys if job.result else ())) if key]
        found = [(self.folder / key).exists() for key in keys]
        try:
            self.jobs.get(job.id)
        except NotFound:
            assert not any(found)
            return False
        assert all(found)
        return True

    def counted(self, reason: str) -> tuple[float | None, float | None]:
        text = self.metrics.text().decode()
        return value(text, "upscale_removed_total", reason), value(text, "upscale_removed_bytes_total", reason)


@pytest.fixture
def house(config: MakeConfig) -> Callable[..., House]:
    return lambda **settings: House(config(**settings))


def test_what_has_expired_goes_with_its_pictures(house: Callable[..., House]) -> None:
    here = house(keep_s=100)
    old, new, own = here.job(10, 101, certificate=True), here.job(10, 50), here.job(10, 50, keep_s=20.0)
    assert not here.cleanup.once()
    assert (here.there(old), here.there(new), here.there(own)) == (False, True, False)
    assert here.counted("expired") == (5, 50)


def test_over_the_quota_the_oldest_go_first_and_no_more_than_must(house: Callable[..., House]) -> None:
    here = house(keep_bytes=5000)
    waiting = here.job(1000, created_at=time.time() - 10 * DAY_S)
    first, second, third = (here.job(1000, age) for age in (300, 200, 100))
    upload = here.upload(1000, 250)
    assert not here.cleanup.once()
    assert [here.there(job) for job in (waiting, first, second, third)] == [True, False, True, True]
    assert not (here.folder / upload).exists(), "it is older than the second"
    assert here.counted("quota") == (3, 3000)
    text = here.metrics.text().decode()
    assert value(text, "upscale_stored_bytes") == 5000 and value(text, "upscale_stored_pictures") == 5
    assert (value(text, "upscale_disk_free_bytes") or 0) > 0


def test_within_the_quota_nothing_goes(house: Callable[..., House]) -> None:
    here = house(keep_bytes=2000)
    job = here.job(1000, 300)
    here.cleanup.once()
    assert here.there(job) and here.counted("quota") == (None, None)


def test_unfinished_jobs_are_never_removed_for_the_quota(house: Callable[..., House]) -> None:
    here = house(keep_bytes=1)
    queued, running = here.job(1000), here.job(1000)
    assert here.jobs.claim("worker") is not None
    assert not here.cleanup.once()
    assert here.there(queued) and here.there(running)


def test_a_quota_far_exceeded_is_reached_in_several_turns(house: Callable[..., House]) -> None:
    here = house(keep_bytes=100)
    made = [here.job(100, 1000 - number) for number in range(130)]
    turns = 1
    while here.cleanup.once():
        turns += 1
    assert 1 < turns < 6
    assert not any(here.there(job) for job in made)


def test_pictures_of_no_one_go_once_they_are_old(house: Callable[..., House]) -> None:
    here = house(keep_s=3 * DAY_S)
    fresh, old = here.picture(7, DAY_S), here.picture(7, 4 * DAY_S)
    job, waiting = here.job(10, 100, certificate=True), here.job(10)
    ticket, upload = here.uploads.issue("local", "a.png", ".png"), here.upload(10, 100)
    for path in here.folder.iterdir():
        if path.is_file() and path.name != fresh:
            os.utime(path, (time.time() - 4 * DAY_S,) * 2)
    here.cleanup.once()
    assert (here.folder / fresh).exists() and not (here.folder / old).exists()
    assert here.there(job) and here.there(waiting) and (here.folder / upload).exists()
    assert here.uploads.ticket(ticket.key)
    assert here.counted("orphan") == (1, 7)


def test_a_short_life_of_jobs_does_not_make_orphans_of_what_is_being_written(house: Callable[..., House]) -> None:
    here = house(keep_s=1)
    young = here.picture(7, DAY_S / 2)
    here.cleanup.once()
    assert (here.folder / young).exists()


def test_what_a_killed_process_left_is_counted_and_gone_at_the_first_turn(
    house: Callable[..., House], tmp_path: Path
) -> None:
    here = house()
    dead = here.folder / ".staging" / "dead"
    dead.mkdir()
    (dead / "part").write_bytes(b"12345")
    dead.with_suffix(".lock").touch()
    here.cleanup.once()
    assert not dead.exists() and here.counted("part") == (1, 5)


def test_lapsed_jobs_are_ended(house: Callable[..., House]) -> None:
    here = house()
    job = here.job(10)
    assert here.jobs.claim("worker") is not None
    here.jobs.cancel(job.id)
    here.jobs.release("worker")
    here.cleanup.once()
    assert here.jobs.get(job.id).state is State.CANCELLED


def test_a_bucket_is_listed_rarely_and_what_has_expired_goes_at_once(config: MakeConfig) -> None:
    """Each listing of many pictures takes time and money."""
    made = config(keep_s=100)
    here = House(made, BucketBlobs(MemoryStore(), made.blobs_dir))
    here.cleanup.once()
    job = Job(dialect="native", owner="local", params=Params(scale=2), source_key=new_key())
    assert job.source_key is not None
    here.blobs.put(job.source_key, bytes(10))
    here.blobs.put(new_key(), bytes(5))
    here.jobs.enqueue(replace(job, state=State.FAILED, finished_at=time.time() - 101))
    here.cleanup.once()
    assert here.counted("expired") == (1, 10) and not here.blobs.has(job.source_key)
    assert value(here.metrics.text().decode(), "upscale_stored_pictures") == 0, "not listed yet"
    here.cleanup._list_at = 0.0  # as ten minutes later
    here.cleanup.once()
    text = here.metrics.text().decode()
    assert value(text, "upscale_stored_pictures") == 1 and value(text, "upscale_stored_bytes") == 5
