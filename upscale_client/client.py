"""The two clients: what they do is in steps.py; here the steps are carried out."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, overload

import httpx

from upscale_client import steps
from upscale_client.answers import Job, Models, Plan, read_models, read_plan
from upscale_client.steps import Answer, Flow, Options, Picture, Progress, Report, Retries, Send, Sleep, Step

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

T = TypeVar("T")
_USER_AGENT = "upscale-client"


class Client:
    """A client that waits. It may be used by several threads."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        retries: int = 5,
        longest_wait_s: float = 60,
        timeout_s: float = 60,
        **http: Any,
    ) -> None:
        """`url` may have a prefix, as behind a proxy. `retries` are tries after the first, of requests that got no
        answer, or 429 or 503; if the server says to wait for more than `longest_wait_s` seconds, its error is raised at
        once. `timeout_s` is the longest time for which the connection may be silent. `http` are further arguments of
        httpx.Client, such as `proxy` and `verify`."""
        self._retries = Retries(retries, longest_wait_s)
        self._http = httpx.Client(base_url=url, headers=_headers(key), timeout=timeout_s, **http)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    @overload
    def upscale(
        self,
        picture: Picture,
        *,
        to: None = None,
        progress: Progress | None = None,
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> bytes: ...
    @overload
    def upscale(
        self,
        picture: Picture,
        *,
        to: str | os.PathLike[str],
        progress: Progress | None = None,
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Path: ...
    def upscale(
        self,
        picture: Picture,
        *,
        to: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> bytes | Path:
        """Submit, wait, download: the result's bytes, or with `to` the path of the file that it was written to, in
        place of any file that was there. Raises UpscaleError, of them StillRunning after `timeout_s`; and OSError."""
        return self._run(steps.upscale(picture, options, _path(to), progress, timeout_s, self._retries))

    def submit(self, picture: Picture, **options: Unpack[Options]) -> Job:
        """The job, queued. Raises UpscaleError, and OSError if the file can't be read."""
        return self._run(steps.submit(picture, options, self._retries))

    def wait(self, job: Job | str, *, progress: Progress | None = None, timeout_s: float | None = None) -> Job:
        """The job when it has succeeded. Raises its error if it failed or was cancelled, and StillRunning after
        `timeout_s`: the job then continues."""
        return self._run(steps.wait(job, progress, timeout_s, self._retries))

    def get(self, job: Job | str) -> Job:
        """The job as it is now."""
        return self._run(steps.get(job, self._retries))

    def jobs(self, state: str | None = None, limit: int = 50) -> list[Job]:
        """The newest jobs of this key, of all APIs; at most 500."""
        return self._run(steps.jobs(state, limit, self._retries))

    def result(self, job: Job | str) -> bytes:
        """The result's file. Raises Conflict while there is none."""
        return self._run(steps.download(job, "result", self._retries))

    def save(self, job: Job | str, to: str | os.PathLike[str]) -> Path:
        """Write the result to a file, whole or not at all, in place of any file that was there."""
        return self._run(steps.save(job, Path(to), self._retries))

    def source(self, job: Job | str) -> bytes:
        """The picture that was sent, unchanged. Raises Conflict until the server has it."""
        return self._run(steps.download(job, "source", self._retries))

    def cancel(self, job: Job | str) -> Job:
        """Stop it: at once if it is queued, at its next tile if it runs. Raises Conflict if it has ended otherwise."""
        return self._run(steps.cancel(job, self._retries))

    def delete(self, job: Job | str) -> None:
        """Delete it with its pictures; one that has not ended is cancelled instead."""
        self._run(steps.delete(job, self._retries))

    def plan(
        self, picture: Picture | None = None, *, source: tuple[int, int] | None = None, **options: Unpack[Options]
    ) -> Plan:
        """What a job would do with this picture, or with one of this width and height. Nothing is queued."""
        body = steps.plan_body(picture, source, options)
        return read_plan(self._run(steps.call_json(Send("POST", "/plan", body), self._retries)))

    def models(self) -> Models:
        """The networks that a job can name."""
        return read_models(self._run(steps.call_json(Send("GET", "/models"), self._retries)))

    def _run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                try:
                    answer = self._do(step)
                except httpx.TransportError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _do(self, step: Step) -> Answer | None:
        if isinstance(step, Sleep):
            time.sleep(step.seconds)
            return None
        if isinstance(step, Report):
            step.progress(step.job)
            return None
        with self._http.stream(step.method, step.path, **step.body) as response:
            if step.to is None or not response.is_success:
                return Answer(response.status_code, response.headers, response.read())
            with _whole_file(step.to) as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
            return Answer(response.status_code, response.headers, b"")


class AsyncClient:
    """A client to be awaited, with asyncio. Each method does what the one of `Client` does."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        retries: int = 5,
        longest_wait_s: float = 60,
        timeout_s: float = 60,
        **http: Any,
    ) -> None:
        """As `Client`; `http` are further arguments of httpx.AsyncClient."""
        self._retries = Retries(retries, longest_wait_s)
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(key), timeout=timeout_s, **http)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    @overload
    async def upscale(
        self,
        picture: Picture,
        *,
        to: None = None,
        progress: Progress | None = None,
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> bytes: ...
    @overload
    async def upscale(
        self,
        picture: Picture,
        *,
        to: str | os.PathLike[str],
        progress: Progress | None = None,
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Path: ...
    async def upscale(
        self,
        picture: Picture,
        *,
        to: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> bytes | Path:
        return await self._run(steps.upscale(picture, options, _path(to), progress, timeout_s, self._retries))

    async def submit(self, picture: Picture, **options: Unpack[Options]) -> Job:
        return await self._run(steps.submit(picture, options, self._retries))

    async def wait(self, job: Job | str, *, progress: Progress | None = None, timeout_s: float | None = None) -> Job:
        return await self._run(steps.wait(job, progress, timeout_s, self._retries))

    async def get(self, job: Job | str) -> Job:
        return await self._run(steps.get(job, self._retries))

    async def jobs(self, state: str | None = None, limit: int = 50) -> list[Job]:
        return await self._run(steps.jobs(state, limit, self._retries))

    async def result(self, job: Job | str) -> bytes:
        return await self._run(steps.download(job, "result", self._retries))

    async def save(self, job: Job | str, to: str | os.PathLike[str]) -> Path:
        return await self._run(steps.save(job, Path(to), self._retries))

    async def source(self, job: Job | str) -> bytes:
        return await self._run(steps.download(job, "source", self._retries))

    async def cancel(self, job: Job | str) -> Job:
        return await self._run(steps.cancel(job, self._retries))

    async def delete(self, job: Job | str) -> None:
        await self._run(steps.delete(job, self._retries))

    async def plan(
        self, picture: Picture | None = None, *, source: tuple[int, int] | None = None, **options: Unpack[Options]
    ) -> Plan:
        body = steps.plan_body(picture, source, options)
        return read_plan(await self._run(steps.call_json(Send("POST", "/plan", body), self._retries)))

    async def models(self) -> Models:
        return read_models(await self._run(steps.call_json(Send("GET", "/models"), self._retries)))

    async def _run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                try:
                    answer = await self._do(step)
                except httpx.TransportError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def _do(self, step: Step) -> Answer | None:
        if isinstance(step, Sleep):
            await asyncio.sleep(step.seconds)
            return None
        if isinstance(step, Report):
            if inspect.isawaitable(said := step.progress(step.job)):
                await said
            return None
        async with self._http.stream(step.method, step.path, **step.body) as response:
            if step.to is None or not response.is_success:
                return Answer(response.status_code, response.headers, await response.aread())
            with _whole_file(step.to) as file:
                async for chunk in response.aiter_bytes():
                    file.write(chunk)
            return Answer(response.status_code, response.headers, b"")


def _headers(key: str | None) -> dict[str, str]:
    return {"User-Agent": _USER_AGENT} | ({} if key is None else {"Authorization": f"Bearer {key}"})


def _path(to: str | os.PathLike[str] | None) -> Path | None:
    return None if to is None else Path(to)


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """A partial file beside it, which takes its place when the block ends, and is removed if that fails."""
    partial = path.with_name(f".{os.urandom(6).hex()}.partial")
    try:
        with partial.open("xb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
