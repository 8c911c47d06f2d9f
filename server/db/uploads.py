"""Upload tickets: a caller requests one, then puts the bytes at its address without an API key."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Engine, Row, and_, delete, func, insert, or_, select, update

from server.blobs.base import KEY, Blobs, new_key
from server.db.clock import NOW, TICKS
from server.db.database import reading, uploads
from server.db.fairness import is_expired
from server.errors import NotFound

TICKET_S = 3600
"""How long a ticket may wait for its bytes."""
_FILL_S = 600.0
"""How long a ticket is held by one caller's bytes, if its process dies before they are stored."""
_NO_TICKET = "there is no such upload ticket, or it has been used or has expired"


@dataclass(frozen=True)
class Upload:
    key: str
    """The blob's key, and the ticket: anyone who knows it may put the bytes, once, and read them."""
    owner: str
    filename: str
    ready: bool
    """The bytes are stored."""
    created_at: float
    expires_at: float
    about: dict[str, Any] = field(default_factory=dict)
    """Data that only the dialect needs, and the dialect's name as `dialect`; empty where it needs none."""


class Uploads:
    def __init__(self, engine: Engine, blobs: Blobs, *, keep_s: float) -> None:
        self._engine = engine
        self._blobs = blobs
        self._keep_s = keep_s

    def issue(self, owner: str, filename: str, suffix: str, about: dict[str, Any] | None = None) -> Upload:
        """A ticket; `suffix` is the blob's file ending, with its dot."""
        values = {"key": new_key(suffix), "owner": owner, "filename": filename, "ready": False, "about": about or {}}
        ticket = insert(uploads).values(**values, created_at=NOW, expires_at=NOW + TICKET_S).returning(uploads)
        with self._engine.begin() as db:
            return _upload(db.execute(ticket).one())

    def ticket(self, key: str) -> Upload:
        """The ticket that waits for its bytes. Raises NotFound when there is none, it has been used or has expired."""
        row = None
        if KEY.fullmatch(key):
            with reading(self._engine) as db:
                live = and_(uploads.c.key == key, uploads.c.expires_at > NOW, ~uploads.c.ready)
                row = db.execute(select(uploads).where(live)).one_or_none()
        if row is None:
            raise NotFound(_NO_TICKET)
        return _upload(row)

    def fill(self, key: str, data: bytes) -> Upload:
        """Store the ticket's bytes. Raises NotFound as `ticket` does; of two simultaneous calls, for the later one."""
        ticket = self.ticket(key)
        mine = and_(uploads.c.key == key, ~uploads.c.ready)
        free = or_(uploads.c.held_until.is_(None), is_expired(uploads.c.held_until, _FILL_S))
        # Prolonged, so that cleanup does not remove it meanwhile.
        held_until = self._change(mine & free, held_until=TICKS + _FILL_S, expires_at=NOW + TICKET_S).held_until
        mine &= uploads.c.held_until == held_until
        # Not within a transaction, which on SQLite keeps all others waiting: a bucket takes its time. And before the
        # upload is ready: if the process dies now, the ticket is still one, and its caller may send the bytes again.
        try:
            self._blobs.put(key, data)
        except Exception:
            with suppress(NotFound):
                self._change(mine, held_until=None, expires_at=ticket.expires_at)
            raise
        return _upload(self._change(mine, ready=True, held_until=None, expires_at=NOW + self._keep_s))

    def _change(self, which: ColumnElement[bool], **values: Any) -> Row[Any]:
        """The upload's new row. Raises NotFound."""
        with self._engine.begin() as db:
            row = db.execute(update(uploads).where(which).values(**values).returning(uploads)).one_or_none()
        if row is None:
            raise NotFound(_NO_TICKET)
        return row

    def find(self, owner: str, upload_id: str) -> Upload | None:
        """The caller's finished upload whose key begins with these 32 hex digits."""
        named = and_(uploads.c.owner == owner, uploads.c.key.startswith(upload_id, autoescape=True), uploads.c.ready)
        with reading(self._engine) as db:
            row = db.execute(select(uploads).where(named).limit(1)).one_or_none()
        return _upload(row) if row else None

    def list(
        self, owner: str, dialect: str, *, created_before: float | None, limit: int, offset: int
    ) -> tuple[Sequence[Upload], int]:
        """A page of the caller's finished uploads through this dialect, newest first, and how many there are in all."""
        where = [uploads.c.owner == owner, uploads.c.ready, uploads.c.about["dialect"].as_string() == dialect]
        where += [] if created_before is None else [uploads.c.created_at < created_before]
        query = select(uploads).where(*where).order_by(uploads.c.created_at.desc(), uploads.c.key)
        with reading(self._engine) as db:
            found = [_upload(row) for row in db.execute(query.limit(limit).offset(offset))]
            return found, db.execute(select(func.count()).select_from(uploads).where(*where)).scalar_one()

    def expired(self) -> Sequence[str]:
        """The keys of expired tickets and uploads, for `remove`."""
        with reading(self._engine) as db:
            return list(db.execute(select(uploads.c.key).where(uploads.c.expires_at < NOW)).scalars())

    def remove(self, key: str) -> None:
        """Delete an upload with its bytes; nothing happens if it does not exist."""
        self._blobs.delete(key)
        with self._engine.begin() as db:
            db.execute(delete(uploads).where(uploads.c.key == key))

    def oldest(self, limit: int) -> Sequence[Upload]:
        """The oldest uploads that have their bytes."""
        query = select(uploads).where(uploads.c.ready).order_by(uploads.c.created_at).limit(limit)
        with reading(self._engine) as db:
            return [_upload(row) for row in db.execute(query)]

    def keys(self) -> set[str]:
        """The keys of all uploads and tickets."""
        with reading(self._engine) as db:
            return set(db.execute(select(uploads.c.key)).scalars())


def _upload(row: Row[Any]) -> Upload:
    return Upload(**{name: value for name, value in row._mapping.items() if name != "held_until"})


def clean_name(filename: str) -> str:
    """A caller's file name without folders and without characters that a database can't store."""
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "", re.split(r"[/\\]", filename)[-1])[-255:] or "upload"


def suffix_of(filename: str) -> str:
    """The file ending with its dot, or nothing. It is only shown: a file's kind is found from its bytes."""
    ending = re.search(r"\.[a-z0-9]{1,8}\Z", filename.lower())
    return ending[0] if ending else ""
