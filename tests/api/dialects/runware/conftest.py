"""Fixtures of this dialect's tests."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from websockets.sync.client import connect

from tests.api.dialects.runware.client import Dial, Talk
from tests.conftest import Live, LiveServer


@pytest.fixture
def locked(live_server: LiveServer) -> Live:
    return live_server(api_keys=("key",))


@pytest.fixture
def dial() -> Iterator[Dial]:
    with ExitStack() as stack:

        def call(live: Live, path: str = "/v1") -> Talk:
            url = "ws" + live.url.removeprefix("http") + path
            return Talk(stack.enter_context(connect(url, max_size=None, proxy=None)))

        yield call
