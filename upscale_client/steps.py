"""What the clients do, without input or output: each method is a generator that yields steps, is sent their outcome,
and returns what the method returns. So it is written once for both clients, which only carry the steps out."""

from __future__ import annotations

import errno
import json
import os
import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypedDict, TypeVar
from urllib.parse import quote

import httpx

from upscale_client.answers import Job, read_job
from upscale_client.errors import BY_CODE, BY_STATUS, ServerFault, StillRunning, Unreachable, UpscaleError

Picture = str | os.PathLike[str] | bytes | BinaryIO
"""A URL (text that begins with `http://` or `https://`), the path of a file, the file's bytes, or an open file."""

Progress = Callable[[Job], object]
"""Called with the job at each change of its state, stage or progress. AsyncClient awaits what it returns, if it can."""


class Options(TypedDict, total=False):
    """The fields of `POST /jobs`: docs/api.md has their meaning and defaults."""

    scale: float | None
    target: Literal["2k", "4k", "8k"] | None
    size: tuple[int, int] | None
    megapixels: float | None
    format: Literal["jpeg", "png", "webp", "avif", "tiff", "gif"]
    quality: int | None
    lossless: bool
    progressive: bool
    depth: Literal[8, 16] | None
    metadata: Literal["keep", "copyright", "strip"]
    colour: Literal["keep", "srgb"]
    background: tuple[int, int, int] | str
    animation: Literal["keep", "first"]
    wrap: Literal["none", "x", "y", "xy"]
    model: str
    denoise: float | None
    creativity: float | None
    content: Literal["auto", "photo", "text", "drawing"]
    faces: bool | dict[str, Any]
    mask: dict[str, Any] | None
    grain: float
    seed: int | None
    sweep: bool
    sweep_at: tuple[float, float] | None
    name: str | None


@dataclass(frozen=True)
class Send:
    """A step: send this request, and give back the answer; raise httpx.TransportError if there is none."""

    method: str
    path: str
    body: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of httpx for it."""
    to: Path | None = None
    """The file that the body of a successful answer is written to, whole or not at all."""
    repeatable: bool = True
    """Whether it does the same when it arrives twice."""


@dataclass(frozen=True)
class Sleep:
    """A step: wait."""

    seconds: float


@dataclass(frozen=True)
class Report:
    """A step: call `progress` with the job."""

    progress: Progress
    job: Job


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    data: bytes
    """Empty if it was written to a file."""


T = TypeVar("T")
Step = Send | Sleep | Report
Flow = Generator[Step, Answer | None, T]


@dataclass(frozen=True)
class Retries:
    """A request that the server was too busy for is repeated when the server says, or after longer and longer pauses.
    One that may have arrived although the connection broke is repeated only if that does no harm: no job is submitted
    twice."""

    most: int
    """Tries after the first."""
    longest_wait_s: float
    """If the server says a longer wait, as for a daily limit, its error is raised at once."""


_WRONG = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
"""The address or the key can't be sent at all."""
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_BUSY = (429, 503)
_PROXY = (502, 504)
"""A proxy got no answer: the request may have arrived."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.4, 8.0


def call(send: Send, retries: Retries) -> Flow[Answer]:
    """The successful answer. Raises UpscaleError."""
    for number in range(retries.most + 1):
        pause = min(_FIRST_PAUSE_S * 2**number, _LONGEST_PAUSE_S) * random.uniform(0.75, 1.25)
        try:
            answer = yield send
        except httpx.TransportError as problem:
            again = (send.repeatable and not isinstance(problem, _WRONG)) or isinstance(problem, _NOT_SENT)
            error: UpscaleError = Unreachable(f"no answer from the server: {problem or type(problem).__name__}")
            error.__cause__ = problem
        else:
            assert answer is not None
            if 200 <= answer.status < 300:
                return answer
            error = _error(answer)
            again = answer.status in _BUSY or (answer.status in _PROXY and send.repeatable)
            if error.retry_after_s is not None:
                pause = error.retry_after_s
        if not again or number == retries.most or pause > retries.longest_wait_s:
            raise error
        yield Sleep(pause)
    raise AssertionError("the last try returns or raises")


def call_json(send: Send, retries: Retries) -> Flow[Any]:
    answer = yield from call(send, retries)
    try:
        return json.loads(answer.data)
    except ValueError:
        raise ServerFault("not an answer of an upscale-server: it is not JSON", status=answer.status) from None


def _error(answer: Answer) -> UpscaleError:
    after = answer.headers.get("retry-after", "")
    facts: dict[str, Any] = {"status": answer.status, "retry_after_s": float(after) if after.isdigit() else None}
    try:
        said = json.loads(answer.data)["error"]
        code, message, wrong = said["code"], said["message"], said["field"]
    except (ValueError, LookupError, TypeError):  # another program's, such as a proxy's
        text = answer.headers.get("location") or answer.data[:200].decode("utf-8", "replace").strip()
        message = f"not an answer of an upscale-server: {answer.status}, {text or 'without text'}"
        return BY_STATUS.get(answer.status, ServerFault)(message, **facts)
    return BY_CODE.get(code, BY_STATUS.get(answer.status, ServerFault))(message, code=code, field=wrong, **facts)


# --- jobs -----------------------------------------------------------------------------------------------------------


def submit(picture: Picture, options: Mapping[str, Any], retries: Retries) -> Flow[Job]:
    raw = yield from call_json(Send("POST", "/jobs", _body(picture, options), repeatable=False), retries)
    return read_job(raw)


def get(job: Job | str, retries: Retries) -> Flow[Job]:
    raw = yield from call_json(Send("GET", _path(job)), retries)
    return read_job(raw)


def wait(job: Job | str, progress: Progress | None, timeout_s: float | None, retries: Retries) -> Flow[Job]:
    """Asks again and again, rather than to listen to the events: that works through every proxy, and goes on after a
    restart of the server. Pauses are a tenth of the time so far, so an end is noticed late by at most that."""
    began, last = time.monotonic(), None
    while True:
        found = yield from get(job, retries)
        if progress is not None and (found.state, found.stage, found.progress) != last:
            last = (found.state, found.stage, found.progress)
            yield Report(progress, found)
        if found.error is not None:
            raise found.error
        if found.ended:
            return found
        passed = time.monotonic() - began
        if timeout_s is not None and passed >= timeout_s:
            raise StillRunning(f"job {found.id} has not ended within {timeout_s:g} s; it is {found.state}", job=found)
        pause = min(max(passed / 10, 0.05), 1.0)
        yield Sleep(pause if timeout_s is None else min(pause, timeout_s - passed))


def cancel(job: Job | str, retries: Retries) -> Flow[Job]:
    raw = yield from call_json(Send("POST", f"{_path(job)}/cancel", repeatable=False), retries)
    return read_job(raw)


def delete(job: Job | str, retries: Retries) -> Flow[None]:
    yield from call(Send("DELETE", _path(job), repeatable=False), retries)


def jobs(state: str | None, limit: int, retries: Retries) -> Flow[list[Job]]:
    query = {"limit": limit} | ({} if state is None else {"state": state})
    raw = yield from call_json(Send("GET", "/jobs", {"params": query}), retries)
    return [read_job(each) for each in raw["jobs"]]


def download(job: Job | str, what: Literal["result", "source"], retries: Retries) -> Flow[bytes]:
    answer = yield from call(Send("GET", f"{_path(job)}/{what}"), retries)
    return answer.data


def save(job: Job | str, to: Path, retries: Retries) -> Flow[Path]:
    yield from call(Send("GET", f"{_path(job)}/result", to=to), retries)
    return to


def upscale(
    picture: Picture,
    options: Mapping[str, Any],
    to: Path | None,
    progress: Progress | None,
    timeout_s: float | None,
    retries: Retries,
) -> Flow[bytes | Path]:
    if to is not None and (to.is_dir() or not to.parent.is_dir()):  # said before the work is done
        raise FileNotFoundError(errno.ENOENT, "name a file in a folder that exists", str(to))
    job = yield from submit(picture, options, retries)
    job = yield from wait(job, progress, timeout_s, retries)
    if to is None:
        return (yield from download(job, "result", retries))
    return (yield from save(job, to, retries))


def plan_body(picture: Picture | None, size: tuple[int, int] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    if picture is not None and size is None:
        return _body(picture, options)
    if picture is None and size is not None:
        return {"json": {**_given(options), "width": size[0], "height": size[1]}}
    raise ValueError("give either a picture or the size of one")


def _path(job: Job | str) -> str:
    return f"/jobs/{quote(job.id if isinstance(job, Job) else job, safe='')}"


# --- bodies ---------------------------------------------------------------------------------------------------------


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _body(picture: Picture, options: Mapping[str, Any]) -> dict[str, Any]:
    """A link is sent as JSON, a file as a form: in base64 it would be a third larger. Raises OSError."""
    if isinstance(picture, str) and picture.startswith(("http://", "https://")):
        return {"json": {**_given(options), "image": picture}}
    name = "picture"
    if isinstance(picture, str | os.PathLike):
        name, picture = Path(picture).name, Path(picture).read_bytes()
    data = picture if isinstance(picture, bytes) else picture.read()
    texts = {option: _text(option, value) for option, value in _given(options).items()}
    return {"files": {"file": (name, data)}, "data": texts}


def _text(option: str, value: Any) -> str:
    """The value of an option in a form."""
    if isinstance(value, bool | dict):
        return json.dumps(value)
    if isinstance(value, tuple | list):
        separator = "x" if option == "size" else ","
        return "#" + bytes(value).hex() if option == "background" else separator.join(map(str, value))
    return str(value)
