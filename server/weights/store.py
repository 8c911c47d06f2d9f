"""The folder of installed weights: what lies in it, what its files must hash to, and how one gets in.

A file appears under its name whole, checked and on disk, or not at all. What has no hash in the manifest is pinned:
the hash of its first download stands in `pins.json`, and from then on it must stay the same.
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
"""Ends the name of a file that is on its way. Nobody reads such a file as a checkpoint."""

_SPARE_BYTES = 64 << 20  # left free on the disk, for the database and logs that may share it


class Store:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, file: File) -> Path:
        return self.folder / file.path

    def expected(self, file: File) -> str | None:
        """The SHA-256 that the file must have: the manifest's, else the pinned one, else None."""
        return file.sha256 or self.pins().get(str(file.path))

    def pins(self) -> Mapping[str, str]:
        """SHA-256 by path, of files whose hash the manifest doesn't know."""
        try:
            pins: dict[str, str] = json.loads((self.folder / "pins.json").read_text("utf-8"))
        except FileNotFoundError:
            return {}
        return pins

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone at work in this folder, which is made if need be. Raises Conflict when another process is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(f"another process is at work in {self.folder}: wait until it has ended") from error
            yield

    def require_space(self, needed: int) -> None:
        """Raises Unavailable when fewer than `needed` bytes, and some to spare, are free."""
        free = shutil.disk_usage(self.folder).free
        if free < needed + _SPARE_BYTES:
            raise Unavailable(
                f"not enough space in {self.folder}: {needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are "
                "free. Make room, or set UPSCALE_WEIGHTS_DIR to a larger disk"
            )

    def commit(self, partial: Path, file: File, sha256: str) -> bool:
        """Give a file that lies in this folder, and was checked, its name. True when its hash is now pinned."""
        path = self.path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        pin = self.expected(file) is None
        if pin:
            # Before the file is visible: a crash in between leaves a pin without a file, which does no harm.
            write_atomically(self.folder / "pins.json", json.dumps({**self.pins(), str(file.path): sha256}, indent=2))
        fsync(partial)
        partial.replace(path)
        fsync(path.parent)
        return pin

    def commit_all(self, checked: Sequence[tuple[Path, File, str]]) -> None:
        """The same for several (partial, file, SHA-256): all of them get their names, or none that had none before.

        What can fail for want of space or of permission is done for all before the first name is given.
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
    """Hash of a file, read again only when its size or time of change is another."""
    status = path.stat()
    return _hash(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)
def _hash(path: Path, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
