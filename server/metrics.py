"""What Prometheus reads: requests as they are answered, the job table as it stands, and jobs as they end.

Counters are this process's own and begin at 0 with it. Every ended job is counted once, whoever ran it; one that its
caller deletes within `COUNT_S` of its end may be missed. Workers are other processes: of what happens inside them only
what their results tell is here.
"""

import threading
import time
from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from server.job import Job, State
from server.jobs import Jobs

CONTENT_TYPE = CONTENT_TYPE_LATEST
COUNT_S = 10.0
"""How often ended jobs are to be counted, also when nobody asks."""

_LATE_S = 60.0
"""A job's end is written this much later than it is dated, at most."""
_STAGE_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_JOB_BUCKETS_S = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0)


class Metrics:
    """Of one API process; for any thread."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._counting = threading.Lock()
        self._since = time.time()
        self._counted: set[str] = set()
        registry = CollectorRegistry()
        registry.register(_Table(jobs))
        ProcessCollector(registry=registry)
        self._registry = registry
        self._requests = Counter(
            "upscale_requests", "HTTP requests answered.", ["dialect", "method", "status"], registry=registry
        )
        self._ended = Counter(
            "upscale_jobs_ended",
            "Jobs that have ended; code says why they failed.",
            ["dialect", "state", "code"],
            registry=registry,
        )
        self._repeated = Counter(
            "upscale_jobs_repeated", "Attempts lost to workers that died, of jobs that have ended.", registry=registry
        )
        self._job_seconds = Histogram(
            "upscale_job_seconds",
            "From submit to result, of jobs that succeeded.",
            ["dialect"],
            buckets=_JOB_BUCKETS_S,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "upscale_stage_seconds",
            "Steps of the pipeline, of jobs that succeeded.",
            ["stage"],
            buckets=_STAGE_BUCKETS_S,
            registry=registry,
        )
        self._network_pixels = Counter(
            "upscale_network_pixels",
            "Pixels that networks were fed, by the first network of a mix.",
            ["model"],
            registry=registry,
        )

    def answered(self, dialect: str, method: str, status: int) -> None:
        self._requests.labels(dialect, method, status).inc()

    def count_ended(self) -> None:
        """Count the jobs that have ended since the last time."""
        with self._counting:
            found = self._jobs.ended_since(self._since)
            for job in found:
                if job.id not in self._counted:
                    self._count(job)
            self._counted = {job.id for job in found}
            latest = max((job.finished_at or 0.0 for job in found), default=0.0)
            self._since = max(self._since, latest - _LATE_S)

    def text(self) -> bytes:
        """In the text format, of the type `CONTENT_TYPE`."""
        self.count_ended()
        return generate_latest(self._registry)

    def _count(self, job: Job) -> None:
        self._ended.labels(job.dialect, job.state.value, job.error_code or "").inc()
        self._repeated.inc(max(0, job.attempt - 1))
        if job.result is None or job.finished_at is None:
            return
        self._job_seconds.labels(job.dialect).observe(job.finished_at - job.created_at)
        for stage, seconds in job.result.seconds.items():
            self._stage_seconds.labels(stage).observe(seconds)
        self._network_pixels.labels(job.result.model.split(" ")[0]).inc(job.result.network_pixels)


class _Table(Collector):
    """What the tables say at the moment."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def describe(self) -> Iterator[Metric]:
        return iter(())  # else the registry would read the tables to learn the names

    def collect(self) -> Iterator[Metric]:
        backlog = self._jobs.backlog()
        unended = GaugeMetricFamily("upscale_jobs", "Jobs that have not ended.", labels=["dialect", "state"])
        for each in backlog:
            unended.add_metric([each.dialect, each.state.value], each.jobs)
        yield unended
        oldest = min((each.oldest_at for each in backlog if each.state is State.QUEUED), default=None)
        age = 0.0 if oldest is None else max(0.0, time.time() - oldest)
        yield GaugeMetricFamily("upscale_queue_age_seconds", "How long the oldest queued job has waited.", value=age)
        workers = GaugeMetricFamily("upscale_workers", "Workers heard of within a lease.", labels=["kind", "ready"])
        tally = Tally((each.kind, each.ready) for each in self._jobs.live_workers())
        for (kind, ready), number in sorted(tally.items()):
            workers.add_metric([kind, str(ready).lower()], number)
        yield workers
