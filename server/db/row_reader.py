"""Rows that are read at each poll or written at each submit, at a sixth of the time that SQLAlchemy takes for them on
SQLite."""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from sqlalchemy import Column, Connection, Engine, Select, insert

from server.db.database import driver_errors, reading, run_text


class RowReader:
    """A SELECT that finds one row at most. For any thread.

    On SQLite the text that SQLAlchemy has made of it is run on a connection of its pool. On PostgreSQL the way to the
    database and back takes longer than all that this saves.
    """

    def __init__(self, engine: Engine, query: Select[Any]) -> None:
        self._engine = engine
        self._query = query
        self._sqlite = engine.dialect.name == "sqlite"
        if self._sqlite:
            compiled = query.compile(engine)
            self._text, self._order, self._given = str(compiled), compiled.positiontup or [], compiled.params
            self._columns = [
                (each.name, each.type.dialect_impl(engine.dialect).result_processor(engine.dialect, None))
                for each in query.selected_columns
            ]

    def read(self, **values: Any) -> dict[str, Any] | None:
        """The row's columns, None if there is no such row. `values`: of the query's parameters. Raises
        SQLAlchemyError."""
        if not self._sqlite:
            with reading(self._engine) as db:
                row = db.execute(self._query, values).one_or_none()
                return None if row is None else dict(row._mapping)
        with driver_errors(self._text), closing(self._engine.raw_connection()) as connection:
            found = run_text(connection, self._text, [values.get(name, self._given[name]) for name in self._order])
        if not found:
            return None
        return {
            name: value if convert is None else convert(value)
            for (name, convert), value in zip(self._columns, found[0], strict=True)
        }


class RowWriter:
    """An INSERT of one row with these columns, all of one table. For any thread."""

    def __init__(self, engine: Engine, *columns: Column[Any]) -> None:
        self._statement = insert(columns[0].table)
        self._sqlite = engine.dialect.name == "sqlite"
        if self._sqlite:
            compiled = self._statement.compile(engine, column_keys=[each.name for each in columns])
            self._text, types = str(compiled), {each.name: each.type.dialect_impl(engine.dialect) for each in columns}
            names = compiled.positiontup or []
            self._columns = [(name, types[name].bind_processor(engine.dialect)) for name in names]

    def write(self, db: Connection, values: Mapping[str, Any]) -> None:
        """In the connection's transaction. Raises SQLAlchemyError."""
        if self._sqlite:
            given = [values[name] if convert is None else convert(values[name]) for name, convert in self._columns]
            run_text(db.connection, self._text, given)
        else:
            db.execute(self._statement, values)
