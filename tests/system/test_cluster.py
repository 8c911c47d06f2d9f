"""Several machines with everything real, and then each of their parts fails.

A "machine" is a `serve` with a data folder of its own. They have one PostgreSQL and one S3 server.
"""

import base64
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import libfaketime
import obstore
import pytest
from obstore.store import S3Store
from sqlalchemy import Engine, select

from server.db.database import deliveries, jobs, open_database, reading
from server.db.deliveries import DELIVERED
from tests.api.test_webhooks import check_signature
from tests.conftest import Receiver, Served, draw
from tests.outbound.test_source import say, serving
from tests.postgres import Postgres, running_postgres
from tests.seaweedfs import ACCESS, SeaweedFS
from tests.wire import wire_to

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FAKETIME = Path(libfaketime.__file__).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
LEASE_S = 4
WAIT_S = 240
ENDED = ("succeeded", "failed", "cancelled")


class Cluster:
    """PostgreSQL, the bucket, and the settings of machines that share them."""

    def __init__(self, folder: Path, postgres: Postgres, seaweedfs: SeaweedFS) -> None:
        self.postgres = postgres
        self.seaweedfs = seaweedfs
        self.blob_url = seaweedfs.new_url()
        self.engine: Engine = open_database(postgres.url)
        self._folder = folder
        self._numbers = count()

    def machine(self, **settings: str) -> Served:
        """A machine that has not been started."""
        common = {
            "UPSCALE_DATABASE_URL": self.postgres.url,
            "UPSCALE_BLOB_URL": self.blob_url,
            "UPSCALE_BLOB_ENDPOINT": self.seaweedfs.endpoint,
            "UPSCALE_ALLOW_HOSTS": "127.0.0.1",
            "UPSCALE_LEASE_S": str(LEASE_S),
            "UPSCALE_TILE": "160",  # many places where a job can be seen to be half done
            "UPSCALE_WORKERS": "1",
        }
        settings = {name: value for name, value in (common | ACCESS | settings).items() if value}
        return Served(self._folder / f"machine-{next(self._numbers)}", **settings)

    def rows(self, *columns: str) -> list[Any]:
        """These columns of all jobs."""
        with reading(self.engine) as db:
            return list(db.execute(select(*(jobs.c[name] for name in columns))))

    def objects(self) -> list[str]:
        """The names of all blobs of the bucket."""
        keys = {name.lower(): value for name, value in ACCESS.items()}
        bucket, prefix = self.blob_url.removeprefix("s3://").split("/")
        store = S3Store(bucket, endpoint=self.seaweedfs.endpoint, client_options={"allow_http": True}, **keys)
        return [each["path"] for page in obstore.list(store, prefix=prefix) for each in page]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "store").mkdir()
    seaweedfs = SeaweedFS(folder / "store")
    with running_postgres() as postgres:
        seaweedfs.start()
        cluster = Cluster(folder, postgres, seaweedfs)
        yield cluster
        cluster.engine.dispose()
        seaweedfs.stop()


@pytest.fixture(scope="module")
def pair(cluster: Cluster) -> Iterator[tuple[Served, Served]]:
    """Machines A and B, each with an API and a worker."""
    machines = cluster.machine(), cluster.machine()
    for machine in machines:
        machine.start()
    machines[0].wait_for(lambda: ready_workers(machines[0]) == 2, 120)
    yield machines
    for machine in machines:
        machine.stop()


def ready_workers(machine: Served) -> int:
    return sum(each["ready"] for each in machine.get("/readyz").json()["workers"])


def inline(width: int, height: int) -> str:
    return base64.b64encode(draw(width, height)).decode()


def submit(machine: Served, width: int = 96, height: int = 64, scale: int = 2) -> str:
    answer = machine.post("/jobs", json={"image": inline(width, height), "scale": scale, "format": "png"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def job(machine: Served, job_id: str) -> dict[str, Any]:
    answer = machine.get(f"/jobs/{job_id}")
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def ends(machine: Served, job_ids: list[str]) -> dict[str, dict[str, Any]]:
    """The jobs when they have ended, asked for at this machine."""
    found: dict[str, dict[str, Any]] = {}
    deadline = time.monotonic() + WAIT_S
    while len(found) < len(job_ids):
        for job_id in job_ids:
            with suppress(httpx.TransportError, httpx.HTTPStatusError):  # while something is away
                if job_id not in found and (now := job(machine, job_id))["state"] in ENDED:
                    found[job_id] = now
        assert time.monotonic() < deadline, f"{len(job_ids) - len(found)} jobs have not ended; see {machine.log}"
        time.sleep(0.1)
    return found


def all_succeeded(machine: Served, job_ids: list[str]) -> None:
    found = ends(machine, job_ids)
    assert Counter((each["state"], str(each["error"])) for each in found.values()) == {
        ("succeeded", "None"): len(job_ids)
    }


def worker_of(cluster: Cluster, job_id: str) -> str:
    return next(str(row.worker) for row in cluster.rows("id", "worker") if row.id == job_id)


def command_lines(machine: Served) -> str:
    """Those of its processes, which have the workers' names."""
    return " ".join(word for words in machine.commands().values() for word in words)


def delivery_states(cluster: Cluster) -> Counter[str]:
    with reading(cluster.engine) as db:
        return Counter(db.execute(select(deliveries.c.state)).scalars())


def test_24_jobs_sent_to_one_machine_are_done_by_both_and_served_by_both(
    cluster: Cluster, pair: tuple[Served, Served], receiver: Receiver
) -> None:
    a, b = pair
    path, ids = f"/api/v3/wavespeed-ai/real-esrgan?webhook={receiver.url}/hook", []
    with serving(say("200 OK\r\nContent-Type: image/png", draw(96, 64)), "127.0.0.1") as url:
        for number in range(24):
            image = f"data:image/png;base64,{inline(96, 64)}" if number % 2 else f"{url}/{number}.png"
            answer = a.post(path, json={"image": image, "scale": 2})
            assert answer.status_code == 200, answer.text
            ids.append(answer.json()["data"]["id"])
        all_succeeded(b, ids)

    workers = Counter(row.worker for row in cluster.rows("worker"))
    assert len(workers) == 2 and sum(workers.values()) == 24, workers
    for job_id in ids:
        for machine in pair:
            got = machine.get(f"/jobs/{job_id}/result")
            assert (got.status_code, got.headers["content-type"]) == (200, "image/png")
    receiver.wait(24, seconds=60)
    a.wait_for(lambda: delivery_states(cluster) == {DELIVERED: 24})
    assert Counter(json.loads(each.body)["id"] for each in receiver.got) == Counter(ids)
    secrets = {each.get("/api/v3/webhook/secret").json()["data"]["secret"] for each in pair}
    assert len(secrets) == 1
    for each in receiver.got:
        check_signature(each, *secrets)


def until_it_works(cluster: Cluster, a: Served, machine: Served) -> list[str]:
    """Jobs sent to `a`, of which `machine` has begun the last one."""
    ids: list[str] = []
    while not ids or worker_of(cluster, ids[-1]) not in command_lines(machine):
        ids.append(submit(a, 600, 500, 4))
        a.wait_for(lambda: job(a, ids[-1])["progress"] > 0.02, WAIT_S)
    return ids


def test_a_machine_that_dies_in_the_middle_of_a_job_costs_one_attempt_and_the_job_is_done_once(
    cluster: Cluster, pair: tuple[Served, Served]
) -> None:
    a, b = pair
    before, ids = len(cluster.objects()), until_it_works(cluster, a, b)
    b.kill_all()
    all_succeeded(a, ids)
    assert job(a, ids[-1])["attempt"] == 2
    assert all(job(a, each)["attempt"] == 1 for each in ids[:-1])
    assert len(cluster.objects()) - before == 2 * len(ids), "a source and one result of each"
    b.start()
    a.wait_for(lambda: ready_workers(a) == 2, 120)
    assert b.get(f"/jobs/{ids[-1]}/result").status_code == 200


def test_a_machine_that_is_cut_off_but_lives_loses_its_job_which_is_done_once_elsewhere(
    cluster: Cluster, pair: tuple[Served, Served]
) -> None:
    a, _ = pair
    with tempfile.TemporaryDirectory(prefix="wire-", dir="/tmp") as folder, ExitStack() as stack:
        wire, url = stack.enter_context(wire_to(cluster.postgres.url, Path(folder)))
        third = cluster.machine(UPSCALE_ROLE="worker", UPSCALE_DATABASE_URL=url, UPSCALE_JOBS_PER_WORKER="1")
        third.launch()
        stack.callback(third.stop)
        a.wait_for(lambda: ready_workers(a) == 3, 120)
        before, ids = len(cluster.objects()), until_it_works(cluster, a, third)
        wire.cut()
        all_succeeded(a, ids)
        assert job(a, ids[-1])["attempt"] == 2
        result = a.get(f"/jobs/{ids[-1]}/result").content
        # It has not noticed anything, works on, and stores its own result.
        a.wait_for(lambda: len(cluster.objects()) - before == 2 * len(ids) + 1, WAIT_S)
        wire.mend()
        a.wait_for(lambda: "job lost to another worker" in third.log.read_text(), WAIT_S)
        a.wait_for(lambda: len(cluster.objects()) - before == 2 * len(ids), WAIT_S)
        assert job(a, ids[-1])["attempt"] == 2 and job(a, ids[-1])["state"] == "succeeded"
        assert a.get(f"/jobs/{ids[-1]}/result").content == result
        a.wait_for(lambda: ready_workers(a) == 3, WAIT_S)
        more = [submit(a, 300, 200, 4) for _ in range(6)]
        all_succeeded(a, more)
        assert any(worker_of(cluster, each) in command_lines(third) for each in more), "it works again"


def test_a_bucket_that_is_away_for_20_seconds_fails_no_accepted_job_and_submits_are_told_to_come_again(
    cluster: Cluster, pair: tuple[Served, Served]
) -> None:
    a, b = pair
    ids = [submit(a, 300, 200, 4) for _ in range(6)]
    a.wait_for(lambda: any(job(a, each)["state"] == "running" for each in ids))
    cluster.seaweedfs.stop()
    back, refusals = time.monotonic() + 20, []
    while time.monotonic() < back:
        answer = b.post("/jobs", json={"image": inline(96, 64), "scale": 2})
        refusals.append((answer.status_code, answer.headers.get("Retry-After")))
        time.sleep(1)
    cluster.seaweedfs.start()
    assert set(refusals) == {(503, "10")}
    all_succeeded(a, [*ids, submit(b)])
    assert all(b.get(f"/jobs/{each}/result").status_code == 200 for each in ids)
    assert all(job(a, each)["attempt"] == 1 for each in ids), "an attempt that had no bucket does not count"


def test_no_accepted_job_is_lost_when_postgresql_is_restarted(cluster: Cluster, pair: tuple[Served, Served]) -> None:
    a, b = pair
    accepted, refused, stop = list[str](), list[httpx.Response](), threading.Event()

    def keep_sending() -> None:
        while not stop.is_set():
            answer = b.post("/jobs", json={"image": inline(96, 64), "scale": 2})
            if answer.status_code == 202:
                accepted.append(answer.json()["id"])
            else:
                refused.append(answer)
            time.sleep(0.1)

    running = [submit(a, 300, 200, 4) for _ in range(2)]
    a.wait_for(lambda: all(job(a, each)["state"] == "running" for each in running))
    sender = threading.Thread(target=keep_sending)
    sender.start()
    try:
        for _ in range(2):
            time.sleep(1)
            cluster.postgres.restart()
        time.sleep(2)
    finally:
        stop.set()
        sender.join()
    cluster.engine.dispose()
    assert accepted
    assert all((each.status_code, "Retry-After" in each.headers) == (503, True) for each in refused)
    all_succeeded(a, [*running, *accepted])
    assert all(b.get(f"/jobs/{each}/result").status_code == 200 for each in running)


@pytest.mark.parametrize("wrong_by_s", [60, -60])
def test_a_machine_whose_clock_is_wrong_takes_no_live_job_and_loses_none(
    cluster: Cluster, pair: tuple[Served, Served], wrong_by_s: int
) -> None:
    a, _ = pair
    clock = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": f"{wrong_by_s:+d}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    wrong = cluster.machine(UPSCALE_ROLE="worker", **clock)
    wrong.launch()
    try:
        a.wait_for(lambda: ready_workers(a) == 3, 120)
        long = [submit(a, 500, 400, 4) for _ in range(4)]
        a.wait_for(lambda: all(job(a, each)["state"] == "running" for each in long), WAIT_S)
        short = [submit(a) for _ in range(12)]
        all_succeeded(a, [*long, *short])
        attempts = [job(a, each)["attempt"] for each in [*long, *short]]
        assert attempts == [1] * len(attempts)
        assert any(worker_of(cluster, each) in command_lines(wrong) for each in [*long, *short]), "it works too"
    finally:
        wrong.stop()


def test_a_second_machine_with_a_folder_refuses_to_start_in_one_line(
    cluster: Cluster, pair: tuple[Served, Served]
) -> None:
    for role in ("all", "worker"):
        folder = cluster.machine(UPSCALE_BLOB_URL="", UPSCALE_BLOB_ENDPOINT="", UPSCALE_ROLE=role)
        folder.launch()
        assert folder.wait() == 1
        said = folder.log.read_text().splitlines()
        assert len(said) == 1, said
        assert "UPSCALE_BLOB_URL" in said[0] and cluster.blob_url in said[0]
