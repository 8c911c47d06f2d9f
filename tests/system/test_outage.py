"""A disk that is full or read-only, a database that is locked: callers are asked to come again, and can.

The disks are real ones, of a few megabytes of memory, in a namespace of their own: where the kernel lets nobody make
such, those tests are skipped.
"""

import base64
import errno
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from obstore.exceptions import AlreadyExistsError, GenericError, PermissionDeniedError
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, OperationalError

from server.db.database import jobs, open_database, reading
from server.errors import Unavailable
from server.errors.transient import StoreFailure, transient_error
from tests.api.dialects.submits import SUBMITS
from tests.conftest import LiveServer, MakeConfig, Picture, draw
from tests.outbound.test_source import say, serving

PICTURE = base64.b64encode(draw()).decode()
SMALL_DISK = """
import os, subprocess, sys
from pathlib import Path
data = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(data)], check=True)
from server.api.app import create_app
from server.config import Config
from server.db.database import migrate
from server.logs import configure_logs
from server.service import service
from tests.conftest import serve
configure_logs()
service._OUTAGE_S = 0.2
config = Config(data_dir=data, allow_hosts=("127.0.0.1",))
migrate(config.database)
pictures = config.blobs_dir  # a mount of its own: one with a file open for writing can't be made read-only
pictures.mkdir()
subprocess.run(["mount", "--bind", str(pictures), str(pictures)], check=True)
with serve(create_app(config)) as url:
    print(url, flush=True)
    for line in sys.stdin:
        word, ballast = line.strip(), data / "ballast"
        if word in ("ro", "rw"):
            subprocess.run(["mount", "-o", f"remount,bind,{word}", str(pictures)], check=True)
        else:
            ballast.unlink(missing_ok=True)
            status = os.statvfs(data)
            free = status.f_bavail * status.f_frsize
            keep = {"roomy": free, "low": 16 << 20, "full": 0}[word]
            with ballast.open("wb") as file:
                file.write(bytes(max(0, free - keep)))
        print("done", flush=True)
"""
UNSHARE = ["unshare", "--map-root-user", "--mount"]


def can_mount() -> bool:
    """Whether a disk of memory can be had, in a namespace of its own."""
    try:
        return subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


class SmallDisk:
    """A server whose data folder is a disk of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.client = httpx.Client(base_url=self._line(), trust_env=False, timeout=60)

    def make(self, word: str) -> None:
        """`low`: less is free than callers may fill; `full`: nothing is; `roomy`: enough; `ro` and `rw`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        assert self._line() == "done"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    if not can_mount():
        pytest.skip("this kernel lets nobody mount a disk of memory in a namespace")
    data = tmp_path_factory.mktemp("disk")
    with subprocess.Popen(
        [*UNSHARE, sys.executable, "-c", SMALL_DISK, str(data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        small = SmallDisk(process)
        yield small
        small.client.close()
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize("dialect", SUBMITS)
@pytest.mark.parametrize(
    ("trouble", "over", "said"),
    [
        ("low", "roomy", "the server's disk is full; try again later"),
        ("full", "roomy", "the server's disk is full; try again later"),
        ("ro", "rw", "the server's disk is read-only; try again later"),
    ],
)
def test_a_disk_that_takes_nothing_is_said_in_the_dialects_words_and_passes(
    disk: SmallDisk, dialect: str, trouble: str, over: str, said: str
) -> None:
    submit = SUBMITS[dialect]
    disk.make(trouble)
    try:
        body = submit.body(PICTURE)
        answer = disk.client.post(submit.path, json=body)
        assert (answer.status_code, answer.json()) == (503, submit.error(503, said, body))
        assert answer.headers["Retry-After"] == "10"
        assert disk.client.get("/jobs").status_code == 200, "what is there can still be read"
    finally:
        disk.make(over)
    assert disk.client.post(submit.path, json=submit.body(PICTURE)).is_success


def test_uploads_say_so_too_and_their_tickets_stay_good(disk: SmallDisk, picture: Picture) -> None:
    ticket = disk.client.post("/api/v3/media/uploads", json={"filename": "a.png"}).json()["data"]["upload"]["url"]
    disk.make("low")
    try:
        answer = disk.client.put(ticket, content=picture())
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    finally:
        disk.make("roomy")
    assert disk.client.put(ticket, content=picture()).status_code == 200


def test_a_picture_that_can_not_be_kept_is_fetched_again_later(disk: SmallDisk, picture: Picture) -> None:
    with serving(say("200 OK", picture()), "127.0.0.1") as url:
        disk.make("low")
        try:
            job = disk.client.post("/jobs", json={"image": f"{url}/a.png"}).json()
            source = f"/jobs/{job['id']}/source"
            time.sleep(1)  # time for several tries, more than a job has that kills its process
            assert disk.client.get(f"/jobs/{job['id']}").json()["state"] == "queued"
            assert disk.client.get(source).status_code == 409
        finally:
            disk.make("roomy")
        deadline = time.monotonic() + 20
        while disk.client.get(source).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert disk.client.get(source).content == picture()


def test_a_locked_database_is_said_and_passes(live_server: LiveServer, tmp_path: Path) -> None:
    path = tmp_path / "data-0" / "jobs.sqlite3"
    live = live_server(database_url=f"sqlite:///{path}?timeout=0.2")
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = live.client.post("/jobs", json={"image": PICTURE})
        said = "the server's database is busy; try again later"
        assert (answer.status_code, answer.json()["error"]["message"]) == (503, said)
        assert answer.headers["Retry-After"] == "10"
        assert live.client.get("/jobs").status_code == 200, "reading waits for no writer"
        other.execute("ROLLBACK")
    other.close()
    assert live.client.post("/jobs", json={"image": PICTURE}).status_code == 202


# --- what is one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "x"), "the server's disk is full"),
        (OSError(errno.EDQUOT, "x"), "the server's disk is full"),
        (OSError(errno.EROFS, "x"), "the server's disk is read-only"),
        (OSError(errno.EMFILE, "x"), "the server has too many files open"),
        (OperationalError("", {}, Exception("database or disk is full")), "the server's disk is full"),
        (OperationalError("", {}, Exception("could not extend: No space left on device")), "the server's disk is full"),
        (
            OperationalError("", {}, Exception("attempt to write a readonly database")),
            "the server's database is read-only",
        ),
        (OperationalError("", {}, Exception("connection refused")), "the server's database can't be reached"),
        (sqlite3.OperationalError("database is locked"), "the server's database is busy"),
        (StoreFailure("refused"), "the server's store of pictures can't be used now"),
        (GenericError("connection refused"), "the server's store of pictures can't be used now"),
        (PermissionDeniedError("403"), "the server's store of pictures can't be used now"),
    ],
)
def test_what_passes_is_known(error: Exception, said: str) -> None:
    found = transient_error(error)
    assert isinstance(found, Unavailable) and found.message == f"{said}; try again later"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("database is locked"),
        OSError(errno.ENOENT, "x"),
        IntegrityError("", {}, Exception("twice")),
        AlreadyExistsError("x"),
    ],
)
def test_what_does_not_pass_is_none(error: Exception) -> None:
    assert transient_error(error) is None


def test_no_error_of_the_database_tells_values(config: MakeConfig) -> None:
    """They go to the log, and hold the keys to callers' files."""
    engine = open_database(config().database)
    with pytest.raises(OperationalError) as caught, reading(engine) as db:
        db.execute(select(jobs.c.id).where(jobs.c.source_key == "a-secret").add_columns(jobs.c.owner.op("NO")("x")))
    assert "a-secret" not in str(caught.value)
    assert json.dumps(str(caught.value))
