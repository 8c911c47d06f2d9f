"""Removes pictures that are no longer needed, for these reasons:

    expired   the storage time of its job or upload is over
    quota     the oldest ones, while all pictures together take more than `Config.keep_bytes`
    orphan    a picture without a job or upload: a process was killed between writing the one and the other
    part      an unfinished file of a killed process

Pictures of jobs that have not ended are never removed, so they may exceed the quota.
"""

import time
from collections.abc import Callable, Sequence

import structlog

from server.api.metrics import Metrics
from server.blobs.base import Blobs, Stored
from server.config import Config
from server.db.jobs import Jobs
from server.db.uploads import Upload, Uploads
from server.job.job import Job
from server.service.service import Service, pictures_of

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
        self._is_leader = is_leader

    def once(self) -> bool:
        """One run. True when there is more to remove."""
        self._note("part", self._blobs.remove_partial())
        if not self._is_leader():
            return False
        self._jobs.end_abandoned()
        stored = self._blobs.list()
        more = self._remove_expired(stored)
        self._remove_orphans(stored)
        more = self._remove_over_quota(stored) or more
        self._metrics.stored(len(stored), _total(stored), self._blobs.free_bytes())
        return more

    # --- each removes what it deletes from `stored` -----------------------------------------------------------------

    def _remove_expired(self, stored: dict[str, Stored]) -> bool:
        expired = self._jobs.expired(self._config.keep_s, _BATCH)
        for job in expired:
            self._service.delete(job)
        keys = [key for job in expired for key in pictures_of(job)]
        self._note("expired", _take(stored, [*keys, *self._uploads.remove_expired()]))
        return len(expired) == _BATCH

    def _remove_orphans(self, stored: dict[str, Stored]) -> None:
        before = time.time() - max(_ORPHAN_S, self._config.keep_s)
        old = {key for key, each in stored.items() if each.stored_at < before}
        if not old:
            return
        # Queried after the blobs were listed: a picture that got its row in between is not an orphan.
        orphans = sorted(old - self._jobs.keys() - self._uploads.keys())
        for key in orphans:
            self._blobs.delete(key)
        self._note("orphan", _take(stored, orphans))

    def _remove_over_quota(self, stored: dict[str, Stored]) -> bool:
        over = _total(stored) - self._config.keep_bytes if self._config.keep_bytes else 0
        if over <= 0:
            return False
        # The oldest of both kinds together are among the oldest of each.
        both: list[Job | Upload] = [*self._jobs.oldest_ended(_BATCH), *self._uploads.oldest(_BATCH)]
        sizes: list[int] = []
        for each in sorted(both, key=_stored_since)[:_BATCH]:
            if sum(sizes) >= over:
                break
            if isinstance(each, Job):
                self._service.delete(each)
                sizes += _take(stored, pictures_of(each))
            else:
                self._uploads.remove(each.key)
                sizes += _take(stored, [each.key])
        self._note("quota", sizes)
        if not both:
            log.warning("over the quota", over_bytes=over, stored_bytes=_total(stored))
        return bool(both) and sum(sizes) < over

    def _note(self, reason: str, sizes: Sequence[int]) -> None:
        self._metrics.removed(reason, sizes)
        if sizes:
            log.info("pictures removed", reason=reason, files=len(sizes), bytes=sum(sizes))


def _stored_since(each: Job | Upload) -> float:
    return each.created_at if isinstance(each, Upload) else each.finished_at or each.created_at


def _take(stored: dict[str, Stored], keys: Sequence[str]) -> list[int]:
    return [each.size for key in keys if (each := stored.pop(key, None)) is not None]


def _total(stored: dict[str, Stored]) -> int:
    return sum(each.size for each in stored.values())
