"""Fields of JSON bodies, shared by all dialects: reading those of requests, writing those of answers. Pure."""

import json
import math
import re
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from server.api.bodies import BOM, text_of
from server.api.large_json import LARGE_BYTES, no_constant, read_large
from server.errors import InvalidField, InvalidRequest, MissingField, cut
from server.job.formats import FormatName
from server.job.job import Target
from server.outbound.source import LongText, described

_T = TypeVar("_T", bound=str)

VENDOR_FORMATS: tuple[FormatName, ...] = ("jpeg", "png", "webp")
"""Result formats that every vendor offers; the native API has more."""
TARGETS: tuple[Target, ...] = get_args(Target)
FORM_REMEDY = "send it as the field `file` of a form (curl -F file=@NAME)"
"""What to do with a picture that was sent as a whole body."""

LONGEST_ECHO = 512
"""Characters: an inline picture up to this length is repeated in an answer's `input`, a longer one as its size."""

MAX_JSON_PARTS = 20_000
"""Braces, brackets and commas of a body. A picture in base64 has none, however large; a body of nothing else would take
25 times its size in memory."""


# --- answers --------------------------------------------------------------------------------------------------------


def file_url(base_url: str, key: str) -> str:
    return f"{base_url}/files/{key}"


def upload_url(base_url: str, key: str) -> str:
    return f"{base_url}/uploads/{key}"


def shown_picture(image: str) -> str:
    """A caller's text for a picture, to be repeated in answers: a long inline one only as its kind and length."""
    if len(image) <= LONGEST_ECHO or image[:8].lower().startswith(("http://", "https://")):
        return image
    return described(image, len(image))


def iso_time(seconds: float) -> str:
    """Unix seconds as `2023-04-01T12:34:56.789Z`."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def dashed(hex32: str) -> str:
    """An id of 32 hex digits as a UUID."""
    return str(uuid.UUID(hex32))


def undashed(text: str) -> str:
    """A UUID as an id of 32 hex digits. Other text does not become a valid id."""
    return text.replace("-", "").lower()


# --- JSON -----------------------------------------------------------------------------------------------------------


def check_density(body: bytes | str) -> None:
    """Call before a JSON body is parsed. Raises InvalidRequest."""
    left = MAX_JSON_PARTS
    for start in range(0, len(body), LARGE_BYTES):  # in pieces: other threads run in between
        for sign in "{[,":
            wanted = sign if isinstance(body, str) else sign.encode()
            left -= body.count(wanted, start, start + LARGE_BYTES)  # type: ignore[arg-type]
        if left < 0:
            raise InvalidRequest("invalid request body")


def read_json(body: bytes | str) -> Any:
    """In a large body, long texts are LongTexts. Raises InvalidRequest."""
    if isinstance(body, LongText):
        body = b"".join(piece.encode("utf-8", "surrogatepass") for piece in body.pieces)
    check_density(body)
    try:
        if len(body) > LARGE_BYTES:
            return read_large(body)
        text = body.removeprefix(BOM) if isinstance(body, str) else text_of(body)
        return json.loads(text, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("invalid request body") from error


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises InvalidRequest."""
    value = read_json(body)
    if not isinstance(value, dict):
        raise InvalidRequest("invalid request body")
    return value


def first_error(error: ValidationError, not_an_object: str = "this must be an object") -> InvalidRequest:
    """What pydantic found first. `not_an_object`: the message if it is not about a field."""
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return InvalidRequest(not_an_object)
    field = cut(str(first["loc"][0]))
    if first["type"] == "extra_forbidden":
        return InvalidField(f"there is no field {field!r}", field=field)
    message = first["msg"].removeprefix("Value error, ")
    return InvalidField(f"{field}: {message}", field=field)


# --- fields of a JSON object: null counts as absent, and all of these raise InvalidField ------------------------------


def read_number(body: Mapping[str, Any], name: str, default: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidField(f"{name} must be a number", field=name)
    try:
        return float(value)
    except OverflowError:
        return math.inf  # an integer of hundreds of digits; out of every range


def read_flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidField(f"{name} must be a boolean", field=name)
    return bool(value)


def read_whole(body: Mapping[str, Any], name: str, default: int, most: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidField(f"{name} must be a whole number between 1 and {most}", field=name)
    return value


def read_text(body: Mapping[str, Any], name: str) -> str:
    """A required field. Raises MissingField too, for an empty one."""
    value = body.get(name)
    if value is None or value == "":
        raise MissingField(f"{name} is required", field=name)
    if not isinstance(value, str):
        raise InvalidField(f"{name} must be a string", field=name)
    return value


def read_choice(body: Mapping[str, Any], name: str, allowed: tuple[_T, ...], default: _T | None = None) -> _T:
    """Without a default it is required: raises MissingField."""
    value = body.get(name)
    if value is None or (value == "" and default is None):
        if default is None:
            raise MissingField(f"{name} is required", field=name)
        return default
    for each in allowed:
        if value == each:
            return each
    raise InvalidField(f"{name} must be one of {', '.join(allowed)}", field=name)


def read_time(body: Mapping[str, Any], name: str) -> float | None:
    """Unix seconds of an ISO 8601 time, UTC unless it says otherwise."""
    value = body.get(name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", value))
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidField(f"{name} must be a time like 2023-04-01T12:34:56Z", field=name) from error
