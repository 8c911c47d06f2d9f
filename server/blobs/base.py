"""What a store of blobs must offer. A blob is one encoded picture under a key; stores know no file names or formats.

A key is a random UUID (122 random bits) and a file ending. Anyone who knows a key may read the blob: download links
consist of keys, so keys are never logged and never derived from anything.
"""

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from server.errors import NotFound

KEY = re.compile(r"[0-9a-f]{32}(\.[a-z0-9]{1,8})?")


def new_key(suffix: str = "") -> str:
    """`suffix` is a file ending with its dot, or empty."""
    return uuid.uuid4().hex + suffix


def checked(key: str) -> str:
    """The same key. Raises NotFound if it is not a valid one."""
    if not KEY.fullmatch(key):
        raise not_found()
    return key


def not_found() -> NotFound:
    """The error for a blob that does not exist."""
    return NotFound("there is no such file, or it has expired")


class Reader(Protocol):
    """An open blob. If it is deleted meanwhile, one in a folder can still be read to its end; of one in a bucket `read`
    raises OSError."""

    size: int
    """Bytes."""
    modified_at: float
    """Unix seconds."""

    def read(self, start: int, length: int) -> bytes:
        """Up to `length` bytes from `start`; fewer only at the end. For any thread. Raises OSError."""

    def close(self) -> None: ...


class Scratch(Protocol):
    """A temporary file for bytes that are still arriving."""

    def write(self, data: bytes) -> None:
        """Raises OSError, also when the disk would become too full."""

    def read(self) -> bytes:
        """All of it."""


@dataclass(frozen=True)
class Stored:
    """What is known of a blob without reading it."""

    size: int
    """Bytes."""
    stored_at: float
    """Unix seconds."""


class Blobs(Protocol):
    """One store. Every method is for any thread; all raise OSError when the disk or the service fails."""

    list_s: float
    """Pause in seconds between two listings that nothing asks for but bookkeeping: a bucket's take time and money."""

    def put(self, key: str, data: bytes) -> None:
        """Write the whole blob or nothing; no reader sees a part of it. Raises OSError, also when the data would leave
        too little free space. What was there is replaced: keys are random, and a write that is repeated because its
        answer was lost must not fail."""

    def get(self, key: str) -> bytes:
        """Raises NotFound."""

    def open(self, key: str) -> Reader:
        """Raises NotFound. The caller closes the reader."""

    def stat(self, key: str) -> Stored | None:
        """None: there is no such blob."""

    def has(self, key: str) -> bool: ...

    def link(self, key: str) -> str | None:
        """A URL that gives the blob to anyone for a short time, straight from the store; None where downloads are to go
        through the API. Does not check whether the blob exists."""

    def delete(self, *keys: str) -> None:
        """Those that do not exist are no error."""

    def list(self) -> Iterator[Mapping[str, Stored]]:
        """All blobs by key, in pages."""

    def scratch(self) -> AbstractContextManager[Scratch]:
        """A temporary file without a name; it is removed afterwards, also when the process dies."""

    def stage(self) -> Path:
        """A path of this machine for a file that is to become a blob, see `adopt`. The caller removes the file if it is
        still there in the end; after a process was killed, `remove_partial` does."""

    def adopt(self, key: str, staged: Path) -> None:
        """Make the staged file the blob of that key, whole or not at all, once it is safely stored. If it raises, the
        file is as it was, so that it can be called again."""

    def remove_partial(self) -> Sequence[int]:
        """Remove what killed processes have left unfinished on this machine. Returns the sizes of the files in
        bytes."""

    def free_bytes(self) -> int:
        """Free space of this machine's disk, on which results are made."""

    def check(self) -> Mapping[str, str]:
        """Facts for `doctor`, after trying the store out. One that begins with `PROBLEM` is a fault. Does not raise."""


@dataclass(frozen=True)
class Blob:
    """One blob and the store that holds it."""

    store: Blobs
    key: str

    def open(self) -> Reader:
        """Raises NotFound."""
        return self.store.open(self.key)

    def link(self) -> str | None:
        """As `Blobs.link`. Raises NotFound."""
        if (link := self.store.link(self.key)) is not None and not self.store.has(self.key):
            raise not_found()
        return link
