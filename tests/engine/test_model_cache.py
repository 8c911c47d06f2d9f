"""Networks leave when others need their room or nobody has asked for long, and are loaded once however many ask."""

import threading
from concurrent.futures import ThreadPoolExecutor

from server.engine.model_cache import ModelCache


def test_the_one_that_nobody_has_asked_for_longest_makes_room() -> None:
    left: list[str] = []
    cache = ModelCache(100, on_drop=left.append)
    for name in ("a", "b", "a", "c"):
        assert cache.get(name, lambda name=name: name, lambda _: 40) == name  # type: ignore[misc]
    assert left == ["b"] and cache.size == 80
    cache.get("huge", lambda: "huge", lambda _: 500)  # one alone may be larger than all may be together
    assert left == ["b", "a", "c"] and len(cache) == 1


def test_what_nobody_has_asked_for_in_a_while_leaves_the_last_one_too() -> None:
    left: list[str] = []
    cache = ModelCache(100, keep_s=0.0, on_drop=left.append)
    cache.get("a", lambda: "a", lambda _: 1)
    assert left == [], "it has just been asked for"
    cache.get("b", lambda: "b", lambda _: 1)
    assert left == ["a"] and cache.tidy() == 1
    assert left == ["a", "b"] and cache.size == 0
    assert cache.tidy() == 0


def test_what_a_job_still_holds_is_not_loaded_a_second_time_beside_it() -> None:
    class Thing:
        pass

    loads: list[int] = []

    def load() -> Thing:
        loads.append(1)
        return Thing()

    cache = ModelCache(100, keep_s=0.0)
    held = cache.get("a", load, lambda _: 1)
    assert cache.tidy() == 1 and len(cache) == 0
    assert cache.get("a", load, lambda _: 1) is held and len(loads) == 1
    cache.tidy()
    del held  # nobody holds it any more: it is gone
    cache.get("a", load, lambda _: 1)
    assert len(loads) == 2


def test_a_network_is_loaded_once_however_many_ask() -> None:
    cache = ModelCache(100)
    all_here = threading.Barrier(4)
    loads: list[int] = []

    def ask() -> object:
        all_here.wait()
        return cache.get("a", lambda: (loads.append(1), object())[1], lambda _: 1)  # type: ignore[func-returns-value]

    with ThreadPoolExecutor(4) as pool:
        got = {id(each.result()) for each in [pool.submit(ask) for _ in range(4)]}
    assert len(got) == len(loads) == 1
