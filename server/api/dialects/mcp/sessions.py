"""The MCP sessions of one app: each owner's own, so that none can use another's or take all places."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup, TaskStatus
from fastapi import FastAPI

from server.errors import NotFound

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager


class Sessions:
    """For one event loop."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._managers: dict[str, StreamableHTTPSessionManager] = {}
        self._lock = anyio.Lock()

    async def of(self, owner: str) -> "StreamableHTTPSessionManager":
        """Raises NotFound where the `mcp` package is not installed."""
        async with self._lock:
            if owner not in self._managers:
                # In a thread: the package takes a second to import. Most servers are never asked for it.
                manager = await to_thread.run_sync(_new_manager)
                self._managers[owner] = await self._tasks.start(_run, manager)
            return self._managers[owner]


def _new_manager() -> "StreamableHTTPSessionManager":
    try:
        from server.api.dialects.mcp.tools import new_manager
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise NotFound("MCP is not installed on this server: its operator can install the extra `mcp`") from error
    return new_manager()


async def _run(
    manager: "StreamableHTTPSessionManager", *, task_status: "TaskStatus[StreamableHTTPSessionManager]"
) -> None:
    async with manager.run():
        task_status.started(manager)
        await anyio.sleep_forever()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """While the app runs, `app.state.mcp` has its sessions."""
    async with anyio.create_task_group() as tasks:
        app.state.mcp = Sessions(tasks)
        yield
        tasks.cancel_scope.cancel()
