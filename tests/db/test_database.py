"""The schema, and SQLite's settings for several processes."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import JSON, Connection, Engine, inspect, select, text
from sqlalchemy.exc import IntegrityError

from server.db.database import is_current, metadata, migrate, open_database, reading, workers
from server.db.jobs import Jobs
from server.job.job import Job, Params

ROW = {"id": "a", "device": "cpu", "ready": True, "counters": {}}


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'folder' / 'jobs.sqlite3'}"
    migrate(url)
    return url


def ids(engine: Engine) -> list[str]:
    with reading(engine) as db:
        return list(db.execute(select(workers.c.id).order_by(workers.c.id)).scalars())


def compare_default(*found: Any) -> bool | None:
    """Whether defaults differ. JSON, which PostgreSQL can't compare, is compared as text."""
    _, _, column, inspected, _, wanted = found
    if not isinstance(column.type, JSON) or inspected is None or wanted is None:
        return None
    return str(inspected).split("::")[0].strip("'") != str(wanted).strip("'")


def test_the_migrations_build_the_tables_that_the_code_uses(engine: Engine) -> None:
    with engine.begin() as db:
        options = {"compare_type": True, "compare_server_default": compare_default, "include_object": not_an_index}
        assert compare_metadata(MigrationContext.configure(db, opts=options), metadata) == []


def not_an_index(_: object, name: str, kind: str, *others: object) -> bool:
    return kind != "index"


def indexes(db: Connection, schema: str | None) -> set[str]:
    """The statements that make them, without the schema's name."""
    if db.dialect.name == "sqlite":
        found = db.exec_driver_sql("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").scalars()
    else:
        found = db.execute(text("SELECT indexdef FROM pg_indexes WHERE schemaname = :s"), {"s": schema}).scalars()
    return {each.replace(f" {schema}.", " ").replace('"', "") for each in found}


def test_the_migrations_build_the_indexes_that_the_code_uses(engine: Engine, tmp_path: Path) -> None:
    """alembic does not compare conditions, nor the direction of columns."""
    if engine.dialect.name == "sqlite":
        twin = open_database(f"sqlite:///{tmp_path / 'twin.sqlite3'}")
        metadata.create_all(twin)
        with reading(engine) as migrated, reading(twin) as made:
            assert indexes(migrated, None) == indexes(made, None) != set()
        twin.dispose()
        return
    with engine.begin() as db:
        ours = db.exec_driver_sql("SELECT current_schema()").scalar()
        db.exec_driver_sql("DROP SCHEMA IF EXISTS twin CASCADE")
        db.exec_driver_sql("CREATE SCHEMA twin")
        metadata.create_all(db.execution_options(schema_translate_map={None: "twin"}))
        found, wanted = indexes(db, ours), indexes(db, "twin")
        db.exec_driver_sql("DROP SCHEMA twin CASCADE")
    assert found - {each for each in found if "alembic_version" in each} == wanted != set()


def test_the_comparison_would_notice_a_difference(engine: Engine) -> None:
    with engine.begin() as db:
        db.exec_driver_sql("ALTER TABLE workers ADD COLUMN forgotten TEXT")
        context = MigrationContext.configure(db, opts={"compare_type": True, "include_object": not_an_index})
        found = compare_metadata(context, metadata)
        db.exec_driver_sql("ALTER TABLE workers DROP COLUMN forgotten")
    assert [change[0] for change in found] == ["remove_column"]


def test_both_schemas_have_the_same_keys(engine: Engine) -> None:
    """compare_metadata does not look at primary keys."""
    for table in metadata.sorted_tables:
        key = inspect(engine).get_pk_constraint(table.name)["constrained_columns"]
        assert key == [column.name for column in table.primary_key]


def test_migrating_again_changes_nothing(sqlite: str) -> None:
    engine = open_database(sqlite)
    with engine.begin() as db:
        db.execute(workers.insert().values(**ROW))
    migrate(sqlite)
    migrate(sqlite)
    assert ids(engine) == ["a"]
    engine.dispose()


def test_a_schema_is_current_when_all_migrations_are_made(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    assert not is_current(url), "a new file"
    migrate(url)
    assert is_current(url)
    with open_database(url).begin() as db:
        db.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    assert not is_current(url)


def test_sqlite_is_reported_to_keep_what_it_has_committed(sqlite: str) -> None:
    engine = open_database(sqlite)
    with reading(engine) as db:
        pragmas = {name: db.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")}
        assert pragmas == {"journal_mode": "wal", "synchronous": 2}
        assert db.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000
    engine.dispose()


def test_a_reader_does_not_wait_for_a_writer(sqlite: str) -> None:
    engine, other = open_database(sqlite), open_database(sqlite)
    with engine.begin() as writer:
        writer.execute(workers.insert().values(**ROW))
        started = time.monotonic()
        assert ids(other) == []
        assert time.monotonic() - started < 5
    assert ids(other) == ["a"]
    engine.dispose()
    other.dispose()


def test_a_second_writer_waits_for_the_first(sqlite: str) -> None:
    engine, other = open_database(sqlite), open_database(sqlite)
    written = threading.Event()

    def write() -> None:
        with other.begin() as db:
            db.execute(workers.insert().values(**ROW | {"id": "b"}))
        written.set()

    with engine.begin() as db:
        # Reading first is what would end in "database is locked" if the transaction began as a reader.
        db.execute(select(workers)).all()
        thread = threading.Thread(target=write)
        thread.start()
        assert not written.wait(0.2)
        db.execute(workers.insert().values(**ROW))
    thread.join()
    assert ids(engine) == ["a", "b"]
    engine.dispose()
    other.dispose()


def test_what_breaks_leaves_nothing_behind(engine: Engine) -> None:
    with pytest.raises(IntegrityError), engine.begin() as db:
        db.execute(workers.insert().values(**ROW))
        db.execute(workers.insert().values(**ROW))
    assert ids(engine) == []


def test_what_is_committed_is_there_for_the_next_process(sqlite: str) -> None:
    engine = open_database(sqlite)
    job = Job(dialect="native", owner="local", params=Params(scale=2))
    Jobs(engine, lease_s=60).enqueue(job)
    engine.dispose()
    engine = open_database(sqlite)
    assert Jobs(engine, lease_s=60).get(job.id) == job
    engine.dispose()


@pytest.mark.parametrize("url", ["postgresql://host/jobs", "postgres://host/jobs", "postgresql+psycopg://host/jobs"])
def test_postgresql_is_spoken_to_through_psycopg(url: str) -> None:
    pytest.importorskip("psycopg", reason="the postgres extra is not installed")
    engine = open_database(url)
    assert (engine.dialect.driver, engine.url.host, engine.url.database) == ("psycopg", "host", "jobs")
    engine.dispose()
