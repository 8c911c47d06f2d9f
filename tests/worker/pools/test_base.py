"""What every pool promises: the bytes of one worker, from the same network only, and no hold on any process."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from server.engine.spread import HelperLost
from tests.worker.pools.machine import JOB, Machine


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Its first worker has one helper: another worker, or an engine in Ray."""
    folder = tmp_path_factory.mktemp("machine")
    with ExitStack() as stack:
        if request.param == "ray":
            machine = Machine(folder / "data", request.getfixturevalue("ray_cluster").address)
        else:
            machine = Machine(folder / "data")
            stack.enter_context(machine.pools[1].serving(lambda: True))
        stack.enter_context(machine.pools[0].serving(lambda: False))
        machine.wait_for(1)
        yield machine


@pytest.fixture(scope="module")
def expected(machine: Machine) -> NDArray[Any]:
    return machine.alone()


def test_a_helper_gives_the_bytes_that_this_worker_would(machine: Machine) -> None:
    tile = machine.tile()
    mine = machine.upscalers[0].tile(tile)
    assert mine is not None and mine.std() > 100, "a picture, not one colour"
    with machine.helpers() as (helper,):
        assert np.array_equal(helper.compute(3, tile), mine)


def test_a_picture_by_several_has_the_bytes_of_one(machine: Machine, expected: NDArray[Any]) -> None:
    assert np.array_equal(machine.together(), expected)
    assert not list(machine.spool.iterdir())


def test_a_network_that_is_another_file_there_is_refused(machine: Machine) -> None:
    wrong = replace(machine.model, sha256="0" * 64)
    with machine.helpers() as (helper,), pytest.raises(HelperLost, match="is another network here"):
        helper.compute(0, machine.tile(wrong))


def test_a_mix_of_networks_is_computed_by_its_own_worker(machine: Machine) -> None:
    mix = replace(machine.model, name=f"{machine.model.name} 0.5 + {machine.model.name} 0.5")
    assert not machine.pools[0].helpers(JOB, machine.spool).find(mix, 20)


def test_a_picture_of_few_tiles_is_not_spread(machine: Machine) -> None:
    assert not machine.pools[0].helpers(JOB, machine.spool).find(machine.model, 3)


def test_a_helper_that_was_let_go_helps_with_the_next_picture(machine: Machine, expected: NDArray[Any]) -> None:
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        machine.together(on_tile=stop)
    with machine.helpers() as (helper,):
        helper.close()
        with pytest.raises(HelperLost):
            helper.compute(0, machine.tile())
    assert machine.found() == 1
    assert np.array_equal(machine.together(), expected)
