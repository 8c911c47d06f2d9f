"""Where pictures lie: encoded bytes under keys, in a folder (obstore has the clouds behind the same calls).

A key is a random UUID (122 bits of chance) and a file ending. Whoever knows it may read the blob: keys are the
capability that download links consist of, so they are never logged and never derived from anything.

NOTE: a result is on the disk before its job is finished. A source survives the death of every process, but the disk is
not waited for: after a power cut the newest may be missing, and then its job fails.
"""

import re
import time
import uuid
from contextlib import suppress
from pathlib import Path

import obstore
from obstore.exceptions import NotFoundError
from obstore.store import LocalStore

from server.disk import sync
from server.errors import NotFound

_STAGING = ".staging"
_STAGED_S = 86400.0
"""A staged file that old belongs to nobody who is alive."""
KEY = re.compile(r"[0-9a-f]{32}(\.[a-z0-9]{1,8})?")


def new_key(suffix: str = "") -> str:
    """`suffix` is a file ending with its dot, or empty."""
    return uuid.uuid4().hex + suffix


class Blobs:
    def __init__(self, folder: Path) -> None:
        (folder / _STAGING).mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._store = LocalStore(folder)

    def put(self, key: str, data: bytes) -> None:
        """Write whole or not at all; nobody sees a part of it."""
        obstore.put(self._store, _checked(key), data)

    def stage(self) -> Path:
        """A place for a file on its way to becoming a blob, see `adopt`. Whoever asked for it removes what is left."""
        return self._folder / _STAGING / uuid.uuid4().hex

    def adopt(self, key: str, staged: Path) -> None:
        """Make the staged file the blob of that key, whole or not at all, once it is safely on the disk."""
        sync(staged)
        staged.replace(self._folder / _checked(key))
        sync(self._folder)

    def sweep(self) -> None:
        """Remove what killed processes have left in the staging folder."""
        for path in (self._folder / _STAGING).iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - _STAGED_S:
                    path.unlink()

    def get(self, key: str) -> bytes:
        """Raises NotFound."""
        try:
            return bytes(obstore.get(self._store, _checked(key)).bytes())
        except (NotFoundError, FileNotFoundError) as error:
            raise NotFound("there is no such file, or it has expired") from error

    def path(self, key: str) -> Path:
        """The blob as a file of this machine, for serving it in ranges. Raises NotFound."""
        path = self._folder / _checked(key)
        if not path.is_file():
            raise NotFound("there is no such file, or it has expired")
        return path

    def delete(self, key: str) -> None:
        """Also fine when it is gone already."""
        with suppress(NotFoundError, FileNotFoundError):
            obstore.delete(self._store, _checked(key))


def _checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise NotFound("there is no such file, or it has expired")
    return key
