"""Files of ours as HTTP answers: a picture, whole or in ranges, and pictures as base64 within a JSON body.

Neither is ever whole in memory, however many callers ask at once and however slowly they read.
"""

import base64
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any

from fastapi import Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from server.errors import NotFound, RangeNotSatisfiable
from server.images.read.sniff import SNIFFED_BYTES, sniff

_PIECE_BYTES = 3 << 18
"""A multiple of 3: the base64 of the pieces, joined, is that of the whole."""
_LONGEST_DATE = 40
_RANGE = re.compile(r"\s*(\d{1,18})-(\d{1,18})?\s*|\s*-(\d{1,18})\s*")


# --- pictures -------------------------------------------------------------------------------------------------------


def picture(path: Path, filename: str, request: Request) -> Response:
    """The file, or what the request's headers ask of it. Raises RangeNotSatisfiable, and NotFound when it is gone.

    What is no picture is never shown by a browser, only saved.
    """
    with _open(path) as start:
        mime = sniff(start.read(SNIFFED_BYTES))
        status = os.fstat(start.fileno())
    response = FileResponse(
        path,
        media_type=mime or "application/octet-stream",
        filename=filename,
        content_disposition_type="inline" if mime else "attachment",
        headers={"X-Content-Type-Options": "nosniff"},
        stat_result=status,
    )
    return conditional(response, request, status.st_size)


def conditional(response: FileResponse, request: Request, size: int) -> Response:
    """The file of that size, or what the request's headers ask of it: nothing, when the caller has it already, or parts
    of it. Raises RangeNotSatisfiable."""
    tag, modified = response.headers["ETag"], response.headers["Last-Modified"]
    if _has_it(request.headers, tag, modified):
        kept = ("ETag", "Last-Modified", "Cache-Control", "X-Content-Type-Options")
        return Response(
            status_code=304, headers={name: response.headers[name] for name in kept if name in response.headers}
        )
    # NOTE: FileResponse answers ranges that it does not like by itself, and in nobody's words.
    in_force = request.headers.get("If-Range", tag) in (tag, modified)
    wanted = _ranges(request.headers.get("Range", ""), size) if in_force else ""
    headers = [(name, value) for name, value in request.scope["headers"] if name not in (b"range", b"if-range")]
    request.scope["headers"] = headers + ([(b"range", wanted.encode())] if wanted else [])
    return response


def _has_it(headers: Headers, tag: str, modified: str) -> bool:
    """Whether the caller has this very version, by the tags it names or else by the date: RFC 9110, 13.1."""
    tags = [each.strip() for line in headers.getlist("If-None-Match") for each in line.split(",")]
    if tags:
        return "*" in tags or tag in (each.removeprefix("W/") for each in tags)
    since = _moment(headers.get("If-Modified-Since", ""))
    ours = _moment(modified)
    return since is not None and ours is not None and ours <= since


def _moment(text: str) -> datetime | None:
    """Of an HTTP date, or None if it is none."""
    try:
        found = parsedate_to_datetime(text) if len(text) <= _LONGEST_DATE else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found.replace(tzinfo=timezone.utc) if found is not None and found.tzinfo is None else found


def _ranges(value: str, size: int) -> str:
    """The header with those ranges alone that the file has; nothing if it is none, which RFC 9110 wants passed over.
    Raises RangeNotSatisfiable when the file has none of them."""
    unit, _, rest = value.partition("=")
    found = [_RANGE.fullmatch(each) for each in rest.split(",")]
    if unit.strip().lower() != "bytes" or not all(found):
        return ""
    ranges = [each.groups() for each in found if each]
    if any(end is not None and int(end) < int(start) for start, end, _ in ranges):
        return ""
    there = [each for each in ranges if (int(each[0]) < size if each[0] else int(each[2]) > 0 and size > 0)]
    if not there:
        raise RangeNotSatisfiable(size)
    return "bytes=" + ",".join(f"{start}-{end or ''}" if start else f"-{last}" for start, end, last in there)


# --- pictures in JSON -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inline:
    """Stands in what is to be written as JSON for a text: the file in base64, after `head`."""

    path: Path
    head: str = ""

    def text(self) -> str:
        return self.head + base64.b64encode(self.path.read_bytes()).decode("ascii")


def to_json(content: Any) -> bytes:
    """Whole, with what is inline in it."""
    # Escaped to ASCII: callers may send lone surrogates, which UTF-8 can't hold, and get their own words back.
    return json.dumps(content, allow_nan=False, separators=(",", ":"), default=_text).encode("ascii")


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The same as an answer; what is inline in it is read while it is sent. Raises NotFound when that is gone."""
    marks: dict[str, Inline] = {}

    def mark(value: object) -> str:
        assert isinstance(value, Inline)
        name = uuid.uuid4().hex
        marks[name] = value
        return name

    text = json.dumps(content, allow_nan=False, separators=(",", ":"), default=mark)
    if not marks:
        return Response(text.encode("ascii"), status, headers, media_type="application/json")
    parts: list[bytes | IO[bytes]] = []
    size = 0
    for name, inline in marks.items():  # in the order in which they stand in the text
        before, text = text.split(name)
        parts += [f"{before}{inline.head}".encode("ascii"), _open(inline.path)]
        size += len(before) + len(inline.head) + (inline.path.stat().st_size + 2) // 3 * 4
    parts.append(text.encode("ascii"))
    length = {"Content-Length": str(size + len(text))}
    return _Opened(parts, status, {**(headers or {}), **length})


class _Opened(StreamingResponse):
    """Sends these parts, and closes the files among them, however little of it was sent."""

    def __init__(self, parts: list[bytes | IO[bytes]], status: int, headers: Mapping[str, str]) -> None:
        super().__init__(_pieces(parts), status, headers, media_type="application/json")
        self._files = [part for part in parts if not isinstance(part, bytes)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for file in self._files:
                file.close()


def _text(value: object) -> str:
    assert isinstance(value, Inline)
    return value.text()


def _open(path: Path) -> IO[bytes]:
    """Open from now on, so that it can be sent whole even if it is deleted meanwhile."""
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise NotFound("there is no such file, or it has expired") from error


def _pieces(parts: list[bytes | IO[bytes]]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, bytes):
            yield part
        else:
            with part:
                while piece := part.read(_PIECE_BYTES):
                    yield base64.b64encode(piece)
