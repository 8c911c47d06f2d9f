"""Turns of requests within this process: how endpoints share the few places for work on bodies and pictures.

The rule is that of db/fairness.py: the owner with the fewest active requests, then the one whose last turn was the
longest ago. It stands here a second time because there it is an ORDER BY of the database and here it is a `min` over a
few owners in memory; they share no code.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread

from server.errors import Unavailable

_T = TypeVar("_T")
_MAX_OWNERS = 10_000
"""Whose last turn is remembered."""


def shutting_down() -> Unavailable:
    return Unavailable("the server is shutting down; try again", retry_after_s=5)


class Turns:
    """A limited number of places; one owner gets all but one of them at most. For one event loop."""

    def __init__(self, places: int, wait_s: float) -> None:
        """A request that has waited for `wait_s` gets Unavailable."""
        self._free = places
        self._most_of_one = max(1, places - 1)
        self._wait_s = wait_s
        self._threads = CapacityLimiter(places)
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._active: Counter[str] = Counter()
        self._served_at: dict[str, float] = {}
        self._closed = False

    async def run(self, owner: str, work: Callable[..., _T], *args: Any) -> _T:
        """Do the work in a thread when it is this owner's turn. Raises Unavailable, and then the work was not begun."""
        async with self.turn(owner):
            return await to_thread.run_sync(work, *args, limiter=self._threads)

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Hold one place. Raises Unavailable."""
        await self._wait(owner)
        try:
            yield
        finally:
            self._free += 1
            self._active[owner] -= 1
            if not self._active[owner]:
                del self._active[owner]
            self._next()

    def close(self) -> None:
        """No request gets a place from now on; those that wait get Unavailable at once."""
        self._closed = True
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(shutting_down())
        self._waiting.clear()

    async def _wait(self, owner: str) -> None:
        if self._closed:
            raise shutting_down()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(future)
        self._next()
        if future.done():  # the usual case
            return future.result()
        try:
            await asyncio.wait_for(asyncio.shield(future), self._wait_s)
        except asyncio.TimeoutError:
            self._leave(owner, future)
            raise Unavailable("the server is busy with others' requests; try again later") from None
        except asyncio.CancelledError:
            self._leave(owner, future)
            raise

    def _leave(self, owner: str, future: "asyncio.Future[None]") -> None:
        """A request has stopped waiting; a place that it got at the same moment goes to the next one."""
        if future.done() and not future.cancelled() and future.exception() is None:
            self._free += 1
            self._active[owner] -= 1
            self._next()
        elif not future.done():
            future.cancel()

    def _next(self) -> None:
        """Give free places to the owners whose turn it is."""
        while self._free and (owner := self._next_owner()) is not None:
            future = self._waiting[owner].popleft()
            if not self._waiting[owner]:
                del self._waiting[owner]
            if future.done():
                continue
            self._free -= 1
            self._active[owner] += 1
            self._served_at.pop(owner, None)
            self._served_at[owner] = time.monotonic()
            if len(self._served_at) > _MAX_OWNERS:
                del self._served_at[next(iter(self._served_at))]
            future.set_result(None)

    def _next_owner(self) -> str | None:
        owners = [owner for owner in self._waiting if self._active[owner] < self._most_of_one]
        return min(owners, key=lambda owner: (self._active[owner], self._served_at.get(owner, 0.0)), default=None)
