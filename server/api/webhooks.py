"""Sends what is pending when a job ends: webhooks in the form of the job's dialect, and results to callers' URLs.

An attempt that gets another status than 2xx, or no answer, is repeated after the pauses of `RETRIES`, each time with a
new message, so that time and signature in it are fresh. After the last attempt the delivery is dead; one to an address
that this server must not call is dead at once.

The worker that ends a job does not know the dialects' terms, so this is part of the API half.
"""

from contextlib import closing, suppress
from dataclasses import dataclass

import structlog

from server.api.dialects import DIALECTS
from server.api.dialects.base import Webhook, WithWebhooks
from server.blobs.base import Blobs
from server.config import Config
from server.db.deliveries import WEBHOOK, Deliveries, Delivery
from server.db.jobs import Jobs
from server.db.webhook_secret import load_secret
from server.errors import NotFound
from server.errors.transient import POSTPONE_S, transient_error
from server.job.formats import FORMATS
from server.job.job import Job
from server.outbound.ssrf import NotAllowed, Unreachable, send

log = structlog.get_logger()

SENDERS = 24
"""Deliveries at a time; for one owner, and to one host, fewer: see db/deliveries.py."""
_CLAIM_S = 10.0
"""The lease while the message is made; then it is extended by the time limit of the attempt."""


@dataclass(frozen=True)
class Retries:
    pauses_s: tuple[float, ...]
    """Pause before each retry; there are as many retries as pauses."""
    timeout_s: float
    """Time limit of one attempt."""


UPLOAD_RETRIES = Retries((1.0, 4.0, 16.0), 120.0)
RETRIES = {
    "wavespeed": Retries((2.0, 10.0, 50.0), 10.0),
    "novita": Retries((1.0, 5.0, 25.0, 125.0, 625.0), 5.0),  # the vendor documents the number, not the pauses
    "runware": Retries((0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0), 5.0),
    "replicate": Retries((1.0, 4.0, 16.0, 60.0, 300.0, 600.0, 900.0), 10.0),
}
"""Of webhooks, by the dialect's NAME; a dialect without a line here has those of uploads."""

_WITH_WEBHOOKS = {each.NAME: each for each in DIALECTS if isinstance(each, WithWebhooks)}


class Sender:
    """For any thread."""

    def __init__(self, jobs: Jobs, deliveries: Deliveries, blobs: Blobs, config: Config) -> None:
        self._jobs = jobs
        self._deliveries = deliveries
        self._blobs = blobs
        self._config = config

    def send_next(self) -> bool:
        """One attempt at one delivery that is due. False when none is due."""
        delivery = self.claim()
        if delivery is not None:
            self.attempt(delivery)
        return delivery is not None

    def claim(self) -> Delivery | None:
        """The next delivery that is due, for `attempt`."""
        return self._deliveries.claim(_CLAIM_S)

    def attempt(self, delivery: Delivery) -> None:
        bound = structlog.contextvars.bound_contextvars(job=delivery.job_id, kind=delivery.kind)
        with bound, suppress(NotFound):  # the job was deleted, and the delivery with it
            self._attempt(delivery, self._jobs.get(delivery.job_id))

    def _attempt(self, delivery: Delivery, job: Job) -> None:
        retries = RETRIES.get(job.dialect, UPLOAD_RETRIES) if delivery.kind == WEBHOOK else UPLOAD_RETRIES
        try:
            self._deliveries.hold(delivery, retries.timeout_s + _CLAIM_S)
            status = self._send(delivery, job, retries.timeout_s)
            if status is not None and not 200 <= status < 300:
                raise Unreachable(f"its server answered {status}")
        except NotAllowed as error:
            self._give_up(delivery, str(error))
        except Unreachable as error:
            self._failed(delivery, retries, str(error))
        except Exception as error:
            if transient_error(error) is not None:  # of our own: this attempt does not count
                log.error("delivery put off", reason=str(error))
                self._deliveries.postpone(delivery, POSTPONE_S)
                return
            log.exception("delivering broke")
            self._failed(delivery, retries, "something went wrong inside the server")
        else:
            self._deliveries.delivered(delivery)
            log.info("nothing to deliver" if status is None else "delivered", attempt=delivery.attempts)

    def _send(self, delivery: Delivery, job: Job, timeout_s: float) -> int | None:
        """The status of the answer. None: for this end of the job nothing is sent."""
        if delivery.kind == WEBHOOK:
            message = self._webhook(job, delivery)
            if message is None:
                return None
            return send("POST", delivery.url, message.body, message.headers, self._config, timeout_s)
        if job.result is None:
            return None
        headers = {"Content-Type": FORMATS[job.result.format].mime}
        with closing(self._blobs.open(job.result.key)) as reader:
            return send("PUT", delivery.url, reader, headers, self._config, timeout_s)

    def _webhook(self, job: Job, delivery: Delivery) -> Webhook | None:
        return _WITH_WEBHOOKS[job.dialect].to_webhook(job, delivery.base_url, load_secret(self._config))

    def _failed(self, delivery: Delivery, retries: Retries, reason: str) -> None:
        if delivery.attempts > len(retries.pauses_s):
            self._give_up(delivery, reason)
            return
        pause_s = retries.pauses_s[delivery.attempts - 1]
        self._deliveries.retry(delivery, pause_s, reason)
        log.info("delivery failed", reason=reason, again_in_s=pause_s)

    def _give_up(self, delivery: Delivery, reason: str) -> None:
        self._deliveries.give_up(delivery, reason)
        log.warning("delivery given up", reason=reason)
