"""Threads that work in a loop."""

import threading

from server.api.background import Background
from server.db.notify import POLL_S, Subscription


class Due:
    """Work that becomes due while a thread looks for it and finds none yet."""

    def __init__(self) -> None:
        self.due = False
        self.done = threading.Event()

    def take(self) -> str | None:
        if self.due:
            self.due = False
            return "work"
        if not self.done.is_set():
            self.due = True
        return None

    def next_s(self) -> float | None:
        """Of what is not due yet, as the database says it."""
        return None if self.due or self.done.is_set() else 0.01

    def work(self, _: str) -> None:
        self.done.set()

    def look(self) -> bool:
        found = self.take() is not None
        if found:
            self.done.set()
        return found


def test_what_becomes_due_during_a_look_is_not_late() -> None:
    pool, waiting = Due(), Due()
    background = Background()
    background.add_pool("pool", 2, pool.take, pool.work, Subscription(), pool.next_s)
    background.add_waiting("waiting", waiting.look, Subscription(), waiting.next_s)
    with background.running():
        assert pool.done.wait(0.8 * POLL_S) and waiting.done.wait(0.8 * POLL_S)
