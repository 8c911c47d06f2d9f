"""Networks that are no upscalers, on a device that stands in for a GPU."""

import threading

import numpy as np
import pytest
import torch

from server.engine.engine import Engine
from server.errors import OutOfMemory
from tests.engine.fake_device import CUDA, FakeDevice


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_network_that_is_no_upscaler_gets_rows_and_its_job_waits_asleep(
    gpu: FakeDevice, dtype: type[np.generic]
) -> None:
    rows, threads, sizes = (np.arange(24) * 2700).reshape(6, 4).astype(dtype), [], []
    room = [4]

    def network(given: torch.Tensor) -> torch.Tensor:
        threads.append(threading.current_thread())
        if len(given) > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(given))
        levels = given.int().bitwise_and_(65535) if given.dtype == torch.int16 else given
        return levels.float().mul_(2)

    engine = Engine(CUDA)
    for _ in range(2):
        np.testing.assert_array_equal(engine.apply("doubling", network, rows), rows.astype(np.float32) * 2)
    assert sizes == [3, 3, 3, 3], "half of what did not fit, and remembered"
    assert engine.counters()["batch_retries"] == 1
    assert set(threads) == {engine.call(threading.current_thread)} and threading.current_thread() not in threads
    assert gpu.copies == 4 and all(each.blocking for each in gpu.events)
    room[0] = 0
    with pytest.raises(OutOfMemory, match="not even one piece of doubling fits"):
        engine.apply("doubling", network, rows)
