"""How long a job will still take, by its own course and by what is known of its steps."""

import time
from pathlib import Path
from typing import Any, cast

import pytest

from server.config import Config
from server.job.job import Params
from server.pipeline import Context
from server.weights.catalog import Catalog
from server.weights.durations import Durations
from server.worker.sharing import Left
from server.worker.timing import JobClock, SharedClock, Timing
from server.worker.upscaler import Upscaler
from tests.conftest import MakeConfig, draw


class Hands:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_clock_that_is_shared_by_n_goes_n_times_slower() -> None:
    hands = Hands()
    clock = SharedClock(hands)
    clock.join()
    hands.now = 10
    assert clock() == 10
    clock.join()
    hands.now = 14
    assert clock() == 12
    clock.leave()
    hands.now = 15
    assert clock() == 13


def test_a_job_that_waits_for_others_has_no_time_and_takes_none() -> None:
    hands = Hands()
    shared = SharedClock(hands)
    first, second = JobClock(shared), JobClock(shared)
    hands.now = 2
    second.wait(True)
    second.wait(True)
    hands.now = 10
    assert (first(), second(), second.waits) == (9, 1, True)
    second.wait(False)
    hands.now = 14
    assert (first(), second(), second.waits) == (11, 3, False)
    second.wait(True)
    second.end()
    hands.now = 15
    assert first() == 12, "it has left once"


def test_time_in_which_the_process_was_suspended_is_not_counted() -> None:
    hands = Hands()
    clock = SharedClock(hands)
    clock.join()
    hands.now = 5
    assert clock() == 5
    hands.now = 3605
    assert clock() == 5
    hands.now = 3606
    assert clock() == 6


@pytest.fixture
def settings(config: MakeConfig) -> Config:
    return config(dtype="fp32")


def test_before_a_job_is_planned_its_rows_estimate_counts_down(tmp_path: Path) -> None:
    hands = Hands()
    timing = Timing(SharedClock(hands), Durations(tmp_path), 10.0, signed=False)
    assert timing.left(None) == 10
    hands.now = 4
    assert timing.left(None) == 6
    hands.now = 100
    assert timing.left(None) == pytest.approx(10), "late: some of the time until now"
    assert Timing(SharedClock(hands), Durations(tmp_path), None, signed=False).left(None) is None


def test_a_real_job_is_learnt_and_its_time_left_falls_to_nothing(settings: Config) -> None:
    upscaler = Upscaler(settings, Catalog.of(settings))
    params = Params(scale=4, model="fidelity-x4", format="png")

    def run(side: int) -> tuple[Context, Timing, list[tuple[float, float | None]]]:
        ctx = upscaler.prepare(params, draw(side, side), settings.data_dir / "result.png")
        timing = Timing(clock := SharedClock(), upscaler.durations, None, signed=False)
        ctx.ticks = clock
        said: list[tuple[float, float | None]] = []
        try:
            upscaler.run(ctx, lambda: said.append((time.perf_counter(), timing.left(ctx))))
        finally:
            timing.end(ctx, succeeded=True)
        return ctx, timing, said

    assert run(64)[2][0][1] is None, "nothing is known yet"
    for _ in range(3):
        ctx, _, said = run(200)
    known = [left for _, left in said if left is not None]
    assert known and all(left > 0 for left in known)
    assert known[-1] < known[0], "the encoder is all that is left"
    assert ctx.plan is not None and ctx.done("upscale") == 1
    assert set(ctx.shared_seconds) >= {"decode", "plan", "load", "upscale", "encode"}
    assert sum(ctx.shared_seconds.values()) == pytest.approx(sum(ctx.seconds.values()), rel=0.05, abs=0.01)
    upscaler.durations.write()
    assert Durations(settings.cache_dir).loading("fidelity-x4") == 0


def test_a_job_that_failed_is_not_learnt(settings: Config) -> None:
    upscaler = Upscaler(settings, Catalog.of(settings))
    ctx = upscaler.prepare(Params(scale=2, model="fidelity-x4"), draw(16, 16), settings.data_dir / "result.png")
    timing = Timing(SharedClock(), upscaler.durations, None, signed=False)
    upscaler.run(ctx)
    timing.end(ctx, succeeded=False)
    assert not upscaler.durations._new


def test_what_is_left_says_which_tiles_are_computed_alone(tmp_path: Path) -> None:
    hands, nothing = Hands(), cast(Any, None)
    limits = {"max_source_pixels": 1, "max_result_pixels": 1}
    ctx = Context(params=Params(scale=4), data=b"", target=tmp_path, engine=nothing, load=nothing, **limits)
    timing = Timing(SharedClock(hands), Durations(tmp_path), None, signed=False)
    ctx.ticks, ctx.waits, ctx.plan = timing.clock, timing.clock.wait, cast(Any, "any")
    timing._expected = {"upscale": 12.0, "encode": 1.0}
    ctx.expect("upscale", 30)
    assert timing.parts_left(ctx) == Left(13)
    ctx.work["upscale"].alone = 10
    assert timing.parts_left(ctx) == Left(13, 12, 4)
    ctx.waits(True)
    hands.now = 8
    assert timing.parts_left(ctx) == Left(13, 12, 4, waits=True), "its time stands still"
    ctx.waits(False)
    with ctx.clock("upscale"):
        hands.now = 9
        ctx.advance("upscale", 0, 2.5)
        found = timing.parts_left(ctx)
    assert found is not None and found.alone == pytest.approx(11, rel=0.02)
    assert found.current == pytest.approx(3, rel=0.02) and found.tile == pytest.approx(4, rel=0.02)


def test_a_job_that_is_slower_than_expected_is_expected_to_stay_so(tmp_path: Path) -> None:
    """The time since its last tile says nothing of its pace."""
    hands, nothing = Hands(), cast(Any, None)
    limits = {"max_source_pixels": 1, "max_result_pixels": 1}
    ctx = Context(params=Params(scale=4), data=b"", target=tmp_path, engine=nothing, load=nothing, **limits)
    ctx.ticks = hands

    def left() -> float:
        return Timing._step(ctx, "upscale", 10.0, ctx.spent())

    ctx.expect("upscale", 100)
    with ctx.clock("upscale"):
        hands.now = 3
        assert left() == 7
        hands.now = 4
        ctx.advance("upscale", 25)
        slower = left()
        assert 7.5 < slower < 12, "a quarter took 4 of 10 s"
        hands.now = 6
        assert left() == pytest.approx(slower - 2)
        hands.now = 8
        ctx.advance("upscale", 25)
        assert 5 < left() < 8
        hands.now = 40
        assert 0 < left() < 5, "late: a share of the time since"
        ctx.advance("upscale", 50)
        assert left() == 0
