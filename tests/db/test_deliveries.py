"""Pending deliveries: due when the job ends, claimed by one sender at a time, never lost. On both databases."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from server.db.deliveries import DEAD, DELIVERED, PENDING, UPLOAD, WEBHOOK, Deliveries, Delivery
from server.db.jobs import Jobs
from server.job.job import Job, Params, State


@pytest.fixture
def jobs(engine: Engine) -> Jobs:
    return Jobs(engine, lease_s=10)


@pytest.fixture
def deliveries(engine: Engine) -> Deliveries:
    return Deliveries(engine)


def owe(jobs: Jobs, *kinds: str, state: State = State.FAILED, due_at: float = 0.0, owner: str = "local") -> Job:
    job = Job(dialect="native", owner=owner, params=Params(scale=2), state=state)
    owed = [Delivery(job_id=job.id, kind=kind, url="http://x", base_url="", due_at=due_at) for kind in kinds]
    jobs.enqueue(job, owed)
    return job


def test_nothing_is_due_before_the_job_has_ended(jobs: Jobs, deliveries: Deliveries) -> None:
    job = owe(jobs, WEBHOOK, state=State.QUEUED)
    assert deliveries.claim(10) is None
    jobs.cancel(job.id)
    claimed = deliveries.claim(10)
    assert claimed is not None
    assert (claimed.job_id, claimed.kind, claimed.url, claimed.attempts) == (job.id, WEBHOOK, "http://x", 1)


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_any_end_makes_it_due(jobs: Jobs, deliveries: Deliveries, state: State) -> None:
    owe(jobs, WEBHOOK, state=state)
    assert deliveries.claim(10) is not None


def test_one_that_is_claimed_is_no_one_elses_until_its_time_is_over(jobs: Jobs, deliveries: Deliveries) -> None:
    owe(jobs, WEBHOOK)
    claimed = deliveries.claim(100)
    assert claimed is not None
    assert deliveries.claim(10) is None
    deliveries.hold(claimed, 0)  # as if the 100 seconds were over
    again = deliveries.claim(10)
    assert again is not None and again.attempts == 2


def test_holding_one_keeps_others_off_for_longer(jobs: Jobs, deliveries: Deliveries) -> None:
    owe(jobs, WEBHOOK)
    claimed = deliveries.claim(0.05)
    assert claimed is not None
    deliveries.hold(claimed, 10)
    time.sleep(0.1)
    assert deliveries.claim(10) is None


def test_the_longest_due_comes_first(jobs: Jobs, deliveries: Deliveries) -> None:
    later, sooner = owe(jobs, WEBHOOK, due_at=2.0), owe(jobs, WEBHOOK, due_at=1.0)
    owe(jobs, WEBHOOK)
    first = deliveries.claim(10)
    assert first is not None
    deliveries.retry(first, 100, "no answer")
    found = [deliveries.claim(10) for _ in range(3)]
    assert [each and each.job_id for each in found] == [sooner.id, later.id, None]


def test_a_retry_is_due_after_its_pause(jobs: Jobs, deliveries: Deliveries) -> None:
    job = owe(jobs, WEBHOOK)
    claimed = deliveries.claim(100)
    assert claimed is not None
    deliveries.retry(claimed, 0.2, "no answer")
    kept = deliveries.of_job(job.id)[0]
    assert (kept.state, kept.attempts, kept.last_error) == (PENDING, 1, "no answer")
    assert deliveries.claim(10) is None
    time.sleep(0.25)
    assert deliveries.claim(10) is not None


def test_delivered_and_dead_ones_are_never_due_again(jobs: Jobs, deliveries: Deliveries) -> None:
    job = owe(jobs, UPLOAD, WEBHOOK)
    for _ in range(2):
        claimed = deliveries.claim(0)
        assert claimed is not None
        deliveries.delivered(claimed) if claimed.kind == UPLOAD else deliveries.give_up(claimed, "gone")
    assert deliveries.claim(10) is None
    kept = [(each.kind, each.state, each.last_error) for each in deliveries.of_job(job.id)]
    assert kept == [(UPLOAD, DELIVERED, None), (WEBHOOK, DEAD, "gone")]


def test_a_slow_sender_does_not_undo_what_a_later_one_found_out(jobs: Jobs, deliveries: Deliveries) -> None:
    job = owe(jobs, WEBHOOK)
    slow, later = deliveries.claim(0), deliveries.claim(0)
    assert slow is not None and later is not None
    deliveries.delivered(later)
    deliveries.retry(slow, 0, "no answer")
    deliveries.give_up(slow, "no answer")
    assert deliveries.of_job(job.id)[0].state == DELIVERED


def test_of_many_who_ask_at_once_each_gets_another(jobs: Jobs, deliveries: Deliveries) -> None:
    for number in range(20):
        owe(jobs, WEBHOOK, owner=str(number))
    with ThreadPoolExecutor(6) as threads:
        claimed = [each for each in threads.map(lambda _: deliveries.claim(60), range(30)) if each is not None]
    assert len({each.id for each in claimed}) == len(claimed) <= 20
    while (left := deliveries.claim(60)) is not None:  # who lost a race for one got nothing that time
        claimed.append(left)
    assert len({each.id for each in claimed}) == 20


def test_they_go_with_their_job(jobs: Jobs, deliveries: Deliveries) -> None:
    job = owe(jobs, WEBHOOK)
    jobs.delete(job.id)
    assert deliveries.claim(10) is None
    assert deliveries.of_job(job.id) == []


def test_what_was_given_up_can_be_listed_and_tried_again(jobs: Jobs, deliveries: Deliveries) -> None:
    first, second, fine = owe(jobs, WEBHOOK), owe(jobs, UPLOAD, WEBHOOK), owe(jobs, WEBHOOK)
    while (claimed := deliveries.claim(60)) is not None:
        deliveries.delivered(claimed) if claimed.job_id == fine.id else deliveries.give_up(claimed, "gone")
    assert {each.job_id for each in deliveries.dead(10)} == {first.id, second.id}
    assert len(deliveries.dead(2)) == 2
    assert deliveries.counts() == {DEAD: 3}
    assert deliveries.revive(second.id) == 2 and deliveries.revive(fine.id) == 0
    again = deliveries.claim(60)
    assert again is not None and (again.job_id, again.attempts) == (second.id, 1)
    assert deliveries.counts() == {DEAD: 1, PENDING: 2}
