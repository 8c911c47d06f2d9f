"""Blobs as files of one folder, written and read through obstore.

NOTE: a result is on disk before its job is finished. A source survives the death of every process, but its write does
not wait for the disk: after a power cut the newest sources may be missing, and their jobs fail.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore

from server.blobs.base import KEY, Stored, checked, not_found
from server.files import fsync, make_private_folder

SPARE_BYTES = 32 << 20
"""Disk space that data from callers leaves free, so that the database and unfinished results still fit."""

_STAGING = ".staging"
_PRIVATE = 0o600
"""Mode of files, whatever the umask: a picture is for those who have its link, not for every user of the machine."""
_CHECK_BYTES = 1 << 20
_OLD_S = 86400.0
"""No process is still writing a partial file of that age."""
_ID = ".id"
"""File with a random name of the folder, which stays the same when the folder is moved."""
_LOCK, _CLEANUP_LOCK = ".lock", "sweeping"
"""Ending of a staging folder's own lock file; and name of the lock file for all staging folders together."""


class FileReader:
    """A `blobs.base.Reader` of a file."""

    def __init__(self, path: Path) -> None:
        """Raises NotFound."""
        try:
            self._file = path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise not_found() from error
        status = os.fstat(self._file.fileno())
        self.size, self.modified_at = status.st_size, status.st_mtime

    def read(self, start: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, start)

    def close(self) -> None:
        self._file.close()


class FileScratch:
    """A `blobs.base.Scratch` that leaves `SPARE_BYTES` of the disk free."""

    def __init__(self, file: IO[bytes], folder: Path) -> None:
        self._file = file
        self._folder = folder
        self._unchecked = _CHECK_BYTES

    def write(self, data: bytes) -> None:
        self._unchecked += len(data)
        if self._unchecked >= _CHECK_BYTES:
            if shutil.disk_usage(self._folder).free < SPARE_BYTES + _CHECK_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._unchecked = 0
        self._file.write(data)

    def read(self) -> bytes:
        self._file.seek(0)
        return self._file.read()


class FolderBlobs:
    def __init__(self, folder: Path) -> None:
        make_private_folder(folder)
        make_private_folder(folder / _STAGING)
        self._folder = folder
        self._store = LocalStore(folder)
        self._own: Path | None = None
        self._owning = threading.Lock()

    def put(self, key: str, data: bytes) -> None:
        checked(key)
        if shutil.disk_usage(self._folder).free < len(data) + SPARE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with _as_os_error():
            obstore.put(self._store, key, data)
        (self._folder / key).chmod(_PRIVATE)

    @contextmanager
    def scratch(self) -> Iterator[FileScratch]:
        with tempfile.TemporaryFile(dir=self._folder / _STAGING) as file:
            yield FileScratch(file, self._folder)

    def stage(self) -> Path:
        with self._owning:
            self._own = self._own or self._own_folder()
        return self._own / uuid.uuid4().hex

    def adopt(self, key: str, staged: Path) -> None:
        staged.chmod(_PRIVATE)
        fsync(staged)
        staged.replace(self._folder / checked(key))
        fsync(self._folder)

    def remove_partial(self) -> Sequence[int]:
        sizes = []
        with self._staging_locked():
            for lock in (self._folder / _STAGING).glob(f"*{_LOCK}"):
                folder = lock.with_suffix("")
                if _is_abandoned(lock):
                    sizes += [path.stat().st_size for path in folder.glob("*")]
                    shutil.rmtree(folder, ignore_errors=True)
                    lock.unlink(missing_ok=True)
        for place in (self._folder, self._folder / _STAGING):  # partial puts, and files staged by earlier versions
            for path in place.iterdir():
                with suppress(FileNotFoundError):
                    status = path.stat()
                    ours = KEY.fullmatch(path.name) or path.name == _ID if place == self._folder else _is_lock(path)
                    if path.is_file() and not ours and status.st_mtime < time.time() - _OLD_S:
                        path.unlink()
                        sizes.append(status.st_size)
        return sizes

    def list(self) -> dict[str, Stored]:
        found = {}
        for entry in os.scandir(self._folder):
            if KEY.fullmatch(entry.name):
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    found[entry.name] = Stored(status.st_size, status.st_mtime)
        return found

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._folder).free

    def get(self, key: str) -> bytes:
        try:
            with _as_os_error():
                return bytes(obstore.get(self._store, checked(key)).bytes())
        except FileNotFoundError as error:
            raise not_found() from error

    def has(self, key: str) -> bool:
        return KEY.fullmatch(key) is not None and (self._folder / key).is_file()

    def open(self, key: str) -> FileReader:
        return FileReader(self._folder / checked(key))

    def delete(self, key: str) -> None:
        with suppress(FileNotFoundError), _as_os_error():
            obstore.delete(self._store, checked(key))

    def _own_folder(self) -> Path:
        """This process's own staging folder, with a lock file beside it: the kernel releases the lock when the process
        ends, however it ends."""
        folder = self._folder / _STAGING / uuid.uuid4().hex
        with self._staging_locked():
            folder.mkdir(mode=0o700)
            # NOTE: stays open and locked for the life of the process.
            descriptor = os.open(folder.with_suffix(_LOCK), os.O_CREAT | os.O_RDWR, 0o600)
            with suppress(OSError):  # a file system without locks: then _is_abandoned gets none either
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        return folder

    @contextmanager
    def _staging_locked(self) -> Iterator[None]:
        """No process removes a folder between its creation and its locking."""
        with (self._folder / _STAGING / _CLEANUP_LOCK).open("w") as lock:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def folder_id(folder: Path) -> str:
    """The random name of a folder of blobs, the same for all processes and machines that have it. Raises OSError."""
    make_private_folder(folder)
    path = folder / _ID
    with suppress(FileExistsError), path.open("x") as file:  # of two at the same moment, one writes
        file.write(uuid.uuid4().hex)
        file.flush()
        os.fsync(file.fileno())
    return path.read_text()


def _is_lock(path: Path) -> bool:
    return path.suffix == _LOCK or path.name == _CLEANUP_LOCK


def _is_abandoned(lock: Path) -> bool:
    with suppress(OSError), lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


@contextmanager
def _as_os_error() -> Iterator[None]:
    """obstore reports the system's error number only inside the text."""
    try:
        yield
    except NotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
    except BaseError as error:
        said = re.search(r"\(os error (\d+)\)", str(error))
        if said is None:
            raise
        raise OSError(int(said[1]), os.strerror(int(said[1]))) from error
