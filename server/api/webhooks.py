"""Pays what is owed to callers' own addresses: webhooks in the words of the job's dialect, and results put there.

Above the dialects, because the worker that ends a job must not know their words. An attempt that gets an answer other
than 2xx, or none, is repeated after the pauses below or the dialect's, each time with a request made anew, so that
what it says of time and signature is fresh. After the last one the delivery is dead; so is, at once, one to an address
that this server must not call.
"""

from collections.abc import Sequence
from contextlib import suppress

import structlog

from server.api.dialects import DIALECTS
from server.api.dialects.base import Telling, Webhook
from server.blobs.local import Blobs
from server.config import Config
from server.db.deliveries import WEBHOOK, Deliveries, Delivery
from server.db.jobs import Jobs
from server.db.webhook_secret import load_secret
from server.errors import NotFound
from server.job.formats import FORMATS
from server.job.job import Job
from server.outbound.ssrf import NotAllowed, Unreachable, send

log = structlog.get_logger()

UPLOAD_PAUSES_S = (1.0, 4.0, 16.0)
UPLOAD_TIMEOUT_S = 120.0
_CLAIM_S = 10.0
"""For finding out what is to be sent; then it is held for as long as the sending may take."""

_TELLING = {each.NAME: each for each in DIALECTS if isinstance(each, Telling)}


class Sender:
    def __init__(self, jobs: Jobs, deliveries: Deliveries, blobs: Blobs, config: Config) -> None:
        self._jobs = jobs
        self._deliveries = deliveries
        self._blobs = blobs
        self._config = config

    def send_next(self) -> bool:
        """One attempt at one delivery that is due. False when none is."""
        delivery = self.claim()
        if delivery is not None:
            self.attempt(delivery)
        return delivery is not None

    def claim(self) -> Delivery | None:
        """The next one that is due, for `attempt`."""
        return self._deliveries.claim(_CLAIM_S)

    def attempt(self, delivery: Delivery) -> None:
        bound = structlog.contextvars.bound_contextvars(job=delivery.job_id, kind=delivery.kind)
        with bound, suppress(NotFound):  # deleted since, and this with it
            self._attempt(delivery, self._jobs.get(delivery.job_id))

    def _attempt(self, delivery: Delivery, job: Job) -> None:
        pauses_s: Sequence[float] = UPLOAD_PAUSES_S
        timeout_s = UPLOAD_TIMEOUT_S
        try:
            if delivery.kind == WEBHOOK:
                dialect = _TELLING[job.dialect]
                pauses_s, timeout_s = dialect.WEBHOOK_PAUSES_S, dialect.WEBHOOK_TIMEOUT_S
            self._deliveries.hold(delivery, timeout_s + _CLAIM_S)
            message = self._message(job, delivery)
            if message is not None:
                method = "POST" if delivery.kind == WEBHOOK else "PUT"
                status = send(method, delivery.url, message.body, message.headers, self._config, timeout_s)
                if not 200 <= status < 300:
                    raise Unreachable(f"its server answered {status}")
        except NotAllowed as error:
            self._give_up(delivery, str(error))
        except Unreachable as error:
            self._failed(delivery, pauses_s, str(error))
        except Exception:
            log.exception("delivering broke")
            self._failed(delivery, pauses_s, "something went wrong inside the server")
        else:
            self._deliveries.delivered(delivery)
            event = "delivered" if message is not None else "nothing to deliver"
            log.info(event, attempt=delivery.attempts)

    def _message(self, job: Job, delivery: Delivery) -> Webhook | None:
        """None: nothing is to be sent for this ending."""
        if delivery.kind == WEBHOOK:
            return _TELLING[job.dialect].to_webhook(job, delivery.base_url, load_secret(self._config))
        if job.result is None:
            return None
        return Webhook(self._blobs.path(job.result.key), {"Content-Type": FORMATS[job.result.format].mime})

    def _failed(self, delivery: Delivery, pauses_s: Sequence[float], reason: str) -> None:
        if delivery.attempts > len(pauses_s):
            self._give_up(delivery, reason)
            return
        pause_s = pauses_s[delivery.attempts - 1]
        self._deliveries.retry(delivery, pause_s, reason)
        log.info("delivery failed", reason=reason, again_in_s=pause_s)

    def _give_up(self, delivery: Delivery, reason: str) -> None:
        self._deliveries.give_up(delivery, reason)
        log.warning("delivery given up", reason=reason)
