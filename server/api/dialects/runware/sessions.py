"""Conversations over WebSockets that outlive their sockets: a caller whose line broke gets its answers on the next one.

The work begun in a session goes on without a socket, and what it has to say meanwhile is kept for `KEEP_S`. All of it
lives in the API process and ends with it; jobs don't. One event loop uses a `Sessions`; nothing here is for threads.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager

from fastapi import WebSocket, WebSocketDisconnect

from server.api.bodies import text_of

Frame = Callable[[], AbstractAsyncContextManager[str]]
"""Something to say: its text is made when it can be said, and gone afterwards, for it may hold a picture."""
KEEP_S = 120.0
"""How long what could not be delivered, and a session without a socket, may be asked for again."""

LET_IN = "upscale.let_in"
"""Name of the extension in a socket's scope by which larger messages are let in; see wire.py."""


def let_in(socket: WebSocket) -> None:
    """Its caller is known: from now on large messages are taken."""
    extension = (socket.scope.get("extensions") or {}).get(LET_IN)
    if extension is not None:
        extension["call"]()


async def next_frame(socket: WebSocket, session: "Session | None", idle_s: float) -> str | None:
    """What comes next. None: the caller has gone, or was sent away, having said nothing for `idle_s` while nothing was
    being done for it."""
    while True:
        try:
            message = await asyncio.wait_for(socket.receive(), idle_s)
        except asyncio.TimeoutError:
            if session is None or not session.works:
                await socket.close(1000, "idle")
                return None
        else:
            if message["type"] == "websocket.disconnect":
                return None
            text: str | None = message.get("text")
            return text if text is not None else text_of(bytes(message.get("bytes") or b""), "replace")


async def say(socket: WebSocket, text: str) -> bool:
    """False: the line is gone, as the next frame will tell, too."""
    try:
        await socket.send_text(text)
    except (WebSocketDisconnect, RuntimeError):  # the latter once the line is known to be closed, by either side
        return False
    return True


class Session:
    def __init__(self, owner: str) -> None:
        self.id = str(uuid.uuid4())
        """Who knows it and has the owner's key may go on with the session."""
        self.owner = owner
        self._socket: WebSocket | None = None
        self._left_at = time.monotonic()
        self._works: set[asyncio.Task[None]] = set()
        self._kept: list[Frame] = []

    @property
    def works(self) -> int:
        """How many are being done."""
        return len(self._works)

    def begin(self, work: Coroutine[None, None, None]) -> None:
        """Do it alongside whatever else is being done. It must not raise."""
        task = asyncio.create_task(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)

    async def send(self, frame: Frame) -> None:
        """To the caller, now or when it comes back."""
        while (socket := self._socket) is not None:
            async with frame() as text:
                if await say(socket, text):
                    return
            self.leave(socket)
        self._kept.append(frame)
        asyncio.get_running_loop().call_later(KEEP_S, self._forget, frame)

    async def join(self, socket: WebSocket) -> None:
        """The caller is at this socket now, wherever it was before; what was kept for it is sent."""
        self._socket = socket
        kept, self._kept = self._kept, []
        for frame in kept:
            await self.send(frame)

    def leave(self, socket: WebSocket) -> None:
        """That socket is gone. Nothing happens if the caller has joined from another one since."""
        if self._socket is socket:
            self._socket = None
            self._left_at = time.monotonic()

    @property
    def over(self) -> bool:
        idle = self._socket is None and not self._works and not self._kept
        return idle and time.monotonic() - self._left_at > KEEP_S

    def _forget(self, frame: Frame) -> None:
        self._kept = [each for each in self._kept if each is not frame]


class Sessions:
    def __init__(self) -> None:
        self._all: dict[str, Session] = {}

    def open(self, owner: str, session_id: object) -> Session:
        """The owner's session of that id, or else a new one."""
        self._all = {each.id: each for each in self._all.values() if not each.over}
        session = self._all.get(session_id) if isinstance(session_id, str) else None
        if session is None or session.owner != owner:
            session = Session(owner)
            self._all[session.id] = session
        return session
