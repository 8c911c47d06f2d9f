"""The workers of this machine, and engines in a Ray cluster: each GPU there computes tiles of large pictures for all.

An engine is an actor of Ray, one for each GPU of its machines, and without GPUs one for each machine. Workers do not
talk to Ray themselves: a process that has joined a cluster is ended by Ray when the cluster is gone, and waits minutes
for one that does not answer. So one process of each machine, the bridge, joins it, and listens for each actor at a
socket, as the workers of this machine do (local.py). When Ray is gone, so are the bridge and its sockets, and this
machine goes on alone; a new bridge is started from time to time.

An actor belongs to no worker, keeps nothing but loaded networks, and is restarted by Ray. Its answers carry the fence
of the request. A tile is never sent again by Ray: the worker that has the job decides what becomes of it.
"""

import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import structlog

from server import python
from server.config import Config, provider_variable
from server.engine.spread import Helpers
from server.job.job import Job
from server.worker.pools.base import Answer, CannotHelp, Request, compute
from server.worker.pools.local import SUFFIX, LocalPool, hello_of, listening

if TYPE_CHECKING:
    from server.weights.choice import DeviceKind
    from server.worker.upscaler import Upscaler

log = structlog.get_logger()

NAMESPACE = "upscale-server"
"""In which the actors have their names."""
_LOOK_S = 5.0
"""How often the bridge looks whether Ray is there, and which machines it has."""
_AGAIN_S = 15.0
"""After which a new bridge is started, or a new engine where one could not start."""
_ANSWER_S = 5.0
_FACTS_S = 90.0


class CannotJoin(Exception):
    """Why Ray is not used, in words."""


class RayPool:
    def __init__(self, config: Config, upscaler: "Upscaler", address: str) -> None:
        self._local = LocalPool(config, upscaler)
        self._folder = config.data_dir / "workers"
        self._command = _python("bridge", address, str(self._folder), upscaler.kind)
        self._stop = threading.Event()
        self._bridge: subprocess.Popen[str] | None = None

    @contextmanager
    def serving(self, is_idle: Callable[[], bool]) -> Iterator[None]:
        with self._local.serving(is_idle):
            thread = threading.Thread(target=self._keep_bridge, name="ray", daemon=True)
            thread.start()
            try:
                yield
            finally:
                self._stop.set()
                self._end()
                thread.join()

    def helpers(self, job: Job, folder: Path) -> Helpers:
        return self._local.helpers(job, folder)

    def _keep_bridge(self) -> None:
        """There is one on this machine, as long as one of its workers lives."""
        with (self._folder / "ray.lock").open("w") as lock:
            while not _locked(lock):
                if self._stop.wait(_LOOK_S):
                    return
            said = ""
            while not self._stop.is_set():
                with subprocess.Popen(
                    self._command,
                    text=True,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,  # Ray's, which repeats itself; it is in files of Ray's own too
                ) as self._bridge:
                    if self._stop.is_set():
                        self._end()
                    last = '{"problem": "the process that had joined it has ended"}'
                    assert self._bridge.stdout is not None
                    for line in self._bridge.stdout:
                        said, last = _say(line, said), line if "problem" in line else last
                if not self._stop.is_set():
                    said = _say(last, said)
                    self._stop.wait(_AGAIN_S)

    def _end(self) -> None:
        if self._bridge is not None:
            self._bridge.kill()


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _say(line: str, said: str) -> str:
    """Log what the bridge says, once."""
    facts = json.loads(line)
    if line.strip() != said:
        if "problem" in facts:
            log.warning("Ray is not used: this machine goes on alone", reason=facts["problem"])
        else:
            log.info("Ray is used", **facts)
    return line.strip()


def ray_facts(address: str) -> str:
    """For `doctor`: what there is in the cluster, or what is wrong. Takes seconds."""
    try:
        run = subprocess.run(_python("print_facts", address), capture_output=True, text=True, timeout=_FACTS_S)
    except subprocess.TimeoutExpired:
        return f"{address}, PROBLEM: it does not answer within {_FACTS_S:g} s"
    return f"{address}, {run.stdout.strip() or 'PROBLEM: the process that was to join it has ended'}"


def _python(function: str, *arguments: str) -> list[str]:
    return python(f"from server.worker.pools.ray import {function}; {function}{arguments!r}")


# --- in a process of its own ------------------------------------------------------------------------------------------


def join(address: str) -> Any:
    """The module `ray`, when this process has joined the cluster. Raises CannotJoin."""
    if find_spec("ray") is None:
        raise CannotJoin("the extra cluster is not installed: pip install 'upscale-server[cluster]'")
    if provider_variable("RAY_AUTH_MODE") != "token":
        raise CannotJoin("RAY_AUTH_MODE=token is not set, without which anyone may run code on Ray's machines")
    _knock(address)
    import ray

    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        words = f"{error} {error.__cause__}"
        if "AuthenticationError" in words or "token" in words:
            raise CannotJoin("RAY_AUTH_TOKEN is not the token of this cluster") from error
        raise CannotJoin(str(error).split("\n")[0]) from error
    return ray


def _knock(address: str) -> None:
    """Ray itself tries for two minutes. Raises CannotJoin."""
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), _ANSWER_S).close()
    except OSError as error:
        raise CannotJoin(f"Ray at {address} does not answer: {error.strerror or error}") from error


def print_facts(address: str) -> None:
    said = _own_output()
    try:
        ray = join(address)
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus, cpus = (sum(int(each.get(name, 0)) for each in alive) for name in ("GPU", "CPU"))
        said.write(f"Ray {ray.__version__}, {len(alive)} machines with {gpus} GPUs and {cpus} CPUs\n")
    except CannotJoin as error:
        said.write(f"PROBLEM: {error}\n")
    said.flush()


def _own_output() -> IO[str]:
    """Standard output, to which Ray and what it calls can't write any more."""
    own = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return own


def bridge(address: str, folder: str, kind: "DeviceKind") -> None:
    """The main function of the process. It writes what is new as lines of JSON, and ends when its worker does, when
    Ray is gone, or when Ray ends it."""
    said = _own_output()

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(0)  # its worker has ended

    threading.Thread(target=wait, name="parent", daemon=True).start()
    try:
        _Bridge(join(address), Path(folder), kind, said).run(address)
    except Exception as error:
        said.write(json.dumps({"problem": str(error) or repr(error)}) + "\n")
        said.flush()
    os._exit(1)  # a regular exit would wait for Ray


@dataclass
class _Place:
    """For one actor."""

    node: str
    options: dict[str, Any]
    gone: bool = False
    """Its machine, or for good its actor."""
    changed: threading.Event = field(default_factory=threading.Event)
    """The actor is lost, perhaps until Ray has started it again."""

    def go(self) -> None:
        self.gone = True
        self.changed.set()


class _Bridge:
    def __init__(self, ray: Any, folder: Path, kind: "DeviceKind", said: IO[str]) -> None:
        self._ray = ray
        self._folder = folder
        self._kind = kind
        self._said = said
        self._places: dict[str, _Place] = {}
        self._ready: set[str] = set()
        self._saying = threading.Lock()

    def run(self, address: str) -> None:
        """Until Ray is gone. Raises CannotJoin."""
        for path in self._folder.glob(f"ray-*{SUFFIX}"):
            path.unlink()  # of a bridge before this one
        self._say()
        while True:
            _knock(address)  # a driver of Ray notices much later
            there = self._find()
            for name in self._places.keys() - there.keys():
                if (place := self._places.pop(name, None)) is not None:
                    place.go()
            for name in there.keys() - self._places.keys():
                self._places[name] = there[name]
                threading.Thread(target=self._serve, args=[name, there[name]], name=name, daemon=True).start()
            time.sleep(_LOOK_S)

    def _find(self) -> dict[str, _Place]:
        """The actors that there should be, by name. Those of all bridges have the same names: they are shared."""
        found = {}
        for node in self._ray.nodes():
            gpus, cpus = (int(node["Resources"].get(name, 0)) for name in ("GPU", "CPU"))
            if self._kind == "cuda":
                wanted = [{"num_gpus": 1, "num_cpus": 0}] * gpus
            else:
                wanted = [{"num_cpus": cpus}] * (cpus > 0 and not gpus)
            for number, options in enumerate(wanted if node["Alive"] else []):
                found[f"ray-{node['NodeID'][:16]}-{number}"] = _Place(node["NodeID"], options)
        return found

    def _serve(self, name: str, place: _Place) -> None:
        from ray.exceptions import ActorUnavailableError, RayError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        try:
            here = NodeAffinitySchedulingStrategy(place.node, soft=False)
            lasting = {"name": name, "lifetime": "detached", "get_if_exists": True, "max_restarts": -1}
            options = place.options | lasting | {"max_task_retries": 0, "scheduling_strategy": here}
            actor = self._ray.remote(TileEngine).options(**options).remote(self._kind)
            while not place.gone:
                try:
                    identity: str = self._ray.get(actor.identity.remote())
                except ActorUnavailableError:  # Ray starts it again
                    time.sleep(_ANSWER_S / 5)
                else:
                    place.changed.clear()
                    self._offer(name, place, actor, identity)
        except RayError as error:
            if not place.gone:
                self._say(problem=f"an engine in Ray can't work: {str(error).strip().splitlines()[-1]}")
                time.sleep(_AGAIN_S)
        self._places.pop(name, None)

    def _offer(self, name: str, place: _Place, actor: Any, identity: str) -> None:
        """Until the actor is lost."""
        from ray.exceptions import RayError

        def answer(request: Request, samples: bytearray) -> Answer:
            array = np.frombuffer(samples, np.uint8)
            try:
                found, result = self._ray.get(actor.tile.remote(identity, asdict(request), array))
            except RayError as error:
                place.changed.set()
                raise CannotHelp(f"{type(error).__name__}: an engine in Ray was lost") from error
            if result is None:
                raise CannotHelp(found["problem"])
            return found, result

        with listening(self._folder / f"{name}{SUFFIX}", lambda: hello_of(identity), answer):
            self._ready.add(name)
            self._say()
            while not place.gone and not place.changed.wait(_LOOK_S):
                pass
        self._ready.discard(name)
        self._say()

    def _say(self, **facts: Any) -> None:
        with self._saying:
            self._said.write(json.dumps(facts or {"engines": len(self._ready)}) + "\n")
            self._said.flush()


# --- on the machines of Ray -------------------------------------------------------------------------------------------


class TileEngine:
    """An actor. Its settings are those of its machine."""

    def __init__(self, kind: "DeviceKind") -> None:
        from server.weights.catalog import Catalog
        from server.worker.upscaler import Upscaler

        threading.Thread(target=self._watch, args=[os.getppid()], name="watch", daemon=True).start()
        device = "cuda:0" if kind == "cuda" else "cpu"  # Ray shows it one GPU only
        # Without what a worker does for jobs: signing results, and measuring by which network they are chosen.
        config = Config(device=device, c2pa_cert=None, c2pa_key=None, auto_limit_s=0)
        self._upscaler = Upscaler(config, Catalog.of(config))
        self._upscaler.warm()

    def identity(self) -> str:
        return self._upscaler.identity()

    def tile(self, identity: str, request: dict[str, Any], samples: Any) -> tuple[dict[str, Any], Any]:
        """The fence and the result, or a problem and None. `identity`: what it must compute as, which may have changed
        with a restart."""
        try:
            if identity != self._upscaler.identity():
                raise CannotHelp("it computes otherwise now")
            return compute(self._upscaler, Request(**request), bytearray(samples))
        except CannotHelp as reason:
            return {"problem": str(reason)}, None

    def _watch(self, parent: int) -> None:
        """NOTE: the process of an actor can outlive Ray's own on its machine, and would hold the GPU."""
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
            with suppress(AttributeError):  # it is still starting
                self._upscaler.tidy()
        os._exit(1)
