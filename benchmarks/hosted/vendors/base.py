"""What a service must offer to be compared: its words as pure functions. `line.py` sends, times and repeats."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

JSON = dict[str, Any]

Way = Literal["upload", "form", "url", "inline"]
"""How a picture gets there: uploaded before, as a file of the submit, by its address, or as a data URI in the JSON."""


class Unclear(Exception):
    """An answer that is none of those the vendor documents; the text says what came."""


@dataclass(frozen=True)
class Sent:
    """A picture as it goes out: the same bytes to every service."""

    name: str
    """Of the file, with its suffix."""
    data: bytes
    mime: str
    width: int
    height: int


@dataclass(frozen=True)
class Order:
    """What is wanted. Services that know sizes only take `target`, those that know factors only take `scale`."""

    scale: float
    target: str
    """2k, 4k or 8k."""
    format: str
    """jpeg, png or webp."""
    task: str
    """A UUID: the caller's own name for the job. The same when a submit is repeated."""
    sync: bool = False
    """Wait within the submit, where the API has that; otherwise ask again and again."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Put over what we would send; None leaves a field out."""


@dataclass(frozen=True)
class Ask:
    """One request to the service's API."""

    method: str
    path: str
    body: Any = None
    """JSON, or None."""
    file: Sent | None = None
    """Sent as the form field `part`; `body` are then the other fields."""
    part: str = "file"
    """Of the form, that is the file."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What an answer says of the job."""

    state: Literal["waiting", "done", "failed"]
    job: str = ""
    """The service's name for it."""
    url: str = ""
    """Of the result, when done."""
    why: str = ""
    """When failed."""
    cost: float | None = None
    """USD, if the answer tells."""


class Api(Protocol):
    """The wire as an upload needs it. Both repeat what can be repeated, and raise line.Broken."""

    def ask(self, ask: Ask) -> Any:
        """The JSON of the answer."""

    def put(self, url: str, headers: Mapping[str, str], data: bytes) -> None:
        """To an address that is itself the permission: the key does not go along."""


@dataclass(frozen=True)
class Price:
    """What is published, where answers don't tell."""

    usd: float
    per: str
    """Where that stands, and for what."""


@dataclass(frozen=True)
class Vendor:
    name: str
    base_url: str
    """The vendor's own."""
    key: str
    """Environment variable of the key, as the vendor's own clients call it."""
    by: Literal["target", "scale"]
    """What says how large the result is to be."""
    ways: tuple[Way, ...]
    """From the best."""
    submit: Callable[[str | Sent, Order], Ask]
    """`image`: an address, data URI or upload's name; the picture itself for the way "form"."""
    accepted: Callable[[Any], Seen]
    """Of the answer to a submit."""
    poll: Callable[[str, Order], Ask]
    """By the job's name. To our own base address, never to one that an answer named: the key goes along."""
    read: Callable[[Any], Seen]
    """Of the answer to a poll."""
    upload: Callable[[Api, Sent], str] | None = None
    """Returns what `image` is then."""
    quote: Callable[[str | Sent, Order], Ask] | None = None
    """Asks what the job costs, free of charge."""
    quoted: Callable[[Any], float] | None = None
    price: Price | None = None
    scales: tuple[float, float] = (0.0, 10.0)
    """Least (excluded) and greatest factor."""
    whole_scales: bool = False


def data_uri(picture: Sent) -> str:
    return f"data:{picture.mime};base64,{base64.b64encode(picture.data).decode()}"


def merged(body: JSON, fields: Mapping[str, Any]) -> JSON:
    return {name: value for name, value in {**body, **fields}.items() if value is not None}


def seen(words: Mapping[str, str], status: Any, **facts: Any) -> Seen:
    """`words`: the vendor's statuses → ours. Raises Unclear."""
    state = words.get(status) if isinstance(status, str) else None
    if state == "waiting":
        return Seen("waiting", job=facts.get("job", ""), cost=facts.get("cost"))
    if state == "done":
        if not facts.get("url"):
            raise Unclear("it says that the job is done, but not where the result is")
        return Seen("done", **{name: value for name, value in facts.items() if name != "why"})
    if state == "failed":
        return Seen("failed", job=facts.get("job", ""), why=str(facts.get("why") or f"status {status!r}"))
    raise Unclear(f"status {status!r}")
