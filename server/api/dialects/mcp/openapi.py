"""OpenAPI description of the MCP endpoint. What its messages hold is in the protocol's own schema."""

from server.api.openapi.base import ANY, JSON, TEXT, Operation, Schema, answer, choice, nullable

TITLE = "Model Context Protocol, at /mcp"

_VERSION: Schema = {"const": "2.0"}
_ID: Schema = {"type": ["string", "integer"]}
_CODED: Schema = {
    "type": "object",
    "properties": {"code": {"type": "integer"}, "message": TEXT, "data": ANY},
    "required": ["code", "message"],
}
ERROR = answer({"id": nullable(_ID)}, jsonrpc=_VERSION, error=_CODED)

_METHODS = ("initialize", "ping", "tools/list", "tools/call", "server/discover", "notifications/initialized")
_MESSAGE: Schema = {
    "type": "object",
    "properties": {"jsonrpc": _VERSION, "id": _ID, "method": choice(_METHODS), "params": {"type": "object"}},
    "required": ["jsonrpc", "method"],
}
_SAID: Schema = {"anyOf": [answer(jsonrpc=_VERSION, id=_ID, result={"type": "object"}), ERROR]}
_EVENT = answer(event=choice(["message"]), data={"type": "string", "contentMediaType": JSON, "contentSchema": _SAID})
_ANSWER: Schema = {"anyOf": [*_SAID["anyOf"], _EVENT]}
_SESSION = {"Mcp-Session-Id": {"type": "string", "pattern": "^[!-~]+$"}}

OPERATIONS = {
    "POST /mcp": Operation(
        _ANSWER,
        (400, 404, 503),
        {JSON: _MESSAGE},
        headers={"MCP-Protocol-Version": choice(("2025-06-18", "2025-11-25", "2026-07-28"))} | _SESSION,
        also=(202,),
        answer_types=(JSON, "text/event-stream"),
    ),
    "DELETE /mcp": Operation(None, (400, 404), headers=_SESSION),
}
