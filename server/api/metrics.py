"""Metrics for Prometheus: answered requests, the present state of the job table, and ended jobs.

Counters are those of this process and begin at 0. Every ended job is counted once, by whichever worker it ran; one that
is deleted within `COUNT_S` of its end may be missed. Where several machines share a database, each counts its own
requests; what is in the tables is counted and shown by their leader only (db/notify.py), so that the sum over all
machines is right. Jobs that end in the seconds between two leaders may be missed. Workers are other processes: they
report their counters with their heartbeats, and the differences are added here; the last few seconds of a worker that
dies may be missing.
"""

import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from server.db.deliveries import DEAD, PENDING, Deliveries
from server.db.figures import Ended
from server.db.jobs import Jobs
from server.job.job import State
from server.service.timed_cache import TimedCache

CONTENT_TYPE = CONTENT_TYPE_LATEST
COUNT_S = 10.0
"""How often ended jobs are counted, whether or not metrics are read."""

_LATE_S = 60.0
"""A job's row may be written at most this much later than the end time in it."""
_BYTES = "_bytes"
"""Ending of the names of memory measurements of workers."""
_GPU_METRICS = {
    "gpu_utilisation_ratio": "Share of the last second in which the GPU had work.",
    "gpu_memory_used_bytes": "Memory of the GPU that all processes take.",
    "gpu_memory_total_bytes": "Memory of the GPU.",
    "gpu_temperature_celsius": "Of the GPU.",
    "gpu_throttled": "1 if heat or lack of power slows the GPU down.",
}
"""What workers read from a GPU's driver. Each is a metric of its own."""
_PRESENT = ("jobs_in_hand", "graphs", *_GPU_METRICS)
"""Other values of the moment; all others are counts since the worker's start."""
_STAGE_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_JOB_BUCKETS_S = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0)


class Metrics:
    """Of one API process; for any thread."""

    def __init__(self, jobs: Jobs, deliveries: Deliveries, is_leader: Callable[[], bool] = lambda: True) -> None:
        self._jobs = jobs
        self._is_leader = is_leader
        self._counting = threading.Lock()
        self._reported: dict[str, Mapping[str, float]] | None = None
        self._counted_at = time.monotonic()
        self._counted: dict[str, float] = {}
        """Ids of the jobs that ended recently and must not be counted again, with the time of their last sighting."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._registry = registry
        self._shared = CollectorRegistry()
        """What all machines have together."""
        self._shared.register(_Table(jobs, deliveries))
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
        self._results = Counter(
            "upscale_results", "Results made, by the first network of a mix.", ["model", "format"], registry=registry
        )
        self._worker_events = Counter(
            "upscale_worker_events", "What workers have counted, all of them together.", ["event"], registry=registry
        )
        self._removed = Counter("upscale_removed", "Pictures removed by cleanup.", ["reason"], registry=registry)
        self._removed_bytes = Counter("upscale_removed_bytes", "Their size.", ["reason"], registry=registry)
        self._stored = Gauge("upscale_stored_pictures", "Sources, results and uploads.", registry=self._shared)
        self._stored_bytes = Gauge("upscale_stored_bytes", "Their size.", registry=self._shared)
        self._disk_free = Gauge("upscale_disk_free_bytes", "Of this machine's disk.", registry=registry)
        self._look_at_ended()  # what ended before this process began is not counted

    def answered(self, dialect: str, method: str, status: int) -> None:
        self._requests.labels(dialect, method, status).inc()

    def removed(self, reason: str, sizes: Sequence[int]) -> None:
        """Cleanup has removed pictures of these sizes in bytes."""
        self._removed.labels(reason).inc(len(sizes))
        self._removed_bytes.labels(reason).inc(sum(sizes))

    def stored(self, pictures: int, size: int) -> None:
        """Stored pictures and their size in bytes."""
        self._stored.set(pictures)
        self._stored_bytes.set(size)

    def disk(self, free: int) -> None:
        """The free space of this machine's disk in bytes."""
        self._disk_free.set(free)

    def count(self) -> None:
        """Add what has happened since the last call: ended jobs, and counters of workers."""
        if not self._is_leader():
            with self._counting:  # should this process become the leader, it counts from then on
                self._look_at_ended()
                self._reported = None
            return
        self._count_ended()
        self._count_workers()

    def _count_ended(self) -> None:
        """Count the jobs that have ended since the last look."""
        with self._counting:
            for each in self._jobs.figures.ended(self._look_at_ended()):
                self._count(each)

    def _look_at_ended(self) -> list[str]:
        """The ids of the jobs of the last `_LATE_S` that no look before has seen."""
        # Seconds, not a time: clocks may have been set back since this process began.
        found = self._jobs.figures.ended_within(_LATE_S + time.monotonic() - self._counted_at, _LATE_S)
        self._counted_at = time.monotonic()
        new = [each for each in found if each not in self._counted]
        self._counted |= dict.fromkeys(found, self._counted_at)
        while self._counted and next(iter(self._counted.values())) < self._counted_at - 3 * _LATE_S:
            del self._counted[next(iter(self._counted))]
        return new

    def text(self) -> bytes:
        """In the text format of `CONTENT_TYPE`."""
        self.count()
        own = generate_latest(self._registry)
        return own + generate_latest(self._shared) if self._is_leader() else own

    def _count_workers(self) -> None:
        with self._counting:
            found = {each.id: each.counters for each in self._jobs.live_workers()}
            for name, counters in found.items() if self._reported is not None else ():
                before = self._reported.get(name, {}) if self._reported else {}
                for event, number in counters.items():
                    if event not in _PRESENT and not event.endswith(_BYTES):
                        self._worker_events.labels(event).inc(max(0.0, number - before.get(event, 0.0)))
            # Counts from before this process began are not added.
            self._reported = {**(self._reported or {}), **found}

    def _count(self, job: Ended) -> None:
        self._ended.labels(job.dialect, job.state, job.error_code or "").inc()
        self._repeated.inc(max(0, job.attempt - 1))
        if job.result is None:
            return
        self._job_seconds.labels(job.dialect).observe(max(0.0, job.finished_at - job.created_at))
        for stage, seconds in job.result["seconds"].items():
            self._stage_seconds.labels(stage).observe(seconds)
        model = job.result["model"].split(" ")[0]
        self._network_pixels.labels(model).inc(job.result.get("network_pixels", 0))
        self._results.labels(model, job.result["format"]).inc()


class _Table(Collector):
    """The present state of the tables."""

    def __init__(self, jobs: Jobs, deliveries: Deliveries) -> None:
        self._jobs = jobs
        self._deliveries = deliveries
        self._backlog = TimedCache(jobs.figures.backlog)

    def describe(self) -> Iterator[Metric]:
        return iter(())  # otherwise the registry would read the tables to learn the names

    def collect(self) -> Iterator[Metric]:
        backlog = self._backlog.get()
        unended = GaugeMetricFamily("upscale_jobs", "Jobs that have not ended.", labels=["dialect", "state"])
        for each in backlog:
            unended.add_metric([each.dialect, each.state.value], each.jobs)
        yield unended
        oldest = min((each.oldest_at for each in backlog if each.state is State.QUEUED), default=None)
        age = 0.0 if oldest is None else max(0.0, time.time() - oldest)
        yield GaugeMetricFamily("upscale_queue_age_seconds", "How long the oldest queued job has waited.", value=age)
        workers = GaugeMetricFamily(
            "upscale_workers", "Workers whose last report is younger than a lease.", labels=["kind", "ready"]
        )
        live = self._jobs.live_workers()
        tally = Tally((each.kind, each.ready) for each in live)
        for (kind, ready), number in sorted(tally.items()):
            workers.add_metric([kind, str(ready).lower()], number)
        yield workers
        memory = GaugeMetricFamily("upscale_worker_bytes", "What workers measure.", labels=["worker", "what"])
        items = GaugeMetricFamily("upscale_worker_items", "What workers have at hand.", labels=["worker", "what"])
        gpus = {
            name: GaugeMetricFamily(f"upscale_{name}", text, labels=["worker"]) for name, text in _GPU_METRICS.items()
        }
        for worker in live:
            for what, number_now in worker.counters.items():
                if what in gpus:
                    gpus[what].add_metric([worker.id], number_now)
                elif what.endswith(_BYTES):
                    memory.add_metric([worker.id, what.removesuffix(_BYTES)], number_now)
                elif what in _PRESENT:
                    items.add_metric([worker.id, what], number_now)
        yield memory
        yield items
        yield from gpus.values()
        pending = GaugeMetricFamily(
            "upscale_deliveries", "Webhooks and results to be sent, or given up.", labels=["state"]
        )
        counts = self._deliveries.counts()
        for state in (PENDING, DEAD):
            pending.add_metric([state], counts.get(state, 0))
        yield pending
