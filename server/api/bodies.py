"""The body of a request before its fields are read: its encoding, and bodies that are refused because they are no text.

All dialects accept the same bodies: JSON in UTF-8, with or without a byte order mark, or in UTF-16 or UTF-32, as some
shells write it. All refuse the same bodies, with a remedy in the message: a picture itself, a compressed body, a form
where JSON is expected.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from urllib.parse import unquote, unquote_plus

from starlette.datastructures import FormData

from server.errors import InvalidField, UnsupportedMedia, cut
from server.images.read.sniff import sniff

MULTIPART, _URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
FORM_TYPES = (MULTIPART, _URLENCODED)
_GZIP = b"\x1f\x8b"
_UNCOMPRESSED = {"Accept-Encoding": "identity"}
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_MAX_FIELDS = 1000
BOM = "\ufeff"


def media_type(headers: Mapping[str, str]) -> str:
    """The body's media type, in lower case and without parameters; empty if there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def check_encoding(headers: Mapping[str, str]) -> None:
    """Raises UnsupportedMedia for a compressed body: its real size is not known in advance."""
    coding = headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise UnsupportedMedia(f"the body is compressed ({coding[:40]}): send it uncompressed", headers=_UNCOMPRESSED)


def check_readable(body: bytes, remedy: str) -> None:
    """Raises UnsupportedMedia, with the remedy in the message, for a body that is a picture, gzip data or no text."""
    mime = sniff(body[:32])
    if mime is not None:
        raise UnsupportedMedia(f"the body is a picture file ({mime}): {remedy}")
    if body.startswith(_GZIP):
        raise UnsupportedMedia("the body is compressed (gzip): send it uncompressed", headers=_UNCOMPRESSED)
    if _CONTROL.search(body[:1024]) and not looks_like_json(body):  # for example a picture sent with `curl -d @NAME`
        raise UnsupportedMedia(f"the body is neither JSON nor a form: {remedy}")


def check_json(headers: Mapping[str, str], body: bytes) -> None:
    """For an address that takes only JSON. Raises UnsupportedMedia.

    JSON with another Content-Type is accepted: `curl -d` declares everything as a form.
    """
    kind = media_type(headers)
    if kind != MULTIPART:  # which may contain a picture's bytes
        check_readable(body, "send JSON, with the picture as a URL, a data URI or base64")
    if kind in FORM_TYPES and body and not looks_like_json(body):
        raise UnsupportedMedia("this address takes JSON, not a form: send it with Content-Type: application/json")


def looks_like_json(body: bytes) -> bool:
    """Whether it begins like a JSON object or array."""
    return body[:100].decode(json.detect_encoding(body[:4]), "ignore").lstrip(BOM + " \t\r\n")[:1] in ("{", "[")


def text_of(body: bytes, errors: str = "surrogatepass") -> str:
    """The text of JSON in any encoding of Unicode. Raises UnicodeDecodeError."""
    return body.decode(json.detect_encoding(body[:4]), errors).removeprefix(BOM)


def check_once(form: FormData) -> None:
    """Raises InvalidField for a form that has a field more than once: which of them counts would be a guess."""
    for name, count in Counter(name for name, _ in form.multi_items()).items():
        if count > 1:
            raise InvalidField(f"{cut(name)} is in the form {count} times: send it once", field=cut(name))


def is_urlencoded(headers: Mapping[str, str]) -> bool:
    return media_type(headers) == _URLENCODED


def read_urlencoded(body: bytes, exact: str) -> list[tuple[str, str]]:
    """The fields of a URL-encoded form. In the field `exact` a plus stays a plus: base64 has them, and `curl -d` does
    not encode them. Raises InvalidField."""
    parts = [part for part in body.decode("latin-1").split("&", _MAX_FIELDS) if part]
    if len(parts) > _MAX_FIELDS:
        raise InvalidField(f"the form has more than {_MAX_FIELDS} fields")
    fields = []
    for part in parts:
        name, _, value = part.partition("=")
        name = unquote_plus(name)
        fields.append((name, unquote(value) if name == exact else unquote_plus(value)))
    return fields
