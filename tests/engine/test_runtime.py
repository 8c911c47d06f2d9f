"""What is learnt about memory is forgotten again, and a device that hangs ends the process."""

import threading

import pytest

from server.engine import runtime
from server.engine.runtime import Clock, Limits, watch
from tests.engine.fake_device import CUDA, FakeDevice


def test_a_limit_only_shrinks_and_is_forgotten_after_some_minutes() -> None:
    now = [0.0]
    limits = Limits(lambda: now[0])
    assert limits.lower("a", 100) and limits.lower("a", 50) and not limits.lower("a", 70)
    assert limits.get("a") == 50 and limits.get("b", 7) == 7
    now[0] = 299.0
    assert limits.get("a") == 50
    now[0] = 301.0
    assert limits.get("a") > 1 << 40 and limits.lower("a", 70) and limits.get("a") == 70


def test_work_that_does_not_end_is_waited_for_ever_longer(gpu: FakeDevice) -> None:
    clock = Clock(CUDA)
    assert clock.waited_s(1e9) == 0.0
    gpu.hung.set()
    with clock.measure():
        pass  # launched, and never done
    begun = clock._under_way[0][2]
    assert clock.waited_s(begun + 130) == pytest.approx(130)
    gpu.hung.clear()
    assert clock.waited_s(begun + 130) == 0.0


def test_a_turn_that_does_not_come_back_counts_too(gpu: FakeDevice) -> None:
    clock = Clock(CUDA)
    with clock.measure():
        assert clock._turn is not None
        assert clock.waited_s(clock._turn + 125) == pytest.approx(125)
    assert clock.waited_s(1e9) == 0.0


def test_a_device_that_hangs_ends_the_process(gpu: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_LONGEST_TURN_S", 0.0)
    clock, ended = Clock(CUDA), threading.Event()
    watch(clock, ended.set, 0.01)
    gpu.hung.set()
    with clock.measure():
        pass
    assert ended.wait(60)


def test_the_watchdog_goes_with_its_device(gpu: FakeDevice) -> None:
    before = set(threading.enumerate())
    clock = Clock(CUDA)
    watch(clock, every_s=0.01)
    (thread,) = set(threading.enumerate()) - before
    del clock
    thread.join(60)
    assert not thread.is_alive()
