"""Processes tell each other what they have committed, so that none has to look again and again.

On PostgreSQL by NOTIFY, in the transaction that makes the change; each process hears it on one connection of its own
(LISTEN needs a session: not through a pooler of transactions). On SQLite, whose processes are on one machine, by named
pipes in a folder beside the database file: after its commit a process writes the topic into each of them.

A message may be lost, when a connection breaks or a process dies after its commit, and may come without reason. So a
waiting process looks for itself every `POLL_S`.

The same connection, or a lock on a file in the same folder, makes one process the leader: it does what is to be done
once for all machines. When it ends in whatever way, its lock is free, and another process has it within `POLL_S`.
"""

import enum
import fcntl
import os
import secrets
import select
import threading
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, event, text

from server.errors.transient import RETRY_S
from server.files import make_private_folder

POLL_S = 5.0
"""How often a process looks without having heard anything."""
CHANNEL = "upscale"
_LEADER = 0x7570736C
"""The first half of the key of the advisory lock; the second is that of the schema."""
_COMMITTED = "upscale_topics"
_NOTIFY = text(f"SELECT pg_notify('{CHANNEL}', :topic)")
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
"""Seconds after which a connection that is only listened to is found to be broken."""


class Topic(str, enum.Enum):
    WORK = "work"
    """A job can be claimed by a worker."""
    FETCH = "fetch"
    """A job's source is to be fetched."""
    DELIVERY = "delivery"
    """A delivery is due."""
    NEWS = "news"
    """A job has begun whose progress is to be reported."""
    DEADLINE = "deadline"
    """There is a job that is to be cancelled at some time."""
    STOP = "stop"
    """A running job was cancelled or deleted."""


def notify(db: Connection, *topics: Topic) -> None:
    """Processes that wait for these topics look as soon as this transaction is committed."""
    for topic in topics:
        if db.dialect.name == "sqlite":
            db.info.setdefault(_COMMITTED, set()).add(topic)
        else:
            db.execute(_NOTIFY, {"topic": topic.value})


def prepare_notify(engine: Engine) -> None:
    """`notify` needs this once for each engine."""
    if engine.dialect.name != "sqlite":
        return
    folder = _folder(engine)

    @event.listens_for(engine, "rollback")
    def rolled_back(connection: Connection) -> None:
        connection.info.pop(_COMMITTED, None)

    @event.listens_for(engine, "checkin")  # the first moment after the commit
    def committed(_: Any, record: Any) -> None:
        topics = record.info.pop(_COMMITTED, None)
        if topics and folder is not None:
            _write_pipes(folder, topics)


class Subscription:
    """What one thread waits for. Setting it takes no lock, so a signal handler may."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)

    def set(self) -> None:
        with suppress(OSError):  # full: it is set; closed: none waits any more
            os.write(self._writer, b"\0")

    def wait(self, timeout_s: float) -> bool:
        """Until it is set, or was since the last call; False when the time is over."""
        if not self._poll.poll(max(0.0, timeout_s) * 1000):
            return False
        with suppress(OSError):
            os.read(self._reader, 65536)
        return True

    def fileno(self) -> int:
        return self._reader

    def __del__(self) -> None:  # not earlier: a thread may still wait for it
        os.close(self._reader)
        os.close(self._writer)


class Listener:
    """Hears for one process, in a thread of its own while `running`."""

    def __init__(self, engine: Engine, *, may_lead: bool = False) -> None:
        self._engine = engine
        self._may_lead = may_lead
        self._leads = False
        self._subscriptions: list[tuple[frozenset[Topic], Subscription]] = []
        self._stop = Subscription()
        self._stopping = False

    def is_leader(self) -> bool:
        """This process does what is to be done once for all machines."""
        return self._leads

    def subscribe(self, *topics: Topic) -> Subscription:
        subscription = Subscription()
        self._subscriptions.append((frozenset(topics), subscription))
        return subscription

    @contextmanager
    def running(self) -> Iterator[None]:
        source = self._try_open()  # here, so that a process is the leader from its start
        thread = threading.Thread(target=self._run, args=[source], name="listen", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopping = True
            self._stop.set()
            thread.join()

    def wake(self, topics: Collection[Topic] = tuple(Topic)) -> None:
        """As if these had been heard."""
        for wanted, subscription in self._subscriptions:
            if not wanted.isdisjoint(topics):
                subscription.set()

    def _try_open(self) -> "_Source | None":
        try:
            source = _Postgres(self._engine) if self._engine.dialect.name == "postgresql" else _Pipe(self._engine)
            if self._may_lead:
                self._leads = source.lead()
            return source
        except Exception:  # until it works, processes look every POLL_S
            _warn("can't listen to other processes")
            return None

    def _run(self, source: "_Source | None") -> None:
        while True:
            if source is not None:
                self.wake()  # whatever has happened before
                try:
                    with closing(source):
                        self._hear(source)
                except Exception:
                    _warn("no longer hears other processes")
                self._leads = False
            if self._stopping or (self._stop.wait(RETRY_S) and self._stopping):
                return
            source = self._try_open()

    def _hear(self, source: "_Source") -> None:
        poll = select.poll()
        poll.register(source.fileno(), select.POLLIN)
        poll.register(self._stop.fileno(), select.POLLIN)
        while not self._stopping:
            waits = self._may_lead and not self._leads
            if not poll.poll(POLL_S * 1000 if waits else None):
                self._leads = source.lead()
            self.wake(source.read())


class _Source(Protocol):
    def fileno(self) -> int:
        """Readable when there is something to `read`."""
        ...

    def read(self) -> set[Topic]: ...

    def lead(self) -> bool:
        """Become the leader, unless another process is, until `close` or until this process ends."""
        ...

    def close(self) -> None: ...


class _Postgres:
    def __init__(self, engine: Engine) -> None:
        import psycopg  # an extra

        arguments, options = engine.dialect.create_connect_args(engine.url)
        self._connection = psycopg.connect(*arguments, **{**_KEEPALIVE, **options}, autocommit=True)
        self._connection.execute(f"LISTEN {CHANNEL}")

    def fileno(self) -> int:
        return self._connection.fileno()

    def read(self) -> set[Topic]:
        heard = [each.payload for each in self._connection.notifies(timeout=0)]
        return {topic for topic in Topic if topic.value in heard}

    def lead(self) -> bool:
        query = "SELECT pg_try_advisory_lock(%s, hashtext(current_schema()))"
        row = self._connection.execute(query, [_LEADER]).fetchone()
        return row is not None and bool(row[0])

    def close(self) -> None:
        self._connection.close()


class _Pipe:
    def __init__(self, engine: Engine) -> None:
        folder = _folder(engine)
        self._path: Path | None = None
        self._lock: int | None = None
        self._fd, self._writer = os.pipe() if folder is None else (-1, -1)  # a database in memory: none else has it
        self._folder = folder
        if folder is not None:
            make_private_folder(folder)
            self._path = folder / f"{os.getpid()}-{secrets.token_hex(4)}.pipe"
            own = self._path.with_suffix(".new")
            os.mkfifo(own, 0o600)
            # Opened for both, so that it has a reader and never ends; then renamed, because writers remove those that
            # have no reader.
            self._fd = os.open(own, os.O_RDWR | os.O_NONBLOCK)
            own.rename(self._path)

    def fileno(self) -> int:
        return self._fd

    def read(self) -> set[Topic]:
        try:
            heard = os.read(self._fd, 65536).decode().split()
        except BlockingIOError:
            return set()
        return {topic for topic in Topic if topic.value in heard}

    def lead(self) -> bool:
        if self._folder is None:
            return True
        if self._lock is None:
            self._lock = os.open(self._folder / "leader", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        for fd in (self._fd, self._writer, self._lock):
            if fd is not None and fd >= 0:
                os.close(fd)


def _folder(engine: Engine) -> Path | None:
    name = engine.url.database
    return None if not name or name == ":memory:" else Path(f"{name}-wake").absolute()


def _write_pipes(folder: Path, topics: Collection[Topic]) -> None:
    data = "".join(f"{topic.value}\n" for topic in topics).encode()
    try:
        names = os.listdir(folder)  # a `glob` takes ten times as long
    except FileNotFoundError:  # none has listened yet
        return
    for name in names:
        if not name.endswith(".pipe"):
            continue
        path = f"{folder}/{name}"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # its process has died
            with suppress(OSError):
                os.unlink(path)
            continue
        with suppress(OSError):  # full: its process has enough to read
            os.write(fd, data)
        os.close(fd)


def _warn(message: str) -> None:
    """Log it, with the exception that is handled."""
    import structlog  # its import takes a tenth of a short command, which never gets here

    structlog.get_logger().warning(message, exc_info=True)
