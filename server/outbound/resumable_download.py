"""Downloads one file over HTTP: resumes an interrupted download, and checks the content before it gets its final name.

During the download the file is beside its destination as `NAME.partial`; `NAME.partial.etag` names the version of the
bytes. Resuming follows RFC 9110, section 14: Range with If-Range, so that a file that has changed starts again.
"""

import hashlib
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import certifi
import httpx

from server.errors import Unavailable
from server.weights.store import PARTIAL, Store

ATTEMPTS = 5
"""Consecutive attempts without a new byte, after which the download fails."""

_BLOCK_BYTES = 1 << 20
_TIMEOUT = httpx.Timeout(30.0)
_TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504}

OnProgress = Callable[[int, int | None], None]
"""Called with the received bytes and the total bytes; None while the total is unknown."""


@dataclass(frozen=True)
class Wanted:
    url: str
    path: Path
    """The destination; the download ends at `partial_of(path)`."""
    sha256: str | None
    size: int | None


class _Interrupted(Exception):
    """A retry may succeed; the text gives the reason."""


def open_client(proxy: str | None) -> httpx.Client:
    """For all files of one pull. The proxy comes from the settings only, not from the environment."""
    # The system's certificates, for mirrors with a company's own, and certifi's, for systems without any.
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return httpx.Client(verify=context, proxy=proxy, trust_env=False, follow_redirects=True, timeout=_TIMEOUT)


def partial_of(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


def download(
    client: httpx.Client, wanted: Wanted, store: Store, on_progress: OnProgress, *, pause_s: float = 1.0
) -> str:
    """Download the whole file to `partial_of(wanted.path)` and return its SHA-256.

    `pause_s`: before the second attempt; it doubles with each further one. The store must be locked; its free space is
    checked. Raises Unavailable when the file can't be downloaded, and then the received part is kept for a later
    resume, or when it is not the expected file, and then it is deleted.
    """
    partial = partial_of(wanted.path)
    partial.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while not _is_complete(partial, wanted):
        before = _size(partial)
        try:
            _fetch(client, wanted, store, on_progress)
            break
        except (_Interrupted, httpx.RequestError) as error:
            failures = 1 if _size(partial) > before else failures + 1
            if failures == ATTEMPTS:
                reason = str(error) or type(error).__name__
                raise Unavailable(f"{wanted.url} could not be downloaded: {reason}") from error
            time.sleep(pause_s * 2 ** (failures - 1))
    return _check(partial, wanted)


def _fetch(client: httpx.Client, wanted: Wanted, store: Store, on_progress: OnProgress) -> None:
    """One request, from the end of the previous one. Raises _Interrupted, Unavailable and httpx.RequestError."""
    partial = partial_of(wanted.path)
    headers = {"Accept-Encoding": "identity"}
    version = _version_of(partial)
    if version:
        headers |= {"Range": f"bytes={_size(partial)}-", "If-Range": version}
    with client.stream("GET", wanted.url, headers=headers) as response:
        status = response.status_code
        if status == 416:  # there is nothing after our part, although it is not complete
            _discard(partial)
            raise _Interrupted("the server has a shorter file than it had")
        if status in _TRANSIENT_STATUSES:
            raise _Interrupted(f"the server answers {status}")
        if status not in (200, 206):
            raise Unavailable(f"{wanted.url} could not be downloaded: the server answers {status}")
        start = _start_of(response) if status == 206 else 0
        if start != _size(partial):
            _discard(partial)  # the file has changed, or the server can't send parts
        if status == 206 and start != _size(partial):
            raise _Interrupted("the server sent another part of the file than it was asked for")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else wanted.size
        if wanted.size is not None and total != wanted.size:
            _discard(partial)
            raise Unavailable(f"{wanted.url} is not the expected file: it has {total} bytes, not {wanted.size}")
        store.require_space((total or 0) - start)
        _remember_version(partial, response)
        with partial.open("ab" if start else "wb") as file:
            at = start
            on_progress(at, total)
            for (
                block
            ) in response.iter_raw():  # NOTE: with a fixed block size, a broken connection would lose the last block
                file.write(block)
                at += len(block)
                on_progress(at, total)
        if total is not None and at < total:
            raise _Interrupted(f"the connection ended after {at} of {total} bytes")


def _check(partial: Path, wanted: Wanted) -> str:
    with partial.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    found = digest.hexdigest()
    if wanted.sha256 not in (None, found):
        _discard(partial)
        raise Unavailable(
            f"{wanted.url} is not the expected file: its SHA-256 is {found}, not {wanted.sha256}. It was deleted"
        )
    _etag_of(partial).unlink(missing_ok=True)
    return found


def _is_complete(partial: Path, wanted: Wanted) -> bool:
    """Whether an earlier process had completed the download but not given the file its name."""
    return wanted.sha256 is not None and wanted.size is not None and _size(partial) == wanted.size


def _start_of(response: httpx.Response) -> int:
    """The first byte of a part: `Content-Range: bytes 100-199/200`."""
    unit, _, span = response.headers.get("Content-Range", "").partition(" ")
    first = span.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdecimal() else -1


def _version_of(partial: Path) -> str | None:
    """The version of the bytes in `partial`; None if the download can't be resumed."""
    try:
        return _etag_of(partial).read_text("utf-8") if _size(partial) else None
    except FileNotFoundError:
        return None


def _remember_version(partial: Path, response: httpx.Response) -> None:
    """Without a validator that If-Range allows (no weak ETag: RFC 9110, 13.1.5) the next attempt starts again."""
    tag = response.headers.get("ETag", "")
    version = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
    if version:
        _etag_of(partial).write_text(version, "utf-8")
    else:
        _etag_of(partial).unlink(missing_ok=True)


def _discard(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _etag_of(partial).unlink(missing_ok=True)


def _etag_of(partial: Path) -> Path:
    return partial.with_name(partial.name + ".etag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
