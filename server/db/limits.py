"""Limits of a key: jobs a minute, a day and at a time. They are counted in the key's own row when a job is stored.

The rate is a token bucket in the form of GCRA (ITU-T I.371): `rate_until` is the time up to which the key has used its
share, and may be a minute ahead at most. So `rate` jobs may come at once, then one every 60 / rate seconds.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, func, select, update

from server.db.clock import NOW
from server.db.database import UNENDED, jobs, keys
from server.errors import TooManyRequests, Unauthorized

DAY_S = 86400
_BURST_S = 60.0
_ROUNDING_S = 1e-3
"""Floats at today's Unix time are at least this exact."""


_KEY = select(keys, NOW.label("now")).where(keys.c.id == bindparam("owner")).with_for_update()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """None: no limit."""

    rate: int | None = None
    """Jobs a minute, 1 or more."""
    daily: int | None = None
    """Jobs a day, from midnight to midnight UTC. 0: the key can read, and start no job."""
    concurrent: int | None = None
    """Jobs that have not ended, 1 or more."""
    priority: int = 0
    """Priority of its jobs: higher ones run first, however long others have waited."""


def admit(db: Connection, owner: str, *, waits: bool) -> int:
    """Count one job against its key's limits, in the transaction that stores the job. Returns the key's priority.

    `waits`: the job has not ended, so it counts as concurrent. Owners without a row, whose keys come from the settings,
    have no limits. Raises TooManyRequests, and then nothing is counted, and Unauthorized when the key has been revoked
    meanwhile.
    """
    # The row is locked before anything is counted, so that simultaneous submits do not count each other's jobs wrongly.
    key = db.execute(_KEY, {"owner": owner}).one_or_none()
    if key is None:
        return 0
    if key.revoked_at is not None:
        raise Unauthorized("Invalid API key")
    if waits and key.concurrent is not None and _unended(db, owner) >= key.concurrent:
        raise TooManyRequests(f"this key may have {key.concurrent} unfinished jobs; wait until one has ended")
    now = key.now
    day = int(now // DAY_S)
    day_jobs = key.day_jobs if key.day == day else 0
    if key.daily is not None and day_jobs >= key.daily:
        left_s = (day + 1) * DAY_S - now
        raise TooManyRequests(
            f"this key may start {key.daily} jobs a day; the next day begins at 00:00 UTC", retry_after_s=left_s
        )
    rate_until = key.rate_until
    if key.rate is not None:
        # A clock that was set back must not lock a key out for longer than a minute.
        rate_until = min(max(now, rate_until), now + _BURST_S) + 60 / key.rate
        early_s = rate_until - now - _BURST_S
        if early_s > _ROUNDING_S:
            raise TooManyRequests(f"this key may start {key.rate} jobs a minute; wait a little", retry_after_s=early_s)
    counted = {"rate_until": rate_until, "day": day, "day_jobs": day_jobs + 1}
    db.execute(update(keys).where(keys.c.id == owner).values(**counted))
    priority: int = key.priority
    return priority


def _unended(db: Connection, owner: str) -> int:
    query = select(func.count()).select_from(jobs).where(jobs.c.owner == owner, jobs.c.state.in_(UNENDED))
    return db.execute(query).scalar_one()
