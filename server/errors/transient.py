"""Transient failures of the disk, the database and the store of pictures: which errors they are, what callers get, and
when to retry.

A disk that is full or read-only, a database that is locked for longer than its timeout, full, read-only or unreachable,
a bucket that can't be reached or refuses the credentials: the server works again as soon as the operator has fixed it,
without a restart of any process.
"""

import errno
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from obstore.exceptions import GenericError, PermissionDeniedError, UnauthenticatedError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from server.errors import Unavailable

_T = TypeVar("_T")

RETRY_S = 1.0
"""Pause of a thread before it asks a database again that has failed."""
POSTPONE_S = 10.0
"""How long a job waits before its source is fetched again, after a failure of our own."""

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
"""A part of the database's message, and the message for callers; the first match counts."""


class StoreFailure(OSError):
    """The store of pictures does not answer, or refuses this server. Nothing that it holds is lost. The text says why;
    it is for the log."""


def transient_error(error: BaseException) -> Unavailable | None:
    """The error for callers instead of this one; None if it is not transient."""
    if "no space left on device" in str(error).lower():  # libvips reports it only as text
        return Unavailable("the server's disk is full; try again later")
    # obstore's own errors, of a place that does not translate them, are no OSError.
    if isinstance(error, StoreFailure | GenericError | PermissionDeniedError | UnauthenticatedError):
        return Unavailable("the server's store of pictures can't be used now; try again later")
    if isinstance(error, OSError):
        message = _DISK.get(error.errno or 0)
        return Unavailable(f"{message}; try again later") if message else None
    if isinstance(error, PoolTimeout):
        return Unavailable("the server's database is busy; try again later")
    if not isinstance(error, DBAPIError | sqlite3.OperationalError):  # the latter while a connection is made
        return None
    text = str(error.orig if isinstance(error, DBAPIError) else error).lower()
    for part, message in _DATABASE:
        if part in text:
            return Unavailable(f"{message}; try again later")
    if isinstance(error, OperationalError | InterfaceError | sqlite3.OperationalError) or error.connection_invalidated:
        return Unavailable("the server's database can't be reached; try again later")
    return None


def retried(work: Callable[[], _T], timeout_s: float) -> _T:
    """The result of `work`, which is repeated while the database or the store fails, for `timeout_s` at most. Raises
    the last SQLAlchemyError or StoreFailure."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return work()
        except (SQLAlchemyError, StoreFailure) as error:
            if time.monotonic() > deadline:
                raise
            import structlog  # its import takes a tenth of a short command, which never gets here

            log = structlog.get_logger()
            log.warning("the database or the store of pictures failed; trying again", reason=str(error))
            time.sleep(RETRY_S)
