"""The folder of installed weights: its files, the hashes that they must have, and how a file is installed.

A file gets its name only when it is complete, checked and on disk. A file without a hash in the manifest is pinned: the
hash of its first download is written to `pins.json`, and later downloads must have the same hash.
"""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from server.errors import Conflict, Unavailable
from server.files import fsync, write_atomically
from server.weights.manifest import File

PARTIAL = ".partial"
"""Suffix of a file that is not installed yet. Such a file is never read as a checkpoint."""

_SPARE_BYTES = 64 << 20  # stay free, for the database and logs that may be on the same disk


class Store:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, file: File) -> Path:
        return self.folder / file.path

    def expected(self, file: File) -> str | None:
        """The SHA-256 that the file must have: the manifest's, else the pinned one; None if there is neither."""
        return file.sha256 or self.pins().get(str(file.path))

    def pins(self) -> Mapping[str, str]:
        """SHA-256 by path, for files without a hash in the manifest."""
        try:
            pins: dict[str, str] = json.loads((self.folder / "pins.json").read_text("utf-8"))
        except FileNotFoundError:
            return {}
        return pins

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of this folder, which is made if it is missing. Raises Conflict if another process holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(f"another process is at work in {self.folder}: wait until it has ended") from error
            yield

    def require_space(self, needed: int) -> None:
        """Raises Unavailable if fewer than `needed` bytes, plus a reserve, are free."""
        free = shutil.disk_usage(self.folder).free
        if free < needed + _SPARE_BYTES:
            raise Unavailable(
                f"not enough space in {self.folder}: {needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are "
                "free. Make room, or set UPSCALE_WEIGHTS_DIR to a larger disk"
            )

    def commit(self, partial: Path, file: File, sha256: str) -> bool:
        """Install a checked file of this folder under its name. Returns True if its hash was pinned now."""
        path = self.path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        pin = self.expected(file) is None
        if pin:
            # Before the file has its name: after a crash in between there is a pin without a file, which is harmless.
            write_atomically(self.folder / "pins.json", json.dumps({**self.pins(), str(file.path): sha256}, indent=2))
        fsync(partial)
        partial.replace(path)
        fsync(path.parent)
        return pin

    def commit_all(self, checked: Sequence[tuple[Path, File, str]]) -> None:
        """The same for several (partial, file, SHA-256): all are installed, or after an error none that was not before.

        Everything that needs space or permissions is done for all files before the first is installed.
        """
        new = {str(file.path): sha256 for _, file, sha256 in checked if self.expected(file) is None}
        for partial, file, _ in checked:
            self.path(file).parent.mkdir(parents=True, exist_ok=True)
            fsync(partial)
        if new:
            write_atomically(self.folder / "pins.json", json.dumps({**self.pins(), **new}, indent=2))
        given: list[Path] = []
        try:
            for partial, file, _ in checked:
                path = self.path(file)
                fresh = not path.exists()
                partial.replace(path)
                given += [path] if fresh else []
        except OSError:
            for path in given:
                path.unlink(missing_ok=True)
            raise
        for folder in {self.path(file).parent for _, file, _ in checked}:
            fsync(folder)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file. It is read again only if its size or modification time has changed."""
    status = path.stat()
    return _hash(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)
def _hash(path: Path, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
