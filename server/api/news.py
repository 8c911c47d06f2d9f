"""Sends webhooks while jobs run, in the form of the job's dialect: at most every half second, and only what is new.

None is kept or repeated: the next one says more. One that is on its way when the job ends may arrive after the message
on the end, which webhooks.py sends.
"""

import threading
from contextlib import suppress

import structlog

from server.api.dialects import DIALECTS
from server.api.dialects.base import WithNews
from server.config import Config
from server.db.deliveries import Deliveries, Delivery
from server.db.jobs import Jobs
from server.db.webhook_secret import load_secret
from server.errors import NotFound
from server.job.job import Job, State
from server.outbound.ssrf import NotAllowed, Unreachable, send

log = structlog.get_logger()

REPORTERS = 8
"""Messages at a time."""
PAUSE_S = 0.5
"""Between two messages on one job."""
_TIMEOUT_S = 5.0
_CLAIM_S = _TIMEOUT_S + 10.0
_MOST_REMEMBERED = 10_000

_WITH_NEWS = {each.NAME: each for each in DIALECTS if isinstance(each, WithNews)}


class Reporter:
    """For any thread."""

    def __init__(self, jobs: Jobs, deliveries: Deliveries, config: Config) -> None:
        self._jobs = jobs
        self._deliveries = deliveries
        self._config = config
        self._sent: dict[str, bytes] = {}
        """The last body, by delivery. Another process, or this one after forgetting, may send the same once more."""
        self._lock = threading.Lock()

    def claim(self) -> Delivery | None:
        """The next job to report on, for `report`."""
        return self._deliveries.claim_news(_CLAIM_S)

    def report(self, delivery: Delivery) -> None:
        with structlog.contextvars.bound_contextvars(job=delivery.job_id, kind=delivery.kind), suppress(NotFound):
            job = self._jobs.get(delivery.job_id)
            if job.state.final:
                self._end(delivery)
                return
            if job.state is State.QUEUED:  # given back by its worker
                self._deliveries.retry(delivery, PAUSE_S, None)
                return
            try:
                self._deliveries.retry(delivery, PAUSE_S, self._send(delivery, job))
            except NotAllowed as refused:
                log.warning("news given up", reason=str(refused))
                self._end(delivery)

    def _send(self, delivery: Delivery, job: Job) -> str | None:
        """Why the message did not arrive; None also if there is none. Raises NotAllowed."""
        dialect, secret = _WITH_NEWS[job.dialect], load_secret(self._config)
        message = dialect.to_news(job, delivery.base_url, secret, delivery.attempts)
        if message is None or not self._is_new(delivery, message.body):
            return None
        try:
            send("POST", delivery.url, message.body, message.headers, self._config, _TIMEOUT_S)
        except Unreachable as failed:
            return str(failed)
        return None

    def _is_new(self, delivery: Delivery, body: bytes) -> bool:
        with self._lock:
            was = self._sent.get(delivery.id)
            if len(self._sent) >= _MOST_REMEMBERED:  # of jobs that were deleted, or whose end another process saw
                self._sent.clear()
            self._sent[delivery.id] = body
        return was != body

    def _end(self, delivery: Delivery) -> None:
        with self._lock:
            self._sent.pop(delivery.id, None)
        self._deliveries.delivered(delivery)
