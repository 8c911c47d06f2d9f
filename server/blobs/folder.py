"""Blobs as files of one folder.

NOTE: a result is on disk before its job is finished. A source survives the death of every process, but its write does
not wait for the disk: after a power cut the newest sources may be missing, and their jobs fail.
"""

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from server.blobs.base import KEY, Stored, checked, not_found
from server.blobs.staging import Staging, check_space, remove_old
from server.errors import NotFound
from server.files import fsync, make_private_folder

_PRIVATE = 0o600
"""Mode of files, whatever the umask: a picture is for those who have its link, not for every user of the machine."""
_PARTIAL = "#"
"""Ending of a file that is being written: with it a name is no key."""
_ID = ".id"
"""File with a random name of the folder, which stays the same when the folder is moved."""


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


class FolderBlobs:
    list_s = 0.0

    def __init__(self, folder: Path) -> None:
        self._staging = Staging(folder)
        self.scratch, self.stage, self.free_bytes = self._staging.scratch, self._staging.path, self._staging.free_bytes
        self._folder = folder

    def put(self, key: str, data: bytes) -> None:
        path = self._folder / checked(key)
        check_space(self._folder, len(data))
        partial = path.with_name(f"{key}{_PARTIAL}")
        try:
            with os.fdopen(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, _PRIVATE), "wb") as file:
                file.write(data)
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise

    def adopt(self, key: str, staged: Path) -> None:
        staged.chmod(_PRIVATE)
        fsync(staged)
        staged.replace(self._folder / checked(key))
        fsync(self._folder)

    def remove_partial(self) -> Sequence[int]:
        own = (path for path in self._folder.iterdir() if not KEY.fullmatch(path.name) and path.name != _ID)
        return [*self._staging.remove_abandoned(), *remove_old(own)]

    def list(self) -> Iterator[Mapping[str, Stored]]:
        found = {}
        for entry in os.scandir(self._folder):
            if KEY.fullmatch(entry.name):
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    found[entry.name] = Stored(status.st_size, status.st_mtime)
        yield found

    def get(self, key: str) -> bytes:
        try:
            return (self._folder / checked(key)).read_bytes()
        except FileNotFoundError as error:
            raise not_found() from error

    def stat(self, key: str) -> Stored | None:
        try:
            status = (self._folder / checked(key)).stat()
        except (FileNotFoundError, NotFound):
            return None
        return Stored(status.st_size, status.st_mtime)

    def has(self, key: str) -> bool:
        return self.stat(key) is not None

    def open(self, key: str) -> FileReader:
        return FileReader(self._folder / checked(key))

    def link(self, key: str) -> None:
        return None

    def delete(self, *keys: str) -> None:
        for key in keys:
            (self._folder / checked(key)).unlink(missing_ok=True)

    def check(self) -> Mapping[str, str]:
        return {}


def folder_id(folder: Path) -> str:
    """The random name of a folder of blobs, the same for all processes and machines that have it. Raises OSError."""
    make_private_folder(folder)
    path = folder / _ID
    if not path.exists():
        # Written under another name, then linked: of several at the same moment one wins, and none reads a part.
        own = path.with_name(f"{_ID}.{uuid.uuid4().hex}")
        own.write_text(uuid.uuid4().hex)
        fsync(own)
        with suppress(FileExistsError):
            os.link(own, path)
        own.unlink()
    return path.read_text()
