"""Removes pictures that are no longer needed, for these reasons:

    expired   the storage time of its job or upload is over
    quota     the oldest ones, while all pictures together take more than `Config.keep_bytes`
    orphan    a picture without a job or upload: a process was killed between writing the one and the other
    part      an unfinished file of a killed process

Pictures of jobs that have not ended are never removed, so they may exceed the quota.
"""

import time
from collections.abc import Callable, Iterable, Sequence

import structlog

from server.api.metrics import Metrics
from server.blobs.base import Blobs
from server.config import Config
from server.db.jobs import Jobs
from server.db.uploads import Upload, Uploads
from server.job.job import Job
from server.service.service import Service

log = structlog.get_logger()

CLEANUP_S = 60.0
"""Pause between two runs, unless there is more to remove."""
_ORPHAN_S = 86400.0
"""Age from which a picture without a row is an orphan. NOTE: `keep_s` counts if it is longer: with a restored or a
wrong database all pictures look like orphans, and operators need time to notice."""
_BATCH = 100
"""Jobs or uploads that are removed in one run."""


class Cleanup:
    def __init__(
        self,
        config: Config,
        service: Service,
        jobs: Jobs,
        uploads: Uploads,
        blobs: Blobs,
        metrics: Metrics,
        is_leader: Callable[[], bool] = lambda: True,
    ) -> None:
        """`is_leader`: this process cleans up for all machines; others remove only their own machine's parts."""
        self._config = config
        self._service = service
        self._jobs = jobs
        self._uploads = uploads
        self._blobs = blobs
        self._metrics = metrics
        self._count = self._bytes = 0
        """What is stored, as last listed, less what was removed since."""
        self._list_at = 0.0
        """By the monotonic clock."""
        self._is_leader = is_leader

    def once(self) -> bool:
        """One run. True when there is more to remove."""
        self._note("part", self._blobs.remove_partial())
        self._metrics.disk(self._blobs.free_bytes())
        if not self._is_leader():
            return False
        self._jobs.end_abandoned()
        if time.monotonic() >= self._list_at:
            self._list()
            self._list_at = time.monotonic() + self._blobs.list_s
        more = self._remove_expired()
        more = self._remove_over_quota() or more
        self._metrics.stored(self._count, self._bytes)
        return more

    # --- internal ---------------------------------------------------------------------------------------------------

    def _list(self) -> None:
        """Count what is stored, and remove what is an orphan."""
        before = time.time() - max(_ORPHAN_S, self._config.keep_s)
        old: dict[str, int] = {}
        self._count = self._bytes = 0
        for page in self._blobs.list():
            self._count += len(page)
            self._bytes += sum(each.size for each in page.values())
            old |= {key: each.size for key, each in page.items() if each.stored_at < before}
        if not old:
            return
        # Queried after the blobs were listed: a picture that got its row in between is not an orphan.
        orphans = sorted(old.keys() - self._jobs.keys() - self._uploads.keys())
        self._blobs.delete(*orphans)
        self._removed("orphan", [old[key] for key in orphans])

    def _remove_expired(self) -> bool:
        expired = self._jobs.expired(self._config.keep_s, _BATCH)
        sizes = self._sizes(key for job in expired for key in job.keys)
        for job in expired:
            self._service.delete(job)
        uploads = self._uploads.expired()
        sizes += self._sizes(uploads)
        for key in uploads:
            self._uploads.remove(key)
        self._removed("expired", sizes)
        return len(expired) == _BATCH

    def _remove_over_quota(self) -> bool:
        over = self._bytes - self._config.keep_bytes if self._config.keep_bytes else 0
        if over <= 0:
            return False
        # The oldest of both kinds together are among the oldest of each.
        both: list[Job | Upload] = [*self._jobs.oldest_ended(_BATCH), *self._uploads.oldest(_BATCH)]
        sizes: list[int] = []
        for each in sorted(both, key=_stored_since)[:_BATCH]:
            if sum(sizes) >= over:
                break
            sizes += self._sizes(each.keys if isinstance(each, Job) else [each.key])
            if isinstance(each, Job):
                self._service.delete(each)
            else:
                self._uploads.remove(each.key)
        self._removed("quota", sizes)
        if not both:
            log.warning("over the quota", over_bytes=over, stored_bytes=self._bytes)
        return bool(both) and sum(sizes) < over

    def _sizes(self, keys: Iterable[str]) -> list[int]:
        """Of those that exist, in bytes."""
        return [found.size for key in keys if (found := self._blobs.stat(key)) is not None]

    def _removed(self, reason: str, sizes: Sequence[int]) -> None:
        # What came after the listing was not counted.
        self._count, self._bytes = max(0, self._count - len(sizes)), max(0, self._bytes - sum(sizes))
        self._note(reason, sizes)

    def _note(self, reason: str, sizes: Sequence[int]) -> None:
        self._metrics.removed(reason, sizes)
        if sizes:
            log.info("pictures removed", reason=reason, files=len(sizes), bytes=sum(sizes))


def _stored_since(each: Job | Upload) -> float:
    return each.created_at if isinstance(each, Upload) else each.finished_at or each.created_at
