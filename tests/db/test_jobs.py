"""The contract of the job table, on SQLite and on PostgreSQL.

A lease is made to lapse by taking it through a table whose leases are over before they begin.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine

from server.db.jobs import MAX_ATTEMPTS, HeartbeatResult, Jobs, WorkerInfo
from server.errors import Conflict, NotFound, SourceUnreachable, SourceUnreadable, TooManyRequests
from server.job.job import Job, Params, Result, State

RESULT = Result(
    key="f" * 32 + ".png",
    width=64,
    height=48,
    size_bytes=123,
    format="png",
    model="fidelity-x4",
    model_sha256="0" * 64,
    seconds={"upscale": 0.5},
)
Write = Callable[[Jobs, Job], bool]
WRITES: dict[str, Write] = {
    "finish": lambda table, job: table.finish(job, RESULT),
    "fail": lambda table, job: table.fail(job, SourceUnreadable("it is broken")),
    "cancelled": lambda table, job: table.cancelled(job),
    "requeue": lambda table, job: table.requeue(job),
}


@pytest.fixture
def table(engine: Engine) -> Jobs:
    return Jobs(engine, lease_s=60)


@pytest.fixture
def lapsing(engine: Engine) -> Jobs:
    """The same table; leases taken through it have lapsed already."""
    return Jobs(engine, lease_s=-1)


def add(table: Jobs, **values: Any) -> Job:
    common: dict[str, Any] = {"dialect": "native", "owner": "local", "params": Params(scale=2), "source_key": "0" * 32}
    job = Job(**common | values)
    table.enqueue(job)
    return job


def take(table: Jobs, worker: str = "a") -> Job:
    job = table.claim(worker)
    assert job is not None
    return job


def in_threads(work: Callable[[str], list[str]], count: int = 4) -> list[str]:
    """What all of them found, each working under a name of its own."""
    together = threading.Barrier(count)

    def run(name: str) -> list[str]:
        together.wait()
        return work(name)

    with ThreadPoolExecutor(count) as pool:
        return [each for found in pool.map(run, [f"thread-{n}" for n in range(count)]) for each in found]


# --- callers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [{"scale": 2.5}, {"target": "4k"}, {"size": (640, 480)}])
def test_a_job_is_kept_as_it_is(table: Jobs, wanted: dict[str, Any]) -> None:
    params = Params(**wanted, format="webp", quality=80, model="anything", creativity=-1.5, seed=2**63 - 1)
    request = {"model": "vendor/model", "input": {"image": "ä \x00 \ud800", "deep": [1, None, True]}}
    job = add(table, params=params, request=request, source_url="https://example.com/ä.png", priority=3)
    assert table.get(job.id) == job


def test_a_job_that_failed_at_once_is_kept_with_its_error(table: Jobs) -> None:
    values = {"state": State.FAILED, "finished_at": 12.5, "error_code": "bad_source", "error_message": "it is broken"}
    job = add(table, source_key=None, **values)
    assert table.get(job.id) == job
    assert table.claim("a") is None and table.fetches.claim("f", 60) is None


@pytest.mark.parametrize("job_id", ["0" * 32, "", "no such job", "ä", "nul \0", "x" * 500])
def test_an_unknown_job_is_not_found(table: Jobs, job_id: str) -> None:
    with pytest.raises(NotFound):
        table.get(job_id)
    with pytest.raises(NotFound):
        table.cancel(job_id)


def test_the_list_is_newest_first_and_can_be_narrowed(table: Jobs) -> None:
    old = add(table, created_at=1.0, owner="x")
    middle = add(table, created_at=2.0, owner="y", dialect="novita")
    new = add(table, created_at=3.0, owner="x")
    take(table)  # the oldest

    def listed(**wanted: Any) -> tuple[list[str], int]:
        found, count = table.list(**wanted)
        return [job.id for job in found], count

    assert listed() == ([new.id, middle.id, old.id], 3)
    assert listed(limit=2) == ([new.id, middle.id], 3)
    assert listed(limit=2, offset=2) == ([old.id], 3)
    assert listed(owner="x") == ([new.id, old.id], 2)
    assert listed(dialect="novita") == ([middle.id], 1)
    assert listed(states=[State.QUEUED]) == ([new.id, middle.id], 2)
    assert listed(states=[State.RUNNING, State.FAILED]) == ([old.id], 1)
    assert listed(created_from=2.0, created_before=3.0) == ([middle.id], 1)
    assert listed(owner="x", states=[State.RUNNING]) == ([old.id], 1)
    assert listed(owner="nobody") == ([], 0)


def test_the_list_can_be_narrowed_by_what_a_request_held(table: Jobs) -> None:
    one, _ = add(table, request={"model": "a/b", "n": 1}), add(table, request={"model": "a/c"})
    add(table)
    found, total = table.list(request={"model": "a/b"})
    assert ([job.id for job in found], total) == ([one.id], 1)
    assert table.list(request={"model": "a"}) == ([], 0)


def test_a_deleted_job_is_returned_as_it_was_at_last(table: Jobs) -> None:
    add(table)
    job = take(table)
    assert table.delete(job.id) == job
    assert table.delete(job.id) is None
    assert table.heartbeat(job, 0.5) is HeartbeatResult.LOST


def test_jobs_are_counted_by_state(table: Jobs) -> None:
    assert table.counts() == {}
    for _ in range(4):
        add(table)
    table.finish(take(table), RESULT)
    take(table)
    assert table.counts() == {"queued": 2, "running": 1, "succeeded": 1}


def test_a_full_queue_refuses_until_there_is_room(engine: Engine) -> None:
    table = Jobs(engine, lease_s=60, max_queue=2)
    add(table)
    add(table)
    with pytest.raises(TooManyRequests):
        add(table)
    add(table, state=State.FAILED, finished_at=1.0)  # does not wait
    take(table)
    add(table)
    assert table.counts() == {"queued": 2, "running": 1, "failed": 1}


def test_a_callers_own_name_for_a_job_is_good_once(table: Jobs) -> None:
    job = add(table, dialect="runware", external_id="my job")
    assert table.find("local", "runware", "my job") == job
    with pytest.raises(Conflict):
        add(table, dialect="runware", external_id="my job")
    for elsewhere in ({"dialect": "runware", "owner": "other"}, {"dialect": "native"}, {"external_id": None}):
        add(table, **{"external_id": "my job"} | elsewhere)
    for unknown in (("local", "runware", "another"), ("nobody", "runware", "my job"), ("local", "novita", "my job")):
        with pytest.raises(NotFound):
            table.find(*unknown)


def test_a_name_taken_at_the_same_moment_is_good_once_too(table: Jobs) -> None:
    def submit(name: str) -> list[str]:
        try:
            return [add(table, external_id="my job").id]
        except Conflict:
            return []

    assert in_threads(submit) == [table.find("local", "native", "my job").id]


def test_a_jobs_pictures_are_found_by_their_ids_by_their_owner_only(table: Jobs) -> None:
    job = add(table)
    add(table)
    assert table.with_picture("local", job.source_id) == table.with_picture("local", job.result_id) == job
    with pytest.raises(NotFound):
        table.with_picture("somebody else", job.source_id)
    with pytest.raises(NotFound):
        table.with_picture("local", job.id)


# --- claiming -------------------------------------------------------------------------------------------------------


def test_the_highest_priority_comes_first_then_the_oldest(table: Jobs) -> None:
    wanted = [add(table, priority=p, created_at=at).id for p, at in ((2, 9.0), (1, 1.0), (1, 2.0), (0, 0.5), (-1, 0.1))]
    shuffled = [wanted[i] for i in (3, 1, 4, 0, 2)]
    for place, job_id in enumerate(shuffled):  # the order of insertion must not be what decides
        job = table.get(job_id)
        table.delete(job_id)
        add(table, id=f"{place:032}", priority=job.priority, created_at=job.created_at)
    claimed = [take(table) for _ in wanted]
    assert [(job.priority, job.created_at) for job in claimed] == [(2, 9.0), (1, 1.0), (1, 2.0), (0, 0.5), (-1, 0.1)]
    assert table.claim("a") is None


def test_the_first_job_of_a_key_does_not_wait_for_all_of_another(table: Jobs) -> None:
    for place in range(6):
        add(table, owner="many", created_at=float(place))
    add(table, owner="one", created_at=10.0)
    add(table, owner="two", created_at=11.0)
    owners = []
    while (job := table.claim("the only worker")) is not None:
        owners.append(job.owner)
        table.finish(job, RESULT)
    assert owners == ["many", "one", "two", "many", "many", "many", "many", "many"]


def test_an_owner_with_fewer_jobs_at_work_comes_first_and_priority_before_that(table: Jobs) -> None:
    for place in range(3):
        add(table, owner="many", created_at=float(place))
    assert [take(table, "a").owner, take(table, "b").owner] == ["many", "many"]
    add(table, owner="one", created_at=10.0)
    job = take(table, "c")
    assert job.owner == "one"
    add(table, owner="one", created_at=11.0)
    assert take(table, "d").owner == "one", "one at work against two, though its turn was later"
    add(table, owner="other", created_at=12.0)
    add(table, owner="many", created_at=13.0, priority=1)
    assert [take(table, "e").created_at for _ in range(3)] == [13.0, 12.0, 2.0]


def test_what_died_with_its_worker_is_not_at_work(table: Jobs, lapsing: Jobs) -> None:
    first = add(table, owner="unlucky", created_at=1.0)
    take(lapsing, "dead")
    add(table, owner="busy", created_at=2.0)
    assert take(table).owner == "busy"
    add(table, owner="busy", created_at=0.5)
    assert take(table).id == first.id


def test_sources_are_fetched_by_the_same_rule(table: Jobs) -> None:
    values = {"source_key": None, "source_url": "https://example.com/a.png"}
    for place in range(3):
        add(table, owner="many", created_at=float(place), **values)
    add(table, owner="one", created_at=10.0, **values)
    fetched = [table.fetches.claim("f", 60) for _ in range(4)]
    assert [job and job.created_at for job in fetched] == [0.0, 10.0, 1.0, 2.0]


def test_four_threads_drain_the_jobs_of_three_owners_each_exactly_once(table: Jobs) -> None:
    expected = {add(table, owner=f"owner {place % 3}").id for place in range(30)}

    def drain(name: str) -> list[str]:
        drained = []
        while (job := table.claim(name)) is not None:
            drained.append(job.id)
            assert table.finish(job, RESULT)
        return drained

    assert Counter(in_threads(drain)) == Counter(expected)


def test_a_claimed_job_says_whose_it_is(table: Jobs) -> None:
    before = time.time()
    add(table)
    job = take(table, "host:worker-0")
    assert (job.state, job.worker, job.attempt, job.progress) == (State.RUNNING, "host:worker-0", 1, 0.0)
    assert job.started_at is not None and before <= job.started_at <= time.time()
    assert table.get(job.id) == job


def test_a_job_without_its_source_is_not_for_workers(table: Jobs) -> None:
    add(table, source_key=None, source_url="https://example.com/a.png")
    assert table.claim("a") is None


def test_a_worker_may_have_a_long_name(table: Jobs) -> None:
    """Host names have up to 64 characters, and the launcher adds to them."""
    add(table)
    name = "h" * 64 + ":worker-63:0123abcd"
    assert take(table, name).worker == name
    table.worker_beat(WorkerInfo(name, "cpu", True))


def test_four_threads_drain_forty_jobs_each_exactly_once(table: Jobs) -> None:
    expected = {add(table).id for _ in range(40)}

    def drain(name: str) -> list[str]:
        drained = []
        while (job := table.claim(name)) is not None:
            assert (job.worker, job.attempt) == (name, 1)
            drained.append(job.id)
            assert table.finish(job, RESULT)
        return drained

    assert Counter(in_threads(drain)) == Counter(expected)
    assert table.counts() == {"succeeded": 40}


def test_four_threads_fetch_twelve_sources_each_exactly_once(table: Jobs) -> None:
    values = [{"owner": str(n), "source_url": "https://example.com/a.png"} for n in range(12)]
    expected = {add(table, source_key=None, **each).id for each in values}

    def drain(name: str) -> list[str]:
        drained = []
        while (job := table.fetches.claim(name, 60)) is not None:
            drained.append(job.id)
            assert table.fetches.give(job.id, name, "1" * 32)
        return drained

    assert Counter(in_threads(drain)) == Counter(expected)


# --- running --------------------------------------------------------------------------------------------------------


def test_a_heartbeat_reports_progress_and_keeps_the_lease(table: Jobs, lapsing: Jobs) -> None:
    add(table)
    job = take(lapsing)
    assert table.heartbeat(job, 0.25) is HeartbeatResult.CONTINUE
    assert table.get(job.id).progress == 0.25
    assert table.claim("b") is None, "the lease was renewed"


def test_a_result_is_published_with_the_job(table: Jobs) -> None:
    add(table)
    job = take(table)
    assert table.finish(job, RESULT)
    done = table.get(job.id)
    assert (done.state, done.result, done.progress) == (State.SUCCEEDED, RESULT, 1.0)
    assert done.finished_at is not None and abs(done.finished_at - time.time()) < 10
    assert table.heartbeat(job, 0.5) is HeartbeatResult.LOST


def test_a_failure_keeps_its_code_and_words(table: Jobs) -> None:
    add(table)
    job = take(table)
    assert table.fail(job, SourceUnreadable("it is broken"))
    failed = table.get(job.id)
    assert (failed.state, failed.error_code, failed.error_message) == (
        State.FAILED,
        "source_unreadable",
        "it is broken",
    )
    assert failed.finished_at is not None and failed.result is None


@pytest.mark.parametrize("first", WRITES)
@pytest.mark.parametrize("second", WRITES)
def test_a_job_ends_only_once(table: Jobs, first: str, second: str) -> None:
    add(table)
    job = take(table)
    assert WRITES[first](table, job)
    ended = table.get(job.id)
    assert not WRITES[second](table, job)
    assert table.get(job.id) == ended


@pytest.mark.parametrize("write", WRITES)
def test_a_lapsed_attempt_writes_nothing(table: Jobs, lapsing: Jobs, write: str) -> None:
    add(table)
    lost = take(lapsing, "a")
    current = take(table, "b")
    assert (lost.id, lost.attempt, current.attempt) == (current.id, 1, 2)
    assert not WRITES[write](table, lost)
    assert table.heartbeat(lost, 0.9) is HeartbeatResult.LOST
    assert table.get(current.id) == current
    assert table.finish(current, RESULT)


@pytest.mark.parametrize("write", WRITES)
def test_a_lapsed_attempt_writes_nothing_even_when_its_own_worker_has_the_job_again(
    table: Jobs, lapsing: Jobs, write: str
) -> None:
    add(table)
    lost, current = take(lapsing, "a"), take(table, "a")
    assert not WRITES[write](table, lost)
    assert table.get(current.id) == current


@pytest.mark.parametrize("write", WRITES)
def test_who_gave_a_job_back_writes_nothing_more(table: Jobs, write: str) -> None:
    add(table)
    given_back = take(table, "a")
    assert table.requeue(given_back)
    current = take(table, "b")
    assert not WRITES[write](table, given_back)
    assert table.heartbeat(given_back, 0.9) is HeartbeatResult.LOST
    assert table.get(current.id) == current


def test_a_lapsed_attempt_may_still_finish_when_no_one_has_taken_over(table: Jobs, lapsing: Jobs) -> None:
    add(table)
    assert table.finish(take(lapsing), RESULT)
    assert table.claim("b") is None


def test_giving_a_job_back_does_not_count_as_an_attempt(table: Jobs) -> None:
    job = add(table)
    for _ in range(MAX_ATTEMPTS + 2):
        taken = take(table)
        table.heartbeat(taken, 0.5)
        assert table.requeue(taken)
        waiting = table.get(job.id)
        assert (waiting.state, waiting.attempt, waiting.worker, waiting.progress) == (State.QUEUED, 0, None, 0.0)
    assert take(table).attempt == 1


def test_a_lapsed_job_waits_in_its_own_place(table: Jobs, lapsing: Jobs) -> None:
    old = add(table, created_at=1.0)
    lapsed = take(lapsing, "dead")
    lapsing.heartbeat(lapsed, 0.5)
    add(table, created_at=2.0)
    urgent = add(table, priority=1)
    assert take(table).id == urgent.id
    again = take(table)
    assert (again.id, again.attempt, again.progress) == (old.id, 2, 0.0)
    assert again.started_at == lapsed.started_at, "when work on it first began"


def test_a_job_whose_workers_keep_dying_fails(table: Jobs, lapsing: Jobs) -> None:
    job = add(table)
    assert [take(lapsing).attempt for _ in range(MAX_ATTEMPTS)] == [1, 2, 3]
    assert table.claim("a") is None
    failed = table.get(job.id)
    assert (failed.state, failed.error_code) == (State.FAILED, "job_failed")
    assert failed.error_message == "the worker process died 3 times while running this job"
    assert failed.finished_at is not None


def test_a_sweep_ends_what_must_not_run_again_and_nothing_else(table: Jobs, lapsing: Jobs) -> None:
    crashed = add(table)
    for _ in range(MAX_ATTEMPTS):
        take(lapsing)
    stopped = add(table)
    table.cancel(take(lapsing).id)
    living, retried, waiting = add(table), add(table, priority=1), add(table, source_key=None)
    assert take(lapsing).id == retried.id
    assert take(table).id == retried.id
    assert take(table).id == living.id
    states = {job.id: job.state.value for job in table.list()[0]}
    assert states.pop(crashed.id) == "failed" and states.pop(stopped.id) == "cancelled"
    assert states == {living.id: "running", retried.id: "running", waiting.id: "queued"}
    assert table.end_abandoned() == 0


def test_a_sweep_says_how_many_it_ended(table: Jobs, lapsing: Jobs) -> None:
    assert table.end_abandoned() == 0
    add(table)
    for _ in range(MAX_ATTEMPTS):
        take(lapsing)
    assert table.end_abandoned() == 1


# --- clocks that were set back ------------------------------------------------------------------------------------


@pytest.fixture
def ahead(engine: Engine) -> Jobs:
    """The same table; leases taken through it are an hour ahead, as after a crash and a clock that was set back."""
    return Jobs(engine, lease_s=3600)


def test_a_lease_further_ahead_than_its_length_is_bad(table: Jobs, ahead: Jobs) -> None:
    add(table)
    lost = take(ahead, "dead")
    again = take(table, "b")
    assert (again.id, again.attempt) == (lost.id, 2)
    assert not table.finish(lost, RESULT)


def test_a_job_of_a_lease_too_far_ahead_is_not_at_work(table: Jobs, ahead: Jobs) -> None:
    add(table, owner="unlucky", created_at=1.0)
    first = take(ahead, "dead")
    add(table, owner="busy", created_at=2.0)
    take(table)
    add(table, owner="busy", created_at=0.5)
    assert take(table).id == first.id


@pytest.mark.parametrize("crashed", ["lapsing", "ahead"])
def test_a_running_job_without_a_worker_is_cancelled_at_once(
    table: Jobs, crashed: str, request: pytest.FixtureRequest
) -> None:
    add(table)
    job = take(request.getfixturevalue(crashed))
    cancelled = table.cancel(job.id)
    assert cancelled.state is State.CANCELLED and cancelled.finished_at is not None


def test_a_job_that_died_too_often_is_ended_though_its_lease_is_ahead(table: Jobs, ahead: Jobs, lapsing: Jobs) -> None:
    add(table)
    for _ in range(MAX_ATTEMPTS - 1):
        take(lapsing)
    job = take(ahead)
    assert table.end_abandoned() == 1
    assert table.get(job.id).state is State.FAILED


def test_a_fetch_leased_too_far_ahead_is_fetched_again(table: Jobs) -> None:
    job = add(table, source_key=None, source_url="https://example.com/")
    assert table.fetches.claim("dead", 3600) is not None
    fetched = table.fetches.claim("new", 45)
    assert fetched is not None and fetched.id == job.id


def test_a_worker_whose_heartbeat_is_ahead_is_not_alive(table: Jobs, ahead: Jobs) -> None:
    ahead.worker_beat(WorkerInfo("dead", "cpu", True))
    assert table.live_workers() == []


# --- cancelling -----------------------------------------------------------------------------------------------------


def test_a_waiting_job_is_cancelled_at_once(table: Jobs) -> None:
    job = table.cancel(add(table).id)
    assert (job.state, job.cancel_requested) == (State.CANCELLED, True)
    assert job.finished_at is not None
    assert table.claim("a") is None


def test_a_running_job_is_cancelled_by_its_worker(table: Jobs) -> None:
    add(table)
    job = take(table)
    assert table.cancel(job.id).state is State.RUNNING
    assert table.heartbeat(job, 0.5) is HeartbeatResult.CANCEL
    assert table.cancelled(job)
    assert table.get(job.id).state is State.CANCELLED
    assert table.heartbeat(job, 0.6) is HeartbeatResult.LOST


@pytest.mark.parametrize("write", ["finish", "fail"])
def test_a_job_that_has_ended_stays_as_it_is(table: Jobs, write: str) -> None:
    add(table)
    job = take(table)
    assert WRITES[write](table, job)
    ended = table.get(job.id)
    assert table.cancel(job.id) == ended


def test_a_job_to_be_cancelled_does_not_run_again_after_a_crash(table: Jobs, lapsing: Jobs) -> None:
    add(table)
    job = take(lapsing)
    table.cancel(job.id)
    assert table.claim("b") is None
    assert table.get(job.id).state is State.CANCELLED


# --- fetching -------------------------------------------------------------------------------------------------------


def test_the_oldest_job_without_a_source_is_fetched_first(table: Jobs) -> None:
    new, old = (add(table, source_key=None, source_url="https://example.com/", created_at=at) for at in (2.0, 1.0))
    add(table, created_at=0.0)
    assert [job and job.id for job in (table.fetches.claim("f", 60) for _ in range(3))] == [old.id, new.id, None]


def test_a_fetched_source_makes_a_job_ready(table: Jobs) -> None:
    job = add(table, source_key=None, source_url="https://example.com/")
    fetched = table.fetches.claim("f", 60)
    assert fetched is not None
    assert (fetched.id, fetched.state, fetched.attempt) == (job.id, State.QUEUED, 1)
    assert table.fetches.give(job.id, "f", "1" * 32)
    taken = take(table)
    assert (taken.source_key, taken.attempt) == ("1" * 32, 1)


def test_a_lapsed_fetch_belongs_to_the_next_fetcher(table: Jobs) -> None:
    job = add(table, source_key=None, source_url="https://example.com/")
    assert table.fetches.claim("slow", -1) is not None
    assert table.fetches.claim("quick", 60) is not None
    before = table.get(job.id)
    assert not table.fetches.give(job.id, "slow", "1" * 32)
    assert not table.fetches.fail(job.id, "slow", SourceUnreachable("too slow"))
    assert table.get(job.id) == before
    assert table.fetches.give(job.id, "quick", "2" * 32)
    assert take(table).source_key == "2" * 32


def test_fetches_are_counted_but_for_those_given_back(table: Jobs) -> None:
    add(table, source_key=None, source_url="https://example.com/")
    counts = []
    for name in ("died", "died too", "ended"):
        fetched = table.fetches.claim(name, -1)
        assert fetched is not None
        counts.append(fetched.attempt)
    table.release("ended")
    fetched = table.fetches.claim("next", 60)
    assert fetched is not None
    assert [*counts, fetched.attempt] == [1, 2, 3, 3]


def test_a_fetch_that_failed_fails_the_job(table: Jobs) -> None:
    job = add(table, source_key=None, source_url="https://example.com/")
    table.fetches.claim("f", 60)
    assert table.fetches.fail(job.id, "f", SourceUnreachable("its server answered 404"))
    failed = table.get(job.id)
    assert (failed.state, failed.error_code) == (State.FAILED, "source_unreachable")
    assert failed.error_message == "its server answered 404"
    assert table.fetches.claim("f", 60) is None


def test_a_job_cancelled_while_it_is_fetched_gets_no_source(table: Jobs) -> None:
    job = add(table, source_key=None, source_url="https://example.com/")
    table.fetches.claim("f", 60)
    assert table.cancel(job.id).state is State.CANCELLED
    assert not table.fetches.give(job.id, "f", "1" * 32)
    assert not table.fetches.fail(job.id, "f", SourceUnreachable("404"))


# --- cleanup --------------------------------------------------------------------------------------------------------


def test_a_dead_workers_jobs_are_free_at_once(table: Jobs) -> None:
    for _ in range(3):
        add(table)
    table.finish(take(table, "dead"), RESULT)
    lost, living = take(table, "dead"), take(table, "living")
    table.worker_beat(WorkerInfo("dead", "cpu", True))
    assert table.release("dead") == 1
    assert table.live_workers() == []
    again = take(table, "new")
    assert (again.id, again.attempt) == (lost.id, 2)
    assert table.heartbeat(living, 0.5) is HeartbeatResult.CONTINUE
    assert table.claim("new") is None
    assert table.counts() == {"succeeded": 1, "running": 2}


def test_a_dead_fetchers_jobs_are_free_at_once(table: Jobs) -> None:
    job = add(table, source_key=None, source_url="https://example.com/")
    table.fetches.claim("dead", 60)
    assert table.release("dead") == 1
    fetched = table.fetches.claim("new", 60)
    assert fetched is not None and fetched.id == job.id


def test_expired_jobs_are_found_and_can_be_deleted(table: Jobs) -> None:
    now = time.time()
    old, new = (add(table, state=State.FAILED, finished_at=now - age) for age in (100, 10))
    brief = add(table, state=State.FAILED, finished_at=now - 50, keep_s=40.0)
    waiting = add(table, created_at=0.0)
    assert [job.id for job in table.expired(keep_s=75)] == [old.id, brief.id]
    assert [job.id for job in table.expired(keep_s=75, limit=1)] == [old.id]
    table.delete(old.id)
    table.delete(old.id)  # no error when it no longer exists
    assert {job.id for job in table.list()[0]} == {new.id, brief.id, waiting.id}


def test_only_workers_heard_of_within_a_lease_are_alive(table: Jobs, lapsing: Jobs) -> None:
    lapsing.worker_beat(WorkerInfo("silent", "cpu", True))
    table.worker_beat(WorkerInfo("b", "cpu", False))
    table.worker_beat(WorkerInfo("a", "NVIDIA H200 (cuda:0)", False))
    table.worker_beat(WorkerInfo("a", "NVIDIA H200 (cuda:0)", True))
    assert table.live_workers() == [WorkerInfo("a", "NVIDIA H200 (cuda:0)", True), WorkerInfo("b", "cpu", False)]
