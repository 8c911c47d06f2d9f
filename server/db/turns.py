"""Whose turn it is, wherever callers wait for the same thing: jobs, fetches, deliveries, and the reading of bodies.

One rule for all: the highest priority first; among equals the owner with the fewest at work, then the host with the
fewest of that owner's, then the owner whose last turn is the longest ago, then the oldest. Beside it there are caps:
what waits for others' machines may wait for long, so no owner gets all places for that, and no host all of its owner's.

Rows of tables take turns by `in_turn`, requests within this process by `Turns`.

Times in rows are of the wall clock, which may be set back. A lease is therefore good between now and its length from
now: one that is further ahead was written by another clock, and is no good.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread
from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    Select,
    Table,
    and_,
    case,
    func,
    or_,
    select,
    text,
    update,
)

from server.db.database import turns
from server.errors import Unavailable

_T = TypeVar("_T")

_MOST_HOST = 255
CLOCKS_APART_S = 2.0
"""By how much the clocks of two machines may differ."""

_FIRST_TURN = text(
    "INSERT INTO turns (line, owner, served_at) VALUES (:line, :owner, :served_at) ON CONFLICT DO NOTHING"
)


def is_live(until: ColumnElement[Any], length_s: float, now: float) -> ColumnElement[bool]:
    """A lease of that length is good now."""
    return and_(until >= now, until <= now + length_s + CLOCKS_APART_S)


def is_lapsed(until: ColumnElement[Any], length_s: float, now: float) -> ColumnElement[bool]:
    """It is over, or no good. Of no lease neither is true."""
    return or_(until < now, until > now + length_s + CLOCKS_APART_S)


# --- rows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """Rows of a table that wait for the same thing. The table has columns `id` and `owner`."""

    name: str
    """Under which it is kept whose turn was when."""
    table: Table
    at_work: Callable[[Any], ColumnElement[bool]]
    """Of the table, or an alias of it: the rows whose turn it is now."""
    since: ColumnElement[Any]
    """Since when a row waits."""
    priority: ColumnElement[Any] | None = None
    host: str | None = None
    """Name of the column that holds the host that is waited for, with its port; empty in rows that wait for none."""
    most_of_owner: int | None = None
    most_of_host: int | None = None


def in_turn(line: Line, waiting: ColumnElement[bool], now: float) -> Select[Any]:
    """Ids of the rows that wait, the next one first."""
    table = line.table
    busy = _at_work(line, "busy", "owner")
    at_work = func.coalesce(busy.c.number, 0)
    found = select(table.c.id).outerjoin(busy, busy.c.owner == table.c.owner)
    found = found.outerjoin(turns, and_(turns.c.line == line.name, turns.c.owner == table.c.owner)).where(waiting)
    order: list[Any] = [] if line.priority is None else [line.priority.desc()]
    order.append(at_work)
    if line.most_of_owner is not None:
        found = found.where(at_work < line.most_of_owner)
    if line.host is not None:
        crowd = _at_work(line, "crowd", "owner", line.host)
        at_host = func.coalesce(crowd.c.number, 0)
        same = and_(crowd.c.owner == table.c.owner, crowd.c[line.host] == table.c[line.host], table.c[line.host] != "")
        found = found.outerjoin(crowd, same)
        if line.most_of_host is not None:
            found = found.where(at_host < line.most_of_host)
        order.append(at_host)
    # A turn that is still to come was noted by another clock: then it says nothing.
    served_at = case((turns.c.served_at <= now + CLOCKS_APART_S, turns.c.served_at), else_=0.0)
    return found.order_by(*order, func.coalesce(served_at, 0.0), line.since)


def _at_work(line: Line, name: str, *columns: str) -> Any:
    """How many rows are, by what these columns say."""
    other = line.table.alias(f"{name}_rows")
    by = [other.c[column] for column in columns]
    query = select(*by, func.count().label("number")).where(line.at_work(other)).group_by(*by)
    return query.subquery(name)


def served(db: Connection, line: str, owner: str | None, now: float) -> None:
    """This owner's next turn in the line comes after everybody else's."""
    if owner is None:  # of an earlier version's row, whose job has gone
        return
    mine = update(turns).where(turns.c.line == line, turns.c.owner == owner).values(served_at=now)
    result = db.execute(mine)
    assert isinstance(result, CursorResult)
    if not result.rowcount:
        db.execute(_FIRST_TURN, {"line": line, "owner": owner, "served_at": now})


def host_of(url: str) -> str:
    """Who is waited for, as callers name it; empty if that is no address."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return f"{parts.hostname or ''}:{port}"[-_MOST_HOST:]
    except ValueError:
        return ""


# --- requests -------------------------------------------------------------------------------------------------------


class Turns:
    """So many at a time, of one owner all but one at most. For one event loop."""

    def __init__(self, places: int, wait_s: float) -> None:
        """Whoever has waited for `wait_s` is sent away."""
        self._free = places
        self._most_of_one = max(1, places - 1)
        self._wait_s = wait_s
        self._threads = CapacityLimiter(places)
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._at_work: Counter[str] = Counter()
        self._served_at: dict[str, float] = {}
        self._closed = False

    async def run(self, owner: str, work: Callable[..., _T], *args: Any) -> _T:
        """Do it in a thread when it is this owner's turn. Raises Unavailable, having done nothing."""
        async with self.turn(owner):
            return await to_thread.run_sync(work, *args, limiter=self._threads)

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """A place of those there are. Raises Unavailable."""
        await self._wait(owner)
        try:
            yield
        finally:
            self._free += 1
            self._at_work[owner] -= 1
            if not self._at_work[owner]:
                del self._at_work[owner]
            self._next()

    def close(self) -> None:
        """Nobody gets a place any more; whoever waits for one is sent away now."""
        self._closed = True
        for line in self._waiting.values():
            for future in line:
                if not future.done():
                    future.set_exception(_closing())
        self._waiting.clear()

    async def _wait(self, owner: str) -> None:
        if self._closed:
            raise _closing()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(future)
        self._next()
        try:
            await asyncio.wait_for(asyncio.shield(future), self._wait_s)
        except asyncio.TimeoutError:
            self._leave(owner, future)
            raise Unavailable("the server is busy with others' requests; try again later") from None
        except asyncio.CancelledError:
            self._leave(owner, future)
            raise

    def _leave(self, owner: str, future: "asyncio.Future[None]") -> None:
        """Whoever waited has gone; a place given at the same moment is the next one's."""
        if future.done() and not future.cancelled() and future.exception() is None:
            self._free += 1
            self._at_work[owner] -= 1
            self._next()
        elif not future.done():
            future.cancel()

    def _next(self) -> None:
        """Places that are free go to those whose turn it is."""
        while self._free and (owner := self._whose()) is not None:
            future = self._waiting[owner].popleft()
            if not self._waiting[owner]:
                del self._waiting[owner]
            if future.done():
                continue
            self._free -= 1
            self._at_work[owner] += 1
            self._served_at.pop(owner, None)
            self._served_at[owner] = time.monotonic()
            if len(self._served_at) > 10_000:
                del self._served_at[next(iter(self._served_at))]
            future.set_result(None)

    def _whose(self) -> str | None:
        owners = [owner for owner in self._waiting if self._at_work[owner] < self._most_of_one]
        return min(owners, key=lambda owner: (self._at_work[owner], self._served_at.get(owner, 0.0)), default=None)


def _closing() -> Unavailable:
    return Unavailable("the server is shutting down; try again", retry_after_s=5)
