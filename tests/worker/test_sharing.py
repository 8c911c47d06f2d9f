"""When each of the jobs that share a worker will have ended."""

import pytest

from server.worker.sharing import Left, ends, evenly


def large(seconds: float, tile: float, current: float = 0.0, waits: bool = False, rest: float = 0.0) -> Left:
    return Left(seconds + rest, seconds, tile, current, waits)


def test_jobs_share_the_time_evenly() -> None:
    assert ends([]) == []
    assert ends([Left(3)]) == [3]
    assert ends([Left(10), Left(2)]) == [12, 4]
    assert ends([Left(1), Left(2), Left(3)]) == [3, 5, 6]


def test_of_large_tiles_one_is_computed_at_a_time() -> None:
    assert ends([large(10, 10, 10), large(10, 10, waits=True)]) == [10, 20], "not both after 20"
    assert ends([large(10, 10, waits=True), large(4, 10, 4)]) == [14, 4]
    assert ends([large(20, 10, 10), large(10, 10, waits=True)]) == [30, 20], "they take turns"
    assert ends([large(10, 10, 10, rest=1), large(10, 10, waits=True, rest=1)]) == [12, 22], "the encoder runs beside"


def test_a_job_whose_tiles_are_not_known_yet_takes_turns_too() -> None:
    assert ends([Left(20, 20), large(20, 10, 10)]) == [40, 30]
    assert ends([Left(20, 20), Left(10, 10, waits=True)]) == [20, 30]


def test_others_share_with_the_one_that_computes() -> None:
    assert ends([large(10, 10, 10), large(10, 10, waits=True), Left(2)]) == pytest.approx([12, 22, 4])
    assert ends([large(6, 3), Left(6)]) == [12, 12]


def test_what_is_reported_ends_at_the_same_time_if_shared_evenly() -> None:
    for jobs in (
        [large(10, 10, 10), large(10, 10, waits=True)],
        [large(23, 7, 3), large(10, 5, waits=True, rest=2), Left(8), large(0.1, 0.1, waits=True)],
        [Left(3), Left(5)],
    ):
        assert ends([Left(seconds) for seconds in evenly(jobs)]) == pytest.approx(ends(jobs))
    assert evenly([Left(3), Left(5)]) == [3, 5]


def test_any_numbers_come_to_an_end() -> None:
    for tile in (0.0, 1e-9, 0.1, 1 / 3, 7.7):
        found = ends([large(1.1, tile), large(0.7, tile * 1.3, waits=True, rest=0.2), Left(0.001)])
        assert max(found) == pytest.approx(2.001, rel=0.01)
