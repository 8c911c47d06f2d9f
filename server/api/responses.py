"""Files as HTTP answers: whole or in ranges, and pictures as base64 within a JSON body.

No answer is ever whole in memory, however many callers ask at once and however slowly they read.
"""

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from email.utils import formatdate, parsedate_to_datetime
from itertools import chain
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from server.api.inline import base64_of, parts_of, pieces_of
from server.blobs.base import Blob, Reader
from server.errors import RangeNotSatisfiable
from server.images.read.sniff import SNIFFED_BYTES, sniff

IS_HEAD = "upscale.head"
"""In the scope of a request that came as HEAD: middleware.py makes GET of it."""
_LONGEST_DATE = 40
_MAX_RANGES = 100
_RANGE = re.compile(r"\s*(\d{1,18})-(\d{1,18})?\s*|\s*-(\d{1,18})\s*")
_KEPT_IN_304 = ("ETag", "Last-Modified", "Cache-Control", "X-Content-Type-Options")


class _Streamed(StreamingResponse):
    """Sends these pieces, then closes the readers, however little was sent."""

    def __init__(
        self, pieces: Iterator[bytes], readers: Sequence[Reader], status: int, headers: Mapping[str, str], mime: str
    ) -> None:
        super().__init__(pieces, status, headers, media_type=mime)
        self._readers = readers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for reader in self._readers:
                reader.close()


# --- files ----------------------------------------------------------------------------------------------------------


def picture(blob: Blob, filename: str, request: Request, *, save: bool = False) -> Response:
    """A picture's file, or the parts of it that the request asks for; or a redirect to the store, where that is set and
    the caller gives no name to `save` it as. Raises NotFound and RangeNotSatisfiable.

    A browser shows pictures, unless it is to `save` them; it only saves any other kind of file.
    """
    # NOTE: a page's own requests must not lead to another host: its policy forbids that. A link is for one method.
    own_page = request.headers.get("Sec-Fetch-Site") == "same-origin"
    if not own_page and not save and IS_HEAD not in request.scope and (link := blob.link()) is not None:
        return Response(status_code=307, headers={"Location": link, "Cache-Control": "no-store"})
    reader = blob.open()
    mime = sniff(reader.read(0, SNIFFED_BYTES))
    headers = {
        "Content-Disposition": disposition(filename, save=save or mime is None),
        "X-Content-Type-Options": "nosniff",
    }
    return file_response(reader, request, mime or "application/octet-stream", headers)


def disposition(filename: str, *, save: bool) -> str:
    """The value of Content-Disposition (RFC 6266); in names beyond ASCII the plain form has question marks."""
    plain = filename.encode("ascii", "replace").decode().replace("\\", "_").replace('"', "_")
    extended = "" if plain == filename else f"; filename*=UTF-8''{quote(filename, safe='')}"
    return f'{"attachment" if save else "inline"}; filename="{plain}"{extended}'


def file_response(reader: Reader, request: Request, mime: str, extra: Mapping[str, str]) -> Response:
    """The file; 304 when the caller already has this version; or the parts of it that the request asks for. Closes the
    reader. `extra`: headers. Raises RangeNotSatisfiable."""
    size = reader.size
    tag = f'"{hashlib.md5(f"{reader.modified_at}-{size}".encode(), usedforsecurity=False).hexdigest()}"'
    modified = formatdate(reader.modified_at, usegmt=True)
    headers = {"Accept-Ranges": "bytes", "ETag": tag, "Last-Modified": modified, **extra}
    with ExitStack() as stack:
        stack.callback(reader.close)
        if _has_version(request.headers, tag, modified):
            return Response(status_code=304, headers={name: headers[name] for name in _KEPT_IN_304 if name in headers})
        in_force = request.headers.get("If-Range", tag) in (tag, modified)
        ranges = _ranges(request.headers.get("Range", ""), size) if in_force else []
        stack.pop_all()
    if not ranges:
        pieces, length = pieces_of(reader, 0, size), size
    elif len(ranges) == 1:
        start, end = ranges[0]
        pieces, length = pieces_of(reader, start, end), end - start
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    else:
        boundary = uuid.uuid4().hex
        pieces, length = _multipart(reader, ranges, boundary, mime)
        mime = f"multipart/byteranges; boundary={boundary}"
    headers["Content-Length"] = str(length)
    return _Streamed(pieces, [reader], 206 if ranges else 200, headers, mime)


def _multipart(
    reader: Reader, ranges: Sequence[tuple[int, int]], boundary: str, mime: str
) -> tuple[Iterator[bytes], int]:
    """The body of several ranges (RFC 9110, 14.6), and its length in bytes."""
    parts: list[Iterator[bytes]] = []
    length = 0
    for start, end in ranges:
        head = f"--{boundary}\r\nContent-Type: {mime}\r\nContent-Range: bytes {start}-{end - 1}/{reader.size}\r\n\r\n"
        parts += [iter([head.encode("latin-1")]), pieces_of(reader, start, end), iter([b"\r\n"])]
        length += len(head) + end - start + 2
    last = f"--{boundary}--".encode("latin-1")
    return chain(*parts, [last]), length + len(last)


def _has_version(headers: Headers, tag: str, modified: str) -> bool:
    """Whether the caller already has this version, by the tags it names or else by the date: RFC 9110, 13.1."""
    tags = [each.strip() for line in headers.getlist("If-None-Match") for each in line.split(",")]
    if tags:
        return "*" in tags or tag in (each.removeprefix("W/") for each in tags)
    since = _moment(headers.get("If-Modified-Since", ""))
    ours = _moment(modified)
    return since is not None and ours is not None and ours <= since


def _moment(text: str) -> datetime | None:
    """An HTTP date, or None if the text is not one."""
    try:
        found = parsedate_to_datetime(text) if len(text) <= _LONGEST_DATE else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found.replace(tzinfo=timezone.utc) if found is not None and found.tzinfo is None else found


def _ranges(value: str, size: int) -> list[tuple[int, int]]:
    """The parts of a file of `size` bytes that a Range header asks for: first byte and the one after the last, sorted,
    without overlaps. Empty: the whole file, also for a header that is not valid, which RFC 9110 wants ignored.

    Raises RangeNotSatisfiable when the file has none of these bytes.
    """
    unit, _, rest = value.partition("=")
    found = [_RANGE.fullmatch(each) for each in rest.split(",")]
    if unit.strip().lower() != "bytes" or not all(found):
        return []
    asked = [each.groups() for each in found if each]
    if any(end is not None and int(end) < int(start) for start, end, _ in asked):
        return []
    spans = [
        (int(start), min(int(end) + 1, size) if end else size) if start else (max(0, size - int(last)), size)
        for start, end, last in asked
    ]
    spans = sorted(span for span in spans if span[0] < size)
    if not spans:
        raise RangeNotSatisfiable(size)
    if len(spans) > _MAX_RANGES:
        return []
    merged = spans[:1]
    for start, end in spans[1:]:
        last_start, last_end = merged[-1]
        if start <= last_end:
            merged[-1] = (last_start, max(last_end, end))
        else:
            merged.append((start, end))
    return merged


# --- JSON -----------------------------------------------------------------------------------------------------------


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in which inline pictures are read while they are sent. Raises NotFound when one no longer exists."""
    parts = parts_of(content)
    encoded = list[Iterator[bytes]]()
    readers: list[Reader] = []
    length = 0
    for part in parts:
        if isinstance(part, str):
            encoded.append(iter([part.encode("ascii")]))
            length += len(part)
        else:
            reader = part.blob.open()
            readers.append(reader)
            encoded += [iter([part.head.encode("ascii")]), base64_of(reader)]
            length += len(part.head) + (reader.size + 2) // 3 * 4
    if not readers:
        return Response(b"".join(chain(*encoded)), status, headers, media_type="application/json")
    all_headers = {**(headers or {}), "Content-Length": str(length)}
    return _Streamed(chain(*encoded), readers, status, all_headers, "application/json")
