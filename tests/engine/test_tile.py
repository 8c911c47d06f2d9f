"""Cutting and joining: whatever the sizes, every pixel is computed once, far enough from a cut, and weighs one."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.tile import blend_weights, cut


@dataclass(frozen=True)
class Case:
    length: int
    tile: int
    halo: int
    blend: int
    multiple: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Halos are multiples too, as those of all architectures are."""
    multiple = draw(st.sampled_from([1, 2, 4]))
    halo = draw(st.integers(0, 40)) * multiple
    blend = draw(st.integers(0, min(halo, 20)))
    smallest = -(-(2 * halo + 4 * blend + 2 * multiple) // multiple)
    tile = draw(st.integers(smallest, smallest + 200)) * multiple
    return Case(draw(st.integers(1, 4000)) * multiple, tile, halo, blend, multiple)


@given(cases())
def test_the_kept_parts_cover_every_pixel_and_overlap_only_to_blend(case: Case) -> None:
    spans = cut(case.length, case.tile, case.halo, case.blend, case.multiple)
    assert (spans[0].keep_start, spans[-1].keep_stop) == (0, case.length)
    for left, right in zip(spans, spans[1:]):  # noqa: B905
        assert left.keep_stop - right.keep_start == 2 * case.blend
    for before, after in zip(spans, spans[2:]):  # noqa: B905
        assert before.keep_stop <= after.keep_start, "at most two tiles meet anywhere"


@given(cases())
def test_all_tiles_are_equally_long_and_lie_in_the_picture(case: Case) -> None:
    spans = cut(case.length, case.tile, case.halo, case.blend, case.multiple)
    assert {span.stop - span.start for span in spans} == {min(case.tile, case.length)}
    assert (spans[0].start, spans[-1].stop) == (0, case.length)
    assert all(span.start % case.multiple == span.stop % case.multiple == 0 for span in spans)


@given(cases())
def test_what_is_kept_is_a_halo_away_from_every_inner_side(case: Case) -> None:
    spans = cut(case.length, case.tile, case.halo, case.blend, case.multiple)
    margin = case.halo - case.blend
    for span in spans:
        assert span.start == 0 or span.keep_start - span.start >= margin
        assert span.stop == case.length or span.stop - span.keep_stop >= margin
        assert span.start <= span.keep_start < span.keep_stop <= span.stop


@given(cases(), st.sampled_from([1, 2, 4]))
def test_the_weights_of_a_pixel_add_up_to_one(case: Case, scale: int) -> None:
    spans = cut(case.length, case.tile, case.halo, case.blend, case.multiple)
    total = np.zeros(case.length * scale)
    for index, span in enumerate(spans):
        weight = blend_weights(spans, index, scale, case.blend)
        assert weight.min() >= 0 and weight.max() <= 1
        total[span.keep_start * scale : span.keep_stop * scale] += weight
    assert np.abs(total - 1).max() < 1e-6


def test_a_picture_that_fits_is_one_tile_of_its_own_size() -> None:
    (span,) = cut(100, 512, 34)
    assert (span.start, span.stop, span.keep_start, span.keep_stop) == (0, 100, 0, 100)


def test_no_more_tiles_are_cut_than_needed() -> None:
    assert [len(cut(length, 512, 34)) for length in (512, 513, 956, 957)] == [1, 2, 2, 3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"length": 100, "tile": 68, "halo": 34},
        {"length": 100, "tile": 512, "halo": 4, "blend": 5},
        {"length": 101, "tile": 512, "halo": 4, "multiple": 2},
        {"length": 100, "tile": 511, "halo": 4, "multiple": 2},
    ],
)
def test_a_cut_that_can_not_be_made_is_our_own_mistake(wrong: dict[str, int]) -> None:
    with pytest.raises(AssertionError):
        cut(**wrong)
