"""What all machines of one database have in common."""

from concurrent.futures import ThreadPoolExecutor
from itertools import count

from sqlalchemy import Engine

from server.db.shared import replace_shared, shared_value


def test_the_first_that_asks_makes_the_value_and_all_get_it(engine: Engine) -> None:
    numbers = count()
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: shared_value(engine, "name", lambda: str(next(numbers))), range(16)))
    assert len(found) == 1
    assert shared_value(engine, "other", lambda: "its own") == "its own"


def test_a_value_is_replaced_for_all(engine: Engine) -> None:
    shared_value(engine, "name", lambda: "first")
    replace_shared(engine, "name", "second")
    assert shared_value(engine, "name", lambda: "third") == "second"
