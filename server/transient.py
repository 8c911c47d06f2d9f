"""Disks and databases that can't for now, told from what is broken for good: callers are asked to come again.

A disk that is full or read-only, a database that is locked for longer than its timeout, full, read-only or away: all of
them pass once the operator has seen to it, and nothing of ours has to be restarted then.
"""

import errno
import sqlite3

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from server.errors import Unavailable

_DISK = {
    errno.ENOSPC: "the server's disk is full",
    errno.EDQUOT: "the server's disk is full",
    errno.EROFS: "the server's disk is read-only",
    errno.EIO: "the server's disk has failed",
    errno.EMFILE: "the server has too many files open",
    errno.ENFILE: "the server has too many files open",
}
_DATABASE = (
    ("disk is full", "the server's disk is full"),
    ("no space left", "the server's disk is full"),
    ("readonly", "the server's database is read-only"),
    ("read-only", "the server's database is read-only"),
    ("locked", "the server's database is busy"),
)
"""What the databases' own words hold, and ours for it; the first that fits."""


def outage_of(error: BaseException) -> Unavailable | None:
    """What to say to callers instead of this error; None if it is no such thing."""
    if "no space left on device" in str(error).lower():  # libvips tells it in words alone
        return Unavailable("the server's disk is full; try again later")
    if isinstance(error, OSError):
        words = _DISK.get(error.errno or 0)
        return Unavailable(f"{words}; try again later") if words else None
    if isinstance(error, PoolTimeout):
        return Unavailable("the server's database is busy; try again later")
    if not isinstance(error, DBAPIError | sqlite3.OperationalError):  # the latter while a connection is made
        return None
    said = str(error.orig if isinstance(error, DBAPIError) else error).lower()
    for word, words in _DATABASE:
        if word in said:
            return Unavailable(f"{words}; try again later")
    if isinstance(error, OperationalError | InterfaceError | sqlite3.OperationalError) or error.connection_invalidated:
        return Unavailable("the server's database can't be reached; try again later")
    return None
