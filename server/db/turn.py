"""Whose turn it is for a worker: found owner by owner, so that a claim costs the same however many jobs wait.

The rule is that of fairness.py. The number of running jobs and the last turn are the same for all jobs of an owner, so
the next job is the first of some owner: by priority, then age. The index `jobs_turn` has these first ones: the query
goes from owner to owner in it. It also finds the running jobs whose worker has no lease any more; there are few.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Engine, Row, bindparam, select, text

from server.db import leases
from server.db.clock import of_dialect
from server.db.database import READY, RUNNING, deliveries, reading, unsynced
from server.db.deliveries import NEWS
from server.db.fairness import CLOCKS_APART_S, note_turn
from server.db.notify import CHANNEL, Topic, notify

LINE = "job"
"""Name under which turns are stored."""
_HAS_NEWS = select(deliveries.c.id).where(deliveries.c.job_id == bindparam("job"), deliveries.c.kind == NEWS)
_FEW = 4
"""Candidates of one look; the next ones serve when other workers take the first."""

_NEXT = """
WITH RECURSIVE heads AS (
    SELECT * FROM (
        SELECT owner, id, priority, created_at FROM jobs {by_turn} WHERE {ready}
        ORDER BY owner, priority DESC, created_at, id LIMIT 1
    ) first_one
    UNION ALL
    {next_head}
),
running AS {materialized} (
    SELECT j.owner, j.id, j.priority, j.created_at, j.attempt,
        j.cancel_requested OR j.attempt >= :most AS doomed, l.worker IS NOT NULL AS live
    FROM jobs j {by_running} LEFT JOIN leases l
        ON l.worker = j.worker AND l.until >= {ticks} AND l.until <= {ticks} + :length
    WHERE j.{running}
),
busy AS (SELECT owner, count(*) AS number FROM running WHERE live GROUP BY owner),
candidates AS (
    SELECT owner, id, priority, created_at, NULL AS attempt, false AS doomed FROM heads
    UNION ALL
    SELECT owner, id, priority, created_at, attempt, doomed FROM running WHERE NOT live
)
SELECT c.owner, c.id, c.attempt, c.doomed
FROM candidates c
LEFT JOIN busy ON busy.owner = c.owner
LEFT JOIN turns t ON t.line = '{line}' AND t.owner = c.owner AND t.served_at <= {now} + :apart
ORDER BY c.doomed DESC, c.priority DESC, coalesce(busy.number, 0), coalesce(t.served_at, 0), c.created_at, c.id
LIMIT {few}
"""
_HEAD_POSTGRES = """
    SELECT n.owner, n.id, n.priority, n.created_at FROM heads h CROSS JOIN LATERAL (
        SELECT owner, id, priority, created_at FROM jobs WHERE {ready} AND owner > h.owner
        ORDER BY owner, priority DESC, created_at, id LIMIT 1
    ) n"""
_HEAD_SQLITE = """
    SELECT n.owner, n.id, n.priority, n.created_at FROM heads h JOIN jobs n ON n.rowid = (
        SELECT rowid FROM jobs {by_turn} WHERE {ready} AND owner > h.owner
        ORDER BY owner, priority DESC, created_at, id LIMIT 1
    )"""


_CLAIMED = """
UPDATE jobs SET state = 'running', worker = :worker, attempt = attempt + 1, lease_until = NULL,
    started_at = coalesce(started_at, {now}), progress = 0, stage = 'loading',
    left_at = {now}
WHERE id = ({which} {skip_locked}) RETURNING {columns}
"""
_FIRST_OF_OWNER = """
SELECT id FROM jobs {by_turn} WHERE {ready} AND owner = :owner ORDER BY priority DESC, created_at, id LIMIT 1
"""
_LOST = """
SELECT id FROM jobs WHERE id = :id AND {running} AND attempt = :attempt AND coalesce(worker, '') NOT IN
    (SELECT worker FROM leases WHERE until >= {ticks} AND until <= {ticks} + :length)
"""


_IN_ONE_STATEMENT = """
WITH taken AS ({claimed}),
turn AS (
    INSERT INTO turns (line, owner, served_at) SELECT '{line}', owner, {now} FROM taken
    ON CONFLICT (line, owner) DO UPDATE SET served_at = excluded.served_at
),
lease AS (
    INSERT INTO leases (worker, until) SELECT worker, {ticks} + :lease_s FROM taken
    ON CONFLICT (worker) DO UPDATE SET until = excluded.until
    WHERE leases.until < {ticks} + :enough OR leases.until > excluded.until
)
SELECT {columns} FROM taken
WHERE set_config('synchronous_commit', 'off', true) IS NOT NULL
    AND (SELECT count(*) FROM (
        SELECT pg_notify('{channel}', '{news}') FROM deliveries WHERE job_id = taken.id AND kind = '{news_kind}'
    ) notified) >= 0
"""
"""For PostgreSQL: the same as the several statements for SQLite. Each statement of a transaction would be a round trip
to another machine, during which the rows stay locked."""


@dataclass(frozen=True)
class Candidate:
    owner: str
    id: str
    attempt: int | None
    """Of a running job that has lost its worker; None: the first waiting job of its owner."""
    doomed: bool
    """It has lost its worker and must not run again."""


class Turn:
    """For the claims of one Jobs object; for any thread."""

    def __init__(self, engine: Engine, lease_s: float, max_attempts: int, columns: Sequence[Column[Any]]) -> None:
        """`columns` of the claimed job are returned."""
        self._engine = engine
        self._unsynced = unsynced(engine)
        self._lease_s = lease_s
        self._length = lease_s + CLOCKS_APART_S
        self._values = {"length": self._length, "most": max_attempts, "apart": CLOCKS_APART_S}
        sqlite = engine.dialect.name == "sqlite"
        words: dict[str, object] = {"ready": READY, "running": RUNNING, "line": LINE, "few": _FEW}
        words |= {
            # SQLite keeps no figures on how many rows a condition leaves, and would take another index.
            "by_turn": "INDEXED BY jobs_turn" if sqlite else "",
            "by_running": "INDEXED BY jobs_running" if sqlite else "",
            "materialized": "" if sqlite else "MATERIALIZED",
            "skip_locked": "" if sqlite else "FOR UPDATE SKIP LOCKED",
            "columns": ", ".join(column.name for column in columns),
        }

        def sql(template: str, **others: str) -> str:
            return of_dialect(engine.dialect.name, template, **words, **others)

        self._next = text(sql(_NEXT, next_head=sql(_HEAD_SQLITE if sqlite else _HEAD_POSTGRES)))
        first, lost = (sql(_CLAIMED, which=sql(which)) for which in (_FIRST_OF_OWNER, _LOST))
        if not sqlite:
            names = {"channel": CHANNEL, "news": Topic.NEWS.value, "news_kind": NEWS}
            first, lost = (sql(_IN_ONE_STATEMENT, claimed=each, **names) for each in (first, lost))
        self._first, self._lost = text(first).columns(*columns), text(lost).columns(*columns)

    def look(self) -> list[Candidate]:
        """The next jobs, in their order. Empty: there is no work."""
        with reading(self._engine) as db:
            rows = db.execute(self._next, self._values)
            return [Candidate(row.owner, row.id, row.attempt, bool(row.doomed)) for row in rows]

    def take(self, candidates: Sequence[Candidate], worker: str) -> Row[Any] | None:
        """Give the worker one of these jobs; of one that waits, the first of its owner that no other worker takes at
        this moment. None: they are gone."""
        if self._engine.dialect.name != "sqlite":
            with reading(self._engine) as db:  # each statement is a transaction
                values = {"lease_s": self._lease_s, "enough": leases.FRESH * self._lease_s}
                return self._take(db, candidates, worker, values)
        with self._unsynced.begin() as db:
            row = self._take(db, candidates, worker, {})
            if row is not None:
                note_turn(db, LINE, row.owner)
                leases.renew(db, worker, self._lease_s)
                if db.execute(_HAS_NEWS, {"job": row.id}).first():
                    notify(db, Topic.NEWS)
            return row

    def _take(
        self, db: Connection, candidates: Sequence[Candidate], worker: str, values: Mapping[str, float]
    ) -> Row[Any] | None:
        for each in candidates:
            wanted: dict[str, object] = {"worker": worker, **values}
            if each.attempt is None:
                row = db.execute(self._first, wanted | {"owner": each.owner}).one_or_none()
            else:
                lost = {"id": each.id, "attempt": each.attempt, "length": self._length}
                row = db.execute(self._lost, wanted | lost).one_or_none()
            if row is not None:
                return row
        return None
