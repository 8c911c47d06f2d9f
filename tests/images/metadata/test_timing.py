"""Times of frames are exact if the format can hold them, and else do not drift."""

from fractions import Fraction

from server.images.metadata.timing import Timing


def timing(*milliseconds: int) -> Timing:
    return Timing(tuple(Fraction(each, 1000) for each in milliseconds), plays=0)


def test_whole_units_are_exact_whatever_they_are() -> None:
    assert timing(0, 10, 20, 0, 655_350).in_units(100, 0xFFFF) == [0, 1, 2, 0, 65535]
    assert timing(0, 1, 2).in_units(1000, 2**24) == [0, 1, 2]


def test_rounding_does_not_add_up() -> None:
    thirds = Timing((Fraction(1, 30),) * 300, plays=0)
    assert sum(thirds.in_units(100, 0xFFFF)) == 1000 and set(thirds.in_units(100, 0xFFFF)) == {3, 4}
    assert thirds.duration_s == 10


def test_what_a_format_cannot_say_is_as_long_as_it_can() -> None:
    assert timing(700_000, 50).in_units(100, 0xFFFF) == [65535, 5]
