"""The one table: every value moves one way from strict to reimagine, and runs linearly between the anchors."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.job.creativity import ANCHORS, MAX_CREATIVITY, NAMES, Recipe, recipe

RISING = ("strength", "steps", "gain", "lock", "sdxl_strength", "sdxl_steps", "sdxl_guidance")
FALLING = ("fidelity", "back_projection", "sdxl_control")
ANYWHERE = st.floats(-MAX_CREATIVITY, MAX_CREATIVITY)


def test_anchors_are_the_whole_numbers_and_have_names() -> None:
    assert sorted(ANCHORS) == sorted(NAMES) == [-2, -1, 0, 1, 2]
    assert {*RISING, *FALLING} == {field.name for field in dataclasses.fields(Recipe)}


@given(ANYWHERE, ANYWHERE)
def test_more_creativity_never_means_less_of_anything(one: float, other: float) -> None:
    low, high = recipe(min(one, other)), recipe(max(one, other))
    assert all(getattr(low, name) <= getattr(high, name) for name in RISING)
    assert all(getattr(low, name) >= getattr(high, name) for name in FALLING)


def test_half_way_is_half_of_both() -> None:
    middle, low, high = recipe(0.5), ANCHORS[0.0], ANCHORS[1.0]
    assert middle.strength == pytest.approx((low.strength + high.strength) / 2)
    assert middle.gain == pytest.approx((low.gain + high.gain) / 2)


def test_strict_runs_no_diffusion_and_invents_nothing() -> None:
    strict = recipe(-2)
    assert (strict.strength, strict.gain, strict.fidelity, strict.back_projection) == (0, 0, 1, 1)


@given(st.floats(-MAX_CREATIVITY, 0))
def test_up_to_the_middle_no_diffusion_runs_and_the_networks_results_are_mixed(creativity: float) -> None:
    found = recipe(creativity)
    assert found.strength == found.steps == found.sdxl_strength == found.sdxl_steps == 0
    assert found.fidelity == pytest.approx(-creativity / 2)


@given(ANYWHERE)
def test_where_diffusion_runs_it_has_steps_to_take(creativity: float) -> None:
    found = recipe(creativity)
    assert 0 <= found.strength <= 1 and found.steps <= 8
    assert (found.strength > 0) == (found.steps > 0) == (found.sdxl_steps > 0)
