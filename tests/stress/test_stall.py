"""A short form of tests/stress/stall.py: every attack is answered as it should be, and the server reads little of it.

No clock is looked at: what a loop that stands still costs others is counted in what it is given to do at a time.
"""

import logging
from collections.abc import Iterator

import pytest

from server.api.protocol import MAX_HEAD_BYTES, HttpProtocol
from tests.conftest import Live, LiveServer, Picture
from tests.stress.stall import ATTACKS, Target, attack, summary


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("websockets")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what the parser was given, piece by piece."""
    pieces: list[int] = []
    original = HttpProtocol._read

    def noted(self: HttpProtocol, piece: bytes) -> int:
        pieces.append(len(piece))
        return original(self, piece)

    monkeypatch.setattr(HttpProtocol, "_read", noted)
    return pieces


@pytest.fixture
def keyed(live_server: LiveServer, picture: Picture) -> tuple[Live, Target]:
    live = live_server(api_keys=("a-key",))
    key = "0" * 32
    live.worker.blobs.put(key, picture())
    return live, Target(live.url, "a-key", f"/files/{key}", scale=0.05)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_answered_as_it_should_be_and_others_are_too(keyed: tuple[Live, Target], name: str) -> None:
    live, target = keyed
    outcomes, wrong = attack(target, name, at_once=2)
    assert not wrong, outcomes
    assert live.client.get("/healthz").status_code == 200


@pytest.mark.parametrize("name", ["a million header fields", "a header of 60 MB", "If-None-Match with 120,000 blanks"])
def test_of_a_head_without_end_only_the_beginning_is_read(
    keyed: tuple[Live, Target], read: list[int], name: str
) -> None:
    attack(keyed[1], name, at_once=1)
    assert sum(read) <= 3 * MAX_HEAD_BYTES


def test_what_was_seen_is_summed_up() -> None:
    seen = summary([[0.001 * n, 0.0001 * n] for n in range(1, 101)])
    assert (seen.answers, seen.median_ms, seen.p99_ms, seen.longest_ms, seen.longest_cpu_ms) == (100, 51, 100, 100, 10)
