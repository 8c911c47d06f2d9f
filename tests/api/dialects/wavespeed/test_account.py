"""WaveSpeed's webhooks, uploads, keys, lists, account and catalogue.

Tests named `test_w1_…` to `test_w8_…` are the lines of the acceptance list.
"""

import json
import time
from datetime import datetime, timezone
from typing import Any

import httpx
import pytest

from server.api.dialects.wavespeed import translate as wavespeed
from server.api.webhooks import RETRIES, Retries
from server.db.jobs import HeartbeatResult
from tests.api.dialects.wavespeed.client import ESRGAN, SCALE_RANGE, UPSCALER, error_body, inline, prediction, submit
from tests.conftest import Live, LiveServer, Picture, Receiver

# --- webhooks ------------------------------------------------------------------------------------------------------


def test_the_signature_is_the_documented_one() -> None:
    body = b'{"id":"abc","status":"completed"}'
    signature = "v3,20b979b6f47185510748ee3aab0da696327115005ae3a9d0473a37426931f141"
    assert wavespeed.sign("whsec_dGVzdC1zZWNyZXQtZm9yLWRvY3M=", "abc", 1700000000, body) == signature


HOOKS: list[tuple[str, dict[str, Any], str]] = [
    ("?webhook={url}/x?token=1%26b=2", {}, "/x?token=1%26b=2"),  # as it is, in which the caller's own escapes stay
    ("?webhook={url}/x?token=1&b=2", {}, "/x?token=1&b=2"),
    ("?a=1&webhook={url}/x?b=2&c", {}, "/x?b=2&c"),
    ("?webhook={url}/x&b=2", {}, "/x"),
    ("?webhook={encoded}%2Fx%3Ftoken%3D1%26b%3D2&c=3", {}, "/x?token=1&b=2"),
    ("?webhook={half}%2Fx%3Ftoken%3D1%26b%3D2", {}, "/x?token=1&b=2"),  # as axios does: the colon stays
    ("?webhook={encoded}%2Fx%2520y", {}, "/x%20y"),
    ("?webhook={url}/query", {"webhook": "https://other.example"}, "/query"),
    ("?webhook=", {"webhook": "{url}/b"}, "/b"),
    ("", {"webhook_url": "{url}/a", "webhookURL": "https://other.example"}, "/a"),
    ("", {"webhook_url": "", "webhookURL": "{url}/c?d=%20"}, "/c?d=%20"),
]


@pytest.mark.parametrize(("query", "body", "path"), HOOKS)
def test_w7_webhook_encoded_and_un_encoded_in_the_query_or_in_the_body(
    live_server: LiveServer, picture: Picture, receiver: Receiver, query: str, body: dict[str, Any], path: str
) -> None:
    live = live_server(allow_hosts=("127.0.0.1",), api_keys=("key",))
    live.client.headers["Authorization"] = "Bearer key"
    url = receiver.url
    encoded, half = url.replace(":", "%3A").replace("/", "%2F"), url.replace("/", "%2F")
    query = query.format(url=url, encoded=encoded, half=half)
    fields = {name: value.format(url=url) for name, value in body.items()}
    data = submit(live, ESRGAN + query, image=inline(picture()), scale=1, **fields)
    live.worker.finish()
    (got,) = receiver.wait()
    assert (got.method, got.path) == ("POST", path)
    assert json.loads(got.body) == prediction(live.client.get(data["urls"]["get"]))  # naked, without the envelope

    answer = live.client.get("/api/v3/webhook/secret").json()
    secret = answer["data"]["secret"]
    assert (answer["code"], answer["secret"]) == (200, secret)
    headers = got.headers
    assert (headers["webhook-id"], headers["content-type"]) == (data["id"], "application/json")
    signature = wavespeed.sign(secret, data["id"], int(headers["webhook-timestamp"]), got.body)
    assert headers["webhook-signature"] == signature


def test_w7_a_webhook_is_tried_again_three_times(
    live_server: LiveServer, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(RETRIES["wavespeed"].pauses_s) == 3
    monkeypatch.setitem(RETRIES, "wavespeed", Retries((0.1, 0.1, 0.1), RETRIES["wavespeed"].timeout_s))
    live = live_server(allow_hosts=("127.0.0.1",))
    receiver.answers = [500, 404, 302, 503]
    data = submit(live, f"{ESRGAN}?webhook={receiver.url}", image=inline(b"text"))
    told = [json.loads(each.body) for each in receiver.wait(4)]
    time.sleep(0.5)
    assert len(receiver.got) == 4
    assert all((each["id"], each["status"], each["code"]) == (data["id"], "failed", 1402) for each in told)


def test_every_key_has_a_secret_of_its_own(live_server: LiveServer) -> None:
    live = live_server(api_keys=("ann", "bob"))
    secrets = [
        prediction(live.client.get("/api/v3/webhook/secret", headers={"Authorization": key}))["secret"]
        for key in ("ann", "bob", "ann")
    ]
    assert secrets[0] == secrets[2] != secrets[1]


@pytest.mark.parametrize("query", ["?webhook=hook.example", "?webhook=ftp%3A%2F%2Fa", "?webhook=http://?a=b&c"])
def test_a_webhook_that_is_no_address_is_refused(live: Live, picture: Picture, query: str) -> None:
    answer = live.client.post(UPSCALER + query, json={"image": inline(picture())})
    assert (answer.status_code, answer.json()) == (400, error_body(400, "webhook must be an http(s) URL", 1401))


# --- uploads --------------------------------------------------------------------------------------------------------


def test_w6_ticket_upload_with_put_without_auth_and_download_url_usable_as_image(
    live_server: LiveServer, picture: Picture
) -> None:
    live = live_server(api_keys=("key",))
    live.client.headers["Authorization"] = "Bearer key"
    body = {"filename": "dir/in.png", "size": 157, "content_type": "image/png"}
    data = prediction(live.client.post("/api/v3/media/uploads", json=body))
    put = data["upload"]
    assert (data["type"], data["filename"], data["size"]) == ("image", "in.png", 157)
    assert (put["method"], put["headers"]) == ("PUT", {"Content-Type": "image/png"})
    assert datetime.fromisoformat(put["expires_at"].replace("Z", "+00:00")) > datetime.now(timezone.utc)
    assert (
        httpx.put(put["url"], content=picture(), headers=put["headers"], trust_env=False, timeout=60).status_code == 200
    )
    assert httpx.get(data["download_url"], trust_env=False, timeout=60).content == picture()
    assert submit(live, ESRGAN, image=data["download_url"], scale=1)["status"] == "created"
    live.worker.finish()


@pytest.mark.parametrize("path", ["/api/v3/media/upload/binary", "/api/v3/upload", "/api/v2/media/upload/binary"])
def test_w6_multipart_upload_and_download_url_usable_as_image(live: Live, picture: Picture, path: str) -> None:
    data = prediction(live.client.post(path, files={"file": ("in.png", picture())}))
    assert (data["type"], data["filename"], data["size"]) == ("image", "in.png", len(picture()))
    assert data["url"] == data["download_url"]
    assert submit(live, ESRGAN, image=data["download_url"])["status"] == "created"


def test_uploads_that_cannot_be_are_refused(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(max_source_bytes=1000)
    tickets = "/api/v3/media/uploads"
    too_large = error_body(413, "the file is over this server's limit of 1000 bytes")
    assert live.client.post(tickets, json={"filename": "a.png", "size": 1001}).json() == too_large
    assert live.client.post("/api/v3/upload", files={"file": ("a.png", b"x" * 1001)}).json() == too_large
    for body, name in (({}, "filename"), ({"filename": 3}, "filename")):
        assert live.client.post(tickets, json=body).json() == error_body(400, f'property "{name}" is missing', 1400)
    for extra in ({"size": -1}, {"size": True}, {"size": "1"}, {"content_type": "a\r\nb"}, {"content_type": 1}):
        answer = live.client.post(tickets, json={"filename": "a.png", **extra})
        assert (answer.status_code, answer.json()["error_code"]) == (400, 1401), extra
    payloads: tuple[dict[str, Any], ...] = (
        {"files": {"other": ("a.png", picture())}},
        {"data": {"file": "text"}},
        {"json": {}},
    )
    for payload in payloads:
        answer = live.client.post("/api/v3/upload", **payload)
        assert answer.json() == error_body(400, 'property "file" is missing', 1400)


@pytest.mark.parametrize("name", ["..", "a\x00.png", "\ud800.png", "x" * 5000, "photo.JPEG", "noending", "a.b-c"])
def test_any_filename_makes_a_ticket(live: Live, name: str) -> None:
    data = prediction(live.client.post("/api/v3/media/uploads", content=json.dumps({"filename": name})))
    assert live.client.put(data["upload"]["url"], content=b"x").status_code == 200


# --- keys, paths, versions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "wrong", "Basic a2V5"])
def test_without_the_right_key_nothing_is_answered(live_server: LiveServer, header: str | None) -> None:
    live = live_server(api_keys=("key",))
    headers = {} if header is None else {"Authorization": header}
    for method, path in (
        ("POST", UPSCALER),
        ("GET", "/api/v3/predictions/x/result"),
        ("POST", "/api/v3/media/uploads"),
        ("GET", "/api/v3/webhook/secret"),
        ("GET", "/api/v3/models"),
        ("POST", "/api/v3/predictions/delete"),
        ("POST", "/api/v3/other/model"),
    ):
        answer = live.client.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()) == (401, error_body(401, "Invalid API key"))


def test_a_prediction_is_found_only_by_its_owner_and_only_here(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(api_keys=("ann", "bob"))
    ann, bob = {"Authorization": "ann"}, {"Authorization": "bob"}
    data = prediction(live.client.post(ESRGAN, json={"image": inline(picture())}, headers=ann))
    native = live.client.post("/jobs", json={"image": inline(picture())}, headers=ann).json()
    not_found = error_body(404, "prediction not found")
    assert live.client.get(data["urls"]["get"], headers=bob).json() == not_found
    assert live.client.get("/api/v3/predictions/nope/result", headers=ann).json() == not_found
    assert live.client.get(f"/api/v3/predictions/{native['id']}", headers=ann).json() == not_found


def test_unknown_models_and_paths_are_not_found_and_other_methods_not_allowed(live: Live) -> None:
    unknown = live.client.post("/api/v3/wavespeed-ai/unheard-of", json={"image": "x"})
    assert (unknown.status_code, unknown.json()) == (404, error_body(404, "model wavespeed-ai/unheard-of not found"))
    for other in ("other/model", "wavespeed-ai/some/turbo", "media/else"):
        unknown = live.client.post(f"/api/v3/{other}", json={"image": "x"})
        assert (unknown.status_code, unknown.json()) == (404, error_body(404, f"model {other} not found"))
    nowhere = live.client.get("/api/v3/nowhere")
    assert (nowhere.status_code, nowhere.json()) == (404, error_body(404, "there is nothing at this address"))
    method = live.client.get(UPSCALER)
    assert (method.status_code, method.json()) == (405, error_body(405, "this address does not take GET"))
    assert method.headers["allow"] == "POST"


def test_the_second_version_and_doubled_slashes_lead_to_the_same(live: Live, picture: Picture) -> None:
    data = submit(live, "/api/v2/wavespeed-ai/real-esrgan", image=inline(picture()))
    assert prediction(live.client.get(f"/api/v2/predictions/{data['id']}/result"))["id"] == data["id"]
    assert prediction(live.client.get(f"{live.url}//api/v3//predictions/{data['id']}"))["id"] == data["id"]


def test_a_full_queue_answers_429(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(max_queue=1)
    submit(live, ESRGAN, image=inline(picture()))
    answer = live.client.post(ESRGAN, json={"image": inline(picture())})
    assert (answer.status_code, answer.json()["code"]) == (429, 429)


# --- lists, deleting, account, catalogue ----------------------------------------------------------------------------


def test_w8_list_delete_balance_price_and_models_do_not_collide_with_model_routes(live: Live, picture: Picture) -> None:
    data = submit(live, ESRGAN, image=inline(picture()), scale=1)
    live.worker.finish()
    for version in ("v3", "v2"):
        api = f"/api/{version}"
        asked = {"model_id": "wavespeed-ai/real-esrgan", "inputs": {}}
        assert prediction(live.client.post(f"{api}/predictions", json={}))["total"] == 1
        assert prediction(live.client.get(f"{api}/predictions"))["items"][0]["id"] == data["id"]
        assert prediction(live.client.get(f"{api}/balance")) == {"balance": 100.0, "currency": "USD"}
        assert prediction(live.client.get(f"{api}/account/balance")) == {"balance": 100.0, "currency": "USD"}
        assert prediction(live.client.get(f"{api}/account/usage")) == {"total_requests": 1}
        assert prediction(live.client.post(f"{api}/model/price", json=asked))["price"] == 0
        assert prediction(live.client.post(f"{api}/model/pricing", json=asked))["unit_price"] == 0
        assert len(live.client.get(f"{api}/models").json()["data"]) == 2
        assert prediction(live.client.post(f"{api}/predictions/delete", json={"ids": []})) == {"deleted_count": 0}
    assert prediction(live.client.delete(f"/api/v2/predictions/{data['id']}"))["status"] == "deleted"


def listed(live: Live, **body: Any) -> list[str]:
    by_body = prediction(live.client.post("/api/v3/predictions", json=body))
    by_query = prediction(live.client.get("/api/v3/predictions", params=body))
    assert by_body == by_query
    return [each["id"] for each in by_body["items"]]


def test_lists_are_newest_first_in_pages_and_filtered(live: Live, picture: Picture) -> None:
    image = inline(picture())
    first = submit(live, ESRGAN, image=image, scale=1)["id"]
    time.sleep(0.01)
    between = datetime.now(timezone.utc)
    second = submit(live, UPSCALER, image=image, target_resolution="2k")["id"]
    broken = submit(live, UPSCALER, image=inline(b"text"))["id"]
    live.client.post("/jobs", json={"image": image}).raise_for_status()  # through another API
    assert listed(live) == [broken, second, first]
    assert listed(live, page=2, page_size=2) == [first]
    assert listed(live, page=7) == []
    assert prediction(live.client.post("/api/v3/predictions", json={"page": 2, "page_size": 1}))["total"] == 3
    assert listed(live, model="wavespeed-ai/image-upscaler") == [broken, second]
    assert listed(live, model="unheard/of") == []
    assert listed(live, status="created") == [second, first]
    assert listed(live, status="failed") == [broken]
    assert listed(live, status="cancelled") == listed(live, status="deleted") == []
    assert listed(live, model="wavespeed-ai/real-esrgan", status="failed") == []
    for moment in (between.isoformat(), between.isoformat().replace("+00:00", "Z"), f"{between:%Y-%m-%dT%H:%M:%S.%f}"):
        assert listed(live, created_after=moment) == [broken, second]
        assert listed(live, created_before=moment) == [first]
    claimed = live.worker.claim()
    assert listed(live, status="processing") == [first]
    live.worker.finish(claimed)
    assert listed(live, status="completed") == [first]


def test_lists_have_inputs_if_asked_and_never_base64(live: Live, picture: Picture) -> None:
    with live.worker.working():
        flags = {"enable_base64_output": True, "enable_sync_mode": True}
        submit(live, ESRGAN, image=inline(picture()), scale=1, **flags)
    (item,) = prediction(live.client.post("/api/v3/predictions", content=b""))["items"]
    assert "input" not in item
    assert live.client.get(item["outputs"][0]).headers["content-type"] == "image/png"
    (item,) = prediction(live.client.get("/api/v3/predictions?include_inputs=true"))["items"]
    assert item["input"]["scale"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {"page": 0},
        {"page": 10**30},
        {"page": "x"},
        {"page": True},
        {"page_size": 101},
        {"page_size": 1.5},
        {"status": "succeeded"},
        {"model": 5},
        {"include_inputs": "yes"},
        {"created_after": "yesterday"},
        {"created_before": 1700000000},
    ],
)
def test_a_list_that_makes_no_sense_is_refused(live: Live, body: dict[str, Any]) -> None:
    answer = live.client.post("/api/v3/predictions", json=body)
    assert (answer.status_code, answer.json()["error_code"]) == (400, 1401)
    assert next(iter(body)) in answer.json()["message"]


def test_only_ones_own_are_listed_and_deleted(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(api_keys=("ann", "bob"))
    ann, bob = {"Authorization": "ann"}, {"Authorization": "bob"}
    data = prediction(live.client.post(ESRGAN, json={"image": inline(picture())}, headers=ann))
    native = live.client.post("/jobs", json={"image": inline(picture())}, headers=bob).json()
    assert prediction(live.client.get("/api/v3/predictions", headers=bob))["total"] == 0
    for job_id in (data["id"], native["id"]):
        answer = live.client.delete(f"/api/v3/predictions/{job_id}", headers=bob)
        assert (answer.status_code, answer.json()) == (404, error_body(404, "prediction not found"))
    many = live.client.post("/api/v3/predictions/delete", json={"ids": [data["id"], native["id"]]}, headers=bob)
    assert prediction(many) == {"deleted_count": 0}
    assert prediction(live.client.get(data["urls"]["get"], headers=ann))["status"] == "created"


def test_what_is_deleted_is_gone_with_its_files(live: Live, picture: Picture) -> None:
    data = submit(live, ESRGAN, image=inline(picture()), scale=1)
    job = live.worker.finish()
    output = prediction(live.client.get(data["urls"]["get"]))["outputs"][0]
    answer = prediction(live.client.delete(f"/api/v3/predictions/{data['id']}"))
    assert answer == {"id": data["id"], "status": "deleted"}
    assert live.client.get(output).status_code == 404
    assert live.client.get(f"/files/{job.source_key}").status_code == 404
    for method in ("GET", "DELETE"):
        answer = live.client.request(method, f"/api/v3/predictions/{data['id']}")
        assert (answer.status_code, answer.json()) == (404, error_body(404, "prediction not found"))


def test_one_that_runs_can_be_deleted_and_its_worker_drops_it(live: Live, picture: Picture) -> None:
    data = submit(live, ESRGAN, image=inline(picture()), scale=1)
    job = live.worker.claim()
    assert prediction(live.client.delete(f"/api/v3/predictions/{data['id']}"))["status"] == "deleted"
    assert live.worker.jobs.heartbeat(job, 0.5) is HeartbeatResult.LOST
    assert live.worker.jobs.counts() == {}


def test_many_are_deleted_at_once(live: Live, picture: Picture) -> None:
    ids = [submit(live, ESRGAN, image=inline(picture()))["id"] for _ in range(3)]
    body = {"ids": [ids[0], ids[1], ids[0], "nope", "\0"]}
    assert prediction(live.client.post("/api/v3/predictions/delete", json=body)) == {"deleted_count": 2}
    assert listed(live) == [ids[2]]
    missing = live.client.post("/api/v3/predictions/delete", json={})
    assert missing.json() == error_body(400, 'property "ids" is missing', 1400)
    for wrong in ("x", [1], ["x"] * 1001):
        answer = live.client.post("/api/v3/predictions/delete", json={"ids": wrong})
        assert (answer.status_code, answer.json()["error_code"]) == (400, 1401)


def test_models_describe_what_they_take(live_server: LiveServer) -> None:
    live = live_server(price_per_job=0.02)
    upscaler, esrgan = live.client.get("/api/v3/models").json()["data"]
    assert (upscaler["model_id"], esrgan["model_id"]) == (wavespeed.UPSCALER, wavespeed.ESRGAN)
    assert upscaler["base_price"] == esrgan["base_price"] == 0.02
    (api,) = esrgan["api_schema"]["api_schemas"]
    assert (api["type"], api["method"], api["server"]) == ("model_run", "POST", live.url)
    assert api["api_path"] == ESRGAN
    schema = api["request_schema"]
    assert schema["required"] == ["image"]
    flags = ["enable_base64_output", "enable_sync_mode"]
    assert schema["x-order-properties"] == ["image", "scale", "face_enhance", *flags]
    assert list(schema["properties"]) == schema["x-order-properties"]
    properties = upscaler["api_schema"]["api_schemas"][0]["request_schema"]["properties"]
    assert list(properties) == ["image", "creativity", "target_resolution", "output_format", *flags]
    defaults = {name: each["default"] for name, each in properties.items() if "default" in each}
    params = wavespeed.to_params(wavespeed.UPSCALER, {})
    assert wavespeed.to_params(wavespeed.UPSCALER, defaults) == params  # the published defaults are the real ones


def test_prices_follow_the_list_and_the_picture_where_there_is_one(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(price_per_job=0.01, price_per_megapixel=0.001)

    def price(model: str, **inputs: Any) -> float:
        body = {"model_id": model, "inputs": inputs}
        full = prediction(live.client.post("/api/v3/model/price", json=body))
        assert (full["model_id"], full["currency"], full["discount_rate"]) == (model, "USD", 0)
        legacy = prediction(live.client.post("/api/v3/model/pricing", json=body))
        assert full["price"] == full["discounted_price"] == legacy["unit_price"]
        cost: float = full["price"]
        return cost

    assert price(wavespeed.UPSCALER) == price(wavespeed.ESRGAN, scale=2) == 0.01
    assert price(wavespeed.ESRGAN, scale=10, image=inline(picture(100, 50))) == 0.0105
    assert price(wavespeed.UPSCALER, target_resolution="2k", image=inline(picture(40, 20))) == 0.012097


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 400, 'property "model_id" is missing'),
        ({"model_id": "other/model"}, 404, "model other/model not found"),
        ({"model_id": 5}, 404, "model 5 not found"),
        ({"model_id": wavespeed.ESRGAN, "inputs": []}, 200, "success"),
        ({"model_id": wavespeed.ESRGAN, "inputs": [1]}, 400, "inputs must be an object"),
        ({"model_id": wavespeed.ESRGAN, "inputs": {"scale": 11}}, 400, SCALE_RANGE),
        ({"model_id": wavespeed.ESRGAN, "inputs": {"image": "AAAA"}}, 400, "the file is not a picture"),
    ],
)
def test_a_price_that_is_not_known(live_server: LiveServer, body: dict[str, Any], status: int, message: str) -> None:
    live = live_server(price_per_megapixel=1)
    answer = live.client.post("/api/v3/model/price", json=body)
    assert answer.status_code == status
    assert answer.json()["code"] == status
    assert answer.json()["message"].startswith(message)
