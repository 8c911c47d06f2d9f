"""What curl, shells and tools send as a body: in every dialect it is read, or refused with the remedy."""

import base64
import codecs
import gzip
import json
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from server.api.bodies import looks_like_json, text_of
from server.config import MIB
from tests.api.dialects.submits import SUBMITS
from tests.conftest import Live, LiveServer, Picture, draw

NATIVE = "/jobs"
PICTURE = base64.b64encode(draw()).decode()


def refusal(answer: Any) -> str:
    """What it says, in whichever dialect's form; it must be a form of that dialect."""
    body = answer.json()
    if "errors" in body:
        assert body["errors"][0]["code"] == "unsupportedMediaType"
        return str(body["errors"][0]["message"])
    said = body["error"] if isinstance(body.get("error"), dict) else body
    return str(said["detail"] if {"title", "status"} <= body.keys() else said["message"])


def submit_body(dialect: str) -> tuple[str, bytes]:
    submit = SUBMITS[dialect]
    return submit.path, json.dumps(submit.body(PICTURE)).encode()


@pytest.fixture(scope="module")
def live(shared: Live) -> Live:
    return shared


# --- JSON, however it is called and encoded -------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", SUBMITS)
@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain", "application/json"])
def test_json_is_read_whatever_its_content_type_says(live: Live, dialect: str, kind: str | None) -> None:
    path, body = submit_body(dialect)
    answer = live.client.post(path, content=b" \r\n" + body, headers={"Content-Type": kind} if kind else {})
    assert answer.is_success, answer.text


@pytest.mark.parametrize("dialect", SUBMITS)
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (b"", "utf-16-le"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
def test_json_with_a_byte_order_mark_or_in_utf_16_is_read_by_all_dialects_alike(
    live: Live, dialect: str, mark: bytes, encoding: str, kind: str
) -> None:
    path, body = submit_body(dialect)
    sent = mark + body.decode().encode(encoding)
    answer = live.client.post(path, content=sent, headers={"Content-Type": kind})
    assert answer.is_success, answer.text


def test_an_authentication_task_with_a_byte_order_mark_is_read(live_server: LiveServer) -> None:
    live = live_server(api_keys=("rw-key",))
    tasks = [{"taskType": "authentication", "apiKey": "rw-key"}, *SUBMITS["runware"].body(PICTURE)]
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le"):
        tasks[1]["taskUUID"] = str(uuid.uuid4())
        assert live.client.post("/v1", content=json.dumps(tasks).encode(encoding)).status_code == 200
        live.worker.finish()
        live.client.request(
            "DELETE", f"/jobs/{live.worker.jobs.list(limit=1)[0][0].id}", headers={"Authorization": "rw-key"}
        )


@pytest.mark.parametrize("frame", ["\ufeff[%s]", "[%s]"])
@pytest.mark.parametrize("encoding", [None, "utf-8", "utf-16"])
def test_frames_are_read_like_bodies(live: Live, frame: str, encoding: str | None) -> None:
    text = frame % '{"taskType": "ping", "ping": true}'
    with connect(live.url.replace("http", "ws") + "/v1", proxy=None) as socket:
        socket.send(text if encoding is None else text.removeprefix("\ufeff").encode(encoding))
        assert json.loads(socket.recv(10)) == {"data": [{"taskType": "ping", "pong": True}]}


def test_what_is_no_text_is_refused_like_any_text_that_is_no_json(live: Live) -> None:
    for dialect, submit in SUBMITS.items():
        headers = {"Content-Type": "application/json"}
        answer = live.client.post(submit.path, content=b'{"image": "\xff\xfe"}', headers=headers)
        assert answer.status_code == 400, dialect
    assert text_of('\ufeff{"ü": 1}'.encode("utf-16-le")) == '{"ü": 1}'
    assert looks_like_json(b"\xef\xbb\xbf \n{") and not looks_like_json(b"a={") and not looks_like_json(b"")


def test_null_is_as_good_as_absent_in_our_own_api_too(live: Live, picture: Picture) -> None:
    names = "format lossless progressive metadata colour background animation model faces sweep"
    absent = dict.fromkeys(names.split())
    body = {"image": base64.b64encode(picture()).decode(), "scale": 2, **absent}
    job = live.client.post("/jobs", json=body).json()
    assert (job["params"]["format"], job["params"]["model"], job["params"]["faces"]) == ("png", "auto", None)
    assert live.client.post("/plan", json={"width": 10, "height": 10, "format": None, "scale": None}).status_code == 200
    unknown = live.client.post("/jobs", json={"image": "x", "fromat": "png"})
    assert unknown.json()["error"]["field"] == "fromat"


# --- blanks in base64 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", SUBMITS)
@pytest.mark.parametrize("blank", [" ", "\t", " \r\n ", "\n"])
@pytest.mark.parametrize("head", ["", "data:image/png;base64,", "data:image/png;base64, "])
def test_blanks_in_base64_are_passed_over(live: Live, dialect: str, blank: str, head: str) -> None:
    spaced = head + blank.join(PICTURE[start : start + 76] for start in range(0, len(PICTURE), 76))
    submit = SUBMITS[dialect]
    answer = live.client.post(submit.path, json=submit.body(spaced))
    assert answer.is_success, answer.text
    job = live.worker.jobs.list(limit=1)[0][0]
    assert job.error_message is None
    assert live.worker.blobs.get(str(job.source_key)) == draw()


def test_words_are_no_base64_for_their_blanks(live: Live) -> None:
    answer = live.client.post("/jobs", json={"image": "a picture of some kind that is quite long"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_field")


# --- forms ----------------------------------------------------------------------------------------------------------


def test_base64_in_a_field_of_a_form_may_be_as_large_as_in_json(live: Live, picture: Picture) -> None:
    data = picture(1000, 900, "RGB", "tiff")
    digits = base64.encodebytes(data)
    assert len(digits) > 3 * MIB
    for image in (digits, b"data:image/tiff;base64," + digits):
        answer = live.client.post("/jobs", files={"image": (None, image)}, data={"scale": "2"})
        assert answer.status_code == 202, answer.text
        assert live.worker.blobs.get(str(live.worker.jobs.list(limit=1)[0][0].source_key)) == data


def test_a_field_of_a_form_is_no_larger_than_a_body_may_be(live_server: LiveServer) -> None:
    live = live_server(max_source_bytes=3000)
    answer = live.client.post("/jobs", files={"image": (None, b"A" * (2 * MIB))})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_a_picture_under_the_name_image_is_taken_as_the_file(live: Live, picture: Picture) -> None:
    answer = live.client.post("/jobs", files={"image": ("a.png", picture(8, 6))}, data={"scale": "2"})
    assert answer.status_code == 202, answer.text
    twice = live.client.post("/jobs", files={"image": ("a.png", picture(8, 6)), "file": ("b.png", picture(8, 6))})
    assert (twice.status_code, twice.json()["error"]["field"]) == (400, "image")


def test_a_form_without_files_keeps_the_pluses_of_base64(live: Live, picture: Picture) -> None:
    """As `curl -d "image=$(base64 …)"` sends them: unescaped."""
    data = next(picture(width, 9, "RGB", "tiff") for width in range(9, 99))
    digits = base64.b64encode(bytes(data) + b"\xfb\xef\xbe" * 9).decode()
    assert "+" in digits
    for sent in (digits, digits.replace("+", "%2B"), "data:image/tiff;base64," + digits):
        answer = live.client.post(
            "/jobs",
            content=f"image={sent}&scale=2&format=webp",
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
        assert answer.status_code == 202, answer.text
        job = live.worker.jobs.list(limit=1)[0][0]
        assert live.worker.blobs.get(str(job.source_key)) == data + b"\xfb\xef\xbe" * 9
        assert (job.params.scale, job.params.format) == (2, "webp")


@pytest.mark.parametrize(
    ("path", "field"), [("/jobs", "image"), ("/api/v3/media/upload/binary", "file"), ("/v1/files", "content")]
)
def test_a_file_that_is_twice_in_a_form_is_refused_and_none_is_dropped(
    live: Live, picture: Picture, path: str, field: str
) -> None:
    part = ("a.png", picture(), "image/png")
    answer = live.client.post(path, files=[(field, part), (field, part)])
    assert answer.status_code in (400, 422) and f"{field} is in the form 2 times" in answer.text
    assert live.client.post(path, files={field: part}).is_success


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded"])
def test_a_text_that_is_twice_in_a_form_is_refused(live: Live, picture: Picture, content_type: str | None) -> None:
    if content_type is None:
        files = {"file": ("a.png", picture())}
        answer = live.client.post("/jobs", files=files, data={"scale": ["2", "3"]})
    else:
        answer = live.client.post("/jobs", content="scale=2&scale=3", headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "scale")


@pytest.mark.parametrize("field", ["faces", "mask"])
@pytest.mark.parametrize("text", ["[" * 50_000, '{"a":' * 5_000, "9" * 5_000, "NaN"])
def test_json_in_a_form_may_be_as_deep_as_it_likes_and_is_refused(
    live: Live, picture: Picture, field: str, text: str
) -> None:
    answer = live.client.post("/jobs", files={"file": ("a.png", picture())}, data={field: text})
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)


def test_an_empty_form_and_one_of_too_many_fields_are_refused(live: Live) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert live.client.post("/jobs", content="", headers=kind).json()["error"]["code"] == "missing_field"
    many = live.client.post("/jobs", content="&".join(["a=1"] * 1002), headers=kind)
    assert (many.status_code, many.json()["error"]["message"]) == (400, "the form has more than 1000 fields")


@pytest.mark.parametrize("dialect", [name for name in SUBMITS if name != "native"])
def test_a_form_where_json_is_wanted_is_refused_with_the_remedy(live: Live, dialect: str, picture: Picture) -> None:
    path = SUBMITS[dialect].path
    for sent in ({"files": {"image": ("a.png", picture())}}, {"data": {"image": "https://example.com/a.png"}}):
        answer = live.client.post(path, **sent)
        assert (answer.status_code, refusal(answer)) == (
            415,
            "this address takes JSON, not a form: send it with Content-Type: application/json",
        )


# --- pictures and compressed bodies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", SUBMITS)
@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "application/x-www-form-urlencoded", None])
def test_a_picture_as_the_body_is_refused_with_the_remedy(
    live: Live, dialect: str, kind: str | None, picture: Picture
) -> None:
    answer = live.client.post(SUBMITS[dialect].path, content=picture(), headers={"Content-Type": kind} if kind else {})
    remedy = (
        "curl -F file=@NAME" if dialect == "native" else "send JSON, with the picture as a URL, a data URI or base64"
    )
    assert answer.status_code == 415
    assert "the body is a picture file (image/png)" in refusal(answer) and remedy in refusal(answer)


@pytest.mark.parametrize("path", ["/api/v3/media/upload/binary", "/api/v2/upload"])
def test_an_upload_that_is_no_form_is_refused_with_the_remedy(live: Live, path: str, picture: Picture) -> None:
    for body, kind in ((picture(), "image/png"), (b"not a picture", "text/plain")):
        answer = live.client.post(path, content=body, headers={"Content-Type": kind})
        assert answer.status_code == 415 and "curl -F file=@NAME" in refusal(answer)
    for sent in (b"", b'{"file": "AAAA"}'):
        assert live.client.post(path, content=sent).status_code == 400


@pytest.mark.parametrize("dialect", SUBMITS)
@pytest.mark.parametrize("said", ["gzip", "deflate", "br", "GZIP, br"])
def test_a_compressed_body_is_refused_with_the_reason(live: Live, dialect: str, said: str) -> None:
    path, body = submit_body(dialect)
    answer = live.client.post(path, content=gzip.compress(body), headers={"Content-Encoding": said})
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")
    assert refusal(answer) == f"the body is compressed ({said.lower()}): send it uncompressed"


@pytest.mark.parametrize("dialect", SUBMITS)
def test_a_compressed_body_that_does_not_say_so_is_refused_too(live: Live, dialect: str) -> None:
    path, body = submit_body(dialect)
    answer = live.client.post(path, content=gzip.compress(body), headers={"Content-Type": "application/json"})
    assert (answer.status_code, refusal(answer)) == (415, "the body is compressed (gzip): send it uncompressed")
    assert live.client.post(path, content=body, headers={"Content-Encoding": "identity"}).is_success


def test_a_compressed_upload_to_a_ticket_is_refused_and_the_ticket_stays_good(live: Live, picture: Picture) -> None:
    ticket = live.client.post("/api/v3/media/uploads", json={"filename": "a.png"}).json()["data"]["upload"]["url"]
    refused = live.client.put(ticket, content=gzip.compress(picture()), headers={"Content-Encoding": "gzip"})
    assert refused.status_code == 415
    form = live.client.put(ticket, files={"file": picture()})
    assert form.status_code == 415 and "curl -T NAME" in refusal(form)
    # As `curl -X PUT --data-binary` calls it.
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert live.client.put(ticket, content=picture(), headers=kind).status_code == 200


# --- curl itself ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_what_curl_sends_is_read_or_refused_in_words(live: Live, picture: Picture, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(picture(40, 20))
    (tmp_path / "in.b64").write_bytes(base64.encodebytes(picture(900, 700, "RGB", "tiff")))
    digits = base64.b64encode(picture(4, 4)).decode()

    def curl(*words: str) -> tuple[int, dict[str, Any]]:
        command = ["curl", "-s", "--noproxy", "*", "-w", "\n%{http_code}", f"{live.url}/jobs", *words]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
        body, _, status = run.stdout.rpartition("\n")
        return int(status), json.loads(body)

    assert curl("-d", json.dumps({"image": digits, "scale": 2}))[0] == 202
    assert curl("--json", json.dumps({"image": digits, "scale": 2}))[0] == 202
    assert curl("-d", f"image={digits}", "-d", "scale=2")[0] == 202
    assert curl("--data-urlencode", f"image={digits}", "-d", "scale=2")[0] == 202
    assert curl("-F", "file=@in.png", "-F", "scale=2")[0] == 202
    assert curl("-F", "image=@in.png", "-F", "scale=2")[0] == 202
    assert curl("-F", "image=<in.b64", "-F", "scale=2")[0] == 202
    for words in (
        ("--data-binary", "@in.png"),
        ("-d", "@in.png"),
        ("--data-binary", "@in.png", "-H", "Content-Type: image/png"),
    ):
        status, body = curl(*words)
        assert (status, body["error"]["code"]) == (415, "unsupported_media_type"), words
        assert "curl -F file=@NAME" in body["error"]["message"]
    status, body = curl("-T", "in.png", "-X", "POST")
    assert status == 415
