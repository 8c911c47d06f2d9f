"""JSON bodies of more than a megabyte, as pictures in base64 make them. Read piece by piece: one C function on all of a
body, even only a copy of it, would stop all other threads for as long as it runs.

Long values are taken out, and the short rest is read by `json`. What no picture is sent like is refused.
"""

import codecs
import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from server.errors import InvalidRequest
from server.outbound.source import LONG, LongText

LARGE_BYTES = 1 << 20
_MAX_QUOTES = 80_000
_LONGEST_GAP, _LONGEST_NAME, _LONGEST_REST = 65536, 1000, 4 << 20
"""Bytes between two texts, in a name, and of all that is not taken out."""
_LONG_VALUE = 1000
"""Longer ones are taken out."""
_BOM = codecs.BOM_UTF8
_LONGEST_ESCAPE = len(r"\u0000")
_PIECE = 1 << 18
"""Bytes of a long text that are read at a time."""


def read_large(body: bytes | str) -> Any:
    """The same as json.loads, with a LongText for each long text. Raises ValueError, InvalidRequest."""
    data = _utf8_of(body)
    mark, parts, long, last = uuid.uuid4().hex, list[bytes](), dict[str, str](), 0
    for start, end in _long_values(data):
        name = f"{mark}{len(long)}"
        long[name] = _read_text(data, start, end)
        parts += [data[last:start], name.encode()]
        last = end
    if len(data) - last > _LONGEST_REST or sum(map(len, parts)) > _LONGEST_REST:
        raise _refused()
    rest = b"".join((*parts, data[last:])).decode("utf-8", "surrogatepass")
    return _filled(json.loads(rest, parse_constant=no_constant), long)


def no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refused() -> InvalidRequest:
    return InvalidRequest("invalid request body")


def _utf8_of(body: bytes | str) -> bytes:
    if isinstance(body, str):
        return b"".join(
            body[place : place + LARGE_BYTES].encode("utf-8", "surrogatepass")
            for place in range(0, len(body), LARGE_BYTES)
        ).removeprefix(_BOM)
    encoding = json.detect_encoding(body[:4])
    if encoding == "utf-8":
        return body
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    pieces = [decoder.decode(body[place : place + LARGE_BYTES]) for place in range(0, len(body), LARGE_BYTES)]
    pieces.append(decoder.decode(b"", final=True))
    return b"".join(piece.encode("utf-8", "surrogatepass") for piece in pieces).removeprefix(_BOM)


def find(data: bytes, sign: bytes, start: int) -> int:
    """Where this byte is next, from `start`; -1: nowhere."""
    for place in range(start, len(data), LARGE_BYTES):
        found = data.find(sign, place, place + LARGE_BYTES)
        if found >= 0:
            return found
    return -1


def _long_values(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each, without the quotes. Raises InvalidRequest for a body that is large because of long names,
    long runs of blanks or many texts."""
    place, quotes = 0, 0
    while True:
        start = data.find(b'"', place, place + _LONGEST_GAP + 1)
        if start < 0 and len(data) - place > _LONGEST_GAP:
            raise _refused()
        end, escapes = start, 1
        while end >= 0 and escapes % 2:
            end = find(data, b'"', end + 1)
            before = data[max(start + 1, end - _LONGEST_NAME) : end]
            escapes = len(before) - len(before.rstrip(b"\\"))
            quotes += 1
            if escapes == _LONGEST_NAME or quotes > _MAX_QUOTES:
                raise _refused()
        if start < 0 or end < 0:
            return  # the parser reports the error
        is_name = data[end + 1 : end + 1 + _LONGEST_GAP].lstrip()[:1] == b":"
        if is_name and end - start > _LONGEST_NAME:
            raise _refused()
        if end - start > _LONG_VALUE:
            yield start + 1, end
        place = end + 1


def _read_text(data: bytes, start: int, end: int) -> str:
    pieces, is_long = list[str](), end - start > LONG
    while start < end:
        cut = _cut(data, start, end)
        pieces.append(json.loads(f'"{data[start:cut].decode("utf-8", "surrogatepass")}"'))
        start = cut
    return LongText(pieces) if is_long else "".join(pieces)


def _cut(data: bytes, start: int, end: int) -> int:
    """Where a piece ends that begins at `start`: not within an escape, nor within the bytes of a character."""
    cut = start + _PIECE
    if cut >= end:
        return end
    while data[cut] & 0xC0 == 0x80 and cut > start + _PIECE - 4:
        cut -= 1
    sign = data.rfind(b"\\", cut - _LONGEST_ESCAPE + 1, cut)
    if sign >= 0:
        run = data[start : sign + 1]
        if (len(run) - len(run.rstrip(b"\\"))) % 2:
            return sign
    return cut


def _filled(value: Any, long: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return long.get(value, value)
    if isinstance(value, list):
        return [_filled(each, long) for each in value]
    return {name: _filled(each, long) for name, each in value.items()} if isinstance(value, dict) else value
