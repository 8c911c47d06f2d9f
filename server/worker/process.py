"""The worker's process: what it is made of, and how it ends."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import structlog
import torch
from sqlalchemy import Engine

from server.blobs import open_blobs
from server.config import Config
from server.db.database import open_database
from server.db.jobs import Jobs, WorkerInfo
from server.db.notify import Listener
from server.errors import UpscaleError
from server.weights.catalog import Catalog
from server.worker.indexer import index
from server.worker.loop import Worker
from server.worker.pools import open_pool
from server.worker.upscaler import Upscaler

log = structlog.get_logger()

_RECYCLE_JOBS = 2000
_RECYCLE_SHARE = 0.6
"""A worker is replaced by a new process after so many jobs, or when it uses this share of the machine's
memory, because libraries may leak memory."""


def _memory_share(workers: int) -> int:
    """_RECYCLE_SHARE of the memory of the machine or container, divided by the number of workers."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    with suppress(OSError, ValueError):  # "max": no limit
        total = min(total, int(limit.read_text()))
    return int(total * _RECYCLE_SHARE / workers)


def run_worker(config: Config, worker_id: str) -> None:
    """The main function of the process. Runs until SIGTERM or SIGINT, at most until it must be replaced. Raises
    Unavailable or ModelNotFound at its start."""
    engine = open_database(config.database)
    jobs = Jobs(engine, lease_s=config.lease_s)
    index(config.weights_path)
    try:
        _run_worker(config, jobs, engine, worker_id)
    except UpscaleError as error:
        # The launcher reads it, and `/readyz` shows it.
        jobs.worker_beat(WorkerInfo(worker_id, config.device, False, problem=error.message))
        raise


def _run_worker(config: Config, jobs: Jobs, engine: Engine, worker_id: str) -> None:
    upscaler, blobs = Upscaler(config, Catalog.of(config), compile_beside=True), open_blobs(config)
    blobs.remove_partial()  # of a worker before it that was killed: there may be no API on this machine
    worker = Worker(
        config,
        jobs,
        blobs,
        upscaler,
        Listener(engine),
        worker_id,
        pool=open_pool(config, upscaler),
        recycle_jobs=_RECYCLE_JOBS,
        recycle_bytes=_memory_share(max(1, config.workers, torch.cuda.device_count())),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    try:
        worker.loop()
    except RuntimeError:
        log.exception("the device is broken")
        os._exit(1)  # at once: a regular exit would wait for the device and fail again
    if worker.is_busy:
        os._exit(0)  # threads are inside libraries that may crash in a regular exit
