"""MCP's endpoint: who calls and how much is read is decided here, all else by the `mcp` package."""

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from starlette.types import Message, Receive, Scope, Send

from server.api.bodies import check_json, media_type
from server.api.dialects.depends import authenticated
from server.api.dialects.fields import check_density
from server.api.dialects.mcp.sessions import lifespan
from server.api.dialects.mcp.translate import MAX_BODY_BYTES
from server.errors import InvalidRequest, TooLarge, UnsupportedMedia

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

_JSON, _EVENTS = "application/json", "text/event-stream"

router = APIRouter(lifespan=lifespan)


class _Handed(Response):
    """The request, to be answered by the package."""

    def __init__(self, manager: "StreamableHTTPSessionManager", body: bytes) -> None:
        super().__init__()
        self._manager = manager
        self._read = False
        self._whole: Message = {"type": "http.request", "body": body, "more_body": False}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def replay() -> Message:
            if self._read:
                return await receive()
            self._read = True
            return self._whole

        await self._manager.handle_request(scope, replay, send)


async def _manager(request: Request) -> "StreamableHTTPSessionManager":
    """Of the caller's sessions; the tools find the caller in the request."""
    call = await authenticated(request)
    request.state.call = call
    manager: StreamableHTTPSessionManager = await request.app.state.mcp.of(call.caller.id)
    return manager


@router.post("/mcp")
async def message(request: Request) -> Response:
    manager = await _manager(request)
    body = await _body(request)
    check_json(request.headers, body)
    if media_type(request.headers) != _JSON:
        raise UnsupportedMedia(f"send a JSON-RPC message with Content-Type: {_JSON}")
    if not all(_accepts(request, kind) for kind in (_JSON, _EVENTS)):
        raise InvalidRequest(f"send Accept: {_JSON}, {_EVENTS}")
    check_density(body)
    return _Handed(manager, body)


@router.delete("/mcp")
async def end_session(request: Request) -> Response:
    manager = await _manager(request)
    if "mcp-session-id" not in request.headers:
        raise InvalidRequest("name the session in the header Mcp-Session-Id")
    # Versions without sessions have no DELETE: what this header says does not matter here.
    request.scope["headers"] = [each for each in request.scope["headers"] if each[0] != b"mcp-protocol-version"]
    return _Handed(manager, b"")


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge(
                f"a message may have {MAX_BODY_BYTES} bytes: send the picture with POST /uploads, and its link here"
            )
    return bytes(body)


def _accepts(request: Request, kind: str) -> bool:
    kinds = [each.partition(";")[0].strip().lower() for each in request.headers.get("accept", "*/*").split(",")]
    return any(each in (kind, f"{kind.partition('/')[0]}/*", "*/*") for each in kinds)
