import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from server.api.auth import LOCAL, Auth, Caller
from server.config import Config
from server.db.database import open_database
from server.db.keys import Keys
from server.db.limits import Limits
from server.errors import Forbidden, Unauthorized
from tests.conftest import Live, LiveServer, MakeConfig


def keys_of(config: Config) -> Keys:
    return Keys(open_database(config.database))


def auth_of(config: Config) -> Auth:
    return Auth(config, keys_of(config))


@pytest.mark.parametrize("header", [None, "", "anything", "Bearer anything"])
def test_without_keys_everybody_is_local(config: MakeConfig, header: str | None) -> None:
    assert auth_of(config()).authenticate(header) is LOCAL


@pytest.mark.parametrize("header", ["Bearer second", "bearer  second ", "second", " second"])
def test_a_key_is_known_with_and_without_bearer(config: MakeConfig, header: str) -> None:
    caller = auth_of(config(api_keys=("first", "second"))).authenticate(header)
    assert caller == auth_of(config(api_keys=("second",))).authenticate("Bearer second")
    assert len(caller.id) == 16 and "second" not in caller.id


def test_each_key_is_another_caller(config: MakeConfig) -> None:
    made = config(api_keys=("first", "second"))
    _, third = keys_of(made).create("third", Limits())
    auth = auth_of(made)
    assert len({auth.authenticate(key).id for key in ("first", "second", third)}) == 3


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer firs", "firstt", "Basic first", "FIRST", "ä", "\ud800"]
)
@pytest.mark.parametrize("beside", [False, True])
def test_anything_else_is_refused(config: MakeConfig, header: str | None, beside: bool) -> None:
    made = config(api_keys=("first",))
    if beside:
        keys_of(made).create("another", Limits())
    with pytest.raises(Unauthorized, match="^Invalid API key$"):
        auth_of(made).authenticate(header)


def test_a_key_of_the_table_is_the_same_caller_as_in_the_settings(config: MakeConfig) -> None:
    made = config()
    key, secret = keys_of(made).create("ann", Limits())
    assert auth_of(made).authenticate(f"Bearer {secret}") == Caller(key.id)
    assert auth_of(config(api_keys=(secret,))).authenticate(secret) == Caller(key.id)


def test_the_first_key_closes_an_open_server_and_the_last_revoked_does_not_open_it(config: MakeConfig) -> None:
    made = config()
    auth, keys = auth_of(made), keys_of(made)
    assert auth.is_open() and auth.authenticate("anything") is LOCAL
    key, secret = keys.create("ann", Limits())
    assert not auth.is_open() and auth.authenticate(secret).id == key.id
    auth.check(Caller(key.id))
    keys.revoke("ann")
    for each in (auth, auth_of(made)):
        assert not each.is_open()
        for header in (None, "anything", secret):
            with pytest.raises(Unauthorized):
                each.authenticate(header)
        for caller in (LOCAL, Caller(key.id)):
            with pytest.raises(Unauthorized):
                each.check(caller)


def test_who_was_let_in_by_the_settings_may_stay(config: MakeConfig) -> None:
    auth = auth_of(config(api_keys=("first",)))
    auth.check(auth.authenticate("first"))
    auth_of(config()).check(LOCAL)


def test_a_key_opens_a_running_server_and_revoked_no_more(live_server: LiveServer) -> None:
    live = live_server()
    assert live.client.get("/jobs").status_code == 200
    keys = keys_of(live.config)
    _, secret = keys.create("ann", Limits())
    with_key = {"Authorization": f"Bearer {secret}"}
    assert live.client.get("/jobs").status_code == 401
    assert live.client.get("/jobs", headers=with_key).status_code == 200
    assert live.client.get("/jobs", headers=with_key | {"Host": "up.example"}).status_code == 200
    keys.revoke("ann")
    assert live.client.get("/jobs", headers=with_key).status_code == 401


LOCAL_HOSTS = ["127.0.0.1:8000", "localhost:8000", "up.localhost", "[::1]:8000", "127.8.9.1"]


@pytest.mark.parametrize("host", LOCAL_HOSTS)
@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:8000", "http://localhost:3000"])
def test_without_keys_this_machine_may_ask(config: MakeConfig, host: str, origin: str | None) -> None:
    auth_of(config()).check_origin({"host": host} | ({"origin": origin} if origin else {}))


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:8000"},
        {"host": "127.0.0.1:8000.evil.example"},
        {"host": "localhost:99999"},
        {"host": "10.0.0.7:8000"},
        {"host": "127.0.0.1:8000", "origin": "https://evil.example"},
        {"host": "127.0.0.1:8000", "origin": "null"},
        {"host": "127.0.0.1:8000", "origin": ""},
        {"host": "127.0.0.1:8000", "origin": "http://["},
        {"host": "[127.0.0.1"},
    ],
)
def test_without_keys_strangers_pages_may_not_ask(config: MakeConfig, headers: dict[str, str]) -> None:
    made = config()
    with pytest.raises(Forbidden, match="without API keys"):
        auth_of(made).check_origin(headers)
    auth_of(config(api_keys=("secret",))).check_origin(headers)
    keys_of(made).create("ann", Limits())
    auth_of(made).check_origin(headers)


def test_without_keys_the_public_address_may_be_asked(config: MakeConfig) -> None:
    public = config(public_base_url="https://up.example")
    auth_of(public).check_origin({"host": "up.example", "origin": "https://up.example"})


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
