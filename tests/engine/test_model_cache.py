"""Networks leave when others need their room or nobody has asked for long, and are loaded once however many ask."""

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from server.engine.model_cache import ModelCache, budget_of
from tests.engine.fake_device import CUDA, FakeDevice


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


GB = 1 << 30


@pytest.mark.parametrize("memory", [16 * GB, 24 * GB])
def test_a_large_network_is_not_dropped_for_a_small_one(memory: int) -> None:
    """SDXL and an upscaler in turn, as every job with creativity asks for them."""
    cache, loads = ModelCache(memory // 2), []
    sizes = {"upscaler": 34 << 20, "faces": GB // 2, "sdxl": int(7.7 * GB)}
    for _ in range(5):
        for name, size in sizes.items():
            cache.get(name, lambda name=name: (loads.append(name), name)[1], lambda _, size=size: size)
    assert loads.count("sdxl") == 1
    assert memory < 24 * GB or len(loads) == 3


def test_small_ones_make_room_for_each_other_beside_a_large_one() -> None:
    left: list[str] = []
    cache = ModelCache(100, on_drop=left.append)
    cache.get("large", lambda: "large", lambda _: 90)
    for name in "abc":
        cache.get(name, lambda name=name: name, lambda _: 8)
    assert left == ["a", "b"]
    cache.get("other", lambda: "other", lambda _: 60)
    assert left == ["a", "b", "large"], "for one that is nearly as large it is dropped"


def test_who_asks_for_something_else_does_not_wait_for_a_load() -> None:
    cache, begun, go_on = ModelCache(100), threading.Event(), threading.Event()
    cache.get("small", lambda: "small", lambda _: 1)

    def slowly() -> str:
        begun.set()
        go_on.wait()
        return "large"

    thread = threading.Thread(target=lambda: cache.get("large", slowly, lambda _: 50))
    thread.start()
    begun.wait()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(cache.get, "small", lambda: "again", lambda _: 1).result(timeout=60) == "small"
        assert pool.submit(cache.get, "other", lambda: "other", lambda _: 1).result(timeout=60) == "other"
        assert pool.submit(cache.tidy).result(timeout=60) == 0
        go_on.set()
    thread.join()
    assert len(cache) == 3


def test_when_memory_runs_out_only_what_jobs_hold_stays() -> None:
    class Thing:
        pass

    cache: ModelCache = ModelCache(100)
    held = cache.get("held", Thing, lambda _: 1)
    idle = weakref.ref(cache.get("idle", Thing, lambda _: 1))
    assert cache.drop_all() == 2 and cache.size == 0 and idle() is None
    assert cache.get("held", Thing, lambda _: 1) is held and cache.size == 1


def test_half_of_a_gpu_s_memory_is_for_networks(gpu: FakeDevice) -> None:
    assert budget_of(CUDA) == gpu.total // 2
