"""Descriptions of operations beyond what their endpoints' signatures say, and schemas to write them with.

Schemas are JSON Schema 2020-12, as in OpenAPI 3.1. Ranges and choices come from the code that checks them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol

Schema = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    answer: Schema | None
    """The body of a successful answer: JSON, unless `answer_types` has other types. None: no body."""
    errors: tuple[int, ...]
    """Statuses of its errors, in addition to those of any operation."""
    body: Mapping[str, Schema] = field(default_factory=dict)
    """Of the request, by media type."""
    query: Mapping[str, Schema] = field(default_factory=dict)
    """Query parameters that the endpoint's signature does not name."""
    path: Mapping[str, Schema] = field(default_factory=dict)
    """Schemas of the path's parameters, and of other required parameters that the signature names."""
    headers: Mapping[str, Schema] = field(default_factory=dict)
    """Optional header fields of the request."""
    status: int = 200
    also: tuple[int, ...] = ()
    """Other statuses of successful answers, which have no body."""
    answer_types: tuple[str, ...] = ("application/json",)
    body_required: bool = True
    key: bool = True
    """On a server with keys, a caller has to send one."""


class Described(Protocol):
    TITLE: str
    ERROR: Schema
    """The vendor's own form of an error."""
    OPERATIONS: dict[str, Operation]
    """By method and path: `GET /jobs`."""


JSON = "application/json"
FORM = "multipart/form-data"

ANY: Schema = {}
TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
NOTHING: Schema = {"type": "null"}
TIME: Schema = {"type": "string", "format": "date-time"}
BYTES: Schema = {"type": "string", "format": "binary"}
HEX32: Schema = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
UUID: Schema = {"type": "string", "pattern": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"}
KEY: Schema = {"type": "string", "pattern": r"^[0-9a-f]{32}(\.[a-z0-9]{1,8})?$"}
PICTURE: Schema = {"type": "string", "minLength": 1, "description": "URL, data URI or base64 of the picture."}


def choice(values: Iterable[Any]) -> Schema:
    return {"enum": list(dict.fromkeys(values))}


def number(**limits: float) -> Schema:
    return {"type": "number", **limits}


def whole(low: int, high: int | None = None) -> Schema:
    return {"type": "integer", "minimum": low} | ({} if high is None else {"maximum": high})


def array(items: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": items, **limits}


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, NOTHING]}


def answer(optional: Mapping[str, Schema] | None = None, /, **fields: Schema) -> Schema:
    """An object of exactly these fields; optional ones may be absent."""
    properties = fields | dict(optional or {})
    return {"type": "object", "properties": properties, "required": list(fields), "additionalProperties": False}


def request(required: Mapping[str, Schema], /, **optional: Schema) -> Schema:
    """An object to send. In optional fields null counts as absent; unknown fields are ignored."""
    properties = dict(required) | {name: nullable(schema) for name, schema in optional.items()}
    return {"type": "object", "properties": properties, "required": list(required)}


def write(path: str, operation: dict[str, Any], described: Operation, error: Schema) -> None:
    """Complete FastAPI's own description of the endpoint at this path."""
    parameters = operation.setdefault("parameters", [])
    # FastAPI does not know the parameters of endpoints that read them from the request themselves.
    known = {parameter["name"] for parameter in parameters}
    for name in described.path:
        if name not in known:
            parameters.append({"name": name, "in": "path" if f"{{{name}}}" in path else "query"})
    for parameter in parameters:
        if parameter["name"] in described.path:
            parameter |= {"schema": described.path[parameter["name"]], "required": True}
    for place, named in (("query", described.query), ("header", described.headers)):
        parameters += [{"name": name, "in": place, "schema": schema} for name, schema in named.items()]
    if described.body:
        content = {kind: {"schema": schema} for kind, schema in described.body.items()}
        operation["requestBody"] = {"content": content, "required": described.body_required}
    responses = {}
    for status in (described.status, *described.also):
        has_body = described.answer is not None and status == described.status
        responses[status] = described.answer_types if has_body else (), described.answer
    # An encoded slash in a parameter can make another path, which may not exist, or not for this method.
    places = {400, 404, 405} if any(each["in"] == "path" for each in parameters) else set()
    keys = {401} if described.key else set()
    bodies = {413, 415} if described.body else set()
    for status in sorted(places | keys | bodies | {500} | set(described.errors)):
        responses[status] = (JSON,), error
    operation["responses"] = {
        str(status): {"description": HTTPStatus(status).phrase}
        | ({"content": {kind: {"schema": schema} for kind in kinds}} if kinds else {})
        for status, (kinds, schema) in responses.items()
    }
    if described.key:
        operation["security"] = [{"key": []}, {}]
