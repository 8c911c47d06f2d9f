"""What time it is, as SQL: leases, due times and expiry are compared in the database, by one clock for all machines.

On PostgreSQL it is the database's clock, so those of the machines don't matter. SQLite has no server; it calls back:
`NOW` is this machine's clock, which may be set forward or back. Leases last seconds and must not depend on that, so
they use `TICKS`: seconds since the machine started, the same in all its processes. After a restart of the machine the
leases of before are further ahead than they may be, or end as soon as new ones would: see `fairness.is_live`.
"""

import time
from typing import Any

from sqlalchemy import Engine, Float, event
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

_OF_POSTGRES = "extract(epoch FROM statement_timestamp())::float8"
_OF_SQLITE = {"now": "upscale_now()", "ticks": "upscale_ticks()"}


def of_dialect(dialect: str, statement: str, **words: object) -> str:
    """SQL in which {now} and {ticks} are the times, in the dialect's words."""
    times = _OF_SQLITE if dialect == "sqlite" else dict.fromkeys(_OF_SQLITE, _OF_POSTGRES)
    return statement.format(**times, **words)


class _Now(FunctionElement[float]):
    type = Float()
    inherit_cache = True


class _Ticks(FunctionElement[float]):
    type = Float()
    inherit_cache = True


NOW: Any = _Now()
"""Unix time in seconds: when jobs begin, end and expire."""
TICKS: Any = _Ticks()
"""Seconds from some moment in the past: of leases only."""


@compiles(_Now)
def _now(element: _Now, compiler: Any, **_: Any) -> str:
    return of_dialect(compiler.dialect.name, "{now}")


@compiles(_Ticks)
def _ticks(element: _Ticks, compiler: Any, **_: Any) -> str:
    return of_dialect(compiler.dialect.name, "{ticks}")


def wall() -> float:
    return time.time()


def ticks() -> float:
    return time.monotonic()


def give_clock(engine: Engine) -> None:
    """SQLite asks this process for the time, once per statement."""

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        # Not the functions themselves: a test replaces them. "Deterministic" is within one statement.
        connection.create_function("upscale_now", 0, lambda: wall(), deterministic=True)
        connection.create_function("upscale_ticks", 0, lambda: ticks(), deterministic=True)
