"""Folders and buckets, as `batch` reads from and writes to them. Names are relative paths, with slashes."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from server.cli import sources
from server.cli.sources import Failure, Source
from server.files import atomic_file, fsync, scratch_file

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_RETRY_S = 60.0
"""How long a bucket that fails is waited for, for each file."""


@dataclass(frozen=True)
class Picture:
    source: Source
    state: str
    """Changes when its content does."""
    modified_at: float
    """Unix seconds."""


class Place(Protocol):
    def pictures(self, endings: Iterable[str], leave_out: str, failures: list[Failure]) -> Iterator[Picture]:
        """Each picture below this place, sorted; but none below the place `leave_out`. What can't be taken is added to
        `failures`. Raises OSError."""

    def read(self, source: Path) -> AbstractContextManager[Path]:
        """A file of this machine with the content of `Source.path`. Raises OSError."""

    def write(self, name: Path) -> AbstractContextManager[Path]:
        """A file of this machine to write to, which is stored under the name when the block ends well. Raises
        OSError."""

    def written_at(self, name: Path) -> float | None:
        """When it was last written, in Unix seconds; None: it does not exist. Raises OSError."""


def is_bucket(place: str) -> bool:
    return "://" in place


def open_place(place: str, endpoint: str | None) -> Place:
    """Raises BadConfig."""
    return BucketPlace(place, endpoint) if is_bucket(place) else FolderPlace(Path(place))


def within(place: str, other: str) -> bool:
    """Whether `place` is `other`, or below it."""
    if is_bucket(place) != is_bucket(other):
        return False
    if not is_bucket(place):
        return Path(os.path.realpath(place)).is_relative_to(os.path.realpath(other))
    return f"{place.rstrip('/')}/".startswith(f"{other.rstrip('/')}/")


class FolderPlace:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def pictures(self, endings: Iterable[str], leave_out: str, failures: list[Failure]) -> Iterator[Picture]:
        avoided = None if is_bucket(leave_out) else Path(leave_out)
        for source in sources.walk(self._folder, endings, leave_out=avoided, failures=failures):
            status = source.path.stat()
            yield Picture(source, str(status.st_mtime_ns), status.st_mtime)

    @contextmanager
    def read(self, source: Path) -> Iterator[Path]:
        yield source

    @contextmanager
    def write(self, name: Path) -> Iterator[Path]:
        with atomic_file(self._folder / name) as partial:
            yield partial
            fsync(partial)

    def written_at(self, name: Path) -> float | None:
        try:
            return (self._folder / name).lstat().st_mtime
        except FileNotFoundError:
            return None


class BucketPlace:
    """What is written is listed once, when it is first asked for: no other process writes there meanwhile."""

    def __init__(self, url: str, endpoint: str | None) -> None:
        """Raises BadConfig."""
        from server.blobs.bucket import open_bucket
        from server.config import BUCKET_FORM, BUCKET_URL, BadConfig

        if not BUCKET_URL.fullmatch(url):
            raise BadConfig(f"{url} names no bucket: it {BUCKET_FORM}")
        self._url = url
        self._store: ObjectStore = open_bucket(url, endpoint)
        self._written: dict[str, float] | None = None

    def pictures(self, endings: Iterable[str], leave_out: str, failures: list[Failure]) -> Iterator[Picture]:
        wanted = frozenset(endings)
        avoided = leave_out.rstrip("/")[len(self._url.rstrip("/")) + 1 :] if within(leave_out, self._url) else None
        for meta in sorted(self._list(), key=lambda each: str(each["path"])):
            path = PurePosixPath(meta["path"])
            hidden = any(part.startswith(".") for part in path.parts)
            below = avoided is not None and path.is_relative_to(avoided)
            if path.suffix.lower() in wanted and sources.is_picture(path.name) and not hidden and not below:
                source = Source(Path(path), Path(path), meta["size"], walked=True)
                yield Picture(source, str(meta["e_tag"]), meta["last_modified"].timestamp())

    @contextmanager
    def read(self, source: Path) -> Iterator[Path]:
        import obstore

        with scratch_file(Path(tempfile.gettempdir())) as partial:
            with_ending = partial.with_name(partial.name + source.suffix)  # kinds of files are told by it

            def fetch() -> None:
                with with_ending.open("wb") as file:
                    for piece in obstore.get(self._store, source.as_posix()).stream():
                        file.write(piece)

            try:
                self._retried(fetch)
                yield with_ending
            finally:
                with_ending.unlink(missing_ok=True)

    @contextmanager
    def write(self, name: Path) -> Iterator[Path]:
        with scratch_file(Path(tempfile.gettempdir())) as partial:
            yield partial
            self._retried(lambda: self._put(name, partial))

    def written_at(self, name: Path) -> float | None:
        if self._written is None:
            self._written = {each["path"]: each["last_modified"].timestamp() for each in self._list()}
        return self._written.get(name.as_posix())

    def _put(self, name: Path, file: Path) -> None:
        import obstore

        from server.images.read.sniff import SNIFFED_BYTES, sniff

        with file.open("rb") as opened:
            mime = sniff(opened.read(SNIFFED_BYTES))
        attributes: Any = {"Content-Type": mime} if mime else {}
        obstore.put(self._store, name.as_posix(), file, attributes=attributes, chunk_size=16 << 20, max_concurrency=3)

    def _list(self) -> list[Any]:
        import obstore

        from server.blobs.bucket import failures_named

        with failures_named():
            return list(obstore.list(self._store, chunk_size=1000).collect())

    def _retried(self, work: Any) -> Any:
        from server.blobs.bucket import failures_named
        from server.errors.transient import retried

        def once() -> Any:
            with failures_named():
                return work()

        return retried(once, _RETRY_S)
