"""The Model Context Protocol, at `/mcp`: this server as a tool of agents and editors. Needs the extra `mcp`.

    POST   /mcp   a JSON-RPC message: `initialize`, `tools/list`, `tools/call`, … → JSON, or server-sent events
    DELETE /mcp   ends a session of the protocol's older versions

Tools are upscale, plan, jobs and models. The protocol itself is the official package's, in all versions that it has. A
key is sent as `Bearer KEY` with every message. `python -m server mcp` has the same tools over standard input and
output, see server/cli/bridge.py; only there a picture may be a path.

* `upscale` waits for `wait_s`, then answers with the job as it is: `jobs` with its id waits on.
* A cancelled `upscale` cancels its job: by `notifications/cancelled`, or in versions without sessions by closing the
  connection. Where there are sessions a lost connection cancels nothing, as the protocol says. When the server
  restarts, the answer names the job, which continues.
* A result is a link, and also the picture itself if it has at most MAX_INLINE_BYTES and a kind that clients show.
* A mistake in the arguments is a tool's result with `isError`, so that the model reads it and tries again. What is
  wrong with the request itself is a JSON-RPC error with an HTTP status.
* `GET /mcp` is answered 405: this server sends nothing that was not asked for. Batches are refused.
* A session belongs to the key that opened it; a key has at most MAX_SESSIONS of them.
"""

from server.api.dialects.mcp import openapi
from server.api.dialects.mcp.routes import router
from server.api.dialects.mcp.translate import NAME, PREFIXES, to_error

__all__ = ["NAME", "PREFIXES", "openapi", "router", "to_error"]
