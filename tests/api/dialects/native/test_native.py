"""Our own API: what it takes, what it refuses, and the files behind its links."""

import base64
import io
import json
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from PIL import Image

from server.api.app import create_app
from server.errors import JobFailed
from server.weights.rates import write_rates
from tests.conftest import LOOPBACK, Live, LiveServer, MakeConfig, Picture, serve
from tests.pictures import FILES


def inline(data: bytes) -> str:
    return base64.b64encode(data).decode()


def submit(live: Live, picture: Picture, **fields: Any) -> dict[str, Any]:
    answer = live.client.post("/jobs", json={"image": inline(picture()), **fields})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def events(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    blocks = [
        dict(line.split(": ", 1) for line in block.splitlines()) for block in response.text.split("\r\n\r\n") if block
    ]
    return [(block["event"], json.loads(block["data"])) for block in blocks]


def test_a_picture_in_json_becomes_a_job_and_its_result(live: Live, picture: Picture) -> None:
    answer = live.client.post("/jobs", json={"image": inline(picture(30, 20)), "scale": 2, "format": "webp"})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == job["urls"]["self"] == f"{live.url}/jobs/{job['id']}"
    assert (job["state"], job["progress"], job["result"], job["error"]) == ("queued", 0.0, None, None)

    live.worker.finish()
    job = live.client.get(job["urls"]["self"]).json()
    assert (job["state"], job["progress"], job["attempt"]) == ("succeeded", 1.0, 1)
    assert (job["result"]["width"], job["result"]["height"], job["result"]["format"]) == (60, 40, "webp")
    picture_answer = live.client.get(job["urls"]["result"])
    assert picture_answer.headers["content-type"] == "image/webp"
    assert picture_answer.headers["content-disposition"] == f'inline; filename="{job["id"]}.webp"'
    assert picture_answer.content == live.client.get(job["result"]["url"]).content
    assert len(picture_answer.content) == job["result"]["size_bytes"]


def test_a_form_carries_the_file_and_says_numbers_as_text(live: Live, picture: Picture) -> None:
    fields = {"size": "50x40", "format": "jpeg", "quality": "80", "creativity": "-1.5", "faces": "false", "seed": "7"}
    answer = live.client.post("/jobs", files={"file": ("a.png", picture())}, data=fields)
    assert answer.status_code == 202, answer.text
    assert answer.json()["params"] == {
        "scale": None,
        "target": None,
        "size": [50, 40],
        "megapixels": None,
        "format": "jpeg",
        "quality": 80,
        "lossless": False,
        "progressive": False,
        "depth": None,
        "metadata": "keep",
        "colour": "keep",
        "background": [255, 255, 255],
        "model": "auto",
        "denoise": None,
        "creativity": -1.5,
        "content": "auto",
        "faces": None,
        "mask": None,
        "grain": 0.0,
        "seed": 7,
        "animation": "keep",
        "hdr": "keep",
        "wrap": "none",
        "sweep": False,
        "sweep_at": None,
        "certificate": False,
    }


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (True, {"strength": 0.8, "only": "all"}),
        ({}, {"strength": 0.8, "only": "all"}),
        ({"strength": 1, "only": "largest"}, {"strength": 1, "only": "largest"}),
        ({"only": [0, 2]}, {"strength": 0.8, "only": [0, 2]}),
        (False, None),
    ],
)
def test_faces_as_a_flag_or_in_detail_in_json_and_in_forms(
    live: Live, picture: Picture, said: Any, wanted: dict[str, Any] | None
) -> None:
    for name in ("GFPGANv1.4.pth", "detection_Resnet50_Final.pth"):
        (live.config.weights_path / name).write_bytes(b"the API half only looks whether it is there")
    assert submit(live, picture, faces=said)["params"]["faces"] == wanted
    answer = live.client.post("/jobs", files={"file": ("a.png", picture())}, data={"faces": json.dumps(said)})
    assert answer.json()["params"]["faces"] == wanted


def test_a_form_may_name_the_picture_instead(live: Live, picture: Picture) -> None:
    answer = live.client.post("/jobs", data={"image": inline(picture()), "target": "2k"})
    assert answer.status_code == 202, answer.text


def test_without_any_size_the_scale_is_4(live: Live, picture: Picture) -> None:
    assert submit(live, picture)["params"]["scale"] == 4.0


def test_megapixels_are_the_area_of_the_result(live: Live, picture: Picture) -> None:
    answer = live.client.post("/jobs", files={"file": ("a.png", picture(20, 10))}, data={"megapixels": "0.0032"})
    assert answer.status_code == 202, answer.text
    result = live.client.get(f"/jobs/{live.worker.finish().id}").json()["result"]
    assert (result["width"], result["height"]) == (80, 40)


def test_a_result_of_ours_can_be_the_next_source(live: Live, picture: Picture) -> None:
    submit(live, picture, scale=1)
    url = live.client.get(f"/jobs/{live.worker.finish().id}").json()["result"]["url"]
    assert live.client.post("/jobs", json={"image": url, "scale": 1}).status_code == 202
    assert live.worker.finish().state.value == "succeeded"  # it was never fetched: loopback is not allowed here


REFUSED: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({}, 400, "missing_field", "image"),
    ({"image": ""}, 400, "missing_field", "image"),
    ({"image": "ftp://example.com/a.png"}, 400, "invalid_field", "image"),
    ({"image": 5}, 400, "invalid_field", "image"),
    ({"scale": 0}, 400, "invalid_field", "scale"),
    ({"scale": 10.5}, 400, "invalid_field", "scale"),
    ({"wrap": "z"}, 400, "invalid_field", "wrap"),
    ({"megapixels": 0}, 400, "invalid_field", "megapixels"),
    ({"megapixels": 500}, 400, "result_impossible", None),
    ({"scale": "4"}, 400, "invalid_field", "scale"),
    ({"scale": True}, 400, "invalid_field", "scale"),
    ({"scale": 2, "target": "4k"}, 400, "invalid_field", "target"),
    ({"target": "16k"}, 400, "invalid_field", "target"),
    ({"size": "10 by 10"}, 400, "invalid_field", "size"),
    ({"size": [10]}, 400, "invalid_field", "size"),
    ({"size": [10, 0]}, 400, "invalid_field", "size"),
    ({"size": [10**400, 10]}, 400, "invalid_field", "size"),
    ({"size": [10.5, 10]}, 400, "invalid_field", "size"),
    ({"size": [20_000, 10], "format": "webp"}, 400, "result_impossible", "format"),
    ({"size": [30_000, 30_000]}, 400, "result_impossible", None),
    ({"format": "bmp"}, 400, "invalid_field", "format"),
    ({"quality": 0}, 400, "invalid_field", "quality"),
    ({"creativity": 2.1}, 400, "invalid_field", "creativity"),
    ({"faces": "yes"}, 400, "invalid_field", "faces"),
    ({"faces": {"strength": 2}}, 400, "invalid_field", "faces"),
    ({"faces": {"strength": "much"}}, 400, "invalid_field", "faces"),
    ({"faces": {"only": "smallest"}}, 400, "invalid_field", "faces"),
    ({"faces": {"only": [-1]}}, 400, "invalid_field", "faces"),
    ({"faces": {"weight": 0.5}}, 400, "invalid_field", "faces"),
    ({"faces": True}, 422, "model_not_found", "faces"),
    ({"seed": -1}, 400, "invalid_field", "seed"),
    ({"model": "nobody"}, 422, "model_not_found", "model"),
    ({"scael": 2}, 400, "invalid_field", "scael"),
    ({"\ud800": 2}, 400, "invalid_request", None),
    ({"image": base64.b64encode(b"not a picture").decode()}, 422, "source_unreadable", None),
]


def test_bad_requests_are_refused_at_once_naming_the_field(live: Live, picture: Picture) -> None:
    for body, status, code, field in REFUSED:
        good = {"image": inline(picture())} if body and "image" not in body else {}
        answer = live.client.post("/jobs", content=json.dumps({**good, **body}))
        assert answer.status_code == status, (body, answer.text)
        error = answer.json()["error"]
        assert set(error) == {"code", "message", "field"}
        assert (error["code"], error["field"]) == (code, field), (body, error)
    assert live.client.get("/jobs").json() == {"jobs": [], "total": 0}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"{" * 100_000, b'{"scale": NaN}'])
def test_a_body_that_is_no_json_object_is_refused(live: Live, body: bytes) -> None:
    answer = live.client.post("/jobs", content=body)
    assert (answer.status_code, answer.json()["error"]["code"][:7]) == (400, "invalid")


def test_a_form_with_the_file_under_another_name_or_twice_is_refused(live: Live, picture: Picture) -> None:
    other = live.client.post("/jobs", files={"picture": ("a.png", picture())})
    assert (other.status_code, other.json()["error"]["field"]) == (400, "picture")
    both = live.client.post("/jobs", files={"file": ("a.png", picture())}, data={"image": inline(picture())})
    assert (both.status_code, both.json()["error"]["field"]) == (400, "image")
    broken = live.client.post("/jobs", content=b"x", headers={"content-type": "multipart/form-data"})
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_request")


def test_events_tell_progress_and_end_with_the_job(live: Live, picture: Picture) -> None:
    job = submit(live, picture, scale=1)

    def work() -> None:
        time.sleep(0.3)
        claimed = live.worker.claim()
        live.worker.jobs.heartbeat(claimed, 0.5)
        time.sleep(0.5)
        live.worker.finish(claimed)

    thread = threading.Thread(target=work)
    thread.start()
    answer = live.client.get(job["urls"]["events"])
    thread.join()
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = events(answer)
    assert [name for name, _ in told] == ["progress"] * (len(told) - 1) + ["done"]
    assert told[0][1]["state"] == "queued"
    assert 0.5 in [data["progress"] for _, data in told]
    assert told[-1][1]["state"] == "succeeded"


def test_a_job_says_when_it_will_have_ended(live: Live, picture: Picture) -> None:
    write_rates(live.config.cache_dir, "this machine", {"fidelity-x4": 100})
    wanted = {"scale": 4, "model": "fidelity-x4"}
    assert submit(live, picture, **wanted)["eta_s"] is None, "no worker lives"
    live.worker.beat()
    submitted = submit(live, picture, **wanted)

    def now() -> dict[str, Any]:
        found: dict[str, Any] = live.client.get(submitted["urls"]["self"]).json()
        return found

    wait_for(lambda: now()["eta_s"] is not None)
    job = now()
    seconds = 2 * 32 * 24 / 100  # two of them share the worker
    assert seconds / 2 < job["eta_s"] < seconds + 2
    assert job["eta_max_s"] > 1.9 * job["eta_s"]
    planned = live.client.post("/plan", json={"width": 32, "height": 24, **wanted}).json()
    assert planned["estimate"]["seconds"] == pytest.approx(seconds / 2, abs=1)

    claimed = live.worker.claim()
    live.worker.jobs.heartbeat(claimed, 0.5, "upscaling", 500.0)

    def said() -> list[float | None]:
        return [each["eta_s"] for each in live.client.get("/jobs").json()["jobs"]]

    wait_for(lambda: 480 < (live.client.get(f"/jobs/{claimed.id}").json()["eta_s"] or 0) <= 1000)
    assert all(each is not None for each in said())
    live.worker.finish(claimed)
    done = live.client.get(f"/jobs/{claimed.id}").json()
    assert (done["eta_s"], done["eta_max_s"]) == (None, None)


def test_events_come_for_the_time_left_alone(live: Live, picture: Picture) -> None:
    job = submit(live, picture, scale=1)
    claimed = live.worker.claim()
    live.worker.jobs.heartbeat(claimed, 0.5, "encoding", 100.0)
    found: list[dict[str, Any]] = []
    with httpx.stream("GET", job["urls"]["events"], timeout=60, **LOOPBACK) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
            if len(found) == 3:
                break
    first, second, third = (each["eta_s"] for each in found)
    assert first > second > third > 0
    assert {each["progress"] for each in found} == {0.5}


def test_a_full_queue_says_when_there_will_be_room(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(max_queue=1)
    live.worker.beat()
    submit(live, picture, scale=1)
    live.worker.jobs.heartbeat(live.worker.claim(), 0.5, "upscaling", 90.0)
    submit(live, picture, scale=1)
    answer = live.client.post("/jobs", json={"image": inline(picture()), "scale": 1})
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 100


def test_events_of_a_finished_job_are_one(live: Live, picture: Picture) -> None:
    job = submit(live, picture, scale=1)
    live.worker.finish()
    assert [name for name, _ in events(live.client.get(job["urls"]["events"]))] == ["done"]


def test_events_end_when_the_server_stops(config: MakeConfig, picture: Picture) -> None:
    with ExitStack() as stack:
        with serve(create_app(config())) as url:
            job = httpx.post(f"{url}/jobs", json={"image": inline(picture())}, timeout=60, **LOOPBACK).json()
            lines = stack.enter_context(httpx.stream("GET", job["urls"]["events"], timeout=60, **LOOPBACK)).iter_lines()
            assert next(lines) == "event: progress"
        assert "event: done" not in list(lines), "and the connection was not cut"


def test_there_is_no_result_before_the_end_nor_after_a_failure(live: Live, picture: Picture) -> None:
    job = submit(live, picture)
    answer = live.client.get(job["urls"]["result"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    live.worker.fail(JobFailed("it broke"))
    assert live.client.get(job["urls"]["result"]).status_code == 409
    assert live.client.get(job["urls"]["self"]).json()["error"] == {"code": "job_failed", "message": "it broke"}


def test_a_waiting_job_is_cancelled_at_once_and_only_once(live: Live, picture: Picture) -> None:
    job = submit(live, picture)
    answer = live.client.post(f"/jobs/{job['id']}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert live.client.post(f"/jobs/{job['id']}/cancel").status_code == 409


def test_deleting_cancels_what_runs_and_forgets_what_has_ended(live: Live, picture: Picture) -> None:
    job = submit(live, picture, scale=1)
    claimed = live.worker.claim()
    answer = live.client.delete(job["urls"]["self"])
    assert (answer.status_code, answer.json()["cancel_requested"]) == (202, True)
    live.worker.finish(claimed)
    url = live.client.get(job["urls"]["self"]).json()["result"]["url"]
    assert live.client.delete(job["urls"]["self"]).status_code == 204
    assert live.client.get(job["urls"]["self"]).status_code == 404
    assert live.client.get(url).status_code == 404
    assert not [path for path in live.config.blobs_dir.iterdir() if path.is_file()]


def test_listing_is_newest_first_filtered_and_limited(live: Live, picture: Picture) -> None:
    first, second = submit(live, picture, scale=1), submit(live, picture)
    live.worker.finish()

    def ids(query: str) -> list[str]:
        return [job["id"] for job in live.client.get(f"/jobs{query}").json()["jobs"]]

    assert ids("") == [second["id"], first["id"]]
    assert ids("?limit=1") == [second["id"]]
    assert ids("?limit=1&offset=1") == [first["id"]]
    assert ids("?offset=2") == []
    assert ids("?state=succeeded") == [first["id"]]
    answer = live.client.get("/jobs?state=done")
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "state")


def test_a_key_sees_only_its_own_jobs(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(api_keys=("ann", "bob"))
    assert live.client.get("/jobs").status_code == 401
    live.client.headers["Authorization"] = "Bearer ann"
    job = submit(live, picture)
    live.client.headers["Authorization"] = "bob"
    assert live.client.get("/jobs").json() == {"jobs": [], "total": 0}
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/events"), ("GET", "/result")):
        assert live.client.request(method, f"/jobs/{job['id']}{path}").status_code == 404, path


def test_a_full_queue_is_said_so(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(max_queue=1)
    submit(live, picture)
    answer = live.client.post("/jobs", json={"image": inline(picture())})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_requests")


def test_plan_tells_sizes_and_tiles_and_enqueues_nothing(live: Live, picture: Picture) -> None:
    by_size = live.client.post("/plan", json={"width": 100, "height": 50, "model": "realesr-animevideov3"})
    assert by_size.json() == {
        "source": [100, 50],
        "result": [400, 200],
        "model": "realesr-animevideov3",
        "networks": ["realesr-animevideov3"],
        "notes": [],
        "passes": [{"source": [100, 50], "result": [400, 200], "tiles": 1, "border": [0, 0]}],
        "frames": 1,
        "border": [0, 0],
        "result_border": [0, 0],
        "tiles": 1,
        "estimate": {"seconds": None, "memory_bytes": 495_000, "result_bytes": 136_000},
        "preview": None,
        "hdr": None,
    }
    by_picture = live.client.post(
        "/plan", files={"file": ("a.png", picture(100, 50))}, data={"model": "realesr-animevideov3"}
    )
    assert by_picture.json() == by_size.json()
    assert live.client.post("/plan", json={"width": 100}).json()["error"]["field"] == "height"
    both = live.client.post("/plan", json={"width": 100, "height": 50, "image": inline(picture())})
    assert both.status_code == 400
    assert live.client.post("/plan", json={"width": 10**400, "height": 1}).status_code == 400
    assert live.client.get("/jobs").json() == {"jobs": [], "total": 0}


def test_a_plan_counts_the_border_of_a_picture_that_wraps(live: Live) -> None:
    plan = live.client.post("/plan", json={"width": 100, "height": 50, "model": "realesr-animevideov3", "wrap": "x"})
    assert plan.json()["result"] == [400, 200]
    (only,) = plan.json()["passes"]
    assert (only["border"], only["source"]) == (plan.json()["border"], [100 + 2 * only["border"][0], 50])
    assert only["border"][0] > 0 and plan.json()["result_border"] == [32, 0]
    thin = live.client.post("/plan", json={"width": 60, "height": 900_000, "scale": 1.1, "wrap": "x"})
    assert (thin.status_code, thin.json()["error"]["field"]) == (400, "wrap"), thin.text


def test_models_that_are_here_are_listed(live: Live) -> None:
    models = live.client.get("/models").json()["models"]
    assert "realesr-animevideov3" in [model["name"] for model in models]
    stated = {"licence", "author", "source", "note"}
    assert {"name", "scale", "form", "sha256", "seconds_per_megapixel"} | stated == set(models[0])
    large = next(model for model in models if model["name"] == "RealESRGAN_x4plus")
    assert large["form"] == "package, fp16" and large["sha256"].startswith("713ee713")


def test_models_say_how_fast_they_are_here_and_limits_are_listed(live_server: LiveServer) -> None:
    live = live_server(max_source_bytes=5000, max_source_pixels=600, max_result_pixels=7000)
    write_rates(live.config.cache_dir, "this machine", {"fidelity-x4": 200_000})
    found = live.client.get("/models").json()
    speeds = {model["name"]: model["seconds_per_megapixel"] for model in found["models"]}
    assert speeds["fidelity-x4"] == 5 and speeds["RealESRGAN_x4plus"] is None
    assert found["limits"] == {"source_bytes": 5000, "source_pixels": 600, "result_pixels": 7000}
    too_large = live.client.post("/plan", json={"width": 40, "height": 30}).json()["error"]
    assert too_large["code"] == "source_too_large"
    over = live.client.post("/plan", json={"width": 20, "height": 30}).json()["error"]
    assert over["code"] == "result_impossible" and "use a scale of at most 3.41" in over["message"]


def test_a_job_keeps_the_name_of_its_file_with_folders(live: Live, picture: Picture) -> None:
    answer = live.client.post("/jobs", files={"file": ("own.png", picture())})
    assert answer.json()["name"] == "own.png"
    given = live.client.post("/jobs", files={"file": ("own.png", picture())}, data={"name": "../b\\c:d\0/ä.png"})
    assert given.json()["name"] == "b/c_d/ä.png"
    assert submit(live, picture)["name"] is None
    assert live.client.get(given.json()["urls"]["self"]).json()["name"] == "b/c_d/ä.png"


def test_the_source_of_a_job_is_linked_and_may_be_saved_under_a_name(live: Live, picture: Picture) -> None:
    source = submit(live, picture)["source"]
    assert live.client.get(source["url"]).content == picture()
    saved = live.client.get(source["url"], params={"name": 'a/Grüße "1".png'})
    assert saved.headers["content-disposition"] == (
        "attachment; filename=\"Gr??e _1_.png\"; filename*=UTF-8''Gr%C3%BC%C3%9Fe%20_1_.png"
    )


@pytest.mark.parametrize("kind", ["png", "tiff", "heic"])
def test_a_plan_may_bring_a_preview_of_the_picture(live: Live, picture: Picture, kind: str) -> None:
    data = (FILES / "turned.heic").read_bytes() if kind == "heic" else picture(64, 48, kind=kind)
    answer = live.client.post("/plan", files={"file": ("a", data)}, data={"preview": "32"})
    head, _, text = answer.json()["preview"].partition(",")
    assert head == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(text))).size == (32, 24)


def test_a_stored_picture_has_previews(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(api_keys=("ann",))
    key, text = "0" * 32 + ".tiff", "1" * 32
    live.worker.blobs.put(key, picture(64, 48, kind="tiff"))
    live.worker.blobs.put(text, b"no picture")
    answer = live.client.get(f"/files/{key}/preview?side=16")
    assert answer.headers["content-type"] == "image/webp" and "immutable" in answer.headers["cache-control"]
    assert Image.open(io.BytesIO(answer.content)).size == (16, 12)
    refused = live.client.get(f"/files/{text}/preview")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "source_unreadable")
    assert live.client.get(f"/files/{'2' * 32}/preview").status_code == 404
    assert live.client.get(f"/files/{key}/preview?side=9").json()["error"]["field"] == "side"


def test_files_come_as_one_archive_under_names_that_are_kept_apart(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(api_keys=("ann",))
    data = {f"{number}" * 32: picture(10 + number, 8) for number in range(4)}
    for key, each in data.items():
        live.worker.blobs.put(key, each)
    names = ["trip/a.png", "trip/A.png", "../../b.png", None]
    files = [{"key": key, "name": name} for key, name in zip(data, names, strict=True)]
    as_json = live.client.post("/zip", json={"files": files})
    as_form = live.client.post("/zip", data={"files": json.dumps(files)})
    for answer in (as_json, as_form):
        assert answer.headers["content-disposition"] == 'attachment; filename="upscaled.zip"'
        archive = zipfile.ZipFile(io.BytesIO(answer.content))
        assert archive.testzip() is None
        expected = ["trip/a.png", "trip/A (2).png", "b.png", "3" * 32]
        assert {name: archive.read(name) for name in archive.namelist()} == dict(
            zip(expected, data.values(), strict=True)
        )


def test_an_archive_of_what_is_not_there_is_refused(live: Live) -> None:
    missing = live.client.post("/zip", json={"files": [{"key": "0" * 32}]})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert live.client.post("/zip", json={"files": []}).json()["error"]["field"] == "files"
    assert live.client.post("/zip", content=b"x" * 2_000_000).status_code == 413


def test_files_need_no_key_and_come_in_ranges(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(api_keys=("ann",))
    live.worker.blobs.put("0" * 32 + ".jpg", picture())
    url = f"/files/{'0' * 32}.jpg"
    whole = live.client.get(url)
    assert whole.headers["content-type"] == "image/png"  # as its bytes say, not its name
    assert whole.headers["x-content-type-options"] == "nosniff"
    part = live.client.get(url, headers={"Range": "bytes=0-7"})
    assert (part.status_code, part.content) == (206, b"\x89PNG\r\n\x1a\n")
    head = live.client.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(whole.content)))
    assert whole.headers["etag"]


def test_a_file_that_is_no_picture_is_only_ever_saved(live: Live) -> None:
    live.worker.blobs.put("0" * 32 + ".html", b"<script>alert(1)</script>")
    answer = live.client.get(f"/files/{'0' * 32}.html")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize("key", ["0" * 32, "nope", "..%2fjobs.sqlite3", "%2e%2e/jobs.sqlite3", "0" * 32 + "%00"])
def test_a_file_that_is_not_there_is_not_found(live: Live, key: str) -> None:
    assert live.client.get(f"/files/{key}").status_code == 404


def test_an_upload_ticket_takes_bytes_once_and_not_too_many(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(api_keys=("ann",), max_source_bytes=10_000)
    ticket = live.client.post(
        "/api/v3/media/uploads", json={"filename": "a.png"}, headers={"Authorization": "ann"}
    ).json()["data"]
    put = ticket["upload"]["url"]
    assert live.client.get(ticket["download_url"]).status_code == 404
    assert live.client.put(put, content=b"x" * 10_001).status_code == 413
    answer = live.client.put(put, content=picture())
    assert answer.json() == {"url": ticket["download_url"], "size_bytes": len(picture())}
    assert live.client.get(ticket["download_url"]).content == picture()
    assert live.client.put(put, content=picture()).status_code == 404
    assert live.client.put(f"/uploads/{'0' * 32}", content=picture()).status_code == 404


def test_links_follow_the_address_that_was_asked(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(api_keys=("ann",))
    live.client.headers["Authorization"] = "Bearer ann"
    behind = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "up.example, inner", "Host": "ignored"}
    job = live.client.post("/jobs", json={"image": inline(picture())}, headers=behind).json()
    assert job["urls"]["self"].startswith("https://up.example/jobs/")
    odd = live.client.post("/jobs", json={"image": inline(picture())}, headers={"X-Forwarded-Host": "a/b<c>"}).json()
    assert odd["urls"]["self"].startswith(f"{live.url}/jobs/")


def test_links_start_with_the_public_base_url_if_there_is_one(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(public_base_url="https://up.example/")
    assert submit(live, picture)["urls"]["self"].startswith("https://up.example/jobs/")


def test_the_fields_of_the_file_are_taken_as_they_are_written(live: Live, picture: Picture) -> None:
    wanted = {"format": "tiff", "depth": 16, "metadata": "strip", "colour": "srgb", "background": "#102030"}
    job = submit(live, picture, **wanted)
    assert {name: job["params"][name] for name in wanted} == wanted | {"background": [16, 32, 48]}
    answer = live.client.post("/jobs", files={"file": ("a.png", picture())}, data={"depth": "8", "lossless": "true"})
    assert (answer.json()["params"]["depth"], answer.json()["params"]["lossless"]) == (8, True)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"format": "jpeg", "lossless": True}, "lossless"),
        ({"format": "webp", "depth": 16}, "depth"),
        ({"format": "png", "progressive": True}, "progressive"),
        ({"metadata": "some"}, "metadata"),
        ({"background": "white"}, "background"),
        ({"background": [0, 0, 256]}, "background"),
        ({"denoise": 1.5}, "denoise"),
    ],
)
def test_a_file_that_can_not_be_written_so_is_refused(
    live: Live, picture: Picture, fields: dict[str, Any], field: str
) -> None:
    answer = live.client.post("/jobs", json={"image": inline(picture()), **fields})
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)


def test_the_models_say_whether_faces_can_be_restored(live: Live) -> None:
    faces = live.client.get("/models").json()["faces"]
    assert faces["available"] is False and "weights pull gfpgan" in faces["reason"]
