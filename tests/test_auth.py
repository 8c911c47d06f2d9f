import pytest

from server.auth import LOCAL, authenticate
from server.errors import Unauthorized
from tests.conftest import MakeConfig


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
