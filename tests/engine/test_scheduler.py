"""Who is next, and who shares a batch. Threads are jobs here as they are there; barriers and events order them."""

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future

import pytest

from server.engine.scheduler import Scheduler


class Recorder:
    """A device that writes down its batches, and waits with the first until `open`."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.scheduler: Scheduler[str, str] = Scheduler(self._run)

    def hold(self) -> "Future[str]":
        """Fill the device with something, so that what comes next has to queue up."""
        future = self.scheduler.submit("hold")
        self.entered.wait()
        return future

    def _run(self, items: Sequence[str]) -> list[str]:
        self.entered.set()
        self.gate.wait()
        self.batches.append(list(items))
        if "bad" in items:
            raise ValueError("bad")
        return [item.upper() for item in items]


def test_jobs_take_turns_however_much_one_has_queued() -> None:
    device = Recorder()
    held = device.hold()
    large = [device.scheduler.submit(f"large {i}") for i in range(5)]
    small = submit_elsewhere(device, "small")
    device.gate.set()
    for each in [held, *large, small]:
        each.result()
    # The batch that runs, then the small one, although the large job's were there before it.
    assert [batch[0] for batch in device.batches[:4]] == ["hold", "small", "large 0", "large 1"]


def test_whoever_waits_comes_before_who_comes_later() -> None:
    """Also when all that come are new, none of them is passed by twice, and the large job has its turns."""
    device = Recorder()
    held = device.hold()
    large = [device.scheduler.submit(f"large {i}") for i in range(3)]
    others = [submit_elsewhere(device, f"small {i}", f"then {i}") for i in range(2)]
    device.gate.set()
    for each in [held, *large, *others]:
        each.result()
    order = [batch[0] for batch in device.batches]
    assert order == ["hold", "small 0", "small 1", "large 0", "then 0", "then 1", "large 1", "large 2"]


def submit_elsewhere(device: Recorder, *items: str, key: str | None = None, most: int = 1) -> "Future[str]":
    """The last future of items that another thread submits, which stays alive: threads' numbers are used again."""
    futures: list[Future[str]] = []
    done = threading.Event()

    def job() -> None:
        futures.extend(device.scheduler.submit(item, key=key, most=most) for item in items)
        done.set()
        device.gate.wait()

    threading.Thread(target=job, daemon=True).start()
    done.wait()
    return futures[-1]


def test_equal_items_of_all_jobs_share_a_batch_and_no_others() -> None:
    device = Recorder()
    device.hold()
    mine = [device.scheduler.submit(f"a{i}", key="64x64", most=4) for i in range(2)]
    others = [
        submit_elsewhere(device, "b0", "b1", key="64x64", most=4),
        submit_elsewhere(device, "other size", key="32x32", most=4),
        submit_elsewhere(device, "c0", key="64x64", most=4),
    ]
    device.gate.set()
    for each in [*mine, *others]:
        each.result()
    sizes = [sorted(batch) for batch in device.batches[1:]]
    assert len(sizes[0]) == 4 and "a0" in sizes[0] and "other size" not in sizes[0]
    assert sum(map(len, sizes)) == 6 and ["other size"] in sizes


def test_items_of_no_key_run_alone() -> None:
    device = Recorder()
    device.hold()
    futures = [device.scheduler.submit("x", most=8) for _ in range(2)]
    device.gate.set()
    assert [each.result() for each in futures] == ["X", "X"]
    assert device.batches[1:] == [["x"], ["x"]]


def test_what_fails_fails_for_its_own_job_alone() -> None:
    device = Recorder()
    device.hold()
    good = device.scheduler.submit("good", key="k", most=3)
    bad = submit_elsewhere(device, "bad", key="k", most=3)
    device.gate.set()
    assert good.result() == "GOOD"
    with pytest.raises(ValueError, match="bad"):
        bad.result()
    assert sorted(device.batches[1]) == ["bad", "good"]


def test_what_is_cancelled_in_time_is_not_run() -> None:
    device = Recorder()
    device.hold()
    first, second = device.scheduler.submit("first"), device.scheduler.submit("second")
    assert first.cancel()
    device.gate.set()
    assert second.result() == "SECOND"
    assert device.batches == [["hold"], ["second"]]
    with pytest.raises(CancelledError):
        first.result()


def test_only_one_thread_runs_and_another_begins_when_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.engine.scheduler._IDLE_S", 0.01)
    threads: set[threading.Thread] = set()

    def run(items: Sequence[int]) -> Sequence[int]:
        threads.add(threading.current_thread())
        return items

    scheduler: Scheduler[int, int] = Scheduler(run)
    assert [scheduler.submit(i).result() for i in range(20)] == list(range(20))
    for thread in list(threads):
        thread.join()
    assert scheduler.submit(20).result() == 20
    assert len([thread for thread in threads if thread.is_alive()]) <= 1
    assert len(threads) >= 2
