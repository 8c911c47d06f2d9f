"""Upload tickets: valid for one file, for an hour, for anyone who knows them."""

import time
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from server.blobs.base import KEY
from server.blobs.folder import FolderBlobs
from server.db import database
from server.db.uploads import TICKET_S, Uploads
from server.errors import NotFound


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs")


@pytest.fixture
def uploads(engine: Engine, blobs: FolderBlobs) -> Uploads:
    return Uploads(engine, blobs, keep_s=1000)


def expire(engine: Engine, key: str) -> None:
    with engine.begin() as db:
        db.execute(update(database.uploads).where(database.uploads.c.key == key).values(expires_at=time.time() - 1))


def test_a_ticket_waits_for_its_bytes(uploads: Uploads, blobs: FolderBlobs) -> None:
    ticket = uploads.issue("local", "päge 1.png", ".png")
    assert KEY.fullmatch(ticket.key) and ticket.key.endswith(".png")
    assert abs(ticket.expires_at - ticket.created_at - TICKET_S) < 1
    assert not ticket.ready
    assert uploads.ticket(ticket.key) == ticket
    with pytest.raises(NotFound):
        blobs.get(ticket.key)


def test_a_filled_ticket_is_a_file_that_is_kept(uploads: Uploads, blobs: FolderBlobs) -> None:
    ticket = uploads.issue("local", "a.png", ".png")
    filled = uploads.fill(ticket.key, b"bytes")
    assert blobs.get(ticket.key) == b"bytes"
    assert filled.ready and (filled.key, filled.owner, filled.filename) == (ticket.key, "local", "a.png")
    assert abs(filled.expires_at - (time.time() + 1000)) < 10


def test_a_ticket_is_good_for_one_file(uploads: Uploads, blobs: FolderBlobs) -> None:
    ticket = uploads.issue("local", "a.png", ".png")
    uploads.fill(ticket.key, b"first")
    with pytest.raises(NotFound):
        uploads.fill(ticket.key, b"second")
    assert blobs.get(ticket.key) == b"first"


def test_a_process_that_dies_while_it_stores_the_bytes_leaves_a_ticket(
    engine: Engine, uploads: Uploads, blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = uploads.issue("local", "a.png", ".png")

    class Died(BaseException):
        """As nothing else that runs after it."""

    def die(key: str, data: bytes) -> None:
        raise Died

    with monkeypatch.context() as patched, pytest.raises(Died):
        patched.setattr(blobs, "put", die)
        uploads.fill(ticket.key, b"bytes")
    assert uploads.find("local", ticket.key[:32]) is None
    with pytest.raises(NotFound):  # held for a while: the process may live
        uploads.fill(ticket.key, b"bytes")
    with engine.begin() as db:
        db.execute(update(database.uploads).values(held_until=0.0))
    assert uploads.fill(ticket.key, b"bytes").ready and blobs.get(ticket.key) == b"bytes"


def test_of_two_files_for_a_ticket_the_first_is_kept(
    uploads: Uploads, blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket, put = uploads.issue("local", "a.png", ".png"), blobs.put

    def slow(key: str, data: bytes) -> None:
        with pytest.raises(NotFound):
            uploads.fill(ticket.key, b"second")
        put(key, data)

    monkeypatch.setattr(blobs, "put", slow)
    assert uploads.fill(ticket.key, b"first").ready and blobs.get(ticket.key) == b"first"


@pytest.mark.parametrize("key", ["0" * 32, "", "../x", "nul \0", "ä"])
def test_an_unknown_ticket_is_not_found(uploads: Uploads, key: str) -> None:
    with pytest.raises(NotFound):
        uploads.ticket(key)
    with pytest.raises(NotFound):
        uploads.fill(key, b"bytes")


def test_a_ticket_expires(engine: Engine, uploads: Uploads, blobs: FolderBlobs) -> None:
    ticket = uploads.issue("local", "a.png", ".png")
    expire(engine, ticket.key)
    with pytest.raises(NotFound):
        uploads.fill(ticket.key, b"late")
    with pytest.raises(NotFound):
        blobs.get(ticket.key)


def test_what_has_expired_is_removed_with_its_bytes(engine: Engine, uploads: Uploads, blobs: FolderBlobs) -> None:
    used, unused, living = (uploads.issue("local", "a.png", ".png").key for _ in range(3))
    uploads.fill(used, b"old")
    expire(engine, used)
    expire(engine, unused)
    uploads.fill(living, b"new")
    assert set(uploads.expired()) == {used, unused}
    for key in (used, unused):
        uploads.remove(key)
    assert uploads.expired() == []
    with pytest.raises(NotFound):
        blobs.get(used)
    assert blobs.get(living) == b"new"
