"""What tests are made of: real files, a real database, a real server on a loopback port. Fixtures are factories."""

import io
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image

from server.app import create_app
from server.blobs import Blobs, new_key
from server.config import Config
from server.database import migrate, open_database
from server.errors import UpscaleError
from server.formats import FORMATS
from server.job import Job, Result
from server.jobs import Jobs, WorkerInfo
from server.picture import read_header
from server.plan import result_size

Picture = Callable[..., bytes]
MakeConfig = Callable[..., Config]
LiveServer = Callable[..., "Live"]


def draw(width: int = 32, height: int = 24, mode: str = "RGB", format: str = "png") -> bytes:
    """An encoded picture: a gradient, so that it is not all one colour."""
    image = Image.linear_gradient("L").resize((width, height)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format.upper(), **({"compress_level": 1} if format == "png" else {}))
    return buffer.getvalue()


@pytest.fixture
def picture() -> Picture:
    return draw


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "jobs.sqlite3"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def config(tmp_path: Path, empty_database: Path) -> MakeConfig:
    """`config(**settings)`: each a data folder of its own, with an empty job table and a file where weights would lie."""
    numbers = count()

    def make(**settings: Any) -> Config:
        made = Config(data_dir=tmp_path / f"data-{next(numbers)}", **settings)
        made.weights_path.mkdir(parents=True)
        shutil.copy(empty_database, made.data_dir / "jobs.sqlite3")
        (made.weights_path / "realesr-animevideov3.pth").write_bytes(b"the API half only looks whether it is there")
        return made

    return make


class StandIn:
    """Plays the worker through the real job table and blobs; its results have the right size and kind, and no more."""

    def __init__(self, config: Config) -> None:
        self.jobs = Jobs(open_database(config.database), lease_s=config.lease_s)
        self.blobs = Blobs(config.blobs_dir)
        self._config = config

    def beat(self, ready: bool = True) -> None:
        self.jobs.worker_beat(WorkerInfo("stand-in", "cpu", ready, time.time()))

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
        data = draw(width, height, format=job.params.format)
        key = new_key(FORMATS[job.params.format].suffix)
        self.blobs.put(key, data)
        result = Result(
            key=key,
            width=width,
            height=height,
            size_bytes=len(data),
            format=job.params.format,
            model="stand-in",
            model_sha256=None,
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


@contextmanager
def serve(app: FastAPI) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def live_server(config: MakeConfig) -> Iterator[LiveServer]:
    """`live_server(**settings)`: one that runs until the test ends."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Live:
            made = config(**settings)
            url = stack.enter_context(serve(create_app(made)))
            return Live(url, made, stack.enter_context(httpx.Client(base_url=url, trust_env=False, timeout=20)))

        yield start


@pytest.fixture
def live(live_server: LiveServer) -> Live:
    """A server with no settings of its own."""
    return live_server()
