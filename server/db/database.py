"""The tables, and an engine on the database that holds them: SQLite in a file, or PostgreSQL.

Times are Unix seconds as floats: they compare the same on both databases. The schema that runs is the one that
`migrations/` builds; a test compares the two.
"""

import os
import re
import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from server.config import BadConfig
from server.files import make_private_folder
from server.job.job import State

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("dialect", String(32), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("params", JSON, nullable=False),
    Column("request", JSON, nullable=False),
    Column("external_id", String(64)),
    Column("source_id", String(32), nullable=False),
    Column("result_id", String(32), nullable=False),
    Column("keep_s", Float),
    Column("source_url", Text),
    Column("source_host", String(255)),
    Column("source_key", String(128)),
    Column("state", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("progress", Float, nullable=False),
    Column("stage", String(16)),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("attempt", Integer, nullable=False),
    Column("worker", String(128)),
    Column("lease_until", Float),
    Column("cancel_requested", Boolean, nullable=False),
    Column("result", JSON(none_as_null=True)),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Column("cancel_at", Float),
    Index("jobs_waiting", "state", "priority", "created_at"),
    Index("jobs_unfetched", "state", "source_key"),
    Index("jobs_backlog", "state", "dialect", "created_at"),
    Index("jobs_owned", "owner", "created_at"),
    Index("jobs_unended", "owner", "state"),
    Index("jobs_ended", "finished_at"),
    Index("jobs_external", "owner", "dialect", "external_id", unique=True),
    Index("jobs_source", "source_id"),
    Index("jobs_result", "result_id"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("device", String(128), nullable=False),
    Column("kind", String(16), nullable=False, server_default="cpu"),
    Column("ready", Boolean, nullable=False),
    Column("beat_at", Float, nullable=False),
    Column("counters", JSON, nullable=False, server_default="{}"),
    Column("problem", Text),
)

uploads = Table(
    "uploads",
    metadata,
    Column("key", String(128), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("filename", Text, nullable=False),
    Column("ready", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("about", JSON, nullable=False, server_default="{}"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("job_id", String(32), nullable=False),
    Column("owner", String(64)),
    Column("kind", String(16), nullable=False),
    Column("url", Text, nullable=False),
    Column("host", String(255)),
    Column("base_url", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", Float, nullable=False),
    Column("held_until", Float),
    Column("last_error", Text),
    Index("deliveries_due", "state", "due_at"),
    Index("deliveries_job", "job_id"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("hash", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("prefix", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
    Column("rate", Integer),
    Column("daily", Integer),
    Column("concurrent", Integer),
    Column("priority", Integer, nullable=False),
    Column("rate_until", Float, nullable=False),
    Column("day", Integer, nullable=False),
    Column("day_jobs", Integer, nullable=False),
    Index("keys_hash", "hash", unique=True),
)

turns = Table(
    "turns",
    metadata,
    Column("line", String(16), primary_key=True),
    Column("owner", String(64), primary_key=True),
    Column("served_at", Float, nullable=False),
)

shared = Table(
    "shared",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", Text, nullable=False),
)

_MIGRATIONS = Path(__file__).parent / "migrations"
_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")
_LOCK_TIMEOUT_S = 30
"""How long a writer waits for others on SQLite, unless the URL says `?timeout=`."""
_CHECK_S = 0.005
_POLL_S = 0.1
_READ_ONLY = "upscale_read_only"
_UNSYNCED = "upscale_unsynced"

ENDED = [state.value for state in State if state.final]
UNENDED = [state.value for state in State if not state.final]


def open_database(url: str) -> Engine:
    """An engine whose `begin()` is a write transaction. The schema must exist: see `migrate`.

    Raises BadConfig for a text that is not the URL of a database that this server can use. Does not connect yet.
    """
    parsed = _parse(url)
    try:
        # NOTE: hide_parameters, because the values of statements contain keys of callers' files.
        if not url.startswith("sqlite"):
            return create_engine(parsed, pool_pre_ping=True, hide_parameters=True)
        if parsed.database:
            make_private_folder(Path(parsed.database).parent)
            _make_file(Path(parsed.database))
        timeout = {} if "timeout" in parsed.query else {"timeout": _LOCK_TIMEOUT_S}
        engine = create_engine(parsed, connect_args=timeout, hide_parameters=True)
    except ImportError as error:
        raise BadConfig(f"UPSCALE_DATABASE_URL: its driver is missing: {error}") from error
    except OSError as error:
        folder = Path(parsed.database or "").parent
        raise BadConfig(f"the folder {folder} can't be made: {error.strerror}") from error

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        # pysqlite's own transaction control begins too late; `begin` below sends BEGIN.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get(_READ_ONLY):
            return  # each SELECT sees the database as it is at that moment
        # FULL waits for the disk; NORMAL may lose the last commits when power fails, but not when a process dies.
        connection.exec_driver_sql(f"PRAGMA synchronous={'NORMAL' if options.get(_UNSYNCED) else 'FULL'}")
        # A deferred transaction that turns from reading to writing fails at once with "database is locked".
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _make_file(path: Path) -> None:
    """Create the file, readable only by our user, if it does not exist. SQLite's other files get the same mode."""
    if str(path) != ":memory:" and not path.exists():
        with suppress(OSError):  # opening it reports the error
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _parse(url: str) -> URL:
    """Raises BadConfig, whose text never shows a password."""
    # Our driver, whatever SQLAlchemy's default is: it changed with 2.1.
    url = re.sub("^postgres(ql)?://", "postgresql+psycopg://", url)
    try:
        parsed = make_url(url)
        if parsed.drivername in _DRIVERS:
            return parsed
    except (ArgumentError, NoSuchModuleError, ValueError):
        pass
    raise BadConfig(
        "UPSCALE_DATABASE_URL is not the URL of a database that this server can use; "
        "it looks like postgresql://user:password@host/name or sqlite:////folder/jobs.sqlite3"
    )


def reading(engine: Engine) -> Connection:
    """A connection for SELECTs, which on SQLite waits for no writer. Use as a context manager."""
    return engine.connect().execution_options(**{_READ_ONLY: True})


def unsynced(engine: Engine) -> Engine:
    """The same database for writes without meaning after a power cut, such as leases: they do not wait for the disk."""
    return engine.execution_options(**{_UNSYNCED: True})


class Changes:
    """Detects that another connection has written; faster and cheaper than querying for work.

    On SQLite by the file's `data_version`, a read of a few microseconds; elsewhere it only waits. For one thread.
    """

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.raw_connection() if engine.dialect.name == "sqlite" else None
        self._seen = self._version()

    def wait(self, stop: threading.Event, timeout_s: float) -> None:
        """Return after a change, after `timeout_s`, or when `stop` is set."""
        if self._connection is None:
            stop.wait(min(timeout_s, _POLL_S))
            return
        deadline = time.monotonic() + timeout_s
        while (version := self._version()) == self._seen and time.monotonic() < deadline:
            if stop.wait(_CHECK_S):
                return
        self._seen = version

    def _version(self) -> int:
        if self._connection is None:
            return 0
        cursor = self._connection.cursor()
        cursor.execute("PRAGMA data_version")
        row = cursor.fetchone()
        cursor.close()
        return int(row[0]) if row else 0


def newest_version() -> str:
    """The version of the schema that this server uses: migrations are numbered by their file names."""
    return max(path.name[:4] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def is_current(url: str) -> bool:
    """Whether `migrate` has nothing to do. Asks without importing alembic, so that commands start faster. Raises
    BadConfig as `open_database` does."""
    engine = open_database(url)
    try:
        with reading(engine) as connection:
            found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all()
    except (SQLAlchemyError, sqlite3.Error):
        return False  # a new database; or one that can't be used, which `migrate` reports
    finally:
        engine.dispose()
    return list(found) == [newest_version()]


def migrate(url: str) -> None:
    """Bring the schema up to date; once, before any process that uses it starts. Raises BadConfig when the database
    can't be used now."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    engine = open_database(url)
    shown = engine.url.render_as_string(hide_password=True)
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise BadConfig(f"the database {shown} is of another version of this server: {error}") from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        reason = str(error.orig if isinstance(error, DBAPIError) else error).strip()
        raise BadConfig(f"the database {shown} can't be used: {reason.splitlines()[0]}") from error
    finally:
        engine.dispose()
