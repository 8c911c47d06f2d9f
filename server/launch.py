"""`serve`: one API process and one worker process per GPU, or one of the two halves. This process only starts them and
restarts those that die.

It owns the listening socket, so that connections keep waiting while the API process is restarted. It imports neither
torch nor FastAPI. Its children hold the other end of a pipe from it: when this process dies, for any reason, they reach
the end of the pipe and exit.
"""

import errno
import ipaddress
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import structlog
from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError

from server import own_command, python
from server.api.auth import Auth
from server.blobs import open_blobs
from server.config import Config, Role
from server.db.database import migrate, open_database
from server.db.jobs import Jobs, WorkerInfo
from server.db.keys import Keys
from server.db.picture_store import other_store
from server.db.webhook_secret import with_shared_secret
from server.malloc import API_MALLOC_ENV, MALLOC_ENV

log = structlog.get_logger()

_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap")
"""With CUDA one of these exists: on Linux, under WSL, on a Jetson."""
_WATCH_S = 0.05
HELD_S = 60.0
"""Linux does not give a port to other processes for so long after its connections have ended."""
_LISTEN_RETRY_S = 0.25
_GRACE_S = 20.0
"""Time for children to exit by themselves before they are killed."""
_SHORT_LIFE_S = 5.0
_LONGEST_PAUSE_S = 10.0
"""A child that dies within _SHORT_LIFE_S is restarted after a pause, which doubles up to this."""
_MOST_EQUAL = 3
"""A worker that has said so many times in a row, in the same words, why it can't work is not started again."""


class CannotStart(Exception):
    """What the operator must change first, in one line."""


class CannotListen(CannotStart):
    """The address is in use or not local, or is not loopback and there are no keys."""


@dataclass
class _Child:
    name: str
    command: list[str]
    env: dict[str, str]
    fds: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    worker_id: str | None = None
    started: float = 0.0
    pause: float = 0.0
    due: float = field(default_factory=time.monotonic)
    """Time of the next start; of one that was given up, of its next report."""
    problem: str | None = None
    """Why it could not work when it last ended, in its own words."""
    equal: int = 0
    """How often in a row it ended with these words."""

    @property
    def given_up(self) -> bool:
        return self.equal >= _MOST_EQUAL


class Launcher:
    def __init__(self, config: Config) -> None:
        """Raises BadConfig."""
        if config.blob_url is not None:
            open_blobs(config)  # said once here, not by each process whenever it is started again
        self._config = config
        self._stop = threading.Event()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises CannotStart."""
        role = self._config.role
        listener = listen(self._config) if role != "worker" else None
        migrate(self._config.database)
        engine = open_database(self._config.database)
        jobs = Jobs(engine, lease_s=self._config.lease_s)
        if reason := other_store(self._config, engine, jobs):
            raise CannotStart(reason)
        self._config = with_shared_secret(self._config, engine)
        if listener is not None:
            require_keys(listener, Auth(self._config, Keys(engine)))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        children = _workers(self._config) if role != "api" else []
        if listener is not None:
            _say_address(listener)
            children.insert(0, _api(self._config, listener.fileno()))
        try:
            while not self._stop.is_set():
                for child in children:
                    try:
                        _watch(child, jobs, self._config.lease_s)
                    except Exception:  # a database that is locked or restarting must not stop this process
                        log.exception("watching failed", process=child.name)
                self._stop.wait(_WATCH_S)
        finally:
            _end(children)
            for child in children:
                if child.worker_id:
                    _release(child.worker_id, jobs)
            if listener is not None:
                listener.close()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._stop.set()


def _release(worker_id: str, jobs: Jobs) -> None:
    """Of a worker that has ended."""
    try:
        jobs.release(worker_id)
    except SQLAlchemyError:
        log.exception("its jobs are free when their leases end", worker=worker_id)


def _say_address(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    sys.stdout.write(f"upscale-server listens on http://{f'[{host}]' if ':' in host else host}:{port}\n")
    sys.stdout.flush()


def listen(config: Config) -> socket.socket:
    """The listening socket. Raises CannotListen.

    Waits for a port without a listener that ended connections of an earlier process still occupy: the kernel frees it
    within a minute.
    """
    deadline = time.monotonic() + HELD_S
    warned = False
    family: int = socket.AF_INET
    address: tuple[Any, ...] = ()
    while True:
        try:
            family, _, _, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
            # NOTE: sets SO_REUSEADDR, which is enough unless the earlier process did not.
            return socket.create_server(address[:2], family=family, backlog=1024)
        except OSError as error:
            held = error.errno == errno.EADDRINUSE and not _answers(family, address)
            if not held or time.monotonic() >= deadline:
                reason = error.strerror or error
                raise CannotListen(f"can't listen on {config.host}:{config.port}: {reason}") from error
        if not warned:
            log.warning("the port is held by connections that have ended", port=config.port, waiting_s=HELD_S)
            warned = True
        time.sleep(_LISTEN_RETRY_S)


def _answers(family: int, address: tuple[Any, ...]) -> bool:
    """Whether a process listens at that address."""
    with socket.socket(family) as probe:
        probe.settimeout(1)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True


def require_keys(listener: socket.socket, auth: Auth) -> None:
    """Without API keys, only loopback is allowed: else close the listener and raise CannotListen."""
    host = str(listener.getsockname()[0])
    if auth.is_open() and not ipaddress.ip_address(host).is_loopback:
        listener.close()
        raise CannotListen(
            f"refusing to listen on {host} without API keys: make one with `keys create`, or use 127.0.0.1"
        )


def watch_parent() -> None:
    """In a child: exit at once when the launcher has died. Standard input is the pipe from it."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def to_env(config: Config) -> dict[str, str]:
    """The settings as a child's environment."""
    return {f"UPSCALE_{name.upper()}": _text(value) for name, value in config if value is not None}


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _serve(role: Role) -> list[str]:
    """The command of a child, without the option that makes it one."""
    return own_command("serve", "--role", role)


def _api(config: Config, fd: int) -> _Child:
    return _Child("api", [*_serve("api"), "--fd", str(fd)], os.environ | to_env(config) | API_MALLOC_ENV, fds=(fd,))


def _workers(config: Config) -> list[_Child]:
    gpus = _gpus() if config.device == "auto" else []
    count = config.workers or max(1, len(gpus))
    cores = str(max(1, (os.cpu_count() or 1) // count))
    children = []
    for index in range(count):
        env = os.environ | to_env(config) | MALLOC_ENV
        if gpus:
            # It sees no other GPU, on which it would otherwise take memory too.
            env |= {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)], "UPSCALE_DEVICE": "cuda:0"}
            env["UPSCALE_WORKERS"] = str(count)
        # Several workers on one machine: each gets a part of its cores. Every job's thread would start as many threads.
        env.setdefault("OMP_NUM_THREADS", cores)
        children.append(_Child(f"worker-{index}", _serve("worker"), env))
    return children


def _gpus() -> list[str]:
    """For each GPU that torch can use, the value of CUDA_VISIBLE_DEVICES that shows it alone. torch is asked in a
    separate process, so that this one stays small. That takes seconds, so it is skipped if there is no driver."""
    if not any(os.path.exists(each) for each in _DRIVERS):
        return []
    code = "from server.engine.cuda import print_usable; print_usable()"
    run = subprocess.run(python(code), stdout=subprocess.PIPE, text=True, check=False)
    return _visible(json.loads(run.stdout or "[]"), os.environ.get("CUDA_VISIBLE_DEVICES"))


def _visible(usable: list[tuple[int, str]], visible: str | None) -> list[str]:
    """`usable`: index and UUID of each; `visible`: the CUDA_VISIBLE_DEVICES by which they were counted. A part of a GPU
    (MIG) has the UUID of the whole, so what the operator wrote is kept."""
    names = [each.strip() for each in visible.split(",")] if visible else []
    return [names[index] if index < len(names) else f"GPU-{uuid}" for index, uuid in usable]


def _watch(child: _Child, jobs: Jobs, lease_s: float) -> None:
    """Start the child when it is due. If it has died, release its jobs to other workers at once. Of one that can't
    work, say so instead, until this process ends."""
    now = time.monotonic()
    if child.given_up:
        if now >= child.due:
            child.due = now + lease_s / 4
            assert child.worker_id is not None
            jobs.worker_beat(WorkerInfo(child.worker_id, "none", False, problem=child.problem))
        return
    if child.process is None:
        if now >= child.due:
            _start(child)
        return
    code = child.process.poll()
    if code is None:
        return
    lived = now - child.started
    if child.process.stdin is not None:
        child.process.stdin.close()
    child.pause = min(_LONGEST_PAUSE_S, max(0.5, child.pause * 2)) if lived < _SHORT_LIFE_S else 0.0
    child.due = now + child.pause
    child.process = None
    if code:
        log.warning("process died", process=child.name, code=code, lived_s=round(lived, 1), pause_s=child.pause)
    else:
        log.info("process ended", process=child.name, lived_s=round(lived, 1))
    if child.worker_id:
        _note_problem(child, jobs)
        jobs.release(child.worker_id)


def _note_problem(child: _Child, jobs: Jobs) -> None:
    said = next((each.problem for each in jobs.live_workers() if each.id == child.worker_id), None)
    child.equal = child.equal + 1 if said and said == child.problem else int(said is not None)
    child.problem = said
    if child.given_up:
        log.error("not started again, because it can't work", process=child.name, reason=said)


def _start(child: _Child) -> None:
    command = child.command
    if child.name.startswith("worker"):
        child.worker_id = f"{socket.gethostname()}:{child.name}:{secrets.token_hex(4)}"
        command = [*command, "--id", child.worker_id]
    child.process = subprocess.Popen(command, env=child.env, stdin=subprocess.PIPE, pass_fds=child.fds)
    child.started = time.monotonic()
    log.info("process started", process=child.name, pid=child.process.pid)


def _end(children: list[_Child]) -> None:
    running = [child.process for child in children if child.process is not None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + _GRACE_S
    for process in running:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
