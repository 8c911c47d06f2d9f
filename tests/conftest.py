"""What tests are made of: real files, a real database, a real server on a loopback port. Fixtures are factories."""

import gc
import http.server
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI
from hypothesis import settings
from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright
from sqlalchemy import Engine

from server.api.app import create_app
from server.api.protocol import server_of
from server.blobs import open_blobs
from server.blobs.base import new_key
from server.config import Config
from server.db.database import metadata, migrate, open_database
from server.db.jobs import Jobs, WorkerInfo
from server.errors import UpscaleError
from server.images.read.open import read_header
from server.job.formats import FORMATS
from server.job.job import Job, Result
from server.job.plan import result_size
from tests.postgres import running_postgres
from tests.seaweedfs import ACCESS, SeaweedFS

# The large networks have tests of their own. Elsewhere `auto`, and what names Real-ESRGAN, is fidelity-x4.
FAST = {"UPSCALE_AUTO_LIMIT_S": "0", "UPSCALE_REAL_ESRGAN": "auto"}
os.environ |= FAST
# The suite runs in several processes. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Kernels for GPUs run in the interpreter. It must be set before Triton is imported.
os.environ.setdefault("TRITON_INTERPRET", "1")


def plain_logs() -> None:
    """structlog's own default draws tracebacks with all variables, which takes seconds of a busy machine."""
    structlog.reset_defaults()
    *others, _ = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*others, plain])


plain_logs()

gc.disable()


def pytest_collection_finish() -> None:
    """A collection of all objects that the imported packages made would take most of a second, every few tests. One of
    all that the tests have made since takes a tenth of one: it comes ten times less often than usual."""
    gc.freeze()
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, 10 * old)
    gc.enable()


def pytest_unconfigure() -> None:
    """What is frozen is never freed, and Triton's bindings (nanobind) report each of their objects that is left."""
    gc.unfreeze()


UMASK = 0o022
"""The usual one, in which files are for everyone to read: what must be private has to be made so."""
os.umask(UMASK)

LOOPBACK: dict[str, Any] = {"trust_env": False, "verify": False}
"""For clients of httpx: no proxy, and no certificates, which take 30 ms of each client to read."""

Picture = Callable[..., bytes]
MakeConfig = Callable[..., Config]
LiveServer = Callable[..., "Live"]

# The same examples every time: whether a commit passes is not up to chance. `--hypothesis-profile=explore` looks on.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=2000, deadline=None)
settings.load_profile("steady")


def draw(width: int = 32, height: int = 24, mode: str = "RGB", kind: str = "png") -> bytes:
    """An encoded picture: a gradient, so that it is not all one colour."""
    image = Image.linear_gradient("L").resize((width, height)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind.upper(), **({"compress_level": 1} if kind == "png" else {}))
    return buffer.getvalue()


SHEET = 3 * 512, 2 * (384 + 32)
"""Size of a sheet of creativities whose panels have 512 × 384 pixels, below captions of 32."""
PANELS = ("black", "red", "lime", "blue", "yellow", "white")


def sheet() -> bytes:
    """Each panel in a colour of its own."""
    image = Image.new("RGB", SHEET, "gray")
    for number, colour in enumerate(PANELS):
        left, top = number % 3 * 512, number // 3 * 416 + 32
        image.paste(colour, (left, top, left + 512, top + 384))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session", autouse=True)
def _no_folder_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test or a command stores without a data folder of its own must not stay for the user's server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data-home")))
        yield


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    """Commands that run in the tests' own process change it."""
    yield
    os.umask(UMASK)


@pytest.fixture
def picture() -> Picture:
    return draw


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "jobs.sqlite3"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a real PostgreSQL of this session's own; or of the one in UPSCALE_TEST_POSTGRES, whose database
    belongs to the tests: they throw away what is in it."""
    given = os.environ.get("UPSCALE_TEST_POSTGRES")
    if given:
        yield given
        return
    with running_postgres() as server:
        yield server.url


def in_schema(url: str, schema: str) -> str:
    """The same database, in which this schema is empty and has all new tables."""
    engine = open_database(url)
    with engine.begin() as db:
        db.exec_driver_sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        db.exec_driver_sql(f"CREATE SCHEMA {schema}")
    engine.dispose()
    return f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{schema}"


@pytest.fixture(scope="session")
def postgres(postgres_server: str) -> str:
    """The URL of a migrated database, in a schema of this process: several may run the suite on one server."""
    url = in_schema(postgres_server, f"tests_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}")
    migrate(url)
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest, tmp_path: Path, empty_database: Path) -> Iterator[Engine]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        url = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'jobs.sqlite3')}"
    else:
        url = request.getfixturevalue("postgres")
    engine = open_database(url)
    with engine.begin() as db:
        for table in metadata.sorted_tables:
            db.execute(table.delete())
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A real S3 server; its credentials are in the environment. For tests that are marked as slow."""
    server = SeaweedFS(tmp_path_factory.mktemp("seaweedfs"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ACCESS.items():
            patch.setenv(name, value)
        server.start()
        yield server
        server.stop()


@pytest.fixture
def config(tmp_path: Path, empty_database: Path) -> MakeConfig:
    """`config(**settings)`: each its own data folder, with an empty job table and a file where weights would lie."""
    return _configs(tmp_path, empty_database)


def _configs(folder: Path, empty_database: Path) -> MakeConfig:
    numbers = count()

    def make(**settings: Any) -> Config:
        made = Config(data_dir=folder / f"data-{next(numbers)}", **settings)
        made.weights_path.mkdir(parents=True)
        shutil.copy(empty_database, made.data_dir / "jobs.sqlite3")
        (made.weights_path / "realesr-animevideov3.pth").write_bytes(b"the API half only looks whether it is there")
        return made

    return make


class StandIn:
    """Plays the worker through the real job table and blobs; its results have the right size and kind, and no more."""

    def __init__(self, config: Config) -> None:
        self.jobs = Jobs(open_database(config.database), lease_s=config.lease_s)
        self.blobs = open_blobs(config)
        self._config = config

    def beat(self, ready: bool = True) -> None:
        self.jobs.worker_beat(WorkerInfo("stand-in", "cpu", ready))

    def claim(self, wait_s: float = 5.0) -> Job:
        """The next job, waited for while it is being fetched."""
        deadline = time.monotonic() + wait_s
        while (job := self.jobs.claim("stand-in")) is None:
            assert time.monotonic() < deadline, "no job came"
            time.sleep(0.01)
        return job

    def finish(self, job: Job | None = None) -> Job:
        job = job or self.claim()
        assert job.source_key is not None
        header = read_header(self.blobs.get(job.source_key), self._config.max_source_pixels)
        width, height = result_size(header.size, job.params)
        data = sheet() if job.params.sweep else draw(width, height, kind=job.params.format)
        width, height = SHEET if job.params.sweep else (width, height)
        key = new_key(FORMATS[job.params.format].suffix)
        self.blobs.put(key, data)
        certificate = None
        if job.params.certificate:
            from server.pipeline.certificate import certify
            from server.rows.certificate import Known

            made = certify(self.blobs.get(job.source_key), data, Known((width // 2,), (), ((0, 0, 8, 8),)))
            certificate = {**made.facts, "heat_map": new_key(".png")}
            self.blobs.put(certificate["heat_map"], made.heat_map)
        result = Result(
            key=key,
            width=width,
            height=height,
            size_bytes=len(data),
            format=job.params.format,
            model="stand-in",
            model_sha256=None,
            certificate=certificate,
            seconds={"upscale": 0.5},
        )
        assert self.jobs.finish(job, result)
        return self.jobs.get(job.id)

    def fail(self, error: UpscaleError) -> Job:
        job = self.claim()
        assert self.jobs.fail(job, error)
        return self.jobs.get(job.id)

    @contextmanager
    def working(self) -> Iterator[None]:
        """In the background, whatever comes is finished."""
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                job = self.jobs.claim("stand-in")
                self.finish(job) if job else stop.wait(0.02)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


class Live:
    """A server on a loopback port, a client of it, and who plays its worker."""

    def __init__(self, url: str, config: Config, client: httpx.Client) -> None:
        self.url = url
        self.config = config
        self.client = client
        self.worker = StandIn(config)


_stopping: list[threading.Thread] = []
"""Of servers that were told to stop. One takes a fifth of a second to, which the next test need not wait for."""


def _join_stopping() -> None:
    while _stopping:
        _stopping.pop().join()


@contextmanager
def _running(app: FastAPI) -> Iterator[str]:
    """A server, which is told to stop at the end, and then is one of `_stopping`."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = server_of(app, graceful_s=2)

    def run() -> None:
        with listener:
            server.run(sockets=[listener])

    thread = threading.Thread(target=run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.005)
    try:
        yield url
    finally:
        server.should_exit = True
        _stopping.append(thread)


@contextmanager
def serve(app: FastAPI) -> Iterator[str]:
    """A server, of which nothing is left at the end."""
    try:
        with _running(app) as url:
            yield url
    finally:
        _join_stopping()


@pytest.fixture(scope="session")
def _all_stopped() -> Iterator[None]:
    yield
    _join_stopping()


@pytest.fixture
def live_server(config: MakeConfig, _all_stopped: None) -> Iterator[LiveServer]:
    """`live_server(**settings)`: one that runs until the test ends."""
    with _live_servers(config) as start:
        yield start


@contextmanager
def _live_servers(config: MakeConfig) -> Iterator[LiveServer]:
    earlier = _stopping[:]
    with ExitStack() as stack:

        def start(**settings: Any) -> Live:
            made = config(**settings)
            url = stack.enter_context(_running(create_app(made)))
            return Live(url, made, stack.enter_context(httpx.Client(base_url=url, timeout=20, **LOOPBACK)))

        yield start
    for thread in earlier:
        thread.join()
    _stopping[:] = [thread for thread in _stopping if thread not in earlier]


@pytest.fixture
def live(live_server: LiveServer) -> Live:
    """A server with no settings of its own."""
    return live_server()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, empty_database: Path, _all_stopped: None) -> Iterator[Live]:
    """As `live`, for tests of a module that do not depend on what is there. A server takes long to start."""
    with _live_servers(_configs(tmp_path_factory.mktemp("shared"), empty_database)) as start:
        yield start()


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    """With its query."""
    headers: httpx.Headers
    body: bytes


class Receiver:
    """A caller's own server: keeps what it is sent."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.got: list[Received] = []
        self.answers: list[int] = []
        """Statuses to give, in turn; then 200."""

    def wait(self, requests: int = 1, seconds: float = 10) -> list[Received]:
        deadline = time.monotonic() + seconds
        while len(self.got) < requests:
            assert time.monotonic() < deadline, f"{len(self.got)} requests came"
            time.sleep(0.01)
        return self.got


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.got.append(Received(self.command, self.path, httpx.Headers(list(self.headers.items())), body))
            self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_PUT = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield receiver
        server.shutdown()
        thread.join()


class Served:
    """`python -m server serve` with everything real: launcher, API process, worker process, bundled network."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("UPSCALE_")}
        self._env |= FAST | settings
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        """Until a worker is ready; one of another machine will do."""
        self.launch()
        assert self._process is not None and self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[-1]
        self.wait_for(lambda: self.get("/readyz").status_code == 200, 90)

    def launch(self) -> None:
        """Without waiting for anything. With the role `worker` it has no URL."""
        command = [sys.executable, "-m", "server", "serve", "--port", "0", "--data-dir", str(self.data_dir)]
        with self.log.open("a") as log:
            self._process = subprocess.Popen(command, env=self._env, stdout=subprocess.PIPE, stderr=log, text=True)

    @property
    def log(self) -> Path:
        """What it writes to standard error."""
        return self.data_dir.parent / f"{self.data_dir.name}.log"

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=20, **LOOPBACK)

    def post(self, path: str, **kwargs: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=120, **LOOPBACK, **kwargs)

    def children(self) -> dict[str, int]:
        """Process ids by role: "api", "worker"."""
        return {words[words.index("--role") + 1]: pid for pid, words in self.commands().items() if "--role" in words}

    def commands(self) -> dict[int, list[str]]:
        """The words of its children's commands, by process id."""
        assert self._process is not None
        pids = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return {int(pid): Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in pids}

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            with suppress(httpx.TransportError):
                if condition():
                    return
            assert time.monotonic() < deadline, f"not within {timeout_s} s; see {self.log}"
            time.sleep(0.05)

    def kill(self) -> None:
        """As a power cut would, for this one process; its children must notice by themselves."""
        assert self._process is not None
        self._process.kill()
        self.wait()

    def kill_all(self) -> None:
        """As a power cut would."""
        assert self._process is not None
        for pid in (*self.commands(), self._process.pid):
            os.kill(pid, signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        assert self._process is not None
        self._process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Its status when it has ended."""
        assert self._process is not None and self._process.stdout is not None
        code = self._process.wait(30)
        self._process.stdout.close()
        return code


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One real server for all tests that only talk to it."""
    server = Served(tmp_path_factory.mktemp("served") / "data", UPSCALE_ALLOW_HOSTS="127.0.0.1")
    server.start()
    yield server
    server.stop()


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Chromium or Chrome: on the path, or named by UPSCALE_TEST_BROWSER. Nothing is downloaded."""
    path = os.environ.get("UPSCALE_TEST_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium or Chrome on the path, and UPSCALE_TEST_BROWSER names none")
    expect.set_options(timeout=60_000)  # the usual 5 s are too few on a machine under load
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For one module: as long as it runs, the thread has an event loop, and other tests start their own."""
    with open_browser() as browser:
        yield browser
