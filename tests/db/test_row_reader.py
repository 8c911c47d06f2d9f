"""Rows that are read and written by their SQL text are those that SQLAlchemy reads and writes."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, bindparam, insert, select
from sqlalchemy.exc import IntegrityError, OperationalError

from server.db.database import jobs, open_database, reading, unsynced
from server.db.jobs import Jobs
from server.db.row_reader import RowReader, RowWriter
from server.db.rows import COLUMNS, to_row
from server.errors.transient import transient_error
from server.job.job import Job, Params

_QUERY = select(*COLUMNS).where(jobs.c.id == bindparam("wanted"))


def test_a_row_has_the_same_values_and_types(engine: Engine) -> None:
    job = Job(dialect="native", owner="o", params=Params(scale=2.5), request={"name": "ü"}, keep_s=1.5)
    Jobs(engine, lease_s=15).enqueue(job)
    with reading(engine) as db:
        wanted = dict(db.execute(_QUERY, {"wanted": job.id}).one()._mapping)
    found = RowReader(engine, _QUERY).read(wanted=job.id)
    assert found == wanted
    assert found is not None
    assert {name: type(value) for name, value in found.items()} == {name: type(each) for name, each in wanted.items()}
    assert RowReader(engine, _QUERY).read(wanted="0" * 32) is None


def test_a_limit_in_the_query_is_kept(engine: Engine) -> None:
    for _ in range(2):
        Jobs(engine, lease_s=15).enqueue(Job(dialect="native", owner="o", params=Params(scale=2.0)))
    assert RowReader(engine, select(jobs.c.id).limit(1)).read() is not None


def test_a_database_that_fails_raises_sqlalchemys_errors() -> None:
    engine = open_database("sqlite://")  # without tables
    with pytest.raises(OperationalError, match="no such table") as caught:
        RowReader(engine, _QUERY).read(wanted="0" * 32)
    assert transient_error(caught.value) is not None


def test_a_written_row_is_the_one_that_sqlalchemy_writes(engine: Engine) -> None:
    job = Job(dialect="native", owner="o", params=Params(scale=2.5), request={"name": "ü"}, keep_s=1.5)
    other = replace(job, id="f" * 32)
    with engine.begin() as db:
        RowWriter(engine, *COLUMNS).write(db, to_row(job))
        db.execute(insert(jobs), to_row(other))
    with reading(engine) as db:
        by_text, by_sqlalchemy = (
            dict(db.execute(select(jobs).where(jobs.c.id == each.id)).one()._mapping) for each in (job, other)
        )
    assert by_text | {"id": other.id} == by_sqlalchemy
    assert by_text["result"] is None


def test_a_row_that_exists_is_refused_with_sqlalchemys_error(engine: Engine) -> None:
    writer, row = RowWriter(engine, *COLUMNS), to_row(Job(dialect="native", owner="o", params=Params(scale=2.0)))
    with engine.begin() as db:
        writer.write(db, row)
    with pytest.raises(IntegrityError), engine.begin() as db:
        writer.write(db, row)


def test_each_write_waits_for_the_disk_as_its_engine_says(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/jobs.sqlite3")
    for each, wanted in ((engine, 2), (unsynced(engine), 1), (engine, 2), (engine, 2)):
        with each.begin() as db:
            assert db.exec_driver_sql("PRAGMA synchronous").scalar_one() == wanted
    engine.dispose()


def test_a_database_that_is_locked_raises_sqlalchemys_error(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.sqlite3?timeout=0.05"
    holds, waits = open_database(url), open_database(url)
    with holds.begin(), pytest.raises(OperationalError, match="locked") as caught, waits.begin():
        pass
    assert transient_error(caught.value) is not None
