"""Rows that are read by their SQL text are those that SQLAlchemy reads."""

import pytest
from sqlalchemy import Engine, bindparam, select
from sqlalchemy.exc import OperationalError

from server.db.database import jobs, open_database, reading
from server.db.jobs import Jobs
from server.db.row_reader import RowReader
from server.db.rows import COLUMNS
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
