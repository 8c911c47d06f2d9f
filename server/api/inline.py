"""JSON bodies that hold pictures as base64. Pure translation: a picture is read only when the body is written."""

import base64
import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from server.blobs.base import Blob, Reader

_PIECE_BYTES = 1 << 17
_BASE64_PIECE_BYTES = 3 << 18
"""A multiple of 3: the base64 of the pieces, joined, is the base64 of the whole."""


@dataclass(frozen=True)
class Inline:
    """Stands for a string in content to be written as JSON: the blob in base64, after `head`."""

    blob: Blob
    head: str = ""

    def text(self) -> str:
        """Raises NotFound when the blob no longer exists."""
        return b"".join(self.pieces()).decode("ascii")

    def pieces(self) -> Iterator[bytes]:
        """The same, piece by piece, so that other threads run in between."""
        yield self.head.encode("ascii")
        with closing(self.blob.open()) as reader:
            yield from base64_of(reader)


def base64_of(reader: Reader) -> Iterator[bytes]:
    return map(base64.b64encode, pieces_of(reader, 0, reader.size, _BASE64_PIECE_BYTES))


def pieces_of(reader: Reader, start: int, end: int, size: int = _PIECE_BYTES) -> Iterator[bytes]:
    while start < end:
        piece = reader.read(start, min(size, end - start))
        if not piece:
            raise RuntimeError(f"the file ends at byte {start}, before the expected {end}")
        yield piece
        start += len(piece)


def parts_of(content: Any) -> list[str | Inline]:
    """The body's JSON, cut where inline pictures belong."""
    marks: dict[str, Inline] = {}

    def mark(value: object) -> str:
        assert isinstance(value, Inline)
        name = uuid.uuid4().hex
        marks[name] = value
        return name

    # Escaped to ASCII: callers may send lone surrogates, which UTF-8 can't represent, and get them back unchanged.
    text = json.dumps(content, allow_nan=False, separators=(",", ":"), default=mark)
    parts = list[str | Inline]()
    for name, inline in marks.items():  # in the order in which they occur in the text
        before, text = text.split(name)
        parts += [before, inline]
    return [*parts, text]


def to_json(content: Any) -> bytes:
    """The whole body, inline pictures included. Raises NotFound when one no longer exists."""
    return b"".join(
        piece
        for part in parts_of(content)
        for piece in ([part.encode("ascii")] if isinstance(part, str) else part.pieces())
    )
