"""The official MCP client, called from tests that are not async themselves."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import httpx2
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, Tool

ERAS = ("legacy", "auto")
"""Versions with sessions, up to 2025-11-25; and without, from 2026-07-28."""
Report = tuple[float, float | None, str | None]


class Connected:
    def __init__(self, client: Client, portal: BlockingPortal) -> None:
        self.client = client
        self.version = client.session.protocol_version
        self._portal = portal

    def tools(self) -> list[Tool]:
        return list(self._portal.call(self.client.list_tools).tools)

    def call(self, name: str, progress: list[Report] | None = None, **arguments: Any) -> CallToolResult:
        return self.start(name, progress, **arguments).result(60)

    def start(self, name: str, progress: list[Report] | None = None, **arguments: Any) -> "Future[CallToolResult]":
        async def note(*report: Any) -> None:
            assert progress is not None
            progress.append(report)

        async def call() -> CallToolResult:
            return await self.client.call_tool(name, arguments, progress_callback=None if progress is None else note)

        return self._portal.start_task_soon(call)


@contextmanager
def connected(url: str, era: str = "auto", key: str | None = None) -> Iterator[Connected]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    with start_blocking_portal() as portal:

        async def make() -> httpx2.AsyncClient:
            return httpx2.AsyncClient(headers=headers, trust_env=False, verify=False, timeout=60)

        with (
            portal.wrap_async_context_manager(portal.call(make)) as http,
            portal.wrap_async_context_manager(
                Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=era)
            ) as client,
        ):
            yield Connected(client, portal)


@contextmanager
def started(command: StdioServerParameters, era: str = "auto") -> Iterator[Connected]:
    """Over standard input and output."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(Client(command, mode=era)) as client:
        yield Connected(client, portal)


def text(result: CallToolResult, number: int = 0) -> str:
    found: str = [each.text for each in result.content if each.type == "text"][number]
    return found
