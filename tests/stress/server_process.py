"""`python -m server serve` as chaos, fuzz and load run it: in a folder of its own, with its processes under watch.

Every process that comes of it carries a mark in its environment, so that none can hide, whoever its parent is now.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from server import own_command

_MARK = "BENCHMARK_RUN"
READY_S = 600.0
STOP_S = 60.0


@dataclass(frozen=True)
class Process:
    pid: int
    role: str
    """serve (which starts the others), api, worker; or whatever else has the mark."""
    born: str
    """Process ids come again; together with this they don't."""


class Launched:
    def __init__(self, folder: Path, *, checkout: Path | None = None, **settings: str) -> None:
        """`settings` are environment variables. `checkout`: of the commit that runs; it may lack newer settings."""
        self.folder = folder
        self.data_dir = folder / "data"
        self.temporary = folder / "tmp"
        """Where its processes put what they need for a moment."""
        self.log = folder / "server.log"
        self.temporary.mkdir(parents=True)
        self._mark = secrets.token_hex(8)
        own = {name: value for name, value in os.environ.items() if not name.startswith("UPSCALE_")}
        # Jobs as short as they can be: what is looked at is everything but the networks.
        fast = {"UPSCALE_AUTO_LIMIT_S": "0", "UPSCALE_REAL_ESRGAN": "auto"}
        if checkout is not None:
            fast = {"PYTHONPATH": str(checkout)}
        self.environment = own | fast | {_MARK: self._mark, "TMPDIR": str(self.temporary)} | settings
        """Of its processes."""
        self._checkout = checkout
        self.port = _free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Without waiting for anything. It always has the same port."""
        serve = [sys.executable, "-m", "server", "serve", "--port", str(self.port), "--data-dir", str(self.data_dir)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                serve, env=self.environment, cwd=self._checkout, stdout=subprocess.DEVNULL, stderr=log
            )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        with httpx.Client(trust_env=False, timeout=5) as client:
            while time.monotonic() < deadline:
                with suppress(httpx.TransportError):
                    if client.get(f"{self.address}/readyz").status_code == 200:
                        return
                time.sleep(0.1)
        raise SystemExit(f"the server was not ready within {READY_S:g} s; see {self.log}")

    def stop(self) -> None:
        """As an operator does. Whatever is left of it afterwards is for `processes` to tell."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)

    def end(self) -> None:
        """Whatever still runs."""
        self.stop()
        for each in self.processes():
            with suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGKILL)

    def processes(self) -> list[Process]:
        """All that are alive."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and (process := self._look(folder)):
                found.append(process)
        return found

    def alive(self, process: Process) -> bool:
        return self._look(Path(f"/proc/{process.pid}")) == process

    def events(self) -> Iterator[dict[str, Any]]:
        """What it has logged. Other text that came to its standard error is the event of a line of its own."""
        for line in self.log.read_text("utf-8", "replace").splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                found = line
            yield found if isinstance(found, dict) else {"event": line, "level": "unstructured"}

    def _look(self, folder: Path) -> Process | None:
        try:
            if f"{_MARK}={self._mark}".encode() not in (folder / "environ").read_bytes().split(b"\0"):
                return None
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            # After the command's name, which may hold spaces and brackets: state, …, and the 20th is the start time.
            facts = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return None  # gone, or not ours to look at
        if facts[0] in "ZX":
            return None
        role = " ".join(words[:4])
        if words[1:3] in (["-m", "server"], own_command()[1:3]):
            # `serve`; or one of its children: `serve --role ROLE`, and `--fd 3` or `--id ID`
            child = {"--fd", "--id"} & set(words) and "--role" in words  # some commits have a command for each role
            role = words[words.index("--role") + 1] if child else words[3]
        return Process(int(folder.name), role, facts[19])


def memory_mib(pid: int) -> float:
    """Resident memory of a process; 0 when it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
