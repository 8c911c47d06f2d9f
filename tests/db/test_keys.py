"""The table of keys: what is stored of them, and finding owners by them."""

import hashlib
import time

import pytest
from sqlalchemy import Engine, select

from server.db.database import keys as table
from server.db.keys import Keys, hash_key
from server.db.limits import Limits
from server.errors import Conflict, InvalidField, NotFound

LIMITS = Limits(rate=10, daily=100, concurrent=2, priority=5)


@pytest.fixture
def keys(engine: Engine) -> Keys:
    return Keys(engine)


def test_a_key_is_shown_once_and_kept_as_its_hash(keys: Keys, engine: Engine) -> None:
    key, secret = keys.create("ann", LIMITS)
    assert secret.startswith(key.prefix) and len(secret) >= len(key.prefix) + 32
    assert (key.name, key.limits, key.today, key.revoked_at) == ("ann", LIMITS, 0, None)
    assert abs(key.created_at - time.time()) < 10
    with engine.connect() as db:
        row = db.execute(select(table)).one()
    assert row.hash == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in str(row) and secret[len(key.prefix) :] not in str(row)
    assert list(keys.list()) == [key]


def test_no_two_keys_are_alike(keys: Keys) -> None:
    made = [keys.create(f"key {number}", Limits()) for number in range(20)]
    assert len({secret for _, secret in made}) == len({key.id for key, _ in made}) == 20
    assert [key.name for key in keys.list()] == [key.name for key, _ in made]


def test_a_key_is_found_by_its_hash_until_it_is_revoked(keys: Keys) -> None:
    ann, secret = keys.create("ann", Limits())
    bob, other = keys.create("bob", Limits())
    assert (keys.find(hash_key(secret)), keys.find(hash_key(other))) == (ann.id, bob.id)
    assert keys.find(hash_key(secret + " ")) is None and keys.find(hash_key("")) is None
    revoked = keys.revoke("ann")
    assert revoked.id == ann.id and revoked.revoked_at is not None
    assert keys.find(hash_key(secret)) is None and not keys.is_valid(ann.id)
    assert keys.find(hash_key(other)) == bob.id and keys.is_valid(bob.id)


def test_there_is_a_key_from_the_first_one_on(keys: Keys) -> None:
    assert not keys.any()
    keys.create("ann", Limits())
    keys.revoke("ann")
    assert keys.any()


@pytest.mark.parametrize("how", ["name", "prefix", "whole key"])
def test_a_key_is_revoked_by_what_its_owner_knows_of_it(keys: Keys, how: str) -> None:
    key, secret = keys.create("ann", Limits())
    keys.create("bob", Limits())
    keys.revoke({"name": "ann", "prefix": key.prefix, "whole key": secret}[how])
    assert [each.name for each in keys.list() if each.revoked_at is None] == ["bob"]


@pytest.mark.parametrize("wrong", ["", "an", "nobody", "up_"])
def test_what_fits_no_key_revokes_none(keys: Keys, wrong: str) -> None:
    keys.create("ann", Limits())
    with pytest.raises(NotFound):
        keys.revoke(wrong)
    assert keys.list()[0].revoked_at is None


def test_what_fits_two_keys_revokes_none(keys: Keys) -> None:
    key, _ = keys.create("ann", Limits())
    keys.create(key.prefix, Limits())
    with pytest.raises(Conflict):
        keys.revoke(key.prefix)
    assert all(each.revoked_at is None for each in keys.list())


def test_a_name_is_free_again_once_its_key_is_revoked(keys: Keys) -> None:
    keys.create("ann", Limits())
    with pytest.raises(Conflict, match="revoke it first"):
        keys.create("ann", Limits())
    keys.revoke("ann")
    keys.create("ann", Limits())
    keys.revoke("ann")
    with pytest.raises(NotFound):
        keys.revoke("ann")


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "two\nlines", "\ud800"])
def test_a_name_can_be_read(keys: Keys, name: str) -> None:
    with pytest.raises(InvalidField, match="printable"):
        keys.create(name, Limits())
