"""The server's secret and what callers get of it."""

import stat
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine

from server.db.webhook_secret import load_secret, webhook_secret, with_shared_secret
from tests.conftest import MakeConfig


def test_the_setting_is_the_secret_and_no_file_is_made(config: MakeConfig) -> None:
    made = config(secret="mine")
    assert load_secret(made) == b"mine"
    assert not (made.data_dir / "secret").exists()


def test_without_a_setting_it_is_made_once_and_only_its_owner_can_read_it(config: MakeConfig) -> None:
    made = config()
    secret = load_secret(made)
    assert len(secret) == 64
    assert load_secret(made) == secret
    assert stat.S_IMODE((made.data_dir / "secret").stat().st_mode) == 0o600
    assert load_secret(config()) != secret


def test_of_several_who_start_at_once_all_get_the_same(config: MakeConfig) -> None:
    made = config()
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: load_secret(made), range(32)))) == 1
    assert [path.name for path in made.data_dir.glob("*secret*")] == ["secret"]


def test_every_caller_has_a_secret_of_its_own_that_stays() -> None:
    ann, bob = webhook_secret(b"server", "ann"), webhook_secret(b"server", "bob")
    assert ann.startswith("whsec_") and len(ann) == len("whsec_") + 44
    assert ann != bob
    assert ann == webhook_secret(b"server", "ann") != webhook_secret(b"other", "ann")


def test_machines_on_one_postgresql_have_one_secret_which_is_the_first_ones(engine: Engine, config: MakeConfig) -> None:
    first, second, third = config(), config(), config(secret="mine")
    own = load_secret(first)
    found = [load_secret(with_shared_secret(each, engine)) for each in (first, second, third)]
    if engine.dialect.name == "postgresql":
        assert found == [own, own, b"mine"]
        assert not (second.data_dir / "secret").exists()
    else:
        assert found == [own, load_secret(second), b"mine"] and own != load_secret(second)
