"""The workers of one machine: of one large picture each computes some tiles, while it has no job of its own.

Each worker listens at a socket in a folder of the data folder, which only its user can open, and says first what it
computes with. Only one that computes exactly as the asking process does is asked: with the same version, device,
precision and kernels. On other machines are other workers, which take other jobs.
"""

import json
import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog
from numpy.typing import NDArray

from server.config import Config
from server.engine.spread import Helper, HelperLost
from server.errors import ModelNotFound
from server.files import make_private_folder
from server.job.job import Job
from server.worker.pools.base import LEAST_TILES, Answer, CannotHelp, Fence, Request, compute

if TYPE_CHECKING:
    from server.engine.backends.base import Tile
    from server.models.base import Model
    from server.worker.upscaler import Upscaler

log = structlog.get_logger()

_HEAD = struct.Struct(">IQ")
"""Bytes of the JSON that follows, and of the samples after it."""
_CONNECT_S = 2.0
SUFFIX = ".sock"

Compute = Callable[[Request, bytearray], Answer]


class LocalPool:
    def __init__(self, config: Config, upscaler: "Upscaler") -> None:
        self._folder = config.data_dir / "workers"
        self._upscaler = upscaler
        self._own: Path | None = None
        self._is_idle: Callable[[], bool] = lambda: False

    @contextmanager
    def serving(self, is_idle: Callable[[], bool]) -> Iterator[None]:
        make_private_folder(self._folder)
        self._is_idle = is_idle
        self._own = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        with listening(self._own, lambda: self._hello() | {"idle": self._is_idle()}, self._compute):
            yield

    def helpers(self, job: Job, folder: Path) -> "LocalHelpers":
        return LocalHelpers(self, job, folder)

    def find(self, job: Job, model: "Model") -> list[Helper]:
        """All workers of this machine that are idle and compute as this one does."""
        found: list[Helper] = []
        try:
            self._upscaler.same_network(model.name, model.sha256)
        except ModelNotFound:  # a mix of several has no name under which others have it
            return found
        fence = Fence(job.id, job.attempt, 0)
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            if path != self._own and (connection := self._connect(path)) is not None:
                found.append(LocalHelper(connection, fence))
        return found

    def _connect(self, path: Path) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_CONNECT_S)
        try:
            with _short(path) as short:
                connection.connect(short)
            hello, _ = _receive(connection)
            if hello == self._hello():
                connection.settimeout(None)
                return connection
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)  # its process was killed
        except OSError as error:
            log.info("a worker does not answer", reason=str(error))
        connection.close()
        return None

    def _hello(self) -> dict[str, Any]:
        return hello_of(self._upscaler.identity())

    def _compute(self, request: Request, samples: bytearray) -> Answer:
        """For another worker."""
        if not self._is_idle():
            raise CannotHelp("it has a job of its own now")
        return compute(self._upscaler, request, samples)


class LocalHelpers:
    """An `engine.spread.Helpers`."""

    def __init__(self, pool: LocalPool, job: Job, folder: Path) -> None:
        self.folder = folder
        self._pool = pool
        self._job = job

    def find(self, model: "Model", tiles: int) -> Sequence[Helper]:
        return self._pool.find(self._job, model) if tiles >= LEAST_TILES else []


class LocalHelper:
    """An `engine.spread.Helper`: another worker, at the other end of a connection."""

    def __init__(self, connection: socket.socket, fence: Fence) -> None:
        self._connection = connection
        self._fence = fence

    def compute(self, number: int, tile: "Tile") -> NDArray[Any]:
        fence = Fence(self._fence.job, self._fence.attempt, number, self._fence.picture)
        request = Request.of(fence, tile)
        try:
            _send(self._connection, asdict(request), np.ascontiguousarray(tile.samples))
            head, data = _receive(self._connection)
        except OSError as error:
            raise HelperLost(str(error)) from error
        if "problem" in head:
            raise HelperLost(head["problem"])
        if head["fence"] != request.fence:
            raise HelperLost("it has answered for another tile")
        return np.frombuffer(data, tile.dtype).reshape(request.result_shape)

    def close(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)  # wakes a thread that receives
        self._connection.close()


# --- in the process that helps ----------------------------------------------------------------------------------------


def hello_of(identity: str) -> dict[str, Any]:
    """What a process says first that helps now. `identity`: of the engine that computes."""
    return {"computes": identity, "idle": True}


@contextmanager
def listening(path: Path, hello: Callable[[], dict[str, Any]], answer: Compute) -> Iterator[None]:
    """Meanwhile others find a helper at this socket, whose name ends with SUFFIX."""
    with socket.socket(socket.AF_UNIX) as listener:
        with _short(path) as short:
            listener.bind(short)
        listener.listen()
        threading.Thread(target=_accept, args=[listener, hello, answer], name="pool", daemon=True).start()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, hello: Callable[[], dict[str, Any]], answer: Compute) -> None:
    with suppress(OSError):  # closed: the process ends
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=[connection, hello(), answer], name="helping", daemon=True).start()


def _serve(connection: socket.socket, hello: dict[str, Any], answer: Compute) -> None:
    """All tiles of one picture. The other process ends the connection when it needs no more."""
    with connection, suppress(OSError):
        _send(connection, hello)
        while True:
            head, samples = _receive(connection)
            try:
                fence, result = answer(Request(**head), samples)
            except CannotHelp as reason:
                _send(connection, {"problem": str(reason)})
            except Exception as error:
                log.exception("a tile of another worker failed")
                _send(connection, {"problem": repr(error)})
            else:
                _send(connection, {"fence": fence}, result)


# --- between them -----------------------------------------------------------------------------------------------------


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Another name of the path, for a call: that of a socket may have at most 107 bytes."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _send(connection: socket.socket, head: dict[str, Any], array: NDArray[Any] | None = None) -> None:
    words = json.dumps(head).encode()
    data = memoryview(b"") if array is None else array.reshape(-1).view(np.uint8).data
    connection.sendall(_HEAD.pack(len(words), data.nbytes) + words)
    connection.sendall(data)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], bytearray]:
    """Raises OSError, also when the other end is closed."""
    words, size = _HEAD.unpack(_exactly(connection, _HEAD.size))
    head: dict[str, Any] = json.loads(bytes(_exactly(connection, words)))
    return head, _exactly(connection, size)


def _exactly(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    left = memoryview(data)
    while left:
        got = connection.recv_into(left)
        if not got:
            raise ConnectionResetError("its process has ended")
        left = left[got:]
    return data
