"""When jobs will have ended, by hand-made queues whose course can be computed on paper."""

import random

import pytest

from server.db.ahead import Ahead, Unended
from server.service.forecast import ends


def job(name: str, left_s: float | None, *, owner: str = "a", worker: str | None = None, **other: float) -> Unended:
    values = {"priority": 0, "created_at": float(name[1:]), "left_at": 100.0 if worker else None} | other
    priority, created_at = int(values["priority"] or 0), values["created_at"] or 0.0
    alone_s = values.get("alone_s")
    return Unended(name, owner, priority, created_at, worker, left_s, values["left_at"], alone_s=alone_s)


def queue(*jobs: Unended, workers: int = 1, **served_at: float) -> Ahead:
    return Ahead(100.0, jobs, {f"w{number}": "cpu" for number in range(workers)}, served_at)


def forecast(found: Ahead, slots: int = 2) -> dict[str, float]:
    return {name: round(end, 3) for name, end in ends(found, lambda _: slots).items()}


def test_jobs_of_one_worker_share_its_time() -> None:
    assert forecast(queue(job("j1", 10), job("j2", 4))) == {"j2": 8, "j1": 14}


def test_those_that_wait_begin_when_another_ends() -> None:
    found = queue(job("j1", 10, worker="w0"), job("j2", 4, worker="w0"), job("j3", 6))
    assert forecast(found) == {"j2": 8, "j1": 20, "j3": 20}
    assert forecast(found, slots=1)["j3"] == 20


def test_time_since_a_workers_last_word_counts() -> None:
    assert forecast(queue(job("j1", 10, worker="w0", left_at=97.0))) == {"j1": 7}
    late = forecast(queue(job("j1", 1, worker="w0", left_at=60.0)))
    assert 1 < late["j1"] < 20, "it may end now, but the later it is the longer it may take"


def test_of_jobs_with_large_tiles_the_later_wait() -> None:
    alone = [job(f"j{number}", 10, alone_s=10) for number in range(2)]
    assert forecast(queue(*alone)) == {"j0": 10, "j1": 20}, "not both after 20"
    assert forecast(queue(*alone, job("j2", 4))) == {"j0": 10, "j2": 18, "j1": 24}
    assert forecast(queue(job("j1", 10, alone_s=8), job("j2", 10, alone_s=8))) == {"j1": 12, "j2": 20}
    assert forecast(queue(job("j1", 10, alone_s=8), job("j2", 4)))["j2"] == 8, "others share"


def test_a_worker_has_counted_with_large_tiles_of_what_it_runs() -> None:
    running = job("j1", 5, worker="w0", alone_s=5), job("j2", 15, worker="w0", alone_s=10)
    assert forecast(queue(*running)) == {"j1": 10, "j2": 20}
    assert forecast(queue(running[0], job("j3", 4, alone_s=4))) == {"j1": 5, "j3": 9}


def test_owners_take_turns() -> None:
    found = queue(job("j1", 1), job("j2", 1), job("j3", 1), job("j4", 1, owner="b"))
    assert forecast(found, slots=1) == {"j1": 1, "j4": 2, "j2": 3, "j3": 4}
    assert list(forecast(queue(*found.jobs, a=99.0), slots=1))[0] == "j4"


def test_a_higher_priority_is_first_and_the_oldest_of_an_owner() -> None:
    found = queue(job("j3", 1), job("j1", 1), job("j2", 1, priority=1.0))
    assert list(forecast(found, slots=1)) == ["j2", "j1", "j3"]


def test_workers_work_beside_each_other() -> None:
    found = queue(*(job(f"j{number}", 5) for number in range(4)), workers=2)
    assert forecast(found) == dict.fromkeys(("j0", "j1", "j2", "j3"), 10)
    assert max(forecast(queue(*found.jobs, workers=4)).values()) == 5


def test_nothing_is_said_of_what_waits_while_no_worker_lives() -> None:
    assert forecast(queue(job("j1", 5), workers=0)) == {}
    assert forecast(queue(job("j1", 5, worker="gone"), job("j2", 5), workers=0)) == {"j1": 5}


def test_of_an_unknown_job_the_usual_time_is_expected() -> None:
    found = queue(job("j1", None), job("j2", 4), job("j3", 8), job("j4", 6))
    assert forecast(found, slots=1) == {"j1": 6, "j2": 10, "j3": 18, "j4": 24}


@pytest.mark.parametrize("seed", range(5))
def test_no_work_is_lost_and_none_is_done_twice(seed: int) -> None:
    chance = random.Random(seed)
    jobs = [job(f"j{number}", chance.uniform(0.1, 9), owner=chance.choice("abc")) for number in range(40)]
    for slots in (1, 2, 4):
        found = forecast(queue(*jobs), slots=slots)
        assert found.keys() == {each.id for each in jobs}
        assert max(found.values()) == pytest.approx(sum(each.left_s or 0 for each in jobs), rel=1e-3)


def test_a_thousand_jobs_are_quick() -> None:
    """Looked at by the operations, not by a clock: each job is taken once."""
    taken = 0

    def slots(_: str) -> int:
        nonlocal taken
        taken += 1
        return 2

    jobs = [job(f"j{number}", 1.0, owner=f"o{number % 50}") for number in range(1000)]
    assert len(ends(queue(*jobs, workers=8), slots)) == 1000
    assert taken == 8
