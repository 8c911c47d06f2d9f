"""Links of ours as sources: known by their path and the name in it, whatever host they were asked under."""

import base64
import time
from typing import Any

import pytest

from server.errors import SourceUnreachable
from server.outbound.source import own_file, own_job
from tests.api.dialects.submits import SUBMITS
from tests.conftest import Live, LiveServer, Picture

KEY = "0123456789abcdef" * 2
FILE = f"{KEY}.png"
JOB = "fedcba9876543210" * 2

FORMS = (
    "http://127.0.0.1:{port}/files/{name}",
    "http://localhost:{port}/files/{name}",
    "http://[::1]:{port}/files/{name}",
    "http://127.0.0.1/files/{name}",
    "HTTPS://Pictures.Example/files/{name}",
    "https://proxy.example/upscale/files/{name}",
    "https://proxy.example/a/b/c//files/{name}/",
    "http://127.0.0.1:{port}/files/{name}?x=1",
    "http://127.0.0.1:{port}/files/{name}?v=2&sig=%2F#here",
    "http://127.0.0.1:{port}/files/{escaped}",
    "http://127.0.0.1:{port}/uploads/{name}",
)


def link(live: Live, form: str, name: str) -> str:
    port = live.url.rpartition(":")[2]
    return form.format(port=port, name=name, escaped="".join(f"%{ord(letter):02x}" for letter in name))


def submit(live: Live, dialect: str, image: str, **headers: str) -> Any:
    return live.client.post(SUBMITS[dialect].path, json=SUBMITS[dialect].body(image), headers=headers)


@pytest.mark.parametrize("dialect", SUBMITS)
def test_a_file_of_ours_is_known_under_any_host_prefix_and_query(live: Live, dialect: str, picture: Picture) -> None:
    live.worker.blobs.put(FILE, picture(12, 9))
    for form in FORMS:
        answer = submit(live, dialect, link(live, form, FILE))
        assert answer.is_success, f"{form}: {answer.text}"
        job = live.worker.claim()
        assert job.source_url is None, form
        assert live.worker.blobs.get(str(job.source_key)) == picture(12, 9)
        assert job.source_key != FILE, "every job has its own copy"


def test_a_picture_uploaded_under_one_name_is_submitted_under_another(live: Live, picture: Picture) -> None:
    port = live.url.rpartition(":")[2]
    sent = live.client.post(
        "/api/v3/media/upload/binary", files={"file": ("a.png", picture())}, headers={"Host": f"localhost:{port}"}
    )
    url = sent.json()["data"]["download_url"]
    assert url.startswith(f"http://localhost:{port}/files/")
    data = submit(live, "wavespeed", url, Host=f"127.0.0.1:{port}").json()["data"]
    live.worker.finish()
    assert live.client.get(data["urls"]["get"]).json()["data"]["status"] == "completed"


@pytest.mark.parametrize("dialect", SUBMITS)
@pytest.mark.parametrize("kind", ["result", "source"])
@pytest.mark.parametrize("base", ["", "https://proxy.example/upscale"])
def test_a_native_jobs_own_pictures_are_sources(
    live_server: LiveServer, dialect: str, kind: str, base: str, picture: Picture
) -> None:
    live = live_server(api_keys=("ann", "bob"))
    ann = {"Authorization": "ann"}
    first = live.client.post("/jobs", files={"file": picture(10, 8)}, data={"scale": "2"}, headers=ann).json()
    live.worker.finish()
    url = f"{base or live.url}/jobs/{first['id']}/{kind}?download=1"
    answer = submit(live, dialect, url, **ann)
    assert answer.is_success, answer.text
    job = live.worker.claim()
    there = live.client.get(f"/jobs/{first['id']}/{kind}", headers=ann).content
    assert job.source_url is None and live.worker.blobs.get(str(job.source_key)) == there


def test_a_plan_price_and_upload_take_such_links_too(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(price_per_megapixel=1.0)
    live.worker.blobs.put(FILE, picture(100, 100))
    url = f"https://elsewhere.example/files/{FILE}?x=1"
    assert live.client.post("/plan", json={"image": url, "scale": 2}).json()["result"] == [200, 200]
    body = {"model_id": "wavespeed-ai/real-esrgan", "inputs": {"image": url, "scale": 10}}
    priced = live.client.post("/api/v3/model/pricing", json=body)
    assert priced.json()["data"]["price"] == 1.0, priced.text
    task = {"taskType": "imageUpload", "taskUUID": "00000000-0000-4000-8000-000000000001", "image": url}
    uploaded = live.client.post("/v1", json=[task]).json()["data"][0]["imageURL"]
    assert live.client.get(uploaded).content == picture(100, 100)


def test_a_job_without_that_picture_is_said_so(live: Live, picture: Picture) -> None:
    body = {"image": base64.b64encode(picture()).decode(), "scale": 2}
    waiting = live.client.post("/jobs", json=body).json()
    answer = submit(live, "native", waiting["urls"]["result"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "source_unreachable")
    assert answer.json()["error"]["message"] == "the picture is not here: the job has no result: it is queued"
    failed = submit(live, "wavespeed", waiting["urls"]["result"]).json()["data"]
    assert (failed["status"], failed["code"]) == ("failed", 1402)
    assert "it is queued" in failed["error"]


def test_the_job_of_another_key_is_no_source(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(api_keys=("ann", "bob"))
    first = live.client.post(
        "/jobs", files={"file": picture(10, 8)}, data={"scale": "2"}, headers={"Authorization": "ann"}
    ).json()
    live.worker.finish()
    sent = submit(live, "native", first["urls"]["result"], Authorization="bob").json()
    for _ in range(500):
        job = live.client.get(f"/jobs/{sent['id']}", headers={"Authorization": "bob"}).json()
        if job["state"] == "failed":
            break
        time.sleep(0.02)
    assert job["error"]["code"] == "source_not_allowed", "it is an address like any other, on loopback"


def test_a_file_of_that_form_that_is_not_here_is_fetched_from_where_it_is(
    live_server: LiveServer, picture: Picture
) -> None:
    here, there = live_server(allow_hosts=("127.0.0.1",)), live_server()
    there.worker.blobs.put(FILE, picture(16, 16))
    submit(here, "native", f"{there.url}/files/{FILE}")
    job = here.worker.claim()
    assert job.source_url == f"{there.url}/files/{FILE}"
    assert here.worker.blobs.get(str(job.source_key)) == picture(16, 16)
    gone = submit(here, "native", f"{here.url}/files/{'f' * 32}?x=1")
    assert (gone.status_code, gone.json()["error"]["code"]) == (422, SourceUnreachable.code)


def test_what_only_looks_like_a_link_of_ours_is_none() -> None:
    for path in (
        f"/files/{KEY[1:]}",
        f"/files/{FILE}/x",
        f"/files/{FILE}x.y",
        f"/myfiles/{FILE}",
        f"/files/{KEY.upper()}",
    ):
        assert own_file(f"https://a.example{path}") is None, path
    assert own_file(f"https://a.example/?next=/files/{FILE}") is None
    assert own_file(f"https://a.example/#/files/{FILE}") is None
    assert own_file("http://[/files/" + FILE) is None
    assert own_job(f"https://a.example/jobs/{JOB}/result/") == (JOB, "result")
    assert own_job(f"https://a.example/jobs/{JOB}/events") is own_job(f"https://a.example/jobs/{JOB}") is None
