"""API keys that operators create: a table of their hashes, each with a name and limits.

A key is 256 random bits, so its hash needs neither salt nor a slow function: keys can't be guessed from a dictionary,
and no two are the same. For the same reason a lookup need not take constant time: its time can reveal only how much of
a hash matches, and no one can choose a key by its hash.
"""

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, bindparam, insert, or_, select, update
from sqlalchemy.engine import Row

from server.db.database import keys, reading
from server.db.limits import DAY_S, Limits
from server.db.row_reader import RowReader
from server.errors import Conflict, InvalidField, NotFound

_MARK = "up_"
"""How every key begins: for people, and for programs that search for leaked keys."""
_SHOWN = 11
_MAX_NAME = 64

_ANY = select(keys.c.id).limit(1)
_BY_HASH = select(keys.c.id).where(keys.c.hash == bindparam("wanted"), keys.c.revoked_at.is_(None))
_BY_OWNER = select(keys.c.id).where(keys.c.id == bindparam("wanted"), keys.c.revoked_at.is_(None))
"""Built once: they run at each request."""
_COLUMNS = [column for column in keys.c if column.name not in ("hash", "rate_until")]


@dataclass(frozen=True, kw_only=True)
class Key:
    """What is known about a key after it has been shown once."""

    id: str
    """The owner of its jobs: see `owner_of`."""
    name: str
    prefix: str
    """Its first characters, to recognise it."""
    created_at: float
    revoked_at: float | None
    limits: Limits
    today: int
    """Jobs it has started since midnight UTC."""


def hash_key(key: str) -> str:
    """SHA-256 as 64 hex digits. Callers may send any text as a key, lone surrogates included."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def owner_of(hashed: str) -> str:
    """The owner id of a key, which jobs and uploads store; neither key nor hash can be derived from it."""
    return hashed[:16]


class Keys:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._any, self._by_hash, self._by_owner = (RowReader(engine, each) for each in (_ANY, _BY_HASH, _BY_OWNER))

    def create(self, name: str, limits: Limits) -> tuple[Key, str]:
        """A new key's record, and the key itself, which can't be read again. Raises InvalidField, Conflict."""
        if not name.strip() or len(name) > _MAX_NAME or not name.isprintable():
            raise InvalidField(f"a key's name must be 1 to {_MAX_NAME} printable characters", field="name")
        secret = _MARK + secrets.token_urlsafe(32)
        hashed = hash_key(secret)
        values = {"id": owner_of(hashed), "hash": hashed, "name": name, "prefix": secret[:_SHOWN]}
        counts = {"rate_until": 0.0, "day": 0, "day_jobs": 0}
        new = insert(keys).values(created_at=time.time(), **values, **vars(limits), **counts).returning(*_COLUMNS)
        with self._engine.begin() as db:
            if db.execute(select(keys.c.id).where(keys.c.name == name, keys.c.revoked_at.is_(None))).first():
                raise Conflict(f"there is a key of the name {name} already; revoke it first, or choose another name")
            return _from_row(db.execute(new).one()), secret

    def find(self, hashed: str) -> str | None:
        """The owner of the key with this hash, unless the key has been revoked."""
        row = self._by_hash.read(wanted=hashed)
        return None if row is None else str(row["id"])

    def is_valid(self, owner: str) -> bool:
        """Whether this owner has a key here that has not been revoked."""
        return self._by_owner.read(wanted=owner) is not None

    def any(self) -> bool:
        """Whether there is a key, or ever was one."""
        return self._any.read() is not None

    def list(self) -> Sequence[Key]:
        """All keys, revoked ones included, oldest first."""
        with reading(self._engine) as db:
            return [_from_row(row) for row in db.execute(select(*_COLUMNS).order_by(keys.c.created_at))]

    def revoke(self, name_or_prefix: str) -> Key:
        """The key is refused from now on. Raises NotFound, and Conflict when several keys match."""
        named = or_(keys.c.name == name_or_prefix, keys.c.prefix == name_or_prefix[:_SHOWN])
        with self._engine.begin() as db:
            found = list(db.execute(select(*_COLUMNS).where(named, keys.c.revoked_at.is_(None))))
            if not found:
                raise NotFound(f"there is no key {name_or_prefix} that could be revoked; `keys list` shows them")
            if len(found) > 1:
                raise Conflict(f"several keys match {name_or_prefix}; name one by its prefix, which `keys list` shows")
            revoked = update(keys).where(keys.c.id == found[0].id).values(revoked_at=time.time())
            return _from_row(db.execute(revoked.returning(*_COLUMNS)).one())


def _from_row(row: Row[Any]) -> Key:
    values = dict(row._mapping)
    day, day_jobs = values.pop("day"), values.pop("day_jobs")
    limits = Limits(**{name: values.pop(name) for name in Limits.__dataclass_fields__})
    return Key(**values, limits=limits, today=day_jobs if day == int(time.time() // DAY_S) else 0)
