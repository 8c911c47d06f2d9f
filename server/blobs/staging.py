"""Files of this machine that are still being written: uploads that arrive, results that are made. Every store has such
a folder; what killed processes have left in it is removed."""

import errno
import fcntl
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from server.files import make_private_folder

SPARE_BYTES = 32 << 20
"""Disk space that data from callers leaves free, so that the database and unfinished results still fit."""

_FOLDER = ".staging"
_CHECK_BYTES = 1 << 20
_OLD_S = 86400.0
"""No process is still writing a partial file of that age."""
_LOCK, _CLEANUP_LOCK = ".lock", "sweeping"
"""Ending of a process's own lock file; and name of the lock file for all processes' folders together."""


def check_space(folder: Path, size: int) -> None:
    """Raises OSError when so many bytes more would leave too little free space."""
    if shutil.disk_usage(folder).free < size + SPARE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FileScratch:
    """A `blobs.base.Scratch` that leaves `SPARE_BYTES` of the disk free."""

    def __init__(self, file: IO[bytes], folder: Path) -> None:
        self._file = file
        self._folder = folder
        self._unchecked = _CHECK_BYTES

    def write(self, data: bytes) -> None:
        self._unchecked += len(data)
        if self._unchecked >= _CHECK_BYTES:
            check_space(self._folder, _CHECK_BYTES)
            self._unchecked = 0
        self._file.write(data)

    def read(self) -> bytes:
        self._file.seek(0)
        return self._file.read()


class Staging:
    """In a sub-folder of `folder`, which is made if it is missing."""

    def __init__(self, folder: Path) -> None:
        make_private_folder(folder)
        self._folder = folder / _FOLDER
        make_private_folder(self._folder)
        self._own: Path | None = None
        self._owning = threading.Lock()

    @contextmanager
    def scratch(self) -> Iterator[FileScratch]:
        """As `blobs.base.Blobs.scratch`."""
        with tempfile.TemporaryFile(dir=self._folder) as file:
            yield FileScratch(file, self._folder)

    def path(self) -> Path:
        """As `blobs.base.Blobs.stage`."""
        with self._owning:
            self._own = self._own or self._own_folder()
        return self._own / uuid.uuid4().hex

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._folder).free

    def remove_abandoned(self) -> Sequence[int]:
        """As `blobs.base.Blobs.remove_partial`, for these files."""
        sizes = []
        with self._locked():
            for lock in self._folder.glob(f"*{_LOCK}"):
                folder = lock.with_suffix("")
                if _is_abandoned(lock):
                    sizes += [path.stat().st_size for path in folder.glob("*")]
                    shutil.rmtree(folder, ignore_errors=True)
                    lock.unlink(missing_ok=True)
        # Files staged by earlier versions.
        return sizes + remove_old(path for path in self._folder.iterdir() if not _is_lock(path))

    def _own_folder(self) -> Path:
        """This process's own folder, with a lock file beside it: the kernel releases the lock when the process ends,
        however it ends."""
        folder = self._folder / uuid.uuid4().hex
        with self._locked():
            folder.mkdir(mode=0o700)
            # NOTE: stays open and locked for the life of the process.
            descriptor = os.open(folder.with_suffix(_LOCK), os.O_CREAT | os.O_RDWR, 0o600)
            with suppress(OSError):  # a file system without locks: then _is_abandoned gets none either
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        return folder

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """No process removes a folder between its creation and its locking."""
        with (self._folder / _CLEANUP_LOCK).open("w") as lock:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def remove_old(paths: Iterator[Path]) -> list[int]:
    """Remove those files that no process writes any more, by their age. Returns their sizes in bytes."""
    sizes = []
    for path in paths:
        with suppress(FileNotFoundError):
            status = path.stat()
            if path.is_file() and status.st_mtime < time.time() - _OLD_S:
                path.unlink()
                sizes.append(status.st_size)
    return sizes


def _is_lock(path: Path) -> bool:
    return path.suffix == _LOCK or path.name == _CLEANUP_LOCK


def _is_abandoned(lock: Path) -> bool:
    with suppress(OSError), lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
