"""A real Ray cluster for the tests: one machine with one CPU, and a token of its own."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.paths import ROOT

_TRIES = 3
"""Ray gives up when its parts need more than 30 s, which on a busy machine they do now and then."""
_STARTED = "Ray runtime started"
_MIB = 1024 * 1024


class NoRay(Exception):
    """Why it does not start."""


@dataclass(frozen=True)
class RayCluster:
    address: str
    environment: dict[str, str]
    """What a process needs to join it."""

    def pids(self, word: str) -> list[int]:
        """Of its processes, and of those that have joined it, whose command has this word."""
        mark = f"RAY_AUTH_TOKEN={self.environment['RAY_AUTH_TOKEN']}".encode()
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdigit() and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found += [int(folder.name)] * (word in (folder / "cmdline").read_text())
        return found

    def kill(self, word: str = "ray") -> None:
        """As a power cut would."""
        for pid in self.pids(word):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        found = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [int(each.getsockname()[1]) for each in found]


@contextmanager
def joined(cluster: RayCluster) -> Iterator[None]:
    """Meanwhile the environment is that of a process that may join it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        yield


@contextmanager
def running_ray(data_dir: Path) -> Iterator[RayCluster]:
    """Nothing of it is left at the end. `data_dir`: the server's on its machine. Raises NoRay."""
    port, *agents = _free_ports(4)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    own = {"PYTHONPATH": str(ROOT), "UPSCALE_DATA_DIR": str(data_dir), "OMP_NUM_THREADS": "1"}
    cluster = RayCluster(f"127.0.0.1:{port}", token)
    # Sockets are in this folder, so its path must be short.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--include-dashboard=false", "--num-cpus=1", "--num-gpus=0", f"--port={port}", f"--temp-dir={folder}"]
    command += [f"--object-store-memory={100 * _MIB}", "--include-log-monitor=false"]
    # With ports that it knows, Ray's start does not wait for these processes, each of which needs seconds.
    names = "runtime-env-agent-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port"
    command += [f"--{name}={number}" for name, number in zip(names, agents, strict=True)]
    try:
        for _ in range(_TRIES):
            with (folder / "log").open("w") as log:
                process = subprocess.Popen(command, env=os.environ | own | token, stdout=log, stderr=log)
            while _STARTED not in (said := (folder / "log").read_text()) and process.poll() is None:
                time.sleep(0.1)
            if _STARTED in said:
                break
            cluster.kill()
        else:
            raise NoRay(said.strip().split("\n")[-1])
        yield cluster
    finally:
        cluster.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
