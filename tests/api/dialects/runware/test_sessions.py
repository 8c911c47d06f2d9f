"""Sessions: answers for a broken connection are sent on the next one, for a while. With real sockets, no dialect."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
from fastapi import FastAPI, WebSocket
from websockets.sync.client import connect

from server.api.dialects.runware import sessions
from server.api.dialects.runware.sessions import Session, Sessions, next_frame, send_text
from tests.conftest import serve

LATER_S = 0.3


class Parrot:
    """Sends the session's id first, joins the session named in a frame, and repeats all other frames later."""

    def __init__(self) -> None:
        self.sessions = Sessions()
        self.said = threading.Semaphore(0)
        self.app = FastAPI()
        self.app.router.add_api_websocket_route("/{session_id}", self.talk)

    async def talk(self, socket: WebSocket, session_id: str) -> None:
        await socket.accept()
        here = self.sessions.open("ann", session_id)
        await socket.send_text(here.id)
        await here.join(socket)
        while (frame := await next_frame(socket, here, 5)) is not None:
            here.begin(self.answer(here, frame))
        here.leave(socket)

    async def answer(self, here: Session, frame: str) -> None:
        await asyncio.sleep(LATER_S)
        await here.send(lambda: nullcontext(frame))
        self.said.release()


@pytest.fixture
def parrot() -> Iterator[tuple[Parrot, str]]:
    made = Parrot()
    with serve(made.app) as url:
        yield made, "ws" + url.removeprefix("http")


def break_off(url: str, *frames: str) -> str:
    """Sends the text and disconnects before there can be an answer."""
    with connect(f"{url}/new", proxy=None) as line:
        session_id = str(line.recv(5))
        for frame in frames:
            line.send(frame)
    return session_id


def test_answers_wait_for_the_caller_in_their_order(parrot: tuple[Parrot, str]) -> None:
    made, url = parrot
    session_id = break_off(url, "one", "two")
    for _ in range(2):
        assert made.said.acquire(timeout=5)
    with connect(f"{url}/{session_id}", proxy=None) as line:
        assert [line.recv(5) for _ in range(3)] == [session_id, "one", "two"]
        line.send("three")
        assert line.recv(5) == "three"


def test_answers_are_kept_only_for_so_long(parrot: tuple[Parrot, str], monkeypatch: pytest.MonkeyPatch) -> None:
    made, url = parrot
    monkeypatch.setattr(sessions, "STORE_S", 0.1)
    session_id = break_off(url, "one")
    assert made.said.acquire(timeout=5)
    time.sleep(0.4)
    with connect(f"{url}/{session_id}", proxy=None) as line:
        assert line.recv(5) != session_id


@pytest.mark.parametrize("name", [lambda found: found.id, lambda found: found.id.upper(), lambda _: None, lambda _: []])
def test_a_session_is_found_by_its_owner_and_id_alone(name: Callable[[Session], object]) -> None:
    sessions = Sessions()
    anns = sessions.open("ann", None)
    assert (sessions.open("ann", name(anns)) is anns) == (name(anns) == anns.id)
    assert sessions.open("bob", name(anns)) is not anns


def test_what_is_said_into_a_closed_line_is_no_error() -> None:
    app, said, done = FastAPI(), list[bool](), threading.Event()

    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        said.append(await send_text(socket, "heard"))
        await socket.close()
        said.append(await send_text(socket, "not heard"))
        done.set()

    app.router.add_api_websocket_route("/", talk)
    with serve(app) as url, connect(url.replace("http", "ws")) as line:
        assert line.recv() == "heard"
        assert done.wait(5)
    assert said == [True, False]
