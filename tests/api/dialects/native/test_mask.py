"""The field `mask`: what it takes, in JSON and in forms; its picture is fetched, checked and kept as a source is."""

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from server.errors import NotFound
from tests.conftest import Live, LiveServer, Picture, draw
from tests.outbound.test_source import say, serving


def inline(data: bytes) -> str:
    return base64.b64encode(data).decode()


def white(width: int = 8, height: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height), 255).save(buffer, "PNG")
    return buffer.getvalue()


def submit(live: Live, mask: Any, **fields: Any) -> dict[str, Any]:
    answer = live.client.post("/jobs", json={"image": inline(draw()), "scale": 2, "mask": mask, **fields})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def test_boxes_reach_the_worker(live: Live) -> None:
    job = submit(live, {"boxes": [[1, 2, 3, 4], [5, 6, 7, 8]], "keep": "outside"}, grain=0.5)
    assert job["params"]["mask"] == {"boxes": [[1, 2, 3, 4], [5, 6, 7, 8]], "image": None, "keep": "outside"}
    claimed = live.worker.claim()
    assert claimed.params.mask is not None and claimed.params.grain == 0.5
    assert claimed.params.mask.boxes == ((1, 2, 3, 4), (5, 6, 7, 8)) and claimed.params.mask.keep == "outside"


def test_its_picture_is_kept_with_the_job_and_deleted_with_it(live: Live) -> None:
    job = submit(live, {"image": "data:image/png;base64," + inline(white())})
    link = job["params"]["mask"]["image"]
    assert live.client.get(link).content == white()
    claimed = live.worker.claim()
    assert claimed.params.mask is not None
    key = claimed.params.mask.image
    assert key and live.worker.blobs.get(key) == white()
    needed = live.worker.jobs.keys()
    assert key in needed  # cleanup leaves it alone
    live.worker.finish(claimed)
    again = submit(live, job["params"]["mask"] | {"boxes": None})
    assert again["params"]["mask"]["image"] != link  # every job has its own
    assert live.client.delete(f"/jobs/{job['id']}").status_code == 204
    assert live.client.get(link).status_code == 404
    with pytest.raises(NotFound):
        live.worker.blobs.get(key)
    assert live.client.get(again["params"]["mask"]["image"]).content == white()


def test_a_form_carries_it_as_a_file_or_as_text(live: Live) -> None:
    files = {"file": ("a.png", draw()), "mask_file": ("m.png", white())}
    for fields, keep in (({}, "inside"), ({"mask": '{"keep": "outside"}'}, "outside")):
        answer = live.client.post("/jobs", files=files, data={"scale": "2", **fields})
        assert answer.status_code == 202, answer.text
        mask = live.worker.claim().params.mask
        assert mask is not None and mask.keep == keep and live.worker.blobs.get(mask.image or "") == white()
    boxes = {"scale": "2", "mask": json.dumps({"boxes": [[0, 0, 5, 5]]})}
    assert live.client.post("/jobs", files={"file": draw()}, data=boxes).status_code == 202


def test_its_picture_may_be_an_upload_or_at_another_server(live_server: LiveServer) -> None:
    live = live_server(allow_hosts=("127.0.0.1",))
    upload = live.client.post("/uploads", content=white()).json()["url"]
    head = f"200 OK\r\nContent-Length: {len(white())}\r\n\r\n".encode()

    def answer(connection: Any) -> None:
        connection.sendall(b"HTTP/1.1 " + head + white())

    with serving(answer, "127.0.0.1") as url:
        for image in (upload, url + "/mask.png"):
            mask = submit(live, {"image": image})["params"]["mask"]
            assert live.client.get(mask["image"]).content == white()


HOSTILE = [
    ({"boxes": [[0, 0, 5, 5]], "image": inline(white())}, 400, "invalid_field"),
    ({}, 400, "invalid_field"),
    ({"keep": "inside"}, 400, "invalid_field"),
    ({"boxes": [[0, 0, 0, 5]]}, 400, "invalid_field"),
    ({"boxes": [[-1, 0, 5, 5]]}, 400, "invalid_field"),
    ({"boxes": [[0, 0, 5]]}, 400, "invalid_field"),
    ({"boxes": [[0, 0, 5.5, 5]]}, 400, "invalid_field"),
    ({"boxes": [[0, 0, True, 5]]}, 400, "invalid_field"),
    ({"boxes": [[0, 0, 10**30, 5]]}, 400, "invalid_field"),
    ({"boxes": [[0, 0, 5, 5]] * 1001}, 400, "invalid_field"),
    ({"boxes": "all"}, 400, "invalid_field"),
    ({"boxes": [[0, 0, 5, 5]], "keep": "both"}, 400, "invalid_field"),
    ({"boxes": [[0, 0, 5, 5]], "soft": 3}, 400, "invalid_field"),
    ("left half", 400, "invalid_field"),
    ([[0, 0, 5, 5]], 400, "invalid_field"),
    ({"image": "not base64!"}, 400, "invalid_field"),
    ({"image": ""}, 400, "missing_field"),
    ({"image": inline(b"GIF89a and then nothing")}, 422, "source_unreadable"),
    ({"image": inline(b"<svg/>")}, 422, "source_unreadable"),
    ({"image": inline(white(1100, 1000))}, 422, "source_too_large"),
    ({"image": "http://127.0.0.1:9/mask.png"}, 422, "source_not_allowed"),
    ({"image": "http://169.254.169.254/latest/meta-data"}, 422, "source_not_allowed"),
    ({"image": "http://[::1]/"}, 422, "source_not_allowed"),
]


def test_a_bad_mask_is_refused_by_its_name_and_nothing_is_stored(live_server: LiveServer) -> None:
    live = live_server(max_source_pixels=10**6)
    for mask, status, code in HOSTILE:
        answer = live.client.post("/jobs", json={"image": inline(draw()), "mask": mask})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["field"]) == (status, code, "mask"), (mask, error)
    assert live.client.get("/jobs").json()["total"] == 0
    assert not [path for path in live.config.blobs_dir.iterdir() if path.is_file()]


def test_what_its_server_answers_is_an_error_of_the_mask(live_server: LiveServer) -> None:
    live = live_server(allow_hosts=("127.0.0.1",))
    with serving(say("404 Not Found"), "127.0.0.1") as url:
        answer = live.client.post("/jobs", json={"image": inline(draw()), "mask": {"image": url}})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (422, "source_unreachable", "mask")
    assert error["message"].startswith("the mask: ")


def test_a_sweep_has_no_mask_and_grain_has_a_range(live: Live, picture: Picture) -> None:
    for fields, name in (
        ({"sweep": True, "mask": {"boxes": [[0, 0, 5, 5]]}}, "mask"),
        ({"grain": -0.1}, "grain"),
        ({"grain": 1.1}, "grain"),
        ({"grain": "much"}, "grain"),
    ):
        answer = live.client.post("/jobs", json={"image": inline(picture()), **fields})
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, name)


def test_the_plan_counts_the_second_network(live: Live) -> None:
    size = {"width": 400, "height": 300, "scale": 4, "model": "realesr-animevideov3"}
    plain, strict, masked = (
        live.client.post("/plan", json={**size, **more}).json()
        for more in ({}, {"creativity": -2}, {"mask": {"boxes": [[0, 0, 9, 9]]}})
    )
    assert masked["model"] == "realesr-animevideov3, masked fidelity-x4"
    assert masked["networks"] == ["realesr-animevideov3", "fidelity-x4"]
    assert masked["tiles"] == plain["tiles"] + strict["tiles"]
    already = live.client.post("/plan", json={**size, "creativity": -2, "mask": {"boxes": [[0, 0, 9, 9]]}}).json()
    assert already == strict
