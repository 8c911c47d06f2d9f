"""What the tables say in the end, and what lies about that they don't name."""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from server.db.database import jobs as job_table
from server.db.database import open_database, reading
from server.db.database import uploads as upload_table
from server.job.job import State
from tests.stress.server_process import Launched

_LATER_S = 10 * 86400.0
"""Longer than anything is kept."""


@dataclass(frozen=True)
class Books:
    """What the tables say."""

    states: Counter[str]
    named: dict[str, int]
    """Files that rows name, and how many do."""
    broken: list[str]
    """Contradictions within."""


def read_books(data_dir: Path) -> Books:
    engine = open_database(f"sqlite:///{data_dir / 'jobs.sqlite3'}")
    named: dict[str, int] = defaultdict(int)
    states: Counter[str] = Counter()
    broken = []
    with reading(engine) as db:
        for row in db.execute(select(job_table)):
            states[row.state] += 1
            result = row.result["key"] if row.result else None
            if (row.state == State.SUCCEEDED.value) != (result is not None):
                broken.append(f"job {row.id} is {row.state}, and its result {result}")
            for key in (row.source_key, result):
                if key:
                    named[key] += 1
        uploads = db.execute(select(upload_table.c.key, upload_table.c.ready)).all()
    engine.dispose()
    broken += [f"{count} jobs have the file {key}" for key, count in named.items() if count > 1]
    blobs = data_dir / "blobs"
    must = set(named) | {row.key for row in uploads if row.ready}
    broken += [f"file {key} is missing" for key in must if not (blobs / key).exists()]
    return Books(states, dict(named) | {row.key: 1 for row in uploads}, broken)


def strays(server: Launched, books: Books) -> list[Path]:
    """Files that belong to no row."""
    folders = (server.data_dir / "blobs", server.temporary)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if path.name not in books.named and not _is_lock(path)]


def _is_lock(path: Path) -> bool:
    """Of the staging folders: one per process, empty, and gone with the next process's start."""
    return path.parent.name == ".staging" and path.stat().st_size == 0


def clean_up(server: Launched, left: list[Path], deadline: float) -> list[Path]:
    """What is still there of them after a start when nothing of theirs is kept any more: they are made to look old."""
    for path in left:
        os.utime(path, (time.time() - _LATER_S,) * 2)
    server.start()
    wait_until(lambda: not any(path.exists() for path in left), deadline)
    server.stop()
    return [path for path in left if path.exists()]


def is_passing(path: Path) -> bool:
    return path.parent.name != "blobs" or "#" in path.name


def all_ended(data_dir: Path) -> bool:
    return all(State(state).final for state in read_books(data_dir).states)


def wait_until(condition: Callable[[], bool], deadline: float) -> bool:
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
