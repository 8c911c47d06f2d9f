"""The tables, and an engine on the database that holds them: SQLite in a file, or PostgreSQL.

Times are Unix seconds as floats: they compare the same on both databases. The schema that runs is the one that
`migrations/` builds; a test compares the two.
"""

import os
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
    PoolProxiedConnection,
    String,
    Table,
    Text,
    create_engine,
    event,
    make_url,
    text,
)
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, NoSuchModuleError, SQLAlchemyError

from server.config import BadConfig
from server.db.clock import give_clock
from server.db.notify import prepare_notify
from server.files import make_private_folder
from server.job.job import State

metadata = MetaData()

READY = "state = 'queued' AND source_key IS NOT NULL"
"""Jobs that workers may claim. As text, because a partial index serves only statements with the same words in them."""
UNFETCHED = "state = 'queued' AND source_key IS NULL"
FETCHED_NOW = "state = 'queued' AND worker IS NOT NULL"
RUNNING = "state = 'running'"
PENDING_DELIVERY = "state = 'pending'"
HELD_DELIVERY = "state = 'pending' AND held_until IS NOT NULL"
WITH_DEADLINE = "cancel_at IS NOT NULL AND finished_at IS NULL"


def _partial(name: str, *columns: Any, where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


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
    Column("left_s", Float),
    Column("left_at", Float),
    Column("alone_s", Float),
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
    # NOTE: none has `lease_until` or `progress`: PostgreSQL updates a row in place only if no index has to follow.
    _partial("jobs_turn", "owner", text("priority DESC"), "created_at", "id", where=READY),
    _partial("jobs_unfetched", "owner", "source_host", text("priority DESC"), "created_at", "id", where=UNFETCHED),
    _partial("jobs_fetched_now", "owner", "source_host", where=FETCHED_NOW),
    _partial("jobs_running", "worker", "owner", where=RUNNING),
    _partial("jobs_deadline", "cancel_at", where=WITH_DEADLINE),
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
    Column("counters", JSON, nullable=False, server_default="{}"),
    Column("problem", Text),
)

leases = Table(
    "leases",
    metadata,
    Column("worker", String(128), primary_key=True),
    Column("until", Float, nullable=False),
    postgresql_with={"fillfactor": 50},  # room beside each row: a renewal is an update in place
)
"""One for all jobs of a worker. Times are those of `clock.TICKS`."""

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
    Column("held_until", Float),
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
    _partial("deliveries_turn", "owner", "host", "due_at", "id", where=PENDING_DELIVERY),
    _partial("deliveries_held", "owner", "host", where=HELD_DELIVERY),
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

shared = Table(
    "shared",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
"""What all machines of one database must agree on: see shared.py."""

turns = Table(
    "turns",
    metadata,
    Column("line", String(16), primary_key=True),
    Column("owner", String(64), primary_key=True),
    Column("served_at", Float, nullable=False),
)

_MIGRATIONS = Path(__file__).parent / "migrations"
_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")
_LOCK_TIMEOUT_S = 30
"""How long a writer waits for others on SQLite, unless the URL says `?timeout=`."""
_POOL = {"pool_size": 2, "max_overflow": 2}
"""Connections of one process to PostgreSQL; one more listens, see notify.py."""
_IDLE_S = 1.0
"""A connection that was not used for so long is checked before its next use."""
_USED_AT = "upscale_used_at"
_MIGRATING = 0x75707364
"""The first half of the key of PostgreSQL's advisory lock; the second is that of the schema."""
_READ_ONLY = "upscale_read_only"
_UNSYNCED = "upscale_unsynced"
_SYNCHRONOUS = "upscale_synchronous"

ENDED = [state.value for state in State if state.final]
UNENDED = [state.value for state in State if not state.final]


def open_database(url: str) -> Engine:
    """An engine whose `begin()` is a write transaction. The schema must exist: see `migrate`.

    Raises BadConfig for a text that is not the URL of a database that this server can use. Does not connect yet.
    """
    parsed = _parse(url)
    try:
        # NOTE: hide_parameters, because the values of statements contain keys of callers' files.
        if parsed.drivername != "postgresql+psycopg":
            engine = _sqlite(parsed)
        else:
            engine = create_engine(parsed, hide_parameters=True, **_POOL)
            event.listen(engine, "begin", _without_waiting)
            _check_idle_connections(engine)
        prepare_notify(engine)
        return engine
    except ImportError as error:
        remedy = "pip install 'upscale-server[postgres]'"
        raise BadConfig(f"UPSCALE_DATABASE_URL: its driver is missing ({error}): {remedy}") from error
    except OSError as error:
        folder = Path(parsed.database or "").parent
        raise BadConfig(f"the folder {folder} can't be made: {error.strerror}") from error


def _check_idle_connections(engine: Engine) -> None:
    """As `pool_pre_ping`, which would cost a round trip at every use."""

    @event.listens_for(engine, "checkin")
    def returned(_: Any, record: Any) -> None:
        record.info[_USED_AT] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def taken(connection: Any, record: Any, _: Any) -> None:
        if time.monotonic() - record.info.get(_USED_AT, 0.0) > _IDLE_S:
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.dbapi.Error as error:  # type: ignore[union-attr]  # psycopg is loaded
                raise DisconnectionError from error  # the pool opens another one


def _without_waiting(connection: Connection) -> None:
    if connection.get_execution_options().get(_UNSYNCED):
        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")


class _Compiler(SQLiteCompiler):
    """Knows INDEXED BY, as the hint of a table."""

    def get_from_hint_text(self, table: Any, text: str | None) -> str | None:
        return text


def _sqlite(url: URL) -> Engine:
    if url.database:
        make_private_folder(Path(url.database).parent)
        _make_file(Path(url.database))
    timeout = {} if "timeout" in url.query else {"timeout": _LOCK_TIMEOUT_S}
    engine = create_engine(url, connect_args=timeout, hide_parameters=True)
    engine.dialect.statement_compiler = _Compiler
    give_clock(engine)

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
        wanted = "NORMAL" if options.get(_UNSYNCED) else "FULL"
        if connection.info.get(_SYNCHRONOUS) != wanted:
            run_text(connection.connection, f"PRAGMA synchronous={wanted}")
            connection.info[_SYNCHRONOUS] = wanted
        # A deferred transaction that turns from reading to writing fails at once with "database is locked".
        run_text(connection.connection, "BEGIN IMMEDIATE")

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


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database; None for another one, or one in memory. Raises BadConfig."""
    parsed = _parse(url)
    named = parsed.drivername.startswith("sqlite") and parsed.database not in (None, "", ":memory:")
    return Path(parsed.database or "") if named else None


def reading(engine: Engine) -> Connection:
    """A connection for SELECTs, which on SQLite waits for no writer, and each of which sees what is there at that
    moment. Use as a context manager."""
    if engine.dialect.name == "sqlite":
        return engine.connect().execution_options(**{_READ_ONLY: True})
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def run_text(connection: PoolProxiedConnection, statement: str, values: Sequence[Any] = ()) -> list[Any]:
    """Run a statement on SQLite as its driver takes it, and return its rows: SQLAlchemy takes several times as long.
    Raises SQLAlchemyError."""
    driver: Any = connection.driver_connection
    with driver_errors(statement):
        # To its end, or the statement would hold an old state of the database.
        found: list[Any] = driver.execute(statement, values).fetchall()
    return found


@contextmanager
def driver_errors(statement: str) -> Iterator[None]:
    """Errors of SQLite's driver become SQLAlchemyErrors."""
    try:
        yield
    except sqlite3.Error as error:
        raise DBAPIError.instance(statement, None, error, sqlite3.Error, hide_parameters=True) from error


def unsynced(engine: Engine) -> Engine:
    """The same database for writes without meaning after a power cut, such as leases: they do not wait for the disk."""
    return engine.execution_options(**{_UNSYNCED: True})


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


def migrations(connection: Connection) -> Any:
    """alembic's configuration for its commands on this connection."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def migrate(url: str) -> None:
    """Bring the schema up to date; once, before any process that uses it starts. Raises BadConfig when the database
    can't be used now."""
    from alembic import command
    from alembic.util import CommandError

    engine = open_database(url)
    shown = engine.url.render_as_string(hide_password=True)
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":  # of several that start at once, the others then find it done
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING}, hashtext(current_schema()))")
            command.upgrade(migrations(connection), "head")
    except CommandError as error:
        raise BadConfig(f"the database {shown} is of another version of this server: {error}") from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        reason = str(error.orig if isinstance(error, DBAPIError) else error).strip()
        raise BadConfig(f"the database {shown} can't be used: {reason.splitlines()[0]}") from error
    finally:
        engine.dispose()
