"""Lets the server's workers upscale files: each is a job in its table.

A job is named after its source, the source's state and what is wanted. So a command that is run again finds the jobs of
the run before, and only waits for them.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.cli.here import Where, write_certificate
from server.cli.run import Show, say
from server.cli.sources import Task, read
from server.errors import BY_CODE, JobFailed, NotFound, TooManyRequests, Unavailable
from server.job.job import Job, Params

if TYPE_CHECKING:
    from server.config import Config
    from server.db.jobs import Jobs
    from server.service.service import Service

OWNER = "batch"
"""Of these jobs. No key of a caller has that name, so they are nobody else's."""
_DIALECT = "native"
_AHEAD = 32
"""Jobs that are in the table at a time, so that many workers have work."""
_POLL_S = 0.25
_AGAIN_S = 2.0
_PATIENCE_S = 60.0
"""How long a database or a store that fails is waited for."""
_KEEP_S = 86400.0
"""After its end a job waits for so long to be collected by a command that is run again."""
_PIECE = 1 << 20


@dataclass(frozen=True)
class _Pending:
    """A task whose job is in the table, or the error because of which it never will be."""

    job_id: str = ""
    error: Exception | None = None


class Queued:
    """`make` is a `run.Make`; it must be called for the tasks in their order."""

    def __init__(
        self,
        config: "Config",
        params: Params,
        mask: bytes,
        tasks: Sequence[Task],
        names: Mapping[Path, str],
        where: Where,
    ) -> None:
        """`mask`: the file of the mask's picture, if `params` has one. `names`: a text for each task's source that
        changes when its content does. Raises BadConfig."""
        self._params = params
        self._mask = mask
        self._tasks = tasks
        self._names = names
        self._where = where
        self._service, self._jobs = _open(config)
        self._service.check_models(params)
        self._pending: dict[Path, _Pending] = {}
        self._made = self._next = 0
        if not self._service.workers():
            say(["note: no worker is running; the jobs wait for one"])

    def close(self) -> None:
        self._service.stop_readers()

    def make(self, task: Task, show: Show) -> dict[str, Any]:
        self._made += 1
        deadline = time.monotonic() + _PATIENCE_S
        while task.source not in self._pending:
            if (error := self._submit_next()) is None:
                continue
            if not isinstance(error, TooManyRequests) and time.monotonic() > deadline:
                raise error
            time.sleep(_AGAIN_S)
        pending = self._pending.pop(task.source)
        if pending.error is not None:
            raise pending.error
        return self._collect(task, self._ended(pending.job_id, show))

    def _ended(self, job_id: str, show: Show) -> Job:
        from server.errors.transient import retried

        while True:
            job = retried(lambda: self._jobs.get(job_id), _PATIENCE_S)
            if job.state.final:
                return job
            eta = retried(partial(self._service.eta, job), _PATIENCE_S)
            show(job.progress, job.stage or "queued", None if eta is None else eta.seconds)
            if self._next >= min(len(self._tasks), self._made + _AHEAD) or self._submit_next() is not None:
                time.sleep(_POLL_S)

    def _collect(self, task: Task, job: Job) -> dict[str, Any]:
        """Store the result of an ended job. Returns what `--json` prints about it."""
        from server.errors.transient import retried

        if job.result is None:
            raise BY_CODE.get(job.error_code or "", JobFailed)(job.error_message or f"the job was {job.state.value}")
        result = job.result
        with self._where.result(task.result) as partial:

            def copy() -> None:
                with closing(self._service.blobs.open(result.key)) as reader, partial.open("wb") as file:
                    for start in range(0, reader.size, _PIECE):
                        file.write(reader.read(start, _PIECE))

            retried(copy, _PATIENCE_S)
            figures = dict(result.certificate or {})
            if heat_key := figures.pop("heat_map", None):
                heat_map = retried(lambda: self._service.blobs.get(heat_key), _PATIENCE_S)
                write_certificate(self._where, task.result, figures, heat_map)
        facts = result.to_dict() | {"steps": result.seconds, "seconds": 0.0, "job": job.id}
        facts["certificate"] = figures or None  # without the key, which gives access to a picture
        return {name: value for name, value in facts.items() if name not in ("key", "cost") and value is not None}

    def _submit_next(self) -> Exception | None:
        """Put the next task into the table, or find it there. Returns why that is not possible now."""
        from server.errors.transient import transient_error

        task = self._tasks[self._next]
        try:
            self._pending[task.source] = _Pending(self._submit(task))
        except (TooManyRequests, Unavailable) as error:
            return error
        except Exception as error:
            if transient_error(error) is not None:
                return error
            self._pending[task.source] = _Pending(error=error)
        self._next += 1
        return None

    def _submit(self, task: Task) -> str:
        """Returns the id of its job. Raises what `Service.submit` raises, and OSError."""
        from server.outbound.source import Source

        mask = hashlib.sha256(self._mask).hexdigest()
        wanted = json.dumps([str(task.source), self._names[task.source], self._params.to_dict(), mask], sort_keys=True)
        name = hashlib.sha256(wanted.encode("utf-8", "surrogateescape")).hexdigest()
        try:
            found = self._service.find(OWNER, _DIALECT, name)
        except NotFound:
            pass
        else:
            if not found.state.final or (found.result is not None and self._service.blobs.has(found.result.key)):
                return found.id
            self._service.delete(found)  # it failed, or its result has expired: once more
        with self._where.source(task.source) as source:
            self._service.check_file_size(source.stat().st_size)
            data = read(source, self._service.config.max_source_bytes)
        job = self._service.submit(
            dialect=_DIALECT,
            owner=OWNER,
            params=self._params,
            source=Source(data=data),
            mask=Source(data=self._mask) if self._mask else None,
            external_id=name,
            keep_s=_KEEP_S,
        )
        return job.id


def _open(config: "Config") -> tuple["Service", "Jobs"]:
    """Raises BadConfig."""
    from server.blobs import open_blobs
    from server.db.database import is_current, migrate, open_database
    from server.db.jobs import Jobs
    from server.db.uploads import Uploads
    from server.service.service import Service
    from server.weights.catalog import Catalog

    if not is_current(config.database):
        migrate(config.database)
    engine, blobs = open_database(config.database), open_blobs(config)
    jobs = Jobs(engine, lease_s=config.lease_s, max_queue=config.max_queue)
    uploads = Uploads(engine, blobs, keep_s=config.keep_s)
    return Service(config, jobs, uploads, blobs, Catalog.of(config)), jobs
