"""What is removed without anybody asking: what has expired, what is over the quota, what nobody owns.

    expired   its job, or its upload, has been kept as long as was said
    quota     the oldest, while all pictures together take more than `Config.keep_bytes`
    orphan    a picture without a job or upload: a process was killed between writing the one and the other
    part      what a killed process had begun to write

Of jobs that have not ended nothing is ever removed, so those may keep the whole above its quota.
"""

import time
from collections.abc import Sequence

import structlog

from server.api.metrics import Metrics
from server.blobs.local import Blobs, Kept
from server.config import Config
from server.db.jobs import Jobs
from server.db.uploads import Upload, Uploads
from server.job.job import Job
from server.service.service import Service, pictures_of

log = structlog.get_logger()

_ORPHAN_S = 86400.0
"""No picture waits so long for its row. NOTE: `keep_s`, if longer, holds for orphans too: on a database that was put
back, or is the wrong one, nothing looks owned, and operators want to notice before it is gone."""
_AT_ONCE = 100


class Upkeep:
    def __init__(
        self, config: Config, service: Service, jobs: Jobs, uploads: Uploads, blobs: Blobs, metrics: Metrics
    ) -> None:
        self._config = config
        self._service = service
        self._jobs = jobs
        self._uploads = uploads
        self._blobs = blobs
        self._metrics = metrics

    def once(self) -> bool:
        """End what has lapsed, remove what has to go. True when there is more to remove."""
        self._jobs.sweep()
        self._note("part", self._blobs.sweep())
        kept = self._blobs.kept()
        more = self._remove_expired(kept)
        self._remove_orphans(kept)
        more = self._keep_quota(kept) or more
        self._metrics.stored(len(kept), _total(kept), self._blobs.free_bytes())
        return more

    # --- each takes what it removes out of `kept` -------------------------------------------------------------------

    def _remove_expired(self, kept: dict[str, Kept]) -> bool:
        expired = self._jobs.expired(self._config.keep_s, _AT_ONCE)
        for job in expired:
            self._service.delete(job)
        keys = [key for job in expired for key in pictures_of(job)]
        self._note("expired", _take(kept, [*keys, *self._uploads.remove_expired()]))
        return len(expired) == _AT_ONCE

    def _remove_orphans(self, kept: dict[str, Kept]) -> None:
        before = time.time() - max(_ORPHAN_S, self._config.keep_s)
        old = {key for key, each in kept.items() if each.put_at < before}
        if not old:
            return
        # Asked for after the folder was read: what got its row in between is not taken for an orphan.
        orphans = sorted(old - self._jobs.keys() - self._uploads.keys())
        for key in orphans:
            self._blobs.delete(key)
        self._note("orphan", _take(kept, orphans))

    def _keep_quota(self, kept: dict[str, Kept]) -> bool:
        over = _total(kept) - self._config.keep_bytes if self._config.keep_bytes else 0
        if over <= 0:
            return False
        # The oldest of both kinds together are among the oldest of each.
        both: list[Job | Upload] = [*self._jobs.oldest_ended(_AT_ONCE), *self._uploads.oldest(_AT_ONCE)]
        sizes: list[int] = []
        for each in sorted(both, key=_kept_since)[:_AT_ONCE]:
            if sum(sizes) >= over:
                break
            if isinstance(each, Job):
                self._service.delete(each)
                sizes += _take(kept, pictures_of(each))
            else:
                self._uploads.remove(each.key)
                sizes += _take(kept, [each.key])
        self._note("quota", sizes)
        if not both:
            log.warning("over the quota", over_bytes=over, stored_bytes=_total(kept))
        return bool(both) and sum(sizes) < over

    def _note(self, reason: str, sizes: Sequence[int]) -> None:
        self._metrics.removed(reason, sizes)
        if sizes:
            log.info("pictures removed", reason=reason, files=len(sizes), bytes=sum(sizes))


def _kept_since(each: Job | Upload) -> float:
    return each.created_at if isinstance(each, Upload) else each.finished_at or each.created_at


def _take(kept: dict[str, Kept], keys: Sequence[str]) -> list[int]:
    return [each.size for key in keys if (each := kept.pop(key, None)) is not None]


def _total(kept: dict[str, Kept]) -> int:
    return sum(each.size for each in kept.values())
