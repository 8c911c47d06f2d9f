"""Callers who wait for jobs to end: one look at the table for all of them at a time, and a thread for none."""

import asyncio
from collections.abc import Callable, Collection

from anyio import CapacityLimiter, to_thread

_LOOK_S = 0.05


class Waiting:
    """For one event loop."""

    def __init__(self, ended: Callable[[Collection[str]], set[str]]) -> None:
        """`ended`: which of these jobs wait for nothing any more; called in a thread."""
        self._ended = ended
        self._limiter = CapacityLimiter(1)
        self._futures: dict[str, set[asyncio.Future[None]]] = {}
        self._looking: asyncio.Task[None] | None = None
        self.closed = False

    async def until_ended(self, job_id: str, timeout_s: float) -> None:
        """Return when it has ended, after `timeout_s`, or when the process is to end, whichever comes first."""
        if self.closed or timeout_s <= 0:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._futures.setdefault(job_id, set()).add(future)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            await asyncio.wait({future}, timeout=timeout_s)
            if future.done():
                future.result()
        finally:
            self._forget(job_id, future)

    def close(self) -> None:
        """Nobody waits any more."""
        self.closed = True
        self._tell(list(self._futures), None)

    async def _look(self) -> None:
        """For as long as somebody waits."""
        try:
            while self._futures:
                try:
                    ended = await to_thread.run_sync(self._ended, list(self._futures), limiter=self._limiter)
                except Exception as error:  # the database is away: each of them says so in its own words
                    self._tell(list(self._futures), error)
                else:
                    self._tell(ended, None)
                await asyncio.sleep(_LOOK_S)
        finally:
            self._looking = None

    def _tell(self, job_ids: Collection[str], error: Exception | None) -> None:
        for job_id in job_ids:
            for future in self._futures.pop(job_id, ()):
                if not future.done():
                    future.set_result(None) if error is None else future.set_exception(error)

    def _forget(self, job_id: str, future: "asyncio.Future[None]") -> None:
        others = self._futures.get(job_id)
        if others is not None:
            others.discard(future)
            if not others:
                del self._futures[job_id]
