"""Engines in a real Ray cluster: whatever becomes of them and of Ray, the picture has the bytes of one worker."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from server import python
from server.config import BadConfig, load_config
from server.engine.spread import HelperLost
from server.worker.pools.ray import ray_facts
from tests.conftest import Served
from tests.ray_cluster import NoRay, RayCluster, joined, running_ray
from tests.worker.pools.machine import Machine
from tests.worker.pools.test_local import result_of, submit

ENGINE = "ray::TileEngine"
AWAY = "Ray is not used: this machine goes on alone"


def bridges_of(cluster: RayCluster, folder: Path) -> list[int]:
    return [pid for pid in cluster.pids("import bridge") if pid in cluster.pids(str(folder))]


@pytest.fixture(scope="module")
def machine(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("data"), ray_cluster.address)
    with machine.pools[0].serving(lambda: False):
        machine.wait_for(1)
        yield machine


@pytest.fixture(scope="module")
def expected(machine: Machine) -> NDArray[Any]:
    return machine.alone()


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:port", "user@head:6379"])
def test_an_address_must_be_a_host_and_a_port(address: str) -> None:
    with pytest.raises(BadConfig, match="UPSCALE_RAY_ADDRESS.*must look like host:6379"):
        load_config(ray_address=address)


def test_without_ray_at_the_address_this_machine_works_alone_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setattr("server.worker.pools.ray._AGAIN_S", 0.1)
    machine = Machine(tmp_path, "127.0.0.1:1")
    with capture_logs() as logs, machine.pools[0].serving(lambda: False):
        bridges = set[int]()
        while len(bridges) < 3:  # so two have said it
            if (bridge := getattr(machine.pools[0], "_bridge")) is not None:  # noqa: B009
                bridges.add(bridge.pid)
            time.sleep(0.05)
        assert machine.found() == 0
    said = [each for each in logs if each["event"] == AWAY]
    assert [each["reason"] for each in said] == ["Ray at 127.0.0.1:1 does not answer: Connection refused"]


def test_a_cluster_without_token_authentication_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert "PROBLEM: RAY_AUTH_MODE=token is not set" in ray_facts("127.0.0.1:1")


@pytest.mark.slow
def test_doctor_says_what_the_cluster_has(ray_cluster: RayCluster) -> None:
    assert re.fullmatch(
        rf"{ray_cluster.address}, Ray 2\.60\.\d+, 1 machines with 0 GPUs and 1 CPUs", ray_facts(ray_cluster.address)
    )


@pytest.mark.slow
def test_another_token_is_not_accepted(ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    assert "PROBLEM: RAY_AUTH_TOKEN is not the token of this cluster" in ray_facts(ray_cluster.address)


@pytest.mark.slow
def test_an_engine_that_is_killed_in_a_picture_changes_no_byte_and_helps_again(
    ray_cluster: RayCluster, machine: Machine, expected: NDArray[Any]
) -> None:
    (before,) = ray_cluster.pids(ENGINE)
    killed = threading.Event()

    def kill_once() -> None:
        if not killed.is_set():
            killed.set()
            os.kill(before, signal.SIGKILL)

    assert np.array_equal(machine.together(on_tile=kill_once), expected)
    tile = machine.tile()
    mine = machine.upscalers[0].tile(tile)
    assert mine is not None
    theirs, deadline = None, time.monotonic() + 120
    while theirs is None:  # if it did not compute when it was killed, the next tile finds out
        assert time.monotonic() < deadline
        with machine.helpers() as found, suppress(HelperLost):
            theirs = found[0].compute(0, tile) if found else None
    assert np.array_equal(theirs, mine)
    (after,) = ray_cluster.pids(ENGINE)
    assert after != before, "Ray has started it again"


@pytest.mark.slow
def test_one_worker_of_a_machine_joins_and_another_one_when_that_has_ended(
    ray_cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.worker.pools.ray._LOOK_S", 0.2)
    machine = Machine(tmp_path, ray_cluster.address)
    first, second = machine.pools
    with second.serving(lambda: False):
        with first.serving(lambda: False):
            machine.wait_for(1)
            assert len(bridges_of(ray_cluster, tmp_path)) == 1
        machine.wait_for(1)
        assert len(bridges_of(ray_cluster, tmp_path)) == 1
    assert not bridges_of(ray_cluster, tmp_path)


@pytest.mark.slow
def test_a_bridge_ends_with_its_worker_even_when_that_is_killed(ray_cluster: RayCluster, tmp_path: Path) -> None:
    code = f"from server.worker.pools.ray import bridge; bridge({ray_cluster.address!r}, {str(tmp_path)!r}, 'cpu')"
    worker = subprocess.Popen(python(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert worker.stdin is not None and worker.stdout is not None
    with worker:
        assert json.loads(worker.stdout.readline()) == {"engines": 0}
        worker.stdin.close()  # as the system does when the process at the other end is gone
        assert worker.wait(60) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_ray_in_a_picture_this_machine_goes_on_alone_with_the_same_bytes_and_says_so(tmp_path: Path) -> None:
    """Its own Ray, because it is killed."""
    try:
        with running_ray(tmp_path / "node") as cluster, joined(cluster), capture_logs() as logs:
            machine = Machine(tmp_path / "data", cluster.address)
            expected = machine.alone()
            with machine.pools[0].serving(lambda: False):
                machine.wait_for(1)
                assert np.array_equal(machine.together(on_tile=lambda: cluster.kill("/ray/core/")), expected)
                machine.wait_for(0)
                deadline = time.monotonic() + 120
                while not any(each["event"] == AWAY for each in logs):
                    assert time.monotonic() < deadline, logs
                    time.sleep(0.1)
                assert np.array_equal(machine.together(), expected)
            assert not cluster.pids(ENGINE), "an engine whose Ray is gone holds no GPU"
    except NoRay as reason:
        pytest.skip(f"Ray does not start on this machine: {reason}")


def helped(server: Served) -> int:
    """Tiles that engines have computed for it."""
    return sum(int(each) for each in re.findall(r'"helped": (\d+)', server.log.read_text()))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_gives_the_bytes_of_a_single_worker_with_an_engine_and_when_that_is_killed(
    ray_cluster: RayCluster, tmp_path: Path
) -> None:
    common = {"UPSCALE_TILE": "160", "UPSCALE_WORKERS": "1"}
    single = Served(tmp_path / "single", **common)
    single.start()
    expected = result_of(single, submit(single))
    single.stop()
    server = Served(tmp_path / "server", UPSCALE_RAY_ADDRESS=ray_cluster.address, **common)
    server.start()
    try:
        server.wait_for(lambda: '"engines": 1' in server.log.read_text(), 240)
        for _ in range(10):  # on a busy machine the worker may be done before the engine has its network
            assert result_of(server, submit(server)) == expected
            if helped(server):
                break
        job_id = submit(server)
        server.wait_for(lambda: server.get(f"/jobs/{job_id}").json()["progress"] > 0.2, 120)
        ray_cluster.kill(ENGINE)
        assert result_of(server, job_id) == expected
        assert server.get(f"/jobs/{job_id}").json()["attempt"] == 1
    finally:
        server.stop()
    assert helped(server)
    assert not bridges_of(ray_cluster, tmp_path)
