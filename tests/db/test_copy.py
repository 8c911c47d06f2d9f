"""A database that moves as a whole, into a real PostgreSQL and from file to file."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Boolean, Engine, Float, Integer, Table, insert, select

from server.db.copy import copy_database
from server.db.database import metadata, migrate, open_database
from server.db.jobs import Jobs, WorkerInfo
from server.errors import Conflict
from server.job.job import Job, Params, State
from tests.cli.conftest import run as run
from tests.cli.outcome import Run, complaint
from tests.conftest import in_schema

ROWS = 3


@contextmanager
def opened(url: str) -> Iterator[Engine]:
    engine = open_database(url)
    yield engine
    engine.dispose()


def names(table: Table) -> list[str]:
    return [column.name for column in table.c]


def value_of(table: Table, name: str, number: int) -> Any:
    """Of a row: other values in every row and column, and what databases differ in."""
    column = table.c[name]
    if isinstance(column.type, JSON):
        return {"text": f"“{name}” {number} \ud83d", "null": None, "numbers": [0.1, number]}
    if isinstance(column.type, Boolean):
        return number % 2 == 0
    if isinstance(column.type, Float):
        return 1_780_000_000.123456 + number
    if isinstance(column.type, Integer):
        return 100 + number
    if column.nullable and number == 1:
        return None
    return f"{name[:8]}-{number}"


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A database with rows in every table."""
    url = f"sqlite:///{tmp_path / 'old.sqlite3'}"
    migrate(url)
    with opened(url) as engine, engine.begin() as db:
        for table in metadata.sorted_tables:
            db.execute(
                insert(table),
                [{name: value_of(table, name, number) for name in names(table)} for number in range(ROWS)],
            )
    return url


def content(url: str) -> dict[str, Any]:
    with opened(url) as engine, engine.connect() as db:
        return {
            table.name: sorted(json.dumps(dict(row._mapping), sort_keys=True) for row in db.execute(select(table)))
            for table in metadata.sorted_tables
        }


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new.sqlite3'}"
    return in_schema(request.getfixturevalue("postgres_server"), "copied")


def test_every_row_of_every_table_arrives_as_it_was(source: str, target: str) -> None:
    before, said = content(source), dict[str, int]()
    copy_database(source, target, said.__setitem__)
    assert content(target) == before == content(source)
    assert said == {table.name: ROWS for table in metadata.sorted_tables}


def test_a_copied_queue_goes_on_where_it_was(tmp_path: Path, target: str) -> None:
    source = f"sqlite:///{tmp_path / 'old.sqlite3'}"
    migrate(source)
    job = Job(dialect="native", owner="", params=Params(scale=2, background=(1, 2, 3)), source_key="0" * 32)
    with opened(source) as before:
        old = Jobs(before, lease_s=60)
        old.enqueue(job)
        copy_database(source, target)
        with opened(target) as after:
            claimed = Jobs(after, lease_s=60).claim("w")
        assert claimed is not None and (claimed.id, claimed.params) == (job.id, job.params)
        assert old.get(job.id).state is State.QUEUED, "the old one is as it was"


def test_a_target_that_is_not_empty_is_refused_and_stays_as_it_is(source: str, target: str) -> None:
    migrate(target)
    with opened(target) as engine:
        Jobs(engine, lease_s=60).enqueue(Job(dialect="native", owner="", params=Params(scale=2)))
    before = content(target)
    with pytest.raises(Conflict, match="not empty: there are rows in jobs"):
        copy_database(source, target)
    assert content(target) == before
    with pytest.raises(Conflict, match="same"):
        copy_database(source, source)


@pytest.mark.slow
def test_a_row_that_the_target_does_not_take_leaves_it_empty(source: str, postgres_server: str) -> None:
    """SQLite stores texts that PostgreSQL does not."""
    table = metadata.tables["uploads"]
    row = {name: value_of(table, name, 9) for name in names(table)}
    with opened(source) as engine, engine.begin() as db:
        db.execute(insert(table), [row | {"filename": "a\0b"}])
    target = in_schema(postgres_server, "refused")
    with pytest.raises(Conflict, match="a row of uploads does not fit into the target"):
        copy_database(source, target)
    assert not any(content(target).values())


def test_a_server_that_runs_is_not_copied(tmp_path: Path, target: str) -> None:
    source = f"sqlite:///{tmp_path / 'old.sqlite3'}"
    migrate(source)
    with opened(source) as engine:
        Jobs(engine, lease_s=60).worker_beat(WorkerInfo("w", "cpu", True, time.time()))
    with pytest.raises(Conflict, match="stop it first"):
        copy_database(source, target)


def test_the_command_says_what_it_copied(
    run: Run, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSCALE_DATABASE_URL", source)
    target = f"sqlite:///{tmp_path / 'new.sqlite3'}"
    outcome = run("database", "copy", "--to", target)
    assert outcome.exit_code == 0 and f"jobs: {ROWS}\n" in outcome.stdout, outcome.output
    assert complaint(run("database", "copy", "--to", target)).startswith("the target is not empty")
    assert complaint(run("database", "copy", "--to", "mysql://host/x")).startswith("UPSCALE_DATABASE_URL is not ")
