"""Sessions over WebSockets that outlive their sockets: after a broken connection the next one gets the missing answers.

Tasks of a session continue without a socket, and their answers are stored for `STORE_S`. Sessions end with the API
process; jobs do not. A `Sessions` belongs to one event loop; nothing here is for threads.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager

from fastapi import WebSocket, WebSocketDisconnect

from server.api.bodies import text_of
from server.api.dialects.base import ALLOW_LARGE

Frame = Callable[[], AbstractAsyncContextManager[str]]
"""A frame to send. Its text is made when it is sent and dropped afterwards: it may contain a picture."""
STORE_S = 120.0
"""How long a session without a socket, and frames that could not be sent, are stored."""


def allow_large_messages(socket: WebSocket) -> None:
    """Call when the socket's caller is known: large messages are accepted from now on."""
    extension = (socket.scope.get("extensions") or {}).get(ALLOW_LARGE)
    if extension is not None:
        extension["call"]()


async def next_frame(socket: WebSocket, session: "Session | None", idle_s: float) -> str | None:
    """The next frame. None: the socket is closed, perhaps by us after `idle_s` without a frame and without a running
    task."""
    while True:
        try:
            message = await asyncio.wait_for(socket.receive(), idle_s)
        except asyncio.TimeoutError:
            if session is None or not session.running:
                await socket.close(1000, "idle")
                return None
        else:
            if message["type"] == "websocket.disconnect":
                return None
            text: str | None = message.get("text")
            return text if text is not None else text_of(bytes(message.get("bytes") or b""), "replace")


async def send_text(socket: WebSocket, text: str) -> bool:
    """False: the connection is closed, as the next call of `next_frame` reports as well."""
    try:
        await socket.send_text(text)
    except (WebSocketDisconnect, RuntimeError):  # the latter when either side is known to have closed it
        return False
    return True


class Session:
    def __init__(self, owner: str) -> None:
        self.id = str(uuid.uuid4())
        """Those who know it and have the owner's key may continue the session."""
        self.owner = owner
        self._socket: WebSocket | None = None
        self._left_at = time.monotonic()
        self._running: set[asyncio.Task[None]] = set()
        self._unsent: list[Frame] = []

    @property
    def running(self) -> int:
        """The number of running tasks."""
        return len(self._running)

    def begin(self, work: Coroutine[None, None, None]) -> None:
        """Start a task; others may run at the same time. It must not raise."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def send(self, frame: Frame) -> None:
        """Send it to the caller, now or when it connects again."""
        while (socket := self._socket) is not None:
            async with frame() as text:
                if await send_text(socket, text):
                    return
            self.leave(socket)
        self._unsent.append(frame)
        asyncio.get_running_loop().call_later(STORE_S, self._forget, frame)

    async def join(self, socket: WebSocket) -> None:
        """From now on this socket is the session's; stored frames are sent to it."""
        self._socket = socket
        unsent, self._unsent = self._unsent, []
        for frame in unsent:
            await self.send(frame)

    def leave(self, socket: WebSocket) -> None:
        """That socket is closed. Nothing happens if the session has another one by now."""
        if self._socket is socket:
            self._socket = None
            self._left_at = time.monotonic()

    @property
    def expired(self) -> bool:
        idle = self._socket is None and not self._running and not self._unsent
        return idle and time.monotonic() - self._left_at > STORE_S

    def _forget(self, frame: Frame) -> None:
        self._unsent = [each for each in self._unsent if each is not frame]


class Sessions:
    def __init__(self) -> None:
        self._all: dict[str, Session] = {}

    def open(self, owner: str, session_id: object) -> Session:
        """The owner's session of that id, or a new one."""
        self._all = {each.id: each for each in self._all.values() if not each.expired}
        session = self._all.get(session_id) if isinstance(session_id, str) else None
        if session is None or session.owner != owner:
            session = Session(owner)
            self._all[session.id] = session
        return session
