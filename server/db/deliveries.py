"""Pending messages to callers' own addresses when a job ends: webhooks, and results uploaded to a caller's URL.

A row is written together with its job and becomes due when the job ends, so no crash loses it. A claim moves the due
time ahead by as long as an attempt may take: after a crash while sending, the message is sent again. So each is sent at
least once; receivers recognise repeats by the job's id.

    pending ──sent──► delivered
       │ └──failed──► pending, later
       └──failed too often──► dead

The order is fair between owners and hosts, see fairness.py: slow receivers do not delay the messages to others.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Engine, Select, and_, func, or_, select, update

from server.db.clock import NOW, TICKS
from server.db.database import ENDED, deliveries, jobs, reading
from server.db.fairness import CLOCKS_APART_S, Line, fair_order, is_live, note_turn
from server.db.notify import Topic, notify
from server.job.job import State

WEBHOOK, UPLOAD = "webhook", "upload"
NEWS = "news"
"""Webhooks while the job runs. They are due from its start and are not repeated when they fail; a new one follows."""
PENDING, DELIVERED, DEAD = "pending", "delivered", "dead"

LONGEST_S = 900.0
"""No attempt and no pause between two takes longer: a due time further ahead was written by another clock."""
MAX_OF_OWNER, MAX_OF_HOST = 8, 3
"""Attempts at a time."""

_LINE = Line(
    "delivery",
    deliveries,
    active=lambda rows: and_(rows.c.state == PENDING, is_live(rows.c.held_until, LONGEST_S)),
    since=deliveries.c.due_at,
    host="host",
    max_of_owner=MAX_OF_OWNER,
    max_of_host=MAX_OF_HOST,
)


@dataclass(frozen=True, kw_only=True)
class Delivery:
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    job_id: str
    kind: str
    """WEBHOOK: post to `url` in the dialect's form. UPLOAD: put the result's bytes there. NEWS: see there."""
    url: str
    base_url: str
    """Start of the links in the message; there is no request to take it from at that time."""
    state: str = PENDING
    attempts: int = 0
    """Attempts begun, the running one included."""
    due_at: float = 0.0
    held_until: float | None = None
    """When the running attempt ends at the latest."""
    owner: str | None = None
    """The job's owner; `host` is that of `url`. Both are filled in when the job is stored."""
    host: str | None = None
    last_error: str | None = None


class Deliveries:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def claim(self, seconds: float) -> Delivery | None:
        """The next one due whose job has ended; no other sender gets it for `seconds`. None: none is due."""
        return self._claim(seconds, _AFTER_THE_JOB)

    def claim_news(self, seconds: float) -> Delivery | None:
        """Likewise the next NEWS of a job that has begun. One of a job that has ended is to be marked as delivered."""
        return self._claim(seconds, _NEWS)

    def _claim(self, seconds: float, due: Select[Any]) -> Delivery | None:
        with reading(self._engine) as db:
            if db.execute(due).first() is None:
                return None
        chosen = due.with_for_update(skip_locked=True, of=deliveries).scalar_subquery()
        statement = (
            update(deliveries)
            .where(deliveries.c.id == chosen)
            .values(attempts=deliveries.c.attempts + 1, due_at=TICKS + seconds, held_until=TICKS + seconds)
            .returning(deliveries)
        )
        with self._engine.begin() as db:
            row = db.execute(statement).one_or_none()
            if row is not None:
                note_turn(db, _LINE.name, row.owner)
        return Delivery(**row._mapping) if row else None

    def hold(self, delivery: Delivery, seconds: float) -> None:
        """No other sender gets the delivery for `seconds` from now."""
        self._set(delivery, due_at=TICKS + seconds, held_until=TICKS + seconds)

    def delivered(self, delivery: Delivery) -> None:
        self._set(delivery, state=DELIVERED, held_until=None, last_error=None)

    def retry(self, delivery: Delivery, pause_s: float, error: str | None) -> None:
        self._set(delivery, due_at=TICKS + pause_s, held_until=None, last_error=error)

    def postpone(self, delivery: Delivery, pause_s: float) -> None:
        """It can't be sent now, for a reason of our own: this attempt does not count."""
        self._set(delivery, due_at=NOW + pause_s, held_until=None, attempts=delivery.attempts - 1)

    def give_up(self, delivery: Delivery, error: str) -> None:
        self._set(delivery, state=DEAD, due_at=NOW, held_until=None, last_error=error)

    def of_job(self, job_id: str) -> Sequence[Delivery]:
        with reading(self._engine) as db:
            rows = db.execute(select(deliveries).where(deliveries.c.job_id == job_id).order_by(deliveries.c.kind))
            return [Delivery(**row._mapping) for row in rows]

    def dead(self, limit: int) -> Sequence[Delivery]:
        """The deliveries that were given up, the latest first."""
        query = select(deliveries).where(deliveries.c.state == DEAD).order_by(deliveries.c.due_at.desc()).limit(limit)
        with reading(self._engine) as db:
            return [Delivery(**row._mapping) for row in db.execute(query)]

    def revive(self, job_id: str) -> int:
        """The job's deliveries that were given up are due again, with all attempts. Returns how many."""
        given_up = update(deliveries).where(deliveries.c.job_id == job_id, deliveries.c.state == DEAD)
        with self._engine.begin() as db:
            result = db.execute(given_up.values(state=PENDING, attempts=0, due_at=0.0, held_until=None))
            assert isinstance(result, CursorResult)
            notify(db, Topic.DELIVERY)
            return result.rowcount

    def next_due_s(self) -> float | None:
        """Seconds until the next one is due of those that wait for their time; None: there is none."""
        wait = func.min(deliveries.c.due_at) - TICKS
        query = select(wait).where(deliveries.c.state == PENDING, deliveries.c.due_at > TICKS)
        with reading(self._engine) as db:
            found: float | None = db.execute(query).scalar_one_or_none()
            return found

    def counts(self) -> dict[str, int]:
        """Number by state; delivered ones are left out."""
        open_ = deliveries.c.state.in_((PENDING, DEAD))
        query = select(deliveries.c.state, func.count().label("number")).where(open_).group_by(deliveries.c.state)
        with reading(self._engine) as db:
            return {row.state: row.number for row in db.execute(query)}

    def _set(self, delivery: Delivery, **values: object) -> None:
        # The attempt number fences: a slow sender must not overwrite what a later one has written.
        mine = update(deliveries).where(deliveries.c.id == delivery.id, deliveries.c.attempts == delivery.attempts)
        with self._engine.begin() as db:
            db.execute(mine.values(**values))


def _with_job(state: ColumnElement[bool]) -> ColumnElement[bool]:
    return select(jobs.c.id).where(jobs.c.id == deliveries.c.job_id, state).exists()


def _due(which: ColumnElement[bool]) -> Select[Any]:
    is_due = or_(deliveries.c.due_at <= TICKS, deliveries.c.due_at > TICKS + (LONGEST_S + CLOCKS_APART_S))
    return fair_order(_LINE, and_(deliveries.c.state == PENDING, is_due, which)).limit(1)


# Made once: processes ask often, and to make such a query takes longer than to run it.
_AFTER_THE_JOB = _due(and_(deliveries.c.kind != NEWS, _with_job(jobs.c.state.in_(ENDED))))
_NEWS = _due(and_(deliveries.c.kind == NEWS, _with_job(jobs.c.state != State.QUEUED.value)))
