"""A bucket that is away, links straight to it, and what is said of it. The S3 server is a real one."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from server.api.webhooks import Sender
from server.blobs import open_blobs
from server.blobs.base import Blobs, new_key
from server.blobs.bucket import LINK_S, open_bucket
from server.config import BadConfig, Config, load_config
from server.db.database import open_database
from server.db.deliveries import UPLOAD, Deliveries, Delivery
from server.db.jobs import Jobs
from server.db.notify import Listener
from server.db.uploads import Uploads
from server.errors import NotFound, Unavailable
from server.errors.transient import StoreFailure, transient_error
from server.job.job import Job, Params, Result, State
from server.pipeline import Context
from server.worker.loop import Worker
from tests.api.dialects.submits import SUBMITS
from tests.conftest import LOOPBACK, LiveServer, MakeConfig, Picture, Receiver, draw
from tests.seaweedfs import ACCESS, SeaweedFS, free_ports
from tests.system.test_outage import PICTURE
from tests.worker.test_loop import Watched, work_until_ended, worker_of

SAID = "the server's store of pictures can't be used now; try again later"


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Settings of a bucket whose server does not run."""
    for name, value in ACCESS.items():
        monkeypatch.setenv(name, value)
    return {"blob_url": "s3://pictures/x", "blob_endpoint": f"http://127.0.0.1:{free_ports(1)[0]}"}


@pytest.fixture
def there(seaweedfs: SeaweedFS) -> dict[str, str]:
    """Settings of a bucket in which nothing is."""
    return {"blob_url": seaweedfs.new_url(), "blob_endpoint": seaweedfs.endpoint}


@contextmanager
def stopped(server: SeaweedFS) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


# --- a store that is away -------------------------------------------------------------------------------------------


def test_every_use_of_a_store_that_is_away_says_so_without_the_key(config: MakeConfig, away: dict[str, str]) -> None:
    blobs, key = open_blobs(config(**away)), new_key(".png")
    staged = blobs.stage()
    staged.write_bytes(b"made")
    for use in (
        lambda: blobs.put(key, b"x"),
        lambda: blobs.get(key),
        lambda: blobs.open(key),
        lambda: blobs.stat(key),
        lambda: blobs.delete(key),
        lambda: blobs.adopt(key, staged),
        lambda: list(blobs.list()),
    ):
        with pytest.raises(StoreFailure) as caught:
            use()
        found = transient_error(caught.value)
        assert isinstance(found, Unavailable) and found.message == SAID
        assert key[:32] not in str(caught.value) and "error sending request" in str(caught.value)
    assert staged.read_bytes() == b"made", "it can be adopted later"


def test_while_a_store_is_away_one_attempt_a_second_asks_it(config: MakeConfig, away: dict[str, str]) -> None:
    """A server that takes connections and never answers, as behind a broken switch."""

    def ask() -> None:
        with pytest.raises(StoreFailure):
            blobs.stat(new_key())

    def nothing_comes() -> bool:
        listener.settimeout(0.1)
        with suppress(TimeoutError):
            listener.accept()
            return False
        listener.settimeout(20)
        return True

    blobs = open_blobs(config(**away))
    with socket.create_server(("127.0.0.1", int(away["blob_endpoint"].rpartition(":")[2]))) as listener:
        first = threading.Thread(target=ask)
        first.start()
        for _ in range(4):  # the attempt, and those by which it is repeated
            listener.accept()[0].close()
        first.join()
        ask()
        assert nothing_comes()
        time.sleep(1.1)
        second = threading.Thread(target=ask)
        second.start()
        held, _ = listener.accept()
        for _ in range(20):
            ask()
        assert nothing_comes(), "one is waiting for its answer already"
        held.close()
        listener.close()
        second.join()


@pytest.mark.parametrize("dialect", SUBMITS)
def test_a_submit_while_the_store_is_away_is_refused_in_the_dialect_s_words(
    live_server: LiveServer, away: dict[str, str], dialect: str
) -> None:
    live = live_server(**away)
    submit = SUBMITS[dialect]
    body = submit.body(PICTURE)
    answer = live.client.post(submit.path, json=body)
    assert (answer.status_code, answer.json()) == (503, submit.error(503, SAID, body))
    assert answer.headers["Retry-After"] == "10"
    assert live.client.get("/jobs").json()["total"] == 0, "nothing was accepted that can't be done"


def test_an_upload_while_the_store_is_away_keeps_its_ticket(config: MakeConfig, away: dict[str, str]) -> None:
    settings = config(**away)
    uploads = Uploads(open_database(settings.database), open_blobs(settings), keep_s=100)
    ticket = uploads.issue("local", "a.png", ".png")
    with pytest.raises(StoreFailure):
        uploads.fill(ticket.key, draw())
    assert uploads.ticket(ticket.key) == ticket


@pytest.mark.slow
def test_what_was_accepted_is_there_after_the_store_was_away(
    live_server: LiveServer, seaweedfs: SeaweedFS, there: dict[str, str], picture: Picture
) -> None:
    live = live_server(**there)
    send: Any = {"files": {"file": ("a.png", picture())}, "data": {"scale": "2"}}
    first = live.client.post("/jobs", **send).json()
    done = live.worker.finish()
    submit = SUBMITS["replicate"]
    replicate = live.client.post(submit.path, json=submit.body(PICTURE)).json()["id"]
    live.worker.finish()
    with stopped(seaweedfs):
        assert live.client.post("/jobs", **send).status_code == 503
        assert live.client.get(f"/jobs/{first['id']}/result").status_code == 503
        assert live.client.get(f"/jobs/{first['id']}").json()["state"] == "succeeded", "polls need no store"
        assert live.client.get(f"/v1/predictions/{replicate}").json()["status"] == "succeeded"
    assert done.result is not None
    assert live.client.get(f"/jobs/{first['id']}/result").content == live.worker.blobs.get(done.result.key)
    assert live.client.post("/jobs", **send).status_code == 202


def test_a_worker_gives_back_a_job_whose_source_it_can_not_read(config: MakeConfig, away: dict[str, str]) -> None:
    settings = config(dtype="fp32", **away)
    worker, jobs, _ = worker_of(settings, Watched(settings))
    worker._blobs = open_blobs(settings)
    job = Job(dialect="native", owner="", params=Params(scale=2), source_key=new_key())
    jobs.enqueue(job)
    thread = threading.Thread(target=worker.loop)
    with capture_logs() as logs:
        thread.start()
        while not any("job given back" in each["event"] for each in logs):
            time.sleep(0.02)
        worker.stop()
        thread.join()
    waiting = jobs.get(job.id)
    assert (waiting.state, waiting.attempt) == (State.QUEUED, 0)
    assert job.source_key is not None and job.source_key not in json.dumps(logs, default=str)


def queued(jobs: Jobs, blobs: Blobs) -> str:
    key = new_key()
    blobs.put(key, draw(8, 8))
    job = Job(dialect="native", owner="", params=Params(scale=2), source_key=key)
    jobs.enqueue(job)
    return job.id


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the job", "before its result"])
def test_a_worker_whose_store_is_away_loses_neither_job_nor_attempt(
    config: MakeConfig, seaweedfs: SeaweedFS, there: dict[str, str], moment: str
) -> None:
    settings = config(lease_s=5, dtype="fp32", **there)
    blobs, engine = open_blobs(settings), open_database(settings.database)
    jobs = Jobs(engine, lease_s=settings.lease_s)
    job_id = queued(jobs, blobs)
    back = threading.Timer(6, seaweedfs.start)

    def leave(_: Context | None = None) -> None:
        if not back.is_alive():
            seaweedfs.stop()
            back.start()

    upscaler = Watched(settings, leave if moment == "before its result" else lambda _: None)
    worker = Worker(settings, jobs, blobs, upscaler, Listener(engine), "w")
    if moment == "before the job":
        leave()
    with capture_logs() as logs:
        work_until_ended(worker, jobs, job_id)
    back.join()
    job = jobs.get(job_id)
    assert (job.state, job.attempt) == (State.SUCCEEDED, 1)
    assert job.result is not None and blobs.get(job.result.key)
    given_back = [each for each in logs if "job given back" in each["event"]]
    assert bool(given_back) == (moment == "before the job")
    assert job.source_key is not None and job.source_key not in json.dumps(logs, default=str)


def test_a_delivery_of_a_result_waits_for_the_store(
    config: MakeConfig, away: dict[str, str], receiver: Receiver
) -> None:
    """However long: a caller's server that fails has a few attempts, a store of our own has no end."""
    settings = config(allow_hosts=("127.0.0.1",), **away)
    engine = open_database(settings.database)
    jobs, deliveries = Jobs(engine, lease_s=60), Deliveries(engine)
    result = Result(key=new_key(".png"), width=1, height=1, size_bytes=1, format="png", model="one", model_sha256=None)
    ended = {"state": State.SUCCEEDED, "finished_at": time.time(), "result": result}
    job = Job(dialect="runware", owner="", params=Params(scale=2), **ended)
    jobs.enqueue(job, [Delivery(job_id=job.id, kind=UPLOAD, url=f"{receiver.url}/put", base_url="")])
    assert Sender(jobs, deliveries, open_blobs(settings), settings).send_next()
    (pending,) = deliveries.of_job(job.id)
    assert (pending.state, pending.attempts) == ("pending", 0) and pending.due_at > time.time()
    assert not receiver.got


@pytest.mark.slow
def test_a_bucket_that_does_not_exist_is_an_outage_and_not_a_missing_picture(
    config: MakeConfig, seaweedfs: SeaweedFS
) -> None:
    blobs = open_blobs(config(blob_url="s3://no-such-bucket/x", blob_endpoint=seaweedfs.endpoint))
    with pytest.raises(StoreFailure, match="does not exist"):
        blobs.get(new_key())


@pytest.mark.slow
def test_credentials_that_are_refused_are_an_outage(
    config: MakeConfig, there: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    blobs = open_blobs(config(**there))
    for use in (blobs.get, blobs.stat, lambda key: blobs.put(key, b"x"), lambda _: list(blobs.list())):
        with pytest.raises(StoreFailure, match="403"):
            use(new_key())


@pytest.mark.slow
def test_a_picture_that_is_deleted_while_it_is_read_is_no_short_picture(
    config: MakeConfig, there: dict[str, str]
) -> None:
    blobs, key = open_blobs(config(**there)), new_key()
    blobs.put(key, bytes(3 << 20))
    with closing(blobs.open(key)) as reader:
        blobs.delete(key)
        assert reader.read(0, 100) == bytes(100)
        with pytest.raises(StoreFailure, match="deleted"):
            reader.read(2 << 20, 100)


# --- links ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_download_through_the_api_has_ranges_and_versions(live_server: LiveServer, there: dict[str, str]) -> None:
    live = live_server(**there)
    data = draw(900, 700)
    key = new_key(".png")
    live.worker.blobs.put(key, data)
    whole = live.client.get(f"/files/{key}")
    assert (whole.status_code, whole.content, whole.headers["Content-Type"]) == (200, data, "image/png")
    part = live.client.get(f"/files/{key}", headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, data[100:200])
    same = live.client.get(f"/files/{key}", headers={"If-None-Match": whole.headers["ETag"]})
    assert same.status_code == 304
    beyond = live.client.get(f"/files/{key}", headers={"Range": f"bytes={len(data)}-"})
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{len(data)}")
    head = live.client.head(f"/files/{key}")
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(data)))


@pytest.mark.slow
def test_a_direct_download_is_redirected_to_the_bucket(live_server: LiveServer, there: dict[str, str]) -> None:
    live = live_server(blob_links="direct", **there)
    data, key = draw(), new_key(".png")
    live.worker.blobs.put(key, data)
    path = f"/files/{key}"
    to = live.client.get(path)
    assert (to.status_code, to.headers["Cache-Control"]) == (307, "no-store")
    link = to.headers["Location"]
    assert link.startswith(there["blob_endpoint"]) and f"X-Amz-Expires={LINK_S}&" in link
    got = httpx.get(link, timeout=60, **LOOPBACK)
    assert (got.status_code, got.content, got.headers["Content-Type"]) == (200, data, "image/png")
    assert got.headers["Content-Disposition"] == f'inline; filename="{key}"'
    part = httpx.get(link, headers={"Range": "bytes=1-3"}, timeout=60, **LOOPBACK)
    assert (part.status_code, part.content) == (206, data[1:4])
    head = live.client.head(path)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(data))), "a link is for GET alone"
    own_page = live.client.get(path, headers={"Sec-Fetch-Site": "same-origin"})
    assert (own_page.status_code, own_page.content) == (200, data), "its policy forbids other hosts"


@pytest.mark.slow
def test_a_direct_download_of_what_is_no_picture_is_only_saved(live_server: LiveServer, there: dict[str, str]) -> None:
    live = live_server(blob_links="direct", **there)
    key = new_key(".html")
    live.worker.blobs.put(key, b"<script>alert(1)</script>")
    got = live.client.get(f"/files/{key}", follow_redirects=True)
    assert got.headers["Content-Type"] == "binary/octet-stream"
    assert got.headers["Content-Disposition"].startswith("attachment")


@pytest.mark.slow
def test_direct_links_are_for_the_owner_and_end_with_the_picture(
    live_server: LiveServer, there: dict[str, str], picture: Picture
) -> None:
    live = live_server(blob_links="direct", api_keys=("one", "two"), **there)
    one, two = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
    sent = live.client.post("/jobs", files={"file": ("a.png", picture())}, data={"scale": "2"}, headers=one)
    live.worker.finish()
    path = f"/jobs/{sent.json()['id']}/result"
    assert live.client.get(path, headers=two).status_code == 404
    assert live.client.get(path).status_code == 401
    to = live.client.get(path, headers=one)
    assert to.status_code == 307 and httpx.get(to.headers["Location"], timeout=60, **LOOPBACK).status_code == 200
    assert live.client.delete(f"/jobs/{sent.json()['id']}", headers=one).is_success
    assert httpx.get(to.headers["Location"], timeout=60, **LOOPBACK).status_code == 404, "also through an old link"
    assert live.client.get(path, headers=one).status_code == 404
    missing = live.client.get(f"/files/{new_key()}")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["s3:/bucket", "s3://", "ftp://bucket", "s3://key:secret@bucket", "s3://bucket?region=x", "/a/folder"]
)
def test_what_names_no_bucket_stops_the_start(url: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="UPSCALE_BLOB_URL"):
        load_config(data_dir=tmp_path, blob_url=url)


@pytest.mark.parametrize(("url", "endpoint"), [("az://container", None), ("gs://bucket", "http://127.0.0.1:1")])
def test_a_bucket_without_what_its_provider_needs_stops_the_start(
    url: str, endpoint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(BadConfig):
        open_bucket(url, endpoint)


def test_a_folder_is_used_where_no_bucket_is_named(tmp_path: Path) -> None:
    blobs = open_blobs(Config(data_dir=tmp_path))
    blobs.put(key := new_key(), b"x")
    assert (tmp_path / "blobs" / key).read_bytes() == b"x" and blobs.link(key) is None
    with pytest.raises(NotFound):
        blobs.get(new_key())
