"""What all machines of one database must agree on, stored in the database: a short text for each name."""

from collections.abc import Callable

from sqlalchemy import Engine, select, text, update

from server.db.database import reading, shared

_FIRST = text("INSERT INTO shared (name, value) VALUES (:name, :value) ON CONFLICT DO NOTHING")


def shared_value(engine: Engine, name: str, make: Callable[[], str]) -> str:
    """The value that all machines have; the first that asks makes it."""
    query = select(shared.c.value).where(shared.c.name == name)
    with reading(engine) as db:
        found: str | None = db.execute(query).scalar()
    if found is not None:
        return found
    value = make()
    with engine.begin() as db:
        db.execute(_FIRST, {"name": name, "value": value})  # of two at the same moment, one is stored
        return str(db.execute(query).scalar_one())


def replace_shared(engine: Engine, name: str, value: str) -> None:
    """Give another value to a name that has one."""
    with engine.begin() as db:
        db.execute(update(shared).where(shared.c.name == name).values(value=value))
