"""Tiles of one picture on several workers of a machine: the same bytes as one gives, whatever becomes of the others."""

import base64
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import select

from server.db.database import jobs, open_database, reading
from server.weights.catalog import Catalog
from server.weights.choice import FIDELITY
from server.worker.pools import local
from server.worker.pools.local import LocalPool
from server.worker.upscaler import Upscaler
from tests.conftest import Served, draw
from tests.worker.pools.machine import JOB, SAMPLES, TILE, Machine


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine") / ("a-folder-with-a-long-name-" * 6))


@pytest.fixture(scope="module")
def expected(machine: Machine) -> NDArray[Any]:
    return machine.alone()


@contextmanager
def other(machine: Machine, behave: Callable[[socket.socket], None]) -> Iterator[None]:
    """A worker that says that it helps, and then behaves so."""
    path = machine.config.data_dir / "workers" / "1-other.sock"
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener, local._short(path) as short, ExitStack() as stack:
        listener.bind(short)
        listener.listen()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection = stack.enter_context(listener.accept()[0])
                    local._send(connection, local.hello_of(machine.upscalers[0].identity()))
                    behave(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    path.unlink(missing_ok=True)


def test_both_workers_compute_and_leave_nothing_behind(machine: Machine, expected: NDArray[Any]) -> None:
    with machine.pools[0].serving(lambda: False), machine.pools[1].serving(lambda: True):
        before = machine.upscalers[1].counters()["tiles"]
        assert np.array_equal(machine.together(), expected)
        assert machine.upscalers[1].counters()["tiles"] > before
    assert not list((machine.config.data_dir / "workers").iterdir()) and not list(machine.spool.iterdir())


def test_a_worker_with_a_job_of_its_own_does_not_help(machine: Machine) -> None:
    with machine.pools[1].serving(lambda: False):
        assert machine.found() == 0
    with machine.pools[1].serving(lambda: True):
        assert machine.found() == 1


def test_a_worker_that_computes_otherwise_is_not_asked(machine: Machine) -> None:
    config = machine.config.model_copy(update={"dtype": "bf16", "kernels": "off"})
    with LocalPool(config, Upscaler(config, Catalog.of(config))).serving(lambda: True):
        assert machine.found() == 0


def test_a_worker_that_gets_a_job_in_between_is_no_longer_asked(machine: Machine, expected: NDArray[Any]) -> None:
    answers = iter([True, True])
    with machine.pools[1].serving(lambda: next(answers, False)):
        assert np.array_equal(machine.together(), expected)


def test_a_worker_that_was_killed_is_forgotten(machine: Machine) -> None:
    path = machine.config.data_dir / "workers" / "1-dead.sock"
    with socket.socket(socket.AF_UNIX) as dead, local._short(path) as short:
        dead.bind(short)
    assert path.exists()
    assert machine.found() == 0 and not path.exists()


def never_answers(connection: socket.socket) -> None:
    local._receive(connection)


def dies(connection: socket.socket) -> None:
    local._receive(connection)
    connection.shutdown(socket.SHUT_RDWR)


def answers_for_another_attempt(connection: socket.socket) -> None:
    head, _ = local._receive(connection)
    rows, columns = head["rows"], head["columns"]
    black = np.zeros((rows[1] - rows[0], columns[1] - columns[0], 3), head["result"])
    local._send(connection, {"fence": head["fence"] | {"attempt": JOB.attempt + 1}}, black)


@pytest.mark.parametrize("behave", [never_answers, dies, answers_for_another_attempt])
def test_whatever_becomes_of_the_other_the_bytes_are_the_same(
    machine: Machine, expected: NDArray[Any], behave: Callable[[socket.socket], None]
) -> None:
    with other(machine, behave):
        assert np.array_equal(machine.together(), expected)


def test_a_run_that_is_stopped_lets_the_others_go(machine: Machine) -> None:
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    ended = threading.Event()

    def waits(connection: socket.socket) -> None:
        with suppress(OSError):
            while True:
                local._receive(connection)
        ended.set()

    helpers = machine.pools[0].helpers(JOB, machine.spool)
    engine = machine.upscalers[0]._engine
    with other(machine, waits):
        with pytest.raises(Stopped):
            list(engine.upscale(machine.model, SAMPLES, tile=TILE, on_tile=stop, helpers=helpers))
        assert ended.wait(10)


# --- real processes ---------------------------------------------------------------------------------------------------


def result_of(server: Served, job_id: str) -> bytes:
    server.wait_for(lambda: server.get(f"/jobs/{job_id}").json()["state"] not in ("queued", "running"), 240)
    assert server.get(f"/jobs/{job_id}").json()["state"] == "succeeded"
    return server.get(f"/jobs/{job_id}/result").content


def submit(server: Served) -> str:
    body = {"image": base64.b64encode(draw(480, 360)).decode(), "scale": 4, "model": FIDELITY, "format": "png"}
    return str(server.post("/jobs", json=body).json()["id"])


def workers(server: Served) -> dict[int, str]:
    """Their names by process id."""
    found = {pid: words for pid, words in server.commands().items() if "--id" in words}
    return {pid: words[words.index("--id") + 1] for pid, words in found.items()}


def worker_of(server: Served, job_id: str) -> str:
    """The name of the one that runs the job."""
    engine = open_database(f"sqlite:///{server.data_dir / 'jobs.sqlite3'}")
    with reading(engine) as db:
        found: str = db.execute(select(jobs.c.worker).where(jobs.c.id == job_id)).scalar_one()
    engine.dispose()
    return found


@pytest.mark.slow
def test_of_two_processes_either_may_be_killed_and_a_large_result_is_the_one_of_a_single_worker(tmp_path: Path) -> None:
    common = {"UPSCALE_TILE": "160", "UPSCALE_LEASE_S": "4"}
    single = Served(tmp_path / "single", UPSCALE_WORKERS="1", **common)
    single.start()
    expected = result_of(single, submit(single))
    single.stop()

    pair = Served(tmp_path / "pair", UPSCALE_WORKERS="2", **common)
    pair.start()

    def both_ready() -> bool:
        return sum(each["ready"] for each in pair.get("/readyz").json()["workers"]) == 2

    try:
        for victim in ("none", "helper", "leader"):
            pair.wait_for(both_ready, 120)
            job_id = submit(pair)
            pair.wait_for(lambda job_id=job_id: pair.get(f"/jobs/{job_id}").json()["progress"] > 0.2, 120)  # type: ignore[misc]
            if victim != "none":
                leads = worker_of(pair, job_id)
                pid = next(pid for pid, name in workers(pair).items() if (name == leads) == (victim == "leader"))
                os.kill(pid, signal.SIGKILL)
            assert result_of(pair, job_id) == expected, victim
            assert pair.get(f"/jobs/{job_id}").json()["attempt"] == (2 if victim == "leader" else 1)
    finally:
        pair.stop()
    helped = [int(found) for found in re.findall(r'"helped": (\d+)', pair.log.read_text())]
    assert helped and helped[0] > 0, helped
