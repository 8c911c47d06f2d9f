"""What a dialect must offer.

A dialect is one HTTP API that this server speaks, as a package of this folder:

    translate.py   pure: a request → Params and Source, a Job → the vendor's body
    routes.py      its endpoints
    openapi.py     their description

Only the dialect knows its vendor's terms. The work is done by `service`; failures are raised as one of `server.errors`
and translated by `to_error`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from server.api.openapi.base import Described
from server.errors import UpscaleError
from server.job.job import Job

if TYPE_CHECKING:
    from fastapi import APIRouter

ALLOW_LARGE = "upscale.allow_large_messages"
"""Name of the extension in a WebSocket's scope that allows large messages, once the caller is known; see
server/api/protocol.py."""


class Dialect(Protocol):
    NAME: str
    """Stored in each job's row: the dialect that the job came through, in which it is answered."""
    PREFIXES: tuple[str, ...]
    """Its paths. Any error there and below, also where there is no route, is answered by its `to_error`. Of several
    dialects the one with the longest prefix answers; `/v1/`, with a slash at its end, is what is below `/v1` alone."""
    router: "APIRouter"
    """Its endpoints. What they need for as long as the app runs is the router's `lifespan`."""

    @property
    def openapi(self) -> Described:
        """A module. A property, because attributes of protocols must have exactly the same type."""

    def to_error(self, error: UpscaleError) -> tuple[dict[str, Any], int]:
        """The vendor's own form of an error: JSON body and HTTP status."""


@runtime_checkable
class WithChallenge(Dialect, Protocol):
    """A dialect whose clients send a key otherwise than as `Bearer KEY`."""

    CHALLENGE: str
    """`WWW-Authenticate` of an answer 401. NOTE: a browser asks its user for a password when it sees `Basic`."""


@dataclass(frozen=True)
class Webhook:
    """What one attempt to send a webhook posts."""

    body: bytes
    headers: dict[str, str]


@runtime_checkable
class WithWebhooks(Dialect, Protocol):
    """A dialect whose jobs may have a `deliveries.WEBHOOK`. When a failed one is sent again: `webhooks.RETRIES`."""

    def to_webhook(self, job: Job, base_url: str, secret: bytes) -> Webhook | None:
        """For a job that has ended; called again for each attempt. None: nothing is sent for this end.

        `secret` is the server's own: callers verify with `webhook_secret.webhook_secret(secret, job.owner)`.
        """


@runtime_checkable
class WithNews(WithWebhooks, Protocol):
    """A dialect that also reports on jobs that run: those that have a `deliveries.NEWS`."""

    def to_news(self, job: Job, base_url: str, secret: bytes, number: int) -> Webhook | None:
        """The `number`-th message on a running job, from 1; asked for again every half second. It is not sent if its
        body is that of the one before. None: nothing is sent now."""
