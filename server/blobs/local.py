"""Where pictures lie: encoded bytes under keys, in a folder (obstore has the clouds behind the same calls).

A key is a random UUID (122 bits of chance) and a file ending. Whoever knows it may read the blob: keys are the
capability that download links consist of, so they are never logged and never derived from anything.

NOTE: a result is on the disk before its job is finished. A source survives the death of every process, but the disk is
not waited for: after a power cut the newest may be missing, and then its job fails.
"""

import errno
import fcntl
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore

from server.errors import NotFound
from server.files import fsync, make_private_folder

SPARE_BYTES = 32 << 20
"""Left free by what callers send, so that the database and results on their way still fit on a disk that is full."""

_STAGING = ".staging"
_PRIVATE = 0o600
"""Of files, whatever the umask is: a picture is for whoever has its link, not for every user of the machine."""
_CHECK_BYTES = 1 << 20
_OLD_S = 86400.0
"""A part of a file that old belongs to nobody who is alive."""
_LOCK, _SWEEPING = ".lock", "sweeping"
"""Ending of a staging folder's lock; and the lock of all of them together."""
KEY = re.compile(r"[0-9a-f]{32}(\.[a-z0-9]{1,8})?")


def new_key(suffix: str = "") -> str:
    """`suffix` is a file ending with its dot, or empty."""
    return uuid.uuid4().hex + suffix


@dataclass(frozen=True)
class Kept:
    """A blob, from outside."""

    size: int
    """Bytes."""
    put_at: float


class Scratch:
    """Bytes on their way, on the disk instead of in memory."""

    def __init__(self, file: IO[bytes], folder: Path) -> None:
        self._file = file
        self._folder = folder
        self._unchecked = _CHECK_BYTES

    def write(self, data: bytes) -> None:
        """Raises OSError, also when `SPARE_BYTES` would not be left."""
        self._unchecked += len(data)
        if self._unchecked >= _CHECK_BYTES:
            if shutil.disk_usage(self._folder).free < SPARE_BYTES + _CHECK_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._unchecked = 0
        self._file.write(data)

    def read(self) -> bytes:
        """All of it."""
        self._file.seek(0)
        return self._file.read()


class Blobs:
    def __init__(self, folder: Path) -> None:
        make_private_folder(folder)
        make_private_folder(folder / _STAGING)
        self._folder = folder
        self._store = LocalStore(folder)
        self._own: Path | None = None
        self._owning = threading.Lock()

    def put(self, key: str, data: bytes) -> None:
        """Write whole or not at all; nobody sees a part of it. Raises OSError, also when it and `SPARE_BYTES` don't
        fit."""
        _checked(key)
        if shutil.disk_usage(self._folder).free < len(data) + SPARE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with _as_os_error():
            obstore.put(self._store, key, data)
        (self._folder / key).chmod(_PRIVATE)

    @contextmanager
    def scratch(self) -> Iterator["Scratch"]:
        """A file without a name for what is still coming: gone afterwards, and with the process."""
        with tempfile.TemporaryFile(dir=self._folder / _STAGING) as file:
            yield Scratch(file, self._folder)

    def stage(self) -> Path:
        """A place for a file on its way to becoming a blob, see `adopt`. Whoever asked for it removes what is left; if
        its process is killed, `sweep` does."""
        with self._owning:
            self._own = self._own or self._own_folder()
        return self._own / uuid.uuid4().hex

    def adopt(self, key: str, staged: Path) -> None:
        """Make the staged file the blob of that key, whole or not at all, once it is safely on the disk."""
        staged.chmod(_PRIVATE)
        fsync(staged)
        staged.replace(self._folder / _checked(key))
        fsync(self._folder)

    def sweep(self) -> list[int]:
        """Remove what killed processes have left on its way. Returns the sizes of the files."""
        sizes = []
        with self._staging_locked():
            for lock in (self._folder / _STAGING).glob(f"*{_LOCK}"):
                folder = lock.with_suffix("")
                if _is_abandoned(lock):
                    sizes += [path.stat().st_size for path in folder.glob("*")]
                    shutil.rmtree(folder, ignore_errors=True)
                    lock.unlink(missing_ok=True)
        for place in (self._folder, self._folder / _STAGING):  # parts of puts, and what earlier versions staged
            for path in place.iterdir():
                with suppress(FileNotFoundError):
                    status = path.stat()
                    ours = KEY.fullmatch(path.name) if place == self._folder else _is_lock(path)
                    if path.is_file() and not ours and status.st_mtime < time.time() - _OLD_S:
                        path.unlink()
                        sizes.append(status.st_size)
        return sizes

    def kept(self) -> dict[str, Kept]:
        """All blobs, by key."""
        found = {}
        for entry in os.scandir(self._folder):
            if KEY.fullmatch(entry.name):
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    found[entry.name] = Kept(status.st_size, status.st_mtime)
        return found

    def free_bytes(self) -> int:
        """Of the disk."""
        return shutil.disk_usage(self._folder).free

    def get(self, key: str) -> bytes:
        """Raises NotFound."""
        try:
            with _as_os_error():
                return bytes(obstore.get(self._store, _checked(key)).bytes())
        except FileNotFoundError as error:
            raise NotFound("there is no such file, or it has expired") from error

    def has(self, key: str) -> bool:
        return KEY.fullmatch(key) is not None and (self._folder / key).is_file()

    def path(self, key: str) -> Path:
        """The blob as a file of this machine, for serving it in ranges. Raises NotFound."""
        path = self._folder / _checked(key)
        if not path.is_file():
            raise NotFound("there is no such file, or it has expired")
        return path

    def delete(self, key: str) -> None:
        """Also fine when it is gone already."""
        with suppress(FileNotFoundError), _as_os_error():
            obstore.delete(self._store, _checked(key))

    def _own_folder(self) -> Path:
        """This process's own, with a lock beside it that the kernel lets go of when the process dies, however."""
        folder = self._folder / _STAGING / uuid.uuid4().hex
        with self._staging_locked():
            folder.mkdir(mode=0o700)
            # NOTE: stays open, and locked, for as long as the process lives.
            descriptor = os.open(folder.with_suffix(_LOCK), os.O_CREAT | os.O_RDWR, 0o600)
            with suppress(OSError):  # a file system without locks: then nobody gets this one either, see _is_abandoned
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        return folder

    @contextmanager
    def _staging_locked(self) -> Iterator[None]:
        """Nobody sweeps a folder between its making and its locking."""
        with (self._folder / _STAGING / _SWEEPING).open("w") as lock:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _is_lock(path: Path) -> bool:
    return path.suffix == _LOCK or path.name == _SWEEPING


def _is_abandoned(lock: Path) -> bool:
    with suppress(OSError), lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


@contextmanager
def _as_os_error() -> Iterator[None]:
    """obstore tells what the system said in words alone."""
    try:
        yield
    except NotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
    except BaseError as error:
        said = re.search(r"\(os error (\d+)\)", str(error))
        if said is None:
            raise
        raise OSError(int(said[1]), os.strerror(int(said[1]))) from error


def _checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise NotFound("there is no such file, or it has expired")
    return key
