"""Pages of other origins: nothing unless the operator names them; then what browsers ask, answers and errors."""

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from server.api.app import create_app
from server.config import BadConfig, load_config
from tests.conftest import Live, LiveServer, MakeConfig, Picture

APP = "https://app.example"
OTHER = "https://other.example"
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


def preflight(live: Live, origin: str, path: str = "/jobs", **headers: str) -> httpx.Response:
    return live.client.options(path, headers={"Origin": origin, **ASKS, **headers})


def told(answer: httpx.Response) -> str | None:
    return answer.headers.get("access-control-allow-origin")


def test_without_the_setting_no_origin_is_reported_anything(live_server: LiveServer) -> None:
    live = live_server(api_keys=("key",))
    asked = preflight(live, APP)
    assert (asked.status_code, told(asked)) == (405, None)
    answer = live.client.get("/jobs", headers={"Origin": APP, "Authorization": "key"})
    assert (answer.status_code, told(answer)) == (200, None)
    assert not [name for name in answer.headers if name.startswith("access-control") or name == "vary"]


@pytest.mark.parametrize("path", ["/jobs", "/v1", "/api/v3/wavespeed-ai/real-esrgan", "/files/x", "/no/such"])
def test_a_listed_origin_is_reported_that_it_may(live_server: LiveServer, path: str) -> None:
    live = live_server(api_keys=("key",), cors_origins=("HTTPS://App.example:443", "http://localhost:3000"))
    asked = preflight(live, APP, path)
    assert (asked.status_code, asked.content, told(asked)) == (204, b"", APP)
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert asked.headers["access-control-allow-headers"] == "authorization,content-type"
    assert asked.headers["vary"] == "Origin"
    assert told(preflight(live, "http://localhost:3000", path)) == "http://localhost:3000"


def test_other_origins_are_not(live_server: LiveServer) -> None:
    live = live_server(api_keys=("key",), cors_origins=(APP,))
    for origin in (OTHER, "http://app.example", "https://app.example.evil", "https://app.example:444", "null"):
        asked = preflight(live, origin)
        assert (asked.status_code, told(asked)) == (405, None)
        answer = live.client.get("/jobs", headers={"Origin": origin, "Authorization": "key"})
        assert (answer.status_code, told(answer), answer.headers["vary"]) == (200, None, "Origin")


def test_answers_errors_files_and_streams_can_be_read(live_server: LiveServer, picture: Picture) -> None:
    live = live_server(api_keys=("key",), cors_origins=(APP,))
    headers = {"Origin": APP, "Authorization": "key"}
    sent = live.client.post("/jobs", files={"file": picture()}, data={"scale": "2"}, headers=headers)
    assert (sent.status_code, told(sent)) == (202, APP)
    assert "Location" in sent.headers["access-control-expose-headers"]
    job = live.worker.finish()
    for path in (f"/jobs/{job.id}", f"/jobs/{job.id}/events", f"/files/{job.result and job.result.key}", "/healthz"):
        answer = live.client.get(path, headers=headers)
        assert (answer.status_code, told(answer)) == (200, APP), path
    for answer in (
        live.client.get("/jobs", headers={"Origin": APP}),
        live.client.get("/no/such", headers=headers),
        live.client.post("/jobs", content=b"[", headers=headers),
    ):
        assert answer.is_error and told(answer) == APP


def test_the_star_is_for_all_where_there_are_keys(live_server: LiveServer) -> None:
    live = live_server(api_keys=("key",), cors_origins=("*",))
    asked = preflight(live, OTHER, **{"Access-Control-Request-Private-Network": "true"})
    assert (asked.status_code, told(asked)) == (204, "*")
    assert asked.headers["access-control-allow-private-network"] == "true"
    assert told(live.client.get("/jobs", headers={"Origin": OTHER, "Authorization": "key"})) == "*"
    assert told(live.client.get("/jobs", headers={"Origin": "null", "Authorization": "key"})) == "*"


def test_without_keys_only_origins_listed_one_by_one_come_in(live_server: LiveServer) -> None:
    listed, star = live_server(cors_origins=(APP,)), live_server(cors_origins=("*",))
    assert preflight(listed, APP).status_code == 204
    assert listed.client.get("/jobs", headers={"Origin": APP}).status_code == 200
    assert listed.client.get("/jobs", headers={"Origin": APP, "Host": "rebound.example"}).status_code == 403
    assert listed.client.get("/jobs", headers={"Origin": OTHER}).status_code == 403
    assert preflight(star, APP).status_code == 403
    assert star.client.get("/jobs", headers={"Origin": APP}).status_code == 403
    address = listed.url.replace("http", "ws") + "/v1"
    with connect(address, proxy=None, origin=APP):  # type: ignore[arg-type]
        pass
    with pytest.raises(InvalidStatus), connect(address, proxy=None, origin=OTHER):  # type: ignore[arg-type]
        pass


def test_strange_names_of_headers_are_not_repeated(live_server: LiveServer) -> None:
    live = live_server(api_keys=("key",), cors_origins=(APP,))
    asked = preflight(live, APP, **{"Access-Control-Request-Headers": "x" * 5000})
    assert asked.headers["access-control-allow-headers"].startswith("Authorization, Content-Type")
    plain = live.client.options("/jobs", headers={"Origin": APP})
    assert plain.status_code == 405 and plain.headers["allow"]


@pytest.mark.parametrize(
    "entry",
    ["app.example", "https://", "https://app.example/", "https://app.example/a", "https://a:x", "https://u@a.example"],
)
def test_what_is_no_origin_stops_the_start(config: MakeConfig, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadConfig, match="UPSCALE_CORS_ORIGINS"):
        create_app(config(cors_origins=(entry,)))
    monkeypatch.setenv("UPSCALE_CORS_ORIGINS", f"{APP}, http://localhost:3000")
    assert load_config().cors_origins == (APP, "http://localhost:3000")
