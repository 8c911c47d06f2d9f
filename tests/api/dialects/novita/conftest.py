"""Fixtures of this dialect's tests."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Request, Response

from tests.api.dialects.novita.client import Receiver
from tests.conftest import Live, LiveServer, serve


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    app = FastAPI()

    async def take(request: Request) -> Response:
        receiver.events.append(await request.json())
        receiver.headers.append(dict(request.headers))
        return Response(status_code=204 if len(receiver.events) > receiver.refuse else 500)

    app.add_api_route("/hook", take, methods=["POST"])
    with serve(app) as url:
        receiver = Receiver(url + "/hook?token=1")
        yield receiver


@pytest.fixture
def hooked(live_server: LiveServer) -> Live:
    return live_server(allow_hosts=("127.0.0.1",))
