"""Copies a whole database into an empty one: how a server moves from SQLite to PostgreSQL."""

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, Engine, func, insert, select
from sqlalchemy.exc import DBAPIError

from server.db.database import metadata, migrate, open_database
from server.db.jobs import Jobs
from server.errors import Conflict

_ROWS = 500
"""In one statement."""
_LEASE_S = 60.0
"""A worker that reported within that time is taken for running."""


def copy_database(source: str, target: str, on_table: Callable[[str, int], None] = lambda name, rows: None) -> None:
    """Bring both databases (URLs) to the newest schema, and copy all rows, in one transaction: all or nothing. The
    source is locked against writers meanwhile. `on_table` takes each table's name and its number of rows.

    Raises BadConfig for a database that can't be used, Conflict for a target that is not empty, a source in use, and
    rows that the target does not take.
    """
    if source == target:
        raise Conflict("both are the same database")
    engines = [open_database(url) for url in (source, target)]
    for url in (source, target):
        migrate(url)
    try:
        if running := Jobs(engines[0], lease_s=_LEASE_S).live_workers():
            raise Conflict(f"the server runs on this database, with {len(running)} workers: stop it first")
        counts = _copy(*engines)
    finally:
        for engine in engines:
            engine.dispose()
    for name, count in counts.items():
        on_table(name, count)


def _copy(source: Engine, target: Engine) -> Mapping[str, int]:
    """Returns the number of rows by table."""
    with source.begin() as old, target.begin() as new:
        if filled := [name for name, rows in _counts(new).items() if rows]:
            raise Conflict(f"the target is not empty: there are rows in {', '.join(filled)}; give a new database")
        for table in metadata.sorted_tables:
            try:
                for rows in old.execute(select(table)).mappings().partitions(_ROWS):
                    new.execute(insert(table), [dict(row) for row in rows])
            except DBAPIError as error:
                reason = str(error.orig).strip().splitlines()[0]
                raise Conflict(f"a row of {table.name} does not fit into the target: {reason}") from error
        before, after = _counts(old), _counts(new)
        if before != after:
            raise Conflict(f"not all rows arrived: {before} became {after}")
    return after


def _counts(db: Connection) -> Mapping[str, int]:
    """The number of rows by table."""
    tables = metadata.sorted_tables
    return {table.name: db.execute(select(func.count()).select_from(table)).scalar_one() for table in tables}
