"""Copies all blobs of one store into another: how a server moves from a folder to a bucket, or back."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from server.blobs.base import Blobs
from server.blobs.bucket import BucketBlobs, open_bucket
from server.blobs.folder import FolderBlobs
from server.config import BUCKET_FORM, BUCKET_URL, BadConfig, Config
from server.errors import NotFound

_COPIES = 8
"""At a time: a bucket's answers take longer than its transfers."""
_PIECE = 1 << 20
_COPIED, _PRESENT, _GONE = "copied", "there already", "deleted meanwhile"


def open_place(place: str, endpoint: str | None, config: Config) -> Blobs:
    """The store at the URL of a bucket, or in a folder. Raises BadConfig, also for the store of the settings itself."""
    if "://" not in place:
        if config.blob_url is None and Path(place).resolve() == config.blobs_dir.resolve():
            raise BadConfig("that is the store which is copied")
        return FolderBlobs(Path(place))
    if not BUCKET_URL.fullmatch(place):
        raise BadConfig(f"{place} is no bucket: {BUCKET_FORM}")
    if place.rstrip("/") == (config.blob_url or "").rstrip("/") and endpoint == config.blob_endpoint:
        raise BadConfig("that is the store which is copied")
    return BucketBlobs(open_bucket(place, endpoint), config.blobs_dir)


class Copier:
    def __init__(self, source: Blobs, target: Blobs, *, verify: bool) -> None:
        """`verify`: copies are read back and compared; else only their sizes are."""
        self._source = source
        self._target = target
        self._verify = verify
        self.copied = self.bytes = self.present = self.failed = 0
        """How many blobs were copied now, and their bytes; were there already; could not be copied."""

    def run(self, show: Callable[[int, int], None]) -> Iterator[str]:
        """Copy what the target lacks, or has in another size. `show` takes how many blobs are done, and how many there
        are. Yields why one could not be copied. Raises OSError when a listing fails."""
        there = {key: found.size for page in self._target.list() for key, found in page.items()}
        wanted = {key: found.size for page in self._source.list() for key, found in page.items()}
        with ThreadPoolExecutor(_COPIES, thread_name_prefix="copy") as pool:
            work = ((key, size, there.get(key) == size) for key, size in wanted.items())
            for done, (key, end) in enumerate(zip(wanted, pool.map(lambda each: self._one(*each), work), strict=True)):
                show(done + 1, len(wanted))
                self.copied += end == _COPIED
                self.bytes += wanted[key] if end == _COPIED else 0
                self.present += end == _PRESENT
                if end not in (_COPIED, _PRESENT, _GONE):
                    self.failed += 1
                    yield end

    def _one(self, key: str, size: int, present: bool) -> str:
        """What became of it, or why it was not copied."""
        try:
            if present and (not self._verify or _hash(self._target, key) == _hash(self._source, key)):
                return _PRESENT
            hashed = self._copy(key)
            found = self._target.stat(key)
            if found is None or found.size != size:
                raise OSError(f"{found.size if found else 'no'} bytes arrived of {size}")
            if self._verify and _hash(self._target, key) != hashed:
                raise OSError("the copy differs from the original")
        except NotFound:
            return _GONE
        except OSError as error:
            # NOTE: without the key, which gives access to the picture.
            return f"a picture of {size} bytes was not copied: {error.strerror or error}"
        return _COPIED

    def _copy(self, key: str) -> str:
        """Returns its SHA-256."""
        staged, hashed = self._target.stage(), hashlib.sha256()
        try:
            with closing(self._source.open(key)) as reader, staged.open("wb") as file:
                for start in range(0, reader.size, _PIECE):
                    piece = reader.read(start, _PIECE)
                    hashed.update(piece)
                    file.write(piece)
            self._target.adopt(key, staged)
        finally:
            staged.unlink(missing_ok=True)
        return hashed.hexdigest()


def _hash(store: Blobs, key: str) -> str:
    hashed = hashlib.sha256()
    with closing(store.open(key)) as reader:
        for start in range(0, reader.size, _PIECE):
            hashed.update(reader.read(start, _PIECE))
    return hashed.hexdigest()
