"""Machines that share a database must share the pictures too: a worker that can't read a source fails its job."""

import socket

import structlog
from sqlalchemy import Engine

from server.blobs.folder import folder_id
from server.config import Config
from server.db.jobs import Jobs
from server.db.shared import replace_shared, shared_value

log = structlog.get_logger()

_NAME = "picture_store"
_FOLDER = "folder"


def other_store(config: Config, engine: Engine, jobs: Jobs) -> str | None:
    """Note in a PostgreSQL database where this machine stores pictures. If another place was noted: why this machine
    must not start, in one line; else None.

    A folder that several machines mount, or that was moved to this one as a whole, is the same folder. A bucket may
    replace another place while no worker is running.
    """
    if engine.dialect.name == "sqlite":
        return None
    here = f"{socket.gethostname()}:{config.blobs_dir}"
    mine = config.blob_url or f"{_FOLDER} {folder_id(config.blobs_dir)} {here}"
    noted = shared_value(engine, _NAME, lambda: mine)
    if _identity(noted) == _identity(mine):
        return None
    place = f"in the folder {noted.split(' ', 2)[2]}" if noted.startswith(f"{_FOLDER} ") else f"in {noted}"
    if not config.blob_url:
        return (
            f"the pictures of this database are {place}, and this machine would store them in its own folder: "
            "set UPSCALE_BLOB_URL to the same bucket on all machines, see docs/cluster.md"
        )
    if jobs.live_workers():
        return f"the pictures of this database are {place}, and workers use it: stop them first, see docs/cluster.md"
    log.warning("the pictures of this database are stored in another place from now on", before=place, now=mine)
    replace_shared(engine, _NAME, mine)
    return None


def _identity(store: str) -> list[str]:
    """A folder keeps its id when it is moved; the rest is for the operator to read."""
    return store.split(" ")[:2]
