"""The body of a request before its fields are read: how it is encoded, and what is refused because it is no text.

Whatever the dialect, the same bodies are read: JSON in UTF-8, with a byte order mark or without, or in UTF-16 or
UTF-32, as some shells write it. And the same are refused with the remedy: a picture as it is, a compressed body, a form
where JSON is wanted.
"""

import json
import re
from collections.abc import Mapping
from urllib.parse import unquote, unquote_plus

from server.errors import InvalidField, UnsupportedMedia
from server.images.read.sniff import sniff

MULTIPART, _URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
FORM_TYPES = (MULTIPART, _URLENCODED)
_GZIP = b"\x1f\x8b"
_AS_IT_IS = {"Accept-Encoding": "identity"}
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_MOST_FIELDS = 1000
BOM = "\ufeff"


def media_type(headers: Mapping[str, str]) -> str:
    """Of the body, in lower case and without its parameters; empty if it is not said."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def check_encoding(headers: Mapping[str, str]) -> None:
    """Raises UnsupportedMedia for a body that says it is compressed: what it would grow to, nobody has counted."""
    coding = headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise UnsupportedMedia(f"the body is compressed ({coding[:40]}): send it as it is", headers=_AS_IT_IS)


def check_readable(body: bytes, remedy: str) -> None:
    """Raises UnsupportedMedia, with the remedy in its words, for a body that is a picture, or gzip's, or no text."""
    mime = sniff(body[:32])
    if mime is not None:
        raise UnsupportedMedia(f"the body is a picture as it is ({mime}): {remedy}")
    if body.startswith(_GZIP):
        raise UnsupportedMedia("the body is compressed (gzip): send it as it is", headers=_AS_IT_IS)
    if _CONTROL.search(body[:1024]) and not looks_like_json(body):  # a picture, too, after `curl -d @NAME`
        raise UnsupportedMedia(f"the body is neither JSON nor a form: {remedy}")


def check_json(headers: Mapping[str, str], body: bytes) -> None:
    """For an address that takes JSON alone. Raises UnsupportedMedia.

    JSON that is called something else is still JSON: `curl -d` calls everything a form.
    """
    kind = media_type(headers)
    if kind != MULTIPART:  # which may have a picture's bytes in it
        check_readable(body, "send JSON, with the picture as a URL, a data URI or base64")
    if kind in FORM_TYPES and body and not looks_like_json(body):
        raise UnsupportedMedia("this address takes JSON, not a form: send it with Content-Type: application/json")


def looks_like_json(body: bytes) -> bool:
    """Whether it begins like an object or an array."""
    return body[:100].decode(json.detect_encoding(body[:4]), "ignore").lstrip(BOM + " \t\r\n")[:1] in ("{", "[")


def text_of(body: bytes, errors: str = "surrogatepass") -> str:
    """JSON's text, in whichever encoding of Unicode. Raises UnicodeDecodeError."""
    return body.decode(json.detect_encoding(body[:4]), errors).removeprefix(BOM)


def is_urlencoded(headers: Mapping[str, str]) -> bool:
    return media_type(headers) == _URLENCODED


def read_urlencoded(body: bytes, exact: str) -> list[tuple[str, str]]:
    """The fields of such a form. In the field `exact`, a plus is a plus: base64 has them, and `curl -d` leaves them as
    they are. Raises InvalidField."""
    parts = [part for part in body.decode("latin-1").split("&", _MOST_FIELDS) if part]
    if len(parts) > _MOST_FIELDS:
        raise InvalidField(f"the form has more than {_MOST_FIELDS} fields")
    fields = []
    for part in parts:
        name, _, value = part.partition("=")
        name = unquote_plus(name)
        fields.append((name, unquote(value) if name == exact else unquote_plus(value)))
    return fields
