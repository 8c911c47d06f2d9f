"""Two machines, one database: their pictures must be in one place."""

import shutil

from sqlalchemy import Engine

from server.config import Config
from server.db.jobs import Jobs, WorkerInfo
from server.db.picture_store import other_store
from tests.conftest import MakeConfig

BUCKET = "s3://pictures/upscale"


def refusal(engine: Engine, config: Config) -> str | None:
    """What a machine with these settings says at its start; on SQLite there is one machine, so it says nothing."""
    return other_store(config, engine, Jobs(engine, lease_s=15))


def test_a_second_machine_with_a_folder_is_refused_in_one_line(engine: Engine, config: MakeConfig) -> None:
    first, second = config(), config()
    assert refusal(engine, first) is None
    assert refusal(engine, first) is None, "it may start again"
    said = refusal(engine, second)
    if engine.dialect.name == "sqlite":
        assert said is None
        return
    assert said is not None and "\n" not in said
    assert f":{first.blobs_dir}" in said and "UPSCALE_BLOB_URL" in said
    assert refusal(engine, first) is None


def test_a_folder_that_was_moved_is_the_same(engine: Engine, config: MakeConfig) -> None:
    first, second = config(), config()
    assert refusal(engine, first) is None
    if first.blobs_dir.exists():
        shutil.move(first.blobs_dir, second.blobs_dir)
    assert refusal(engine, second) is None


def test_machines_with_one_bucket_all_start(engine: Engine, config: MakeConfig) -> None:
    for _ in range(3):
        assert refusal(engine, config(blob_url=BUCKET)) is None


def test_a_bucket_replaces_a_folder_when_no_worker_uses_it(engine: Engine, config: MakeConfig) -> None:
    folder, bucket = config(), config(blob_url=BUCKET)
    jobs = Jobs(engine, lease_s=15)
    assert refusal(engine, folder) is None
    jobs.worker_beat(WorkerInfo("alive", "cpu", True))
    said = refusal(engine, bucket)
    jobs.release("alive")
    assert refusal(engine, bucket) is None
    if engine.dialect.name == "sqlite":
        assert said is None
        return
    assert said is not None and "stop them first" in said
    said = refusal(engine, folder)
    assert said is not None and BUCKET in said
    assert refusal(engine, config(blob_url="s3://another")) is None, "no worker is running"
