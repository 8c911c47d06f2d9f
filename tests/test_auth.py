import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from server.auth import LOCAL, authenticate, check_origin
from server.errors import Forbidden, Unauthorized
from tests.conftest import Live, MakeConfig


@pytest.mark.parametrize("header", [None, "", "anything", "Bearer anything"])
def test_without_keys_everybody_is_local(config: MakeConfig, header: str | None) -> None:
    assert authenticate(header, config()) is LOCAL


@pytest.mark.parametrize("header", ["Bearer second", "bearer  second ", "second", " second"])
def test_a_key_is_known_with_and_without_bearer(config: MakeConfig, header: str) -> None:
    caller = authenticate(header, config(api_keys=("first", "second")))
    assert caller == authenticate("Bearer second", config(api_keys=("second",)))
    assert len(caller.id) == 16 and "second" not in caller.id


def test_each_key_is_another_caller(config: MakeConfig) -> None:
    made = config(api_keys=("first", "second"))
    assert authenticate("first", made) != authenticate("second", made)


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer firs", "firstt", "Basic first", "FIRST", "ä"]
)
def test_anything_else_is_refused(config: MakeConfig, header: str | None) -> None:
    with pytest.raises(Unauthorized, match="^Invalid API key$"):
        authenticate(header, config(api_keys=("first",)))


LOCAL_HOSTS = ["127.0.0.1:8000", "localhost:8000", "up.localhost", "[::1]:8000", "127.8.9.1"]


@pytest.mark.parametrize("host", LOCAL_HOSTS)
@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:8000", "http://localhost:3000"])
def test_without_keys_this_machine_may_ask(config: MakeConfig, host: str, origin: str | None) -> None:
    check_origin({"host": host} | ({"origin": origin} if origin else {}), config())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:8000"},
        {"host": "10.0.0.7:8000"},
        {"host": "127.0.0.1:8000", "origin": "https://evil.example"},
        {"host": "127.0.0.1:8000", "origin": "null"},
        {"host": "127.0.0.1:8000", "origin": ""},
    ],
)
def test_without_keys_strangers_pages_may_not_ask(config: MakeConfig, headers: dict[str, str]) -> None:
    with pytest.raises(Forbidden, match="without API keys"):
        check_origin(headers, config())
    check_origin(headers, config(api_keys=("secret",)))


def test_without_keys_the_public_address_may_be_asked(config: MakeConfig) -> None:
    public = config(public_base_url="https://up.example")
    check_origin({"host": "up.example", "origin": "https://up.example"}, public)


def test_strangers_pages_get_neither_answers_nor_sockets(live: Live) -> None:
    foreign = {"Origin": "https://evil.example"}
    answer = live.client.get("/jobs", headers=foreign)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert live.client.get("/api/v3/balance", headers={"Host": "evil.example"}).json()["code"] == 403
    address = live.url.replace("http", "ws") + "/v1"
    with connect(address, proxy=None):
        pass
    with pytest.raises(InvalidStatus), connect(address, origin="https://evil.example", proxy=None):  # type: ignore[arg-type]
        pass
