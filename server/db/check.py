"""How a database answers, for `doctor`."""

import time

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from server.db.database import newest_version, open_database, reading

_ASKED = 5
_NOW = text("SELECT extract(epoch FROM clock_timestamp())")
_VERSION = text("SELECT current_setting('server_version')")
_SCHEMA = text("SELECT version_num FROM alembic_version")


def check_postgresql(url: str) -> str:
    """Version, latency, how far its clock is from this machine's, and the schema; or why it can't be used. Raises
    BadConfig."""
    engine = open_database(url)
    try:
        with reading(engine) as db:
            version = db.execute(_VERSION).scalar_one()
            tries = []
            for _ in range(_ASKED):
                before = time.time()
                now = float(db.execute(_NOW).scalar_one())
                after = time.time()
                tries.append((after - before, now - (before + after) / 2))
            has_schema = db.execute(text("SELECT to_regclass('alembic_version')")).scalar() is not None
            schema = db.execute(_SCHEMA).scalar() if has_schema else None
    except SQLAlchemyError as error:
        reason = str(error.orig if isinstance(error, DBAPIError) else error).strip()
        return f"PROBLEM: can't be reached: {reason.splitlines()[0]}"
    finally:
        engine.dispose()
    latency, difference = min(tries)  # the fastest answer says most about the clock
    facts = f"PostgreSQL {version}, answers in {latency * 1000:.1f} ms, its clock is {_apart(difference, latency)}"
    if schema is None:
        return f"{facts}, without tables yet"
    wanted = newest_version()
    return f"{facts}, schema {schema}" + ("" if schema == wanted else f", this version has {wanted}")


def _apart(difference_s: float, latency_s: float) -> str:
    """In words; within the time of an answer the difference is not known."""
    if abs(difference_s) <= max(latency_s / 2, 0.001):
        return "this machine's"
    return f"{abs(difference_s):.3f} s {'ahead of' if difference_s > 0 else 'behind'} this machine's"
