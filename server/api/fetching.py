"""Fetches the sources of jobs that came with a URL, in the background."""

import os
import secrets
import threading

import structlog

from server.blobs.base import Blobs, new_key
from server.db.jobs import MAX_ATTEMPTS, Jobs
from server.errors import SourceUnreachable, SourceUnreadable, UpscaleError
from server.errors.transient import POSTPONE_S, transient_error
from server.job.job import Job
from server.outbound.source import download_to
from server.service.service import Service

log = structlog.get_logger()

FETCHERS = 24
"""Downloads at a time. They wait for other machines and need few resources. For one owner, and from one host, fewer run
at a time: see db/fairness.py."""
_READ_S = 15.0
"""For reading and storing a picture after its download."""
_MAX_READ = 2
"""Downloaded pictures that are in memory at a time, to be read and stored."""


class Fetcher:
    """The fetches of one API process; for any thread."""

    def __init__(self, service: Service, jobs: Jobs, blobs: Blobs) -> None:
        self._service = service
        self._config = service.config
        self._jobs = jobs
        self._blobs = blobs
        self._name = f"fetch:{os.getpid()}:{secrets.token_hex(4)}"
        self._lease_s = self._config.fetch_timeout_s + _READ_S
        """Longer than the download's own time limit, so that only a dead process loses its lease."""
        self._reading = threading.BoundedSemaphore(_MAX_READ)

    def claim(self) -> Job | None:
        """The next job whose source is to be fetched, for `fetch`."""
        return self._jobs.fetches.claim(self._name, self._lease_s)

    def fetch(self, job: Job) -> None:
        assert job.source_url is not None
        if job.attempt > MAX_ATTEMPTS:
            reason = SourceUnreadable(f"the server's process died {MAX_ATTEMPTS} times while it read this picture")
            self._jobs.fetches.fail(job.id, self._name, reason)
            return
        with structlog.contextvars.bound_contextvars(job=job.id):
            try:
                self._fetch(job, job.source_url)
            except UpscaleError as error:
                log.info("source refused", code=error.code, reason=error.message)
                self._jobs.fetches.fail(job.id, self._name, error)
            except Exception as error:
                if transient_error(error) is not None:
                    log.error("fetching put off", reason=str(error))
                    self._jobs.fetches.postpone(job.id, self._name, POSTPONE_S)
                else:
                    log.exception("fetching broke")
                    self._jobs.fetches.fail(job.id, self._name, SourceUnreachable("the picture could not be fetched"))

    def release(self) -> None:
        """This process ends: other processes may fetch its jobs at once."""
        self._jobs.release(self._name)

    def _fetch(self, job: Job, url: str) -> None:
        key = new_key()
        with self._blobs.scratch() as file:
            download_to(file, url, self._config)
            self._jobs.fetches.hold(job.id, self._name, self._lease_s)
            with self._reading:
                self._jobs.fetches.hold(job.id, self._name, self._lease_s)
                data = file.read()
                left_s, alone_s = self._service.check_source(data, job.params)
                self._blobs.put(key, data)
        if self._jobs.fetches.give(job.id, self._name, key, left_s, alone_s):
            log.info("source fetched", bytes=len(data))
        else:
            self._blobs.delete(key)  # cancelled meanwhile
