"""Every version of the schema, with rows in it, becomes the newest, and the newest becomes that version again."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Engine, MetaData, insert, inspect, select

from server.db import database
from server.db.database import is_current, migrate, migrations, newest_version, open_database, reading
from server.db.deliveries import Deliveries
from server.db.jobs import Jobs
from server.job.job import Params, State
from tests.conftest import in_schema

VERSIONS = [f"{number:04}" for number in range(1, int(newest_version()) + 1)]
ID = "0123456789abcdef" * 2
PARAMS = Params(scale=2).to_dict()
ROWS: dict[str, dict[str, Any]] = {
    "jobs": {
        "id": ID,
        "dialect": "native",
        "owner": "ann",
        "params": PARAMS,
        "request": {"a": [1, None]},
        "external_id": "mine",
        "source_id": "s" * 32,
        "result_id": "r" * 32,
        "source_url": "https://example.com/a.png",
        "source_host": "example.com:443",
        "source_key": "0" * 32,
        "state": "running",
        "priority": 3,
        "progress": 0.5,
        "stage": "upscaling",
        "left_s": 12.5,
        "left_at": 1005.5,
        "created_at": 1000.5,
        "started_at": 1001.5,
        "attempt": 1,
        "worker": "machine:worker-0",
        "lease_until": 1010.5,
        "cancel_requested": False,
        "cancel_at": 5000.5,
    },
    "workers": {"id": "machine:worker-0", "device": "cpu", "kind": "cuda", "ready": True, "beat_at": 1009.5},
    "uploads": {
        "key": "1" * 32,
        "owner": "ann",
        "filename": "a.png",
        "ready": True,
        "created_at": 1.5,
        "expires_at": 2e9,
    },
    "deliveries": {
        "id": "d" * 32,
        "job_id": ID,
        "owner": "ann",
        "kind": "webhook",
        "url": "https://example.com:444/hook",
        "host": "example.com:444",
        "base_url": "https://here.example",
        "state": "pending",
        "attempts": 1,
        "due_at": 1020.5,
    },
    "keys": {
        "id": "k" * 16,
        "hash": "h" * 64,
        "name": "ann",
        "prefix": "up_12345678",
        "created_at": 3.5,
        "priority": 0,
        "rate_until": 0.0,
        "day": 0,
        "day_jobs": 0,
    },
    "shared": {"name": "webhook", "value": "a secret"},
}
"""What is in the table in any version; each version has some of these columns."""
OF_THE_MOMENT = {"alembic_version", "turns", "leases", "workers"}
"""Tables whose rows mean nothing after a restart."""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database without any table."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    else:
        url = in_schema(request.getfixturevalue("postgres_server"), "migrations")
    engine = open_database(url)
    yield engine
    engine.dispose()


def move(engine: Engine, how: Callable[..., None], version: str) -> None:
    with engine.begin() as db:
        how(migrations(db), version)


def tables(engine: Engine) -> MetaData:
    found = MetaData()
    with reading(engine) as db:
        found.reflect(db, only=lambda name, _: name in ROWS)
    return found


def put_rows(engine: Engine) -> None:
    found = tables(engine).sorted_tables
    with engine.begin() as db:
        for table in found:
            values = {name: value for name, value in ROWS[table.name].items() if name in table.c}
            db.execute(insert(table).values(**values))


def rows(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    kept = [table for table in tables(engine).sorted_tables if table.name not in OF_THE_MOMENT]
    with reading(engine) as db:
        return {table.name: [dict(row._mapping) for row in db.execute(select(table))] for table in kept}


def text_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_becomes_the_newest_and_is_found_again(empty: Engine, version: str) -> None:
    move(empty, command.upgrade, version)
    put_rows(empty)
    before = rows(empty)
    assert all(len(found) == 1 for found in before.values())
    migrate(text_of(empty))
    assert is_current(text_of(empty))

    jobs = Jobs(empty, lease_s=15)
    (delivery,) = Deliveries(empty).of_job(ID)
    assert (delivery.owner, delivery.host) == ("ann", "example.com:444")
    taken = jobs.claim("new")
    assert taken is not None, "its worker counts as dead"
    assert (taken.id, taken.attempt, taken.started_at, taken.state) == (ID, 2, 1001.5, State.RUNNING)
    jobs.release("new")

    move(empty, command.downgrade, version)
    after = rows(empty)
    changed = {"attempt": 2, "worker": None, "progress": 0.0, "stage": "loading", "lease_until": 0.0}
    for table, found in before.items():
        expected = found[0] | ({name: changed[name] for name in changed if name in found[0]} if table == "jobs" else {})
        if version >= "0009" and table == "jobs":
            expected["lease_until"] = None
        if version >= "0010" and table == "jobs":
            expected["left_at"] = taken.left_at
        assert after[table] == [expected]


def test_nothing_is_left_of_the_first_version(empty: Engine) -> None:
    migrate(text_of(empty))
    move(empty, command.downgrade, "base")
    assert set(inspect(empty).get_table_names()) <= {"alembic_version"}
    migrate(text_of(empty))
    assert is_current(text_of(empty))


def test_several_that_start_at_once_migrate_once(empty: Engine) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(migrate, [text_of(empty)] * 4))
    assert is_current(text_of(empty))
    assert {table.name for table in database.metadata.sorted_tables} <= set(inspect(empty).get_table_names())
