"""One service under one address and key: a job, from the first byte sent to the last byte of the result, timed.

The clock starts before an upload, so that services which want one don't look faster than those which take the picture
in the submit. Pauses before a repetition are part of the time: a caller waits through them too.
"""

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar

import httpx

from benchmarks.hosted.vendors.base import Ask, Order, Seen, Sent, Unclear, Vendor, Way, data_uri

REQUEST_S = 60.0
"""A single request without an answer for so long is given up; a synchronous submit may take the job's whole time."""
MAX_RESULT_BYTES = 512 * 1024 * 1024
AGAIN = (429, 500, 502, 503, 504)
"""Statuses after which a request that changes nothing is repeated."""
NOT_TAKEN = (429, 503)
"""After these so is a submit: the job was not accepted. After others it may have been, and would be paid for twice."""
_WORDS = 300
"""Characters of an error's text that are kept."""

Kind = Literal["refused", "failed", "timeout", "unreachable", "unreadable"]
"""refused: the submit or upload; failed: the job or the answer to a poll; unreadable: an answer or result."""
_T = TypeVar("_T")


class Broken(Exception):
    """The job gives no result. The text never has a key in it."""

    def __init__(self, kind: Kind, words: str) -> None:
        super().__init__(words)
        self.kind = kind


@dataclass(frozen=True)
class Entry:
    """A service as it is compared."""

    label: str
    vendor: Vendor
    base_url: str
    way: Way
    inputs_url: str = ""
    """Where the pictures that are sent by address can be fetched from."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    price: float | None = None
    """USD per picture as the user says; above all else."""
    key_variable: str = ""
    key: str = field(default="", repr=False)

    def image(self, picture: Sent) -> str | Sent:
        """What stands in the submit; of the way "upload" it is known after the upload only."""
        if self.way == "form":
            return picture
        return f"{self.inputs_url}/{picture.name}" if self.way == "url" else data_uri(picture)


@dataclass(frozen=True)
class Patience:
    job_s: float = 300.0
    poll_s: float = 0.5
    retries: int = 3
    """Of each request."""


@dataclass(frozen=True)
class Done:
    """What became of a job."""

    seconds: Mapping[str, float]
    """upload, submit, wait, download: those that it got to, one after another."""
    retries: int
    polls: int
    data: bytes = field(default=b"", repr=False)
    cost: float | None = None
    """As the answers told."""
    error: str = ""
    kind: Kind | None = None

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())


class Line:
    """Safe for several threads: each job has a state of its own."""

    def __init__(self, entry: Entry, patience: Patience) -> None:
        self.entry = entry
        self.patience = patience
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        headers = {"Authorization": f"Bearer {entry.key}"} if entry.key else {}
        # What lies at addresses that an answer named is asked for without the key.
        self.api = httpx.Client(base_url=entry.base_url, headers=headers, trust_env=False, limits=limits)
        self.plain = httpx.Client(trust_env=False, limits=limits, follow_redirects=True)

    def close(self) -> None:
        self.api.close()
        self.plain.close()

    def run(self, picture: Sent, order: Order) -> Done:
        """Never raises for what a service does."""
        return _Job(self, replace(order, task=str(uuid.uuid4()), fields=self.entry.fields)).run(picture)

    def quote(self, picture: Sent, order: Order) -> float | None:
        """What a job will cost by the service's own word, in USD; None if it does not say. Uploads the picture."""
        quote, quoted, upload = self.entry.vendor.quote, self.entry.vendor.quoted, self.entry.vendor.upload
        if quote is None or quoted is None:
            return None
        job, order = _Job(self, order), replace(order, fields=self.entry.fields)

        def ask() -> float:
            way_up = upload if self.entry.way == "upload" else None
            image = way_up(job, picture) if way_up else self.entry.image(picture)
            return quoted(job.ask(quote(image, order)))

        try:
            return _understood(ask)
        except Broken:
            return None

    def hide(self, text: str) -> str:
        key = self.entry.key
        return text.replace(key, "(the key)") if key else text


class _Job:
    """One job under way: its clock, its deadline, its retries."""

    def __init__(self, line: Line, order: Order) -> None:
        self._line = line
        self._order = order
        self._deadline = time.monotonic() + line.patience.job_s
        self._last = time.monotonic()
        self._seconds: dict[str, float] = {}
        self._retries = 0
        self._polls = 0
        self._cost: float | None = None

    def run(self, picture: Sent) -> Done:
        vendor, stage = self._line.entry.vendor, "submit"
        try:
            image = self._line.entry.image(picture) if self._line.entry.way != "upload" else ""
            self._last = time.monotonic()
            if self._line.entry.way == "upload" and vendor.upload is not None:
                stage, upload = "upload", vendor.upload
                image = _understood(lambda: upload(self, picture))
                self._lap("upload")
            stage = "submit"
            answer = self._send(vendor.submit(image, self._order), submit=True)
            seen = self._see(_understood(lambda: vendor.accepted(answer)))
            self._lap("submit")
            stage = "wait"
            job = seen.job
            while seen.state == "waiting":
                self._pause(self._line.patience.poll_s if self._polls else 0)
                answer = self.ask(vendor.poll(job, self._order))
                self._polls += 1
                seen = self._see(_understood(lambda: vendor.read(answer)))  # noqa: B023 - called at once
            if seen.state == "failed":
                raise Broken("failed", seen.why)
            self._lap("wait")
            stage = "download"
            data = self._download(seen.url)
            self._lap("download")
        except Broken as broken:
            self._lap(stage)
            kind: Kind = "failed" if broken.kind == "refused" and stage in ("wait", "download") else broken.kind
            words = self._line.hide(" ".join(str(broken).split()))[:_WORDS]
            return Done(self._seconds, self._retries, self._polls, cost=self._cost, error=words, kind=kind)
        return Done(self._seconds, self._retries, self._polls, data, self._cost)

    # --- the wire, also for uploads (vendors.base.Api) ---

    def ask(self, ask: Ask) -> Any:
        return self._send(ask, submit=False)

    def put(self, url: str, headers: Mapping[str, str], data: bytes) -> None:
        plain = self._line.plain
        self._patiently(
            lambda timeout: plain.put(url, headers=dict(headers), content=data, timeout=timeout), submit=False
        )

    def _send(self, ask: Ask, submit: bool) -> Any:
        how: dict[str, Any] = {"json": ask.body} if ask.body is not None else {}
        if ask.file is not None:
            fields = {name: text if isinstance(text, str) else f"{text:g}" for name, text in (ask.body or {}).items()}
            how = {"data": fields, "files": {ask.part: (ask.file.name, ask.file.data, ask.file.mime)}}
        api, headers = self._line.api, dict(ask.headers)
        answer = self._patiently(
            lambda timeout: api.request(ask.method, ask.path, headers=headers, timeout=timeout, **how),
            submit,
            self._line.patience.job_s if submit and self._order.sync else REQUEST_S,
        )
        return _understood(answer.json)

    def _download(self, url: str) -> bytes:
        plain = self._line.plain

        def get(timeout: float) -> httpx.Response:
            with plain.stream("GET", url, timeout=timeout) as answer:
                parts, size = [], 0
                for part in answer.iter_bytes():
                    size += len(part)
                    if size > MAX_RESULT_BYTES:
                        raise Broken("unreadable", f"the result has more than {MAX_RESULT_BYTES} bytes")
                    self._remaining()
                    parts.append(part)
            return httpx.Response(answer.status_code, headers=_kept(answer), content=b"".join(parts))

        return self._patiently(get, submit=False).content

    def _patiently(
        self, send: Callable[[float], httpx.Response], submit: bool, request_s: float = REQUEST_S
    ) -> httpx.Response:
        """A 2xx answer. Raises Broken."""
        left = self._line.patience.retries
        pause = 0.5
        while True:
            wait_s = pause
            try:
                answer = send(min(request_s, self._remaining()))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                problem = Broken("unreachable", str(error) or type(error).__name__)
                again = True
            except httpx.TimeoutException:
                problem = Broken("timeout", f"no answer within {min(request_s, self._line.patience.job_s):g} s")
                again = not submit
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                problem = Broken("unreachable", str(error) or type(error).__name__)
                again = not submit and isinstance(error, httpx.TransportError)
            else:
                if answer.is_success:
                    return answer
                problem = Broken("refused", f"HTTP {answer.status_code}: {_words(answer)}")
                again = answer.status_code in (NOT_TAKEN if submit else AGAIN)
                wait_s = max(wait_s, _retry_after(answer))
            if not again or left == 0:
                raise problem
            left -= 1
            self._retries += 1
            pause *= 2
            if wait_s >= self._remaining():
                raise problem
            self._pause(wait_s)

    def _see(self, seen: Seen) -> Seen:
        if seen.cost is not None:
            self._cost = seen.cost
        return seen

    def _lap(self, name: str) -> None:
        now = time.monotonic()
        self._seconds[name] = now - self._last
        self._last = now

    def _remaining(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise Broken("timeout", f"no result within {self._line.patience.job_s:g} s")
        return left

    def _pause(self, seconds: float) -> None:
        time.sleep(min(seconds, self._remaining()))
        self._remaining()


def _understood(read: Callable[[], _T]) -> _T:
    """Raises Broken where an answer is not what the vendor documents."""
    try:
        return read()
    except (Unclear, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise Broken("unreadable", f"an answer was not understood: {error or type(error).__name__}") from error


def _words(answer: httpx.Response) -> str:
    """The text of an error, wherever the vendors put it."""
    try:
        found = answer.json()
    except ValueError:
        return answer.text or answer.reason_phrase
    if isinstance(found, dict) and isinstance(found.get("errors"), list) and found["errors"]:
        found = found["errors"][0]
    while isinstance(found, dict):
        found = next((found[name] for name in ("message", "error", "detail", "reason") if found.get(name)), answer.text)
    return str(found)


def _retry_after(answer: httpx.Response) -> float:
    """Seconds; 0 if the answer does not say."""
    said = answer.headers.get("Retry-After", "")
    try:
        return float(said) if said.isdigit() else parsedate_to_datetime(said).timestamp() - time.time()
    except ValueError:
        return 0.0


def _kept(answer: httpx.Response) -> dict[str, str]:
    """The body has been decoded already."""
    return {name: value for name, value in answer.headers.items() if name in ("retry-after", "content-type")}
