"""MCP's messages as they are on the wire: who may send them, how much, and what a refusal looks like."""

import json
import sys
from typing import Any

import httpx
import pytest

from server.api.dialects.mcp.translate import MAX_BODY_BYTES, MAX_SESSIONS
from tests.conftest import Live, LiveServer, Picture

BOTH = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
NEWEST = {"MCP-Protocol-Version": "2026-07-28"}
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
OPENING = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}


def tool_call(name: str, **arguments: Any) -> dict[str, Any]:
    """In the version without sessions."""
    params = {"name": name, "arguments": arguments, "_meta": ENVELOPE}
    return {"jsonrpc": "2.0", "id": "a", "method": "tools/call", "params": params}


def tool_headers(name: str) -> dict[str, str]:
    return BOTH | NEWEST | {"Mcp-Method": "tools/call", "Mcp-Name": name}


def post(live: Live, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return live.client.post("/mcp", content=content, headers=BOTH | headers)


def opened(live: Live, **headers: str) -> str:
    answer = post(live, OPENING, **headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["mcp-session-id"]


@pytest.fixture(scope="module")
def live(shared: Live) -> Live:
    return shared


def test_a_session_is_opened_used_and_ended(live: Live) -> None:
    session = {"Mcp-Session-Id": opened(live)}
    answer = post(live, PING, **session)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert json.loads(answer.text.split("data: ")[1].splitlines()[0]) == {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert live.client.delete("/mcp", headers=session | NEWEST).status_code == 200
    gone = post(live, PING, **session)
    assert (gone.status_code, gone.json()["error"]["message"]) == (404, "Session not found")


@pytest.mark.parametrize(
    ("method", "body", "headers", "status", "words"),
    [
        ("POST", b"{", {}, 400, "Parse error"),
        ("POST", b"", {}, 400, "Parse error"),
        ("POST", b'{"jsonrpc": "2.0"}', {}, 400, ""),
        ("POST", b"[" + json.dumps(PING).encode() + b"]", NEWEST, 400, "single JSON-RPC request"),
        ("POST", json.dumps(PING).encode(), {}, 400, "Missing session ID"),
        ("POST", json.dumps(PING).encode(), {"Mcp-Session-Id": "0" * 32}, 404, "Session not found"),
        ("POST", json.dumps(PING).encode(), {"Accept": "text/html"}, 400, "send Accept: application/json, text/event"),
        ("POST", json.dumps(PING).encode(), {"Content-Type": "text/plain"}, 415, "Content-Type: application/json"),
        ("POST", b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "takes JSON, not a form"),
        ("POST", b"\x89PNG\r\n\x1a\n" + bytes(40), {}, 415, "the body is a picture file"),
        ("POST", b'{"params": [' + b"[]," * 30000 + b"0]}", {}, 400, "invalid request body"),
        ("POST", b" " * (MAX_BODY_BYTES + 1), {}, 413, "send the picture with POST /uploads"),
        ("GET", b"", {}, 405, "does not take GET"),
        ("DELETE", b"", {}, 400, "name the session"),
        ("DELETE", b"", {"Mcp-Session-Id": "none"}, 404, "Session not found"),
        ("POST", b"{}", {"X-Path": "/mcp/other"}, 404, "nothing at this address"),
        ("POST", json.dumps(PING).encode(), {"Origin": "https://evil.example"}, 403, "without API keys"),
        ("POST", json.dumps(PING).encode(), {"Host": "evil.example"}, 403, "without API keys"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_can_not_be_answered_is_refused_as_a_json_rpc_error(
    live: Live, method: str, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    given = BOTH | headers
    answer = live.client.request(method, given.pop("X-Path", "/mcp"), content=body, headers=given)
    assert answer.status_code == status, answer.text
    said = answer.json()
    assert said["jsonrpc"] == "2.0" and said["id"] is None and isinstance(said["error"]["code"], int)
    assert words in said["error"]["message"]


def test_without_a_key_nothing_is_read(live_server: LiveServer) -> None:
    live = live_server(api_keys=("ann",))
    for method in ("POST", "DELETE"):
        answer = live.client.request(method, "/mcp", content=b"not even JSON", headers=BOTH)
        assert (answer.status_code, answer.json()["error"]["data"]["code"]) == (401, "unauthorized")


def test_a_session_is_its_keys_own(live_server: LiveServer) -> None:
    live = live_server(api_keys=("ann", "bob"))
    session = {"Mcp-Session-Id": opened(live, Authorization="Bearer ann")}
    for answer in (
        post(live, PING, Authorization="Bearer bob", **session),
        live.client.delete("/mcp", headers=session | {"Authorization": "Bearer bob"}),
    ):
        assert (answer.status_code, answer.json()["error"]["message"]) == (404, "Session not found")
    assert post(live, PING, Authorization="Bearer ann", **session).status_code == 200


def test_a_key_that_opens_too_many_sessions_is_refused_and_others_are_not(live_server: LiveServer) -> None:
    live = live_server(api_keys=("ann", "bob"))
    for _ in range(MAX_SESSIONS):
        opened(live, Authorization="Bearer ann")
    refused = post(live, OPENING, Authorization="Bearer ann")
    assert (refused.status_code, refused.json()["error"]["message"]) == (503, "Too many open sessions")
    opened(live, Authorization="Bearer bob")


def test_a_call_without_a_session_is_one_answer(live: Live) -> None:
    answer = post(live, tool_call("plan", width=2, height=1), **tool_headers("plan"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["result"]["structuredContent"]["result"] == [8, 4]
    notified = post(live, {"jsonrpc": "2.0", "method": "notifications/cancelled"}, **NEWEST)
    assert (notified.status_code, notified.content) == (202, b"")


def test_a_picture_over_the_limit_of_messages_is_sent_on_its_own(live: Live, picture: Picture) -> None:
    data = picture(8, 8) + bytes(MAX_BODY_BYTES)
    sent = live.client.post("/uploads", content=data)
    assert (sent.status_code, sent.json()["size_bytes"]) == (201, len(data))
    assert live.client.get(sent.json()["url"]).content == data


def test_a_page_of_a_listed_origin_can_read_the_sessions_id(live_server: LiveServer) -> None:
    live = live_server(cors_origins=("https://app.example",))
    answer = post(live, OPENING, Origin="https://app.example")
    assert "Mcp-Session-Id" in answer.headers["access-control-expose-headers"]


def test_without_the_package_the_address_says_so(live_server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)  # what Python itself does with a package that can't be imported
    monkeypatch.delitem(sys.modules, "server.api.dialects.mcp.tools", raising=False)
    answer = post(live_server(), PING)
    assert answer.status_code == 404 and "MCP is not installed on this server" in answer.json()["error"]["message"]
