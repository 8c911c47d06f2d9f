"""For tests of what only happens on a GPU."""

from collections.abc import Iterator

import pytest

from tests.engine.fake_device import FakeDevice, fake_cuda


@pytest.fixture
def gpu() -> Iterator[FakeDevice]:
    """A stand-in for a GPU: `torch.device("cuda", 0)` works."""
    with fake_cuda() as device:
        yield device
