"""Blobs as objects of a bucket (S3, Google Cloud Storage, Azure, or what offers the same), through obstore.

Credentials come from the provider's own environment variables (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS,
AZURE_STORAGE_ACCOUNT_NAME, …) or from the machine's role, as in all of the provider's tools.

A bucket that can't be reached, refuses the credentials or does not exist raises `StoreFailure`. Its text has no keys.
"""

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import obstore
from obstore.exceptions import BaseError, GenericError
from obstore.store import AzureStore, GCSStore, MemoryStore, ObjectStore, S3Store, from_url

from server.blobs.base import KEY, Stored, checked, new_key, not_found
from server.blobs.staging import Staging
from server.config import BadConfig
from server.errors import NotFound
from server.errors.transient import StoreFailure
from server.images.read.sniff import SNIFFED_BYTES, sniff

LINK_S = 300
"""How long a link straight to the bucket is valid. It is made when a caller follows the API's link."""

_BLOCK = 1 << 20
"""Bytes of one read. A request for each takes some ten milliseconds; a connection that stays open for a slow caller
would be closed by the bucket."""
_PART = 16 << 20
"""Larger blobs are sent in parts of that size, each in a request of its own."""
_PARTS = 3
"""At a time, which is also how many are in memory."""
_CLIENT = {"connect_timeout": timedelta(seconds=3), "timeout": timedelta(seconds=60)}
_RETRIES: Any = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}
_PAUSE_S, _ATTEMPT_S = 1.0, 15.0
"""After a failure, the pause before the next attempt; and while that goes on, how long at most all others fail."""
_CLOCK_S = 60.0
"""A larger difference is worth a warning."""
_NO_BUCKET = re.compile("NoSuchBucket|ContainerNotFound|bucket does not exist")


def open_bucket(url: str, endpoint: str | None) -> ObjectStore:
    """The bucket, or the part of it below a prefix, that `s3://bucket/prefix` (`gs://`, `az://`) names. Nothing is sent
    yet. `endpoint`: the server's own address, for others than the provider's. Raises BadConfig."""
    options: dict[str, Any] = {}
    if endpoint is not None:
        if url.startswith("gs:"):
            raise BadConfig("UPSCALE_BLOB_ENDPOINT is for s3:// and az:// URLs")
        options["endpoint"] = endpoint
    plain = (endpoint or "").startswith("http://")
    try:
        client: Any = {**_CLIENT, **({"allow_http": True} if plain else {})}
        return from_url(url, client_options=client, retry_config=_RETRIES, **options)
    except (BaseError, ValueError, OSError) as error:
        raise BadConfig(f"{url} can't be used as a store: {_first_line(error)}") from error


class Gate:
    """Lets one attempt a second through while the bucket does not answer. All others fail at once, for the same reason,
    so that they hold no threads that could answer requests which need no picture."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed_until = 0.0
        """By the monotonic clock; 0: the last attempt was answered."""
        self._reason = ""

    @contextmanager
    def passed(self) -> Iterator[None]:
        """For one request. Raises NotFound and StoreFailure instead of obstore's errors."""
        with self._lock:
            now = time.monotonic()
            if now < self._closed_until:
                raise StoreFailure(self._reason)
            if self._closed_until:
                self._closed_until = now + _ATTEMPT_S
        try:
            with failures_named():
                yield
        except StoreFailure as error:
            self._closed_until, self._reason = time.monotonic() + _PAUSE_S, str(error)
            raise
        except NotFound:
            self._closed_until = 0.0
            raise
        self._closed_until = 0.0


class BucketReader:
    """A `blobs.base.Reader` that fetches a block at a time."""

    def __init__(self, store: ObjectStore, key: str, gate: Gate) -> None:
        """Raises NotFound."""
        self._store, self._key, self._gate = store, key, gate
        with gate.passed():
            try:
                found = obstore.get(store, key, options={"range": (0, _BLOCK)})
                meta, data = found.meta, bytes(found.bytes())
            except GenericError:  # an empty object has no first byte, which is an error of every store's own
                meta, data = obstore.head(store, key), b""
                if meta["size"]:
                    raise
        self.size: int = meta["size"]
        self.modified_at: float = meta["last_modified"].timestamp()
        self._block = (0, data)

    def read(self, start: int, length: int) -> bytes:
        end = min(start + length, self.size)
        at, data = self._block
        if start >= end:
            return b""
        if not at <= start or end > at + len(data):
            at = start
            try:
                with self._gate.passed():
                    got = obstore.get_range(self._store, self._key, start=at, end=min(self.size, max(end, at + _BLOCK)))
            except NotFound:
                raise StoreFailure("the picture was deleted while it was read") from None
            data = bytes(got)
            self._block = (at, data)
        return data[start - at : end - at]

    def close(self) -> None:
        self._block = (0, b"")


class BucketBlobs:
    list_s = 600.0

    def __init__(self, store: ObjectStore, staging: Path, *, links: bool = False) -> None:
        """`staging`: a folder of this machine. `links`: callers get the blobs straight from the bucket."""
        self._store = store
        self._staging = Staging(staging)
        self.scratch, self.stage, self.free_bytes = self._staging.scratch, self._staging.path, self._staging.free_bytes
        self.remove_partial = self._staging.remove_abandoned
        self._links = links
        self._gate = Gate()

    def put(self, key: str, data: bytes) -> None:
        self._put(key, data, data[:SNIFFED_BYTES])

    def adopt(self, key: str, staged: Path) -> None:
        with staged.open("rb") as file:
            start = file.read(SNIFFED_BYTES)
        self._put(key, staged, start)
        staged.unlink()

    def get(self, key: str) -> bytes:
        with self._gate.passed():
            return bytes(obstore.get(self._store, checked(key)).bytes())

    def open(self, key: str) -> BucketReader:
        return BucketReader(self._store, checked(key), self._gate)

    def stat(self, key: str) -> Stored | None:
        try:
            with self._gate.passed():
                meta = obstore.head(self._store, checked(key))
        except NotFound:
            return None
        return _stored(meta)

    def has(self, key: str) -> bool:
        return self.stat(key) is not None

    def link(self, key: str) -> str | None:
        if not self._links or isinstance(self._store, MemoryStore):
            return None
        with self._gate.passed():
            store = cast("S3Store | GCSStore | AzureStore", self._store)
            return obstore.sign(store, "GET", checked(key), timedelta(seconds=LINK_S))

    def delete(self, *keys: str) -> None:
        wanted = [checked(key) for key in keys]
        try:
            with self._gate.passed():
                obstore.delete(self._store, wanted)
        except NotFound:  # Google and Azure, unlike S3, report it: the others are deleted one by one
            if len(keys) > 1:
                for key in keys:
                    self.delete(key)

    def list(self) -> Iterator[Mapping[str, Stored]]:
        with self._gate.passed():
            for page in obstore.list(self._store, chunk_size=1000):
                yield {each["path"]: _stored(each) for each in page if KEY.fullmatch(each["path"])}

    def check(self) -> Mapping[str, str]:
        key, data = new_key(), os.urandom(1024)
        try:
            begun, before = time.perf_counter(), time.time()
            self.put(key, data)
            written, after = time.perf_counter(), time.time()
            if self.get(key) != data:
                raise StoreFailure("it returned other bytes than were written")
            read = time.perf_counter()
            found = self.stat(key)
            self.delete(key)
            if found is None or self.has(key):
                raise StoreFailure("what was written is not listed, or what was deleted still is")
        except (NotFound, OSError) as error:
            return {"bucket": f"PROBLEM: {error}"}
        facts = {
            "bucket": "reachable and writable, "
            f"{1000 * (written - begun):.0f} ms for a write, {1000 * (read - written):.0f} ms for a read"
        }
        # Times of objects are whole seconds.
        apart = max(found.stored_at - after, before - (found.stored_at + 1), 0.0)
        clock = "as this machine's" if apart < 2 else f"{apart:.0f} s from this machine's"
        late = apart > _CLOCK_S
        return {**facts, "bucket's clock": f"PROBLEM: {clock}; requests are refused from 900 s on" if late else clock}

    def _put(self, key: str, data: bytes | Path, start: bytes) -> None:
        """With the headers of a download, for callers that get it straight from the bucket: the same as the API's. Only
        what is a picture by its content is shown by browsers."""
        mime = sniff(start)
        disposition = f'{"inline" if mime else "attachment"}; filename="{key}"'
        # NOTE: some servers take application/octet-stream for unknown, and guess from the key's ending.
        attributes = {"Content-Type": mime or "binary/octet-stream", "Content-Disposition": disposition}
        with self._gate.passed():
            obstore.put(
                self._store,
                checked(key),
                data,
                attributes=cast("Any", attributes),
                chunk_size=_PART,
                max_concurrency=_PARTS,
            )


def _stored(meta: Any) -> Stored:
    return Stored(meta["size"], meta["last_modified"].timestamp())


@contextmanager
def failures_named() -> Iterator[None]:
    """Raises NotFound and StoreFailure instead of obstore's errors."""
    try:
        yield
    except FileNotFoundError as error:
        if _NO_BUCKET.search(str(error)):
            raise StoreFailure("the bucket does not exist") from None
        raise not_found() from None
    except BaseError as error:
        # NOTE: `from None`, because the error's own text has the blob's key, and would be logged.
        raise StoreFailure(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    """What has failed, without keys."""
    text = str(error).split("\n\nDebug source", 1)[0].replace("\n", " ")
    return re.sub(f"{KEY.pattern}", "…", text)
