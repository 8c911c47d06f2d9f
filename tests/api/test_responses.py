"""Files as answers: ranges, conditional requests, and pictures in JSON that are never whole in memory."""

import base64
import json
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from server.api.inline import Inline, to_json
from server.api.responses import json_response, picture
from server.blobs.base import Blob, new_key
from server.blobs.folder import FolderBlobs
from server.config import MIB
from server.errors import NotFound
from tests.conftest import Live, Picture, serve


@pytest.fixture(scope="module")
def live(shared: Live) -> Live:
    return shared


@pytest.fixture
def file(live: Live, picture: Picture) -> tuple[str, bytes]:
    key, data = new_key(".png"), picture()
    live.worker.blobs.put(key, data)
    return f"/files/{key}", data


def test_a_file_is_served_whole(live: Live, file: tuple[str, bytes]) -> None:
    path, data = file
    answer = live.client.get(path)
    assert (answer.status_code, answer.content) == (200, data)
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=5-", 5, None),
        ("bytes=-7", -7, None),
        ("Bytes = 3-3", 3, 4),
        ("bytes=0-999999999", 0, None),
        ("bytes=-999999999", 0, None),
        ("bytes=2-4,999999-", 2, 5),
    ],
)
def test_what_a_range_asks_for_comes(live: Live, file: tuple[str, bytes], asked: str, start: int, end: int) -> None:
    path, data = file
    answer = live.client.get(path, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, data[start:end])


def test_several_ranges_come_together(live: Live, file: tuple[str, bytes]) -> None:
    path, data = file
    answer = live.client.get(path, headers={"Range": "bytes=0-3,10-13"})
    assert answer.status_code == 206 and answer.headers["Content-Type"].startswith("multipart/byteranges")
    assert data[:4] in answer.content and data[10:14] in answer.content


@pytest.mark.parametrize("asked", ["bytes=1000000-", "bytes=1000000-2000000", "bytes=-0", "bytes=99999-,-0"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_range_beyond_the_file_is_said_in_our_words(
    live: Live, file: tuple[str, bytes], asked: str, method: str
) -> None:
    path, data = file
    answer = live.client.request(method, path, headers={"Range": asked})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{len(data)}")
    if method == "GET":
        message = f"the file has {len(data)} bytes, and none of those that the Range header asks for"
        assert answer.json() == {"error": {"code": "range_not_satisfiable", "message": message, "field": None}}


@pytest.mark.parametrize(
    "asked", ["", "bytes", "bytes=", "bytes=a-b", "bytes=5-2", "items=0-1", "bytes=1", "bytes=--1"]
)
def test_a_range_that_means_nothing_is_passed_over(live: Live, file: tuple[str, bytes], asked: str) -> None:
    path, data = file
    answer = live.client.get(path, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, data)


def test_what_a_caller_has_already_is_not_sent_again(live: Live, file: tuple[str, bytes]) -> None:
    path, data = file
    tag = live.client.get(path).headers["ETag"]
    again = live.client.get(path, headers={"If-None-Match": f'"other", {tag}'})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    assert live.client.get(path, headers={"If-None-Match": '"other"'}).content == data
    resumed = {"Range": "bytes=99999999-", "If-Range": '"other"'}
    assert live.client.get(path, headers=resumed).status_code == 200, "it is another file now: all of it"
    assert live.client.get(path, headers={"Range": "bytes=4-", "If-Range": tag}).content == data[4:]


@pytest.mark.parametrize("place", ["file", "page"])
def test_tags_in_every_form_and_dates_tell_what_a_caller_has(live: Live, file: tuple[str, bytes], place: str) -> None:
    path = file[0] if place == "file" else "/web/page.js"
    whole = live.client.get(path)
    tag, modified = whole.headers["ETag"], whole.headers["Last-Modified"]
    earlier, later = "Mon, 01 Jan 2001 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
    has_it: tuple[dict[str, str], ...] = (
        {"If-None-Match": f"W/{tag}"},
        {"If-None-Match": f'W/"other" ,W/{tag}'},
        {"If-None-Match": "*"},
        {"If-None-Match": f'"other",*, {tag}'},
        {"If-Modified-Since": modified},
        {"If-Modified-Since": later},
        {"If-None-Match": tag, "If-Modified-Since": earlier},
        {"If-None-Match": tag, "Range": "bytes=0-3"},
    )
    for method in ("GET", "HEAD"):
        for headers in has_it:
            answer = live.client.request(method, path, headers=headers)
            assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag), headers
            assert answer.headers["Last-Modified"] == modified
    lacks_it: tuple[dict[str, str], ...] = (
        {"If-None-Match": 'W/"other"'},
        {"If-None-Match": tag.strip('"')},
        {"If-None-Match": ""},
        {"If-Modified-Since": earlier},
        {"If-None-Match": '"other"', "If-Modified-Since": later},
        {"If-Modified-Since": "yesterday"},
        {"If-Modified-Since": "Mon, 99 Jan 2001 99:00:00 GMT"},
        {"If-Modified-Since": "x" * 5000},
    )
    for headers in lacks_it:
        answer = live.client.get(path, headers=headers)
        assert (answer.status_code, answer.content) == (200, whole.content), headers


def test_a_resumed_download_is_reported_by_tag_or_date(live: Live, file: tuple[str, bytes]) -> None:
    path, data = file
    head = live.client.head(path).headers
    for good in (head["ETag"], head["Last-Modified"]):
        assert live.client.get(path, headers={"Range": "bytes=4-", "If-Range": good}).content == data[4:]
    for other in (f"W/{head['ETag']}", "Mon, 01 Jan 2001 00:00:00 GMT", "*"):
        answer = live.client.get(path, headers={"Range": "bytes=4-", "If-Range": other})
        assert (answer.status_code, answer.content) == (200, data), other


@pytest.mark.parametrize("asked", ["bytes=a-b", "bytes=5-2", "items=0-1"])
def test_a_range_of_the_page_that_means_nothing_is_passed_over(live: Live, asked: str) -> None:
    whole = live.client.get("/web/page.js")
    assert live.client.get("/web/page.js", headers={"Range": asked}).content == whole.content
    beyond = live.client.get("/web/page.js", headers={"Range": "bytes=99999999-"})
    assert (beyond.status_code, beyond.json()["error"]["code"]) == (416, "range_not_satisfiable")


def test_the_source_of_a_job_is_there_for_its_owner(live: Live, picture: Picture) -> None:
    data = picture(40, 30)
    task = {"image": base64.b64encode(data).decode(), "scale": 2}
    job_id = live.client.post("/api/v3/wavespeed-ai/real-esrgan", json=task).json()["data"]["id"]
    answer = live.client.get(f"/jobs/{job_id}/source")
    assert (answer.status_code, answer.content, answer.headers["Content-Type"]) == (200, data, "image/png")
    live.worker.finish()
    assert live.client.get(f"/jobs/{job_id}/source", headers={"Range": "bytes=0-3"}).content == data[:4]


def test_a_source_that_was_never_here_is_a_conflict(live: Live) -> None:
    job = live.client.post("/jobs", json={"image": "http://127.0.0.1:9/a.png"}).json()
    answer = live.client.get(f"/jobs/{job['id']}/source")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")


# --- within JSON ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 3, 786431, 786432, 786433, 2_000_000])
def test_what_is_inline_is_the_files_base64(tmp_path: Path, size: int) -> None:
    blob, data = Blob(FolderBlobs(tmp_path), new_key()), bytes(n % 251 for n in range(size))
    blob.store.put(blob.key, data)
    text = base64.b64encode(data).decode()
    content = {"a": ["ü", Inline(blob)], "b": {"c": Inline(blob, "data:image/png;base64,"), "d": None}}
    plain = {"a": ["ü", text], "b": {"c": f"data:image/png;base64,{text}", "d": None}}
    assert json.loads(to_json(content)) == plain
    app = FastAPI()
    app.router.add_api_route("/", lambda: json_response(content, 201, {"X-Name": "value"}))
    with serve(app) as url:
        answer = httpx.get(url, trust_env=False, timeout=30)
    assert (answer.status_code, answer.headers["X-Name"]) == (201, "value")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == plain
    assert int(answer.headers["Content-Length"]) == len(answer.content)


def test_what_is_gone_is_not_found(tmp_path: Path) -> None:
    gone = Blob(FolderBlobs(tmp_path), new_key())
    with pytest.raises(NotFound):
        json_response({"a": Inline(gone)})
    with pytest.raises(NotFound):  # deleted after it was looked for
        picture(gone, "gone.png", Request({"type": "http", "headers": []}))


def test_many_large_pictures_at_once_take_little_memory(tmp_path: Path) -> None:
    """Twelve times 20 MB: whole, with their base64 and its copies, they would be 1.3 GB."""
    blob = Blob(FolderBlobs(tmp_path), new_key())
    blob.store.put(blob.key, bytes(20 * MIB))
    app = FastAPI()
    app.router.add_api_route("/", lambda: json_response({"outputs": [Inline(blob)]}))
    sizes: list[int] = []

    def read(url: str) -> None:
        with httpx.stream("GET", url, trust_env=False, timeout=60) as answer:
            sizes.append(sum(map(len, answer.iter_raw())))

    with serve(app) as url:
        tracemalloc.start()
        readers = [threading.Thread(target=read, args=(url,)) for _ in range(12)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(sizes) == 12 and min(sizes) > 20 * MIB * 4 / 3
    assert peak < 100 * MIB, peak


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[str]:
    """A server of one file that is no picture."""
    blobs, key = FolderBlobs(tmp_path), new_key()
    blobs.put(key, b"<script>alert(1)</script>")
    app = FastAPI()

    @app.get("/")
    def give(request: Request) -> Response:
        return picture(Blob(blobs, key), "page.html", request)

    with serve(app) as url:
        yield url


def test_what_is_no_picture_is_saved_and_never_shown(odd: str) -> None:
    answer = httpx.get(odd, trust_env=False, timeout=60)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="page.html"'
