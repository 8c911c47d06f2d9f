"""The order in which waiting rows are served: jobs, fetches and deliveries. Fair between owners, and between hosts.

One rule for all: the highest priority first; then the owner with the fewest active rows, then the host with the fewest
active rows of that owner, then the owner whose last turn was the longest ago, then the oldest row. There are also caps:
requests to other machines may take long, so one owner never has all places for them, and one host never has all places
of its owner. Requests within one process take turns in service/turns.py.

Many may wait, so only the first row of each owner at each host is looked at; of many owners, only the first ones whose
turn it is. turn.py does the same for workers' jobs, which need no host: as text of its own, because on PostgreSQL it is
one statement with all else that a claim does.

Leases are of a clock that may be set back, or start again: see clock.py. A lease is therefore valid only between now
and its full length from now: one that ends later was written by another clock and is not valid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    CursorResult,
    Select,
    Table,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    select,
    text,
    update,
)

from server.db.clock import NOW, TICKS, of_dialect
from server.db.database import turns

_MAX_HOST_LENGTH = 255
_MAX_OWNERS = 16
"""Whose hosts are looked at in one claim. Others claim at the same time, so one is not enough; each costs as many steps
as it has hosts."""
_ONE: ColumnElement[int] = literal_column("1")
"""As a parameter, PostgreSQL would not know it when it plans, and expect many rows."""
CLOCKS_APART_S = 2.0
"""By how much the clocks of two machines may differ."""

_SERVED_AT = func.coalesce(case((turns.c.served_at <= NOW + CLOCKS_APART_S, turns.c.served_at), else_=0.0), 0.0)
"""A turn in the future was written by another clock and is ignored."""
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
    turn_index: str
    """Name of the index that has the waiting rows by owner, host, priority and `since`. SQLite keeps no figures on how
    many rows a condition leaves, and would take another."""
    active_index: str
    """Of the index that has the active rows by owner and host."""
    since: str
    """Name of the column that says when a row began to wait."""
    host: str
    """Name of the column with the host and port that a row needs; empty in rows that need none."""
    max_of_owner: int
    max_of_host: int
    priority: str | None = None
    """Name of its column, if there is one."""


def fair_order(line: Line, waiting: Callable[[Any], ColumnElement[bool]]) -> Select[Any]:
    """Ids of waiting rows, the next one first; `waiting`: given the table or an alias of it, which rows wait.

    Only first rows are looked at: of each owner its first one, for whose turn it is, then of `_MAX_OWNERS` owners the
    first one at each host. All else that the rule asks is the same for the others. So the query costs the same however
    many wait. An index on `owner`, `host`, the priority and `since` has the first ones, and the query goes from one to
    the next in it. Where more owners than that have active rows, a turn may come before another owner's free host."""
    table, busy = line.table, _count_active(line, "busy", "owner")
    heads = _heads(line, waiting, busy)
    by_id = f"INDEXED BY sqlite_autoindex_{table.name}_1"
    crowd = _count_active(line, "crowd", "owner", line.host)
    active, at_host = func.coalesce(busy.c.number, 0), func.coalesce(crowd.c.number, 0)
    same = and_(crowd.c.owner == table.c.owner, crowd.c[line.host] == table.c[line.host], table.c[line.host] != "")
    # Not a join with heads: PostgreSQL expects many more of them than there are, and would read the whole table.
    found = select(table.c.id).where(table.c.id.in_(select(heads.c.id)))
    found = found.with_hint(table, by_id, "sqlite")
    found = found.outerjoin(busy, busy.c.owner == table.c.owner).outerjoin(crowd, same)
    found = found.outerjoin(turns, and_(turns.c.line == line.name, turns.c.owner == table.c.owner))
    found = found.where(waiting(table), active < line.max_of_owner, at_host < line.max_of_host)
    return found.order_by(*_by_priority(line, table), active, at_host, _SERVED_AT, table.c[line.since])


def _heads(line: Line, waiting: Callable[[Any], ColumnElement[bool]], busy: Any) -> CTE:
    """The first waiting row at each host of the owners whose turn it is."""
    names = ("early", "later", "beyond", "one")
    host, early, later, beyond, one = line.host, *map(line.table.alias, names)

    def first(rows: Any, *after: ColumnElement[bool]) -> Select[Any]:
        order = (rows.c.owner, rows.c[host], *_by_priority(line, rows), rows.c[line.since], rows.c.id)
        found = select(rows.c.id).where(waiting(rows), *after).order_by(*order).limit(_ONE)
        return found.with_hint(rows, f"INDEXED BY {line.turn_index}", "sqlite")

    facts = ("owner", host, line.since, *([line.priority] if line.priority else []))
    start = first(early).add_columns(*(early.c[name] for name in facts)).subquery("start")
    owners = select(start).cte("owners", recursive=True)
    next_owner = first(beyond, beyond.c.owner > owners.c.owner).correlate(owners).scalar_subquery()
    after = select(one.c.id, *(one.c[name] for name in facts)).select_from(owners).join(one, one.c.id == next_owner)
    owners = owners.union_all(after)

    active = func.coalesce(busy.c.number, 0)
    chosen = select(owners.c.id, owners.c.owner, owners.c[host]).outerjoin(busy, busy.c.owner == owners.c.owner)
    chosen = chosen.outerjoin(turns, and_(turns.c.line == line.name, turns.c.owner == owners.c.owner))
    chosen = chosen.where(active < line.max_of_owner).limit(literal_column(str(_MAX_OWNERS)))
    chosen = chosen.order_by(*_by_priority(line, owners), active, _SERVED_AT, owners.c[line.since])

    heads = select(chosen.subquery("chosen")).cte("heads", recursive=True)
    next_host = first(later, later.c.owner == heads.c.owner, later.c[host] > heads.c[host]).correlate(heads)
    # Not a join with the table, of which PostgreSQL would read all rows: it expects many more heads than there are.
    following = next_host.scalar_subquery(), heads.c.owner, next_host.with_only_columns(later.c[host]).scalar_subquery()
    return heads.union_all(select(*following).where(heads.c.id.is_not(None)))


def _by_priority(line: Line, rows: Any) -> list[ColumnElement[Any]]:
    return [] if line.priority is None else [rows.c[line.priority].desc()]


def _count_active(line: Line, name: str, *columns: str) -> Any:
    """The number of active rows for each value of these columns."""
    other = line.table.alias(f"{name}_rows")
    by = [other.c[column] for column in columns]
    query = select(*by, func.count().label("number")).where(line.active(other)).group_by(*by)
    query = query.with_hint(other, f"INDEXED BY {line.active_index}", "sqlite")
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
