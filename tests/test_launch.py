"""The whole server in its own processes; then `kill -9` of each."""

import base64
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server import launch, own_command, python
from server.api.auth import Auth
from server.config import BadConfig, Config, load_config
from server.db.database import open_database
from server.db.jobs import Jobs
from server.db.keys import Keys
from server.db.limits import Limits
from server.engine import cuda
from server.launch import CannotListen, listen, require_keys
from server.malloc import API_MALLOC_ENV, MALLOC_ENV
from tests.conftest import MakeConfig, Served, draw


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Served]:
    # Small tiles: many places where a job can be seen to be half done.
    server = Served(tmp_path / "data", UPSCALE_TILE="96", UPSCALE_LEASE_S="4")
    yield server
    server.stop()


def submit(server: Served, width: int, height: int) -> str:
    answer = server.post("/jobs", json={"image": base64.b64encode(draw(width, height)).decode(), "scale": 4})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def job(server: Served, job_id: str) -> dict[str, Any]:
    body: dict[str, Any] = server.get(f"/jobs/{job_id}").json()
    return body


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("role", "settings"), [("api", API_MALLOC_ENV), ("worker", MALLOC_ENV)])
def test_every_process_has_its_own_settings_for_the_allocator(
    served: Served, role: str, settings: dict[str, str]
) -> None:
    found = Path(f"/proc/{served.children()[role]}/environ").read_text().split("\0")
    assert {f"{name}={value}" for name, value in settings.items()} <= set(found)


@pytest.mark.slow
def test_killed_processes_lose_nothing_and_finish_nothing_twice(own_server: Served) -> None:
    own_server.start()

    # A worker dies in the middle of a job: the job completes on its successor, once.
    first = submit(own_server, 420, 300)
    own_server.wait_for(lambda: job(own_server, first)["progress"] > 0.05)
    os.kill(own_server.children()["worker"], signal.SIGKILL)
    assert job(own_server, first)["state"] == "running"
    own_server.wait_for(lambda: job(own_server, first)["state"] == "succeeded", 90)
    assert job(own_server, first)["attempt"] == 2
    assert len(list((own_server.data_dir / "blobs").glob("*.png"))) == 1

    # The API process dies: its successor answers at the same address.
    api = own_server.children()["api"]
    os.kill(api, signal.SIGKILL)
    own_server.wait_for(lambda: job(own_server, first)["state"] == "succeeded")
    assert own_server.children()["api"] != api

    # Everything dies with jobs queued and running: nobody is orphaned, and a restart completes them all.
    waiting = [submit(own_server, 120, 80) for _ in range(4)]
    own_server.wait_for(lambda: job(own_server, waiting[0])["state"] != "queued")
    children = own_server.children()
    own_server.kill()
    wait_until(lambda: not any(alive(pid) for pid in children.values()))
    own_server.start()
    for job_id in waiting:
        own_server.wait_for(lambda job_id=job_id: job(own_server, job_id)["state"] == "succeeded", 90)  # type: ignore[misc]
    assert len(list((own_server.data_dir / "blobs").glob("*.png"))) == 5

    # A running job is stopped by its caller, between two tiles.
    last = submit(own_server, 900, 900)
    own_server.wait_for(lambda: job(own_server, last)["progress"] > 0)
    assert own_server.post(f"/jobs/{last}/cancel").status_code in (200, 202)
    own_server.wait_for(lambda: job(own_server, last)["state"] == "cancelled", 10)

    # Asked to stop, it gives the running job back and goes.
    given_back = submit(own_server, 900, 900)
    own_server.wait_for(lambda: job(own_server, given_back)["progress"] > 0)
    children = own_server.children()
    assert own_server.stop() == 0
    assert not any(alive(pid) for pid in children.values())
    own_server.start()
    assert job(own_server, given_back)["attempt"] <= 1


def test_other_things_of_the_name_server_in_the_current_folder_are_not_started(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    for name in ("__init__", "__main__", "cli"):
        (tmp_path / "server" / f"{name}.py").write_text("raise SystemExit('another server')")
    (tmp_path / "typer.py").write_text("raise SystemExit('another typer')")
    for command in (own_command("--version"), python("from server import cli; print(cli.__file__)")):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and str(tmp_path) not in done.stdout, done.stderr + done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", [["serve", "--role", "worker"], ["worker"]], ids=" ".join)
def test_each_half_starts_alone_and_both_do_what_one_server_does(tmp_path: Path, command: list[str]) -> None:
    api = Served(tmp_path / "data", UPSCALE_ROLE="api")
    words = [sys.executable, "-m", "server", *command, "--data-dir", str(api.data_dir)]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as worker:
        try:
            api.start()
            assert list(api.children()) == ["api"]
            job_id = submit(api, 60, 40)
            api.wait_for(lambda: job(api, job_id)["state"] == "succeeded")
        finally:
            worker.terminate()
            assert api.stop() == worker.wait(30) == 0


def test_a_role_that_does_not_exist_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSCALE_ROLE", "gpu")
    with pytest.raises(BadConfig, match="UPSCALE_ROLE='gpu'"):
        load_config()


def test_without_keys_only_loopback_is_listened_on(config: MakeConfig) -> None:
    def try_to(made: Config) -> None:
        with listen(made) as listener:
            require_keys(listener, Auth(made, Keys(open_database(made.database))))

    for host in ("0.0.0.0", "::"):
        with pytest.raises(CannotListen, match="without API keys"):
            try_to(config(host=host, port=0))
    try_to(config(host="127.0.0.1", port=0))
    try_to(config(host="0.0.0.0", port=0, api_keys=("secret",)))
    made = config(host="0.0.0.0", port=0)
    Keys(open_database(made.database)).create("ann", Limits())
    try_to(made)


def test_a_taken_port_is_one_clear_line() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(CannotListen, match=r"can't listen on 127.0.0.1:\d+: Address already in use"),
    ):
        listen(Config(port=taken.getsockname()[1]))


def test_a_port_that_nobody_answers_at_is_waited_for(config: MakeConfig) -> None:
    """As after a process without SO_REUSEADDR: its ended connections occupy the port, and no process listens."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    made = config(port=held.getsockname()[1])
    threading.Timer(0.6, held.close).start()
    with listen(made) as listener:
        assert listener.getsockname()[1] == made.port


def test_a_port_in_time_wait_is_taken_at_once(config: MakeConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as caller:
            ours, _ = first.accept()
            ours.close()  # we close first: the connection stays with us, in TIME_WAIT
            assert caller.recv(1) == b""
    connections = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    assert any(each[1].endswith(f":{port:04X}") and each[3] == "06" for each in connections)
    with listen(config(port=port)) as listener:
        assert listener.getsockname()[1] == port


def test_a_port_that_is_never_let_go_ends_the_wait_in_words(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "HELD_S", 0.3)
    with socket.socket() as held, pytest.raises(CannotListen, match="Address already in use"):
        held.bind(("127.0.0.1", 0))
        listen(config(port=held.getsockname()[1]))


def test_torch_is_asked_which_gpus_there_are_only_where_there_is_a_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(launch, "_DRIVERS", (str(tmp_path),))
    assert len(launch._gpus()) == len(cuda.usable())
    monkeypatch.setattr(launch, "_DRIVERS", (str(tmp_path / "nothing"),))
    monkeypatch.setattr(sys, "executable", "/nothing to ask with")
    assert launch._gpus() == []


@pytest.mark.parametrize(
    ("visible", "shown"),
    [
        (None, ["GPU-a", "GPU-c"]),
        ("4,5,6", ["4", "6"]),
        ("MIG-x, MIG-y, MIG-z", ["MIG-x", "MIG-z"]),
    ],
)
def test_each_gpu_that_can_be_used_is_named_so_that_a_worker_sees_it_alone(
    visible: str | None, shown: list[str]
) -> None:
    assert launch._visible([(0, "a"), (2, "c")], visible) == shown


def test_each_worker_sees_one_gpu_and_starts_a_part_of_the_threads(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_gpus", lambda: ["GPU-a", "GPU-b"])
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    envs = [each.env for each in launch._workers(config(device="auto"))]
    names = ("CUDA_VISIBLE_DEVICES", "UPSCALE_DEVICE", "UPSCALE_WORKERS", "OMP_NUM_THREADS")
    assert [[env[name] for name in names] for env in envs] == [
        ["GPU-a", "cuda:0", "2", "6"],
        ["GPU-b", "cuda:0", "2", "6"],
    ]
    assert launch._workers(config(device="cuda:1"))[0].env["OMP_NUM_THREADS"] == "12"


SAYS_WHY = """
import sys, time
from server.db.database import open_database
from server.db.jobs import Jobs, WorkerInfo
worker = sys.argv[sys.argv.index("--id") + 1]
Jobs(open_database(sys.argv[1]), lease_s=60).worker_beat(
    WorkerInfo(worker, "cuda", False, problem=open(sys.argv[2]).read())
)
sys.exit(1)
"""


def test_a_worker_that_says_three_times_why_it_cannot_work_is_not_started_again(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, words = config(), tmp_path / "words"
    jobs = Jobs(open_database(made.database), lease_s=60)
    command = [sys.executable, "-c", SAYS_WHY, made.database, str(words)]
    child = launch._Child("worker-0", command, dict(os.environ))
    monkeypatch.setattr(launch, "_LONGEST_PAUSE_S", 0.0)

    def run_once(text: str) -> None:
        words.write_text(text)
        launch._watch(child, jobs, 60)
        assert child.process is not None
        child.process.wait()
        launch._watch(child, jobs, 60)

    for text in ("no memory", "the driver is too old", "the driver is too old"):
        run_once(text)
        assert not child.given_up and jobs.live_workers() == []
    run_once("the driver is too old")
    assert child.given_up
    launch._watch(child, jobs, 60)
    assert child.process is None
    assert [(each.ready, each.problem) for each in jobs.live_workers()] == [(False, "the driver is too old")]


def test_a_worker_that_dies_without_a_word_is_started_again(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(open_database(config().database), lease_s=60)
    monkeypatch.setattr(launch, "_LONGEST_PAUSE_S", 0.0)
    child = launch._Child("worker-0", [sys.executable, "-c", "raise SystemExit(1)"], dict(os.environ))
    for _ in range(4):
        launch._watch(child, jobs, 60)
        assert child.process is not None
        child.process.wait()
        launch._watch(child, jobs, 60)
        assert not child.given_up
