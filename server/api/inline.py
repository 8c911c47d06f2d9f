"""JSON bodies that hold pictures as base64. Pure translation: a picture is read only when the body is written."""

import base64
import json
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from server.blobs.base import Blob


@dataclass(frozen=True)
class Inline:
    """Stands for a string in content to be written as JSON: the blob in base64, after `head`."""

    blob: Blob
    head: str = ""

    def text(self) -> str:
        """Raises NotFound when the blob no longer exists."""
        with closing(self.blob.open()) as reader:
            return self.head + base64.b64encode(reader.read(0, reader.size)).decode("ascii")


def to_json(content: Any) -> bytes:
    """The whole body, inline pictures included. Raises NotFound when one no longer exists."""
    # Escaped to ASCII: callers may send lone surrogates, which UTF-8 can't represent, and get them back unchanged.
    return json.dumps(content, allow_nan=False, separators=(",", ":"), default=_text).encode("ascii")


def _text(value: object) -> str:
    assert isinstance(value, Inline)
    return value.text()
