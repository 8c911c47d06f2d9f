"""Callers who wait for jobs to end: one query for all of them at a time, and no thread for any of them."""

import asyncio
from collections.abc import Callable, Collection

from anyio import CapacityLimiter, to_thread

_POLL_S = 0.05


class Waiting:
    """For one event loop."""

    def __init__(self, ended: Callable[[Collection[str]], set[str]]) -> None:
        """`ended`: those of these jobs that have ended or no longer exist; called in a thread."""
        self._ended = ended
        self._limiter = CapacityLimiter(1)
        self._futures: dict[str, set[asyncio.Future[None]]] = {}
        self._polling: asyncio.Task[None] | None = None
        self.closed = False

    async def until_ended(self, job_id: str, timeout_s: float) -> None:
        """Return when the job has ended, after `timeout_s`, or after `close`, whichever comes first."""
        if self.closed or timeout_s <= 0:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._futures.setdefault(job_id, set()).add(future)
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll())
        try:
            await asyncio.wait({future}, timeout=timeout_s)
            if future.done():
                future.result()
        finally:
            self._forget(job_id, future)

    def close(self) -> None:
        """All callers return now, and later ones at once."""
        self.closed = True
        self._wake(list(self._futures), None)

    async def _poll(self) -> None:
        """Query while any caller waits."""
        try:
            while self._futures:
                try:
                    ended = await to_thread.run_sync(self._ended, list(self._futures), limiter=self._limiter)
                except Exception as error:  # the database failed: every caller gets the error
                    self._wake(list(self._futures), error)
                else:
                    self._wake(ended, None)
                await asyncio.sleep(_POLL_S)
        finally:
            self._polling = None

    def _wake(self, job_ids: Collection[str], error: Exception | None) -> None:
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
