"""The order in which waiting rows are served: jobs, fetches and deliveries. Fair between owners, and between hosts.

One rule for all: the highest priority first; then the owner with the fewest active rows, then the host with the fewest
active rows of that owner, then the owner whose last turn was the longest ago, then the oldest row. There are also caps:
requests to other machines may take long, so one owner never has all places for them, and one host never has all places
of its owner. Requests within one process take turns in service/turns.py.

turn.py has the same rule for workers' jobs, of which many may wait: it looks at the first job of each owner only.

Leases are of a clock that may be set back, or start again: see clock.py. A lease is therefore valid only between now
and its full length from now: one that ends later was written by another clock and is not valid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    Select,
    Table,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    text,
    update,
)

from server.db.clock import NOW, TICKS, of_dialect
from server.db.database import turns

_MAX_HOST_LENGTH = 255
CLOCKS_APART_S = 2.0
"""By how much the clocks of two machines may differ."""

_MINE = turns.alias("mine")
_TURN = (
    update(turns)
    .where(
        turns.c.line == bindparam("in_line"),
        turns.c.owner
        # A row that another process writes now gets the same time: waiting for it would make all claims wait in a row.
        == select(_MINE.c.owner)
        .where(_MINE.c.line == bindparam("in_line"), _MINE.c.owner == bindparam("of_owner"))
        .with_for_update(skip_locked=True)
        .scalar_subquery(),
    )
    .values(served_at=NOW)
)
_NEW_TURN = "INSERT INTO turns (line, owner, served_at) VALUES (:line, :owner, {now}) ON CONFLICT DO NOTHING"
_FIRST_TURN = {name: text(of_dialect(name, _NEW_TURN)) for name in ("sqlite", "postgresql")}


def is_live(until: ColumnElement[Any], length_s: float) -> ColumnElement[bool]:
    """A lease of that length is valid now."""
    return and_(until >= TICKS, until <= TICKS + (length_s + CLOCKS_APART_S))


def is_expired(until: ColumnElement[Any], length_s: float) -> ColumnElement[bool]:
    """The lease has ended or is not valid. For rows without a lease neither function is true."""
    return or_(until < TICKS, until > TICKS + (length_s + CLOCKS_APART_S))


@dataclass(frozen=True)
class Line:
    """Rows of a table that wait for the same kind of work. The table has the columns `id` and `owner`."""

    name: str
    """Name under which the times of the owners' last turns are stored."""
    table: Table
    active: Callable[[Any], ColumnElement[bool]]
    """Given the table or an alias of it: the rows that are worked on now."""
    since: ColumnElement[Any]
    """When a row began to wait."""
    priority: ColumnElement[Any] | None = None
    host: str | None = None
    """Name of the column with the host and port that a row needs; empty in rows that need none."""
    max_of_owner: int | None = None
    max_of_host: int | None = None


def fair_order(line: Line, waiting: ColumnElement[bool]) -> Select[Any]:
    """Ids of the waiting rows, the next one first."""
    table = line.table
    busy = _count_active(line, "busy", "owner")
    active = func.coalesce(busy.c.number, 0)
    found = select(table.c.id).outerjoin(busy, busy.c.owner == table.c.owner)
    found = found.outerjoin(turns, and_(turns.c.line == line.name, turns.c.owner == table.c.owner)).where(waiting)
    order: list[Any] = [] if line.priority is None else [line.priority.desc()]
    order.append(active)
    if line.max_of_owner is not None:
        found = found.where(active < line.max_of_owner)
    if line.host is not None:
        crowd = _count_active(line, "crowd", "owner", line.host)
        at_host = func.coalesce(crowd.c.number, 0)
        same = and_(crowd.c.owner == table.c.owner, crowd.c[line.host] == table.c[line.host], table.c[line.host] != "")
        found = found.outerjoin(crowd, same)
        if line.max_of_host is not None:
            found = found.where(at_host < line.max_of_host)
        order.append(at_host)
    # A turn in the future was written by another clock and is ignored.
    served_at = case((turns.c.served_at <= NOW + CLOCKS_APART_S, turns.c.served_at), else_=0.0)
    return found.order_by(*order, func.coalesce(served_at, 0.0), line.since)


def _count_active(line: Line, name: str, *columns: str) -> Any:
    """The number of active rows for each value of these columns."""
    other = line.table.alias(f"{name}_rows")
    by = [other.c[column] for column in columns]
    query = select(*by, func.count().label("number")).where(line.active(other)).group_by(*by)
    return query.subquery(name)


def note_turn(db: Connection, line: str, owner: str | None) -> None:
    """Record a turn: this owner's next one in the line comes after those of all other owners."""
    if owner is None:  # a row of an earlier version whose job no longer exists
        return
    result = db.execute(_TURN, {"in_line": line, "of_owner": owner})
    assert isinstance(result, CursorResult)
    if not result.rowcount:
        db.execute(_FIRST_TURN[db.dialect.name], {"line": line, "owner": owner})


def host_of(url: str) -> str:
    """Host and port of a URL, as the caller wrote them; empty if it is not a valid URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return f"{parts.hostname or ''}:{port}"[-_MAX_HOST_LENGTH:]
    except ValueError:
        return ""
