"""What chaos sends the server: pictures of all colours through all doors, by clients that never give up."""

import http.server
import io
import json
import queue
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from PIL import Image
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from tests.stress.clients import (
    DOORS,
    RUNWARE,
    Ask,
    Door,
    Order,
    Seen,
    data_uri,
    inline,
    new_uuid,
    png,
    read_runware,
    runware_question,
    runware_task,
)
from tests.stress.server_process import Launched

IN_HAND = 3
"""Jobs that a client waits for at a time."""
SOURCE = (64, 3)
MOST_COLOUR_ERROR = 12.0
"""Levels of 255; JPEG and the network are allowed some."""
_POLL_S = (0.02, 0.3)


# --- a caller's own server ------------------------------------------------------------------------------------------


class Outside:
    """Has the pictures that are asked for by address, and takes webhooks."""

    def __init__(self, pictures: list[bytes]) -> None:
        self.told: Counter[int] = Counter()
        """Webhooks, by job."""
        outside = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(pictures[int(self.path.rsplit("/", 1)[1])])

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                outside.told[int(self.path.rsplit("/", 1)[1])] += 1
                self._answer(b"")

            def _answer(self, body: bytes) -> None:
                with suppress(ConnectionError):  # the server may have been killed meanwhile
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


# --- what is wanted, and by whom


@dataclass
class Errand:
    """One picture to be enlarged, and what came of it."""

    number: int
    door: Door
    socket: bool
    """Over Runware's WebSocket instead of HTTP."""
    source: str
    """inline, upload or url."""
    hook: bool
    task_uuid: str = field(default_factory=new_uuid)
    name: str | None = None
    """The job's, once it was accepted."""
    end: Seen | None = None
    complaint: str | None = None
    """What is wrong with the result."""

    @property
    def colour(self) -> tuple[int, int, int]:
        return 20 + self.number * 37 % 216, 20 + self.number * 101 % 216, 20 + self.number * 173 % 216

    @property
    def picture(self) -> bytes:
        return png(*SOURCE, self.colour)


class Broken(Exception):
    """No answer, or not all of it: nobody knows what has been done."""


def make_errands(number: int) -> list[Errand]:
    """Doors and sources in turn, every third job with a webhook where there are such."""
    doors = [(door, False) for door in DOORS] + [(RUNWARE, True)]
    errands = []
    for index in range(number):
        door, socket = doors[index % len(doors)]
        turn = index // len(doors)
        source = "inline" if door.inline_only else ("inline", "upload", "url")[(turn + index) % 3]
        errands.append(Errand(index, door, socket, source, door.tells and turn % 3 == 0))
    return errands


class World:
    """What clients, killers and the supervisor have in common."""

    def __init__(self, server: Launched, outside: Outside, errands: list[Errand]) -> None:
        self.server = server
        self.outside = outside
        self.errands = errands
        self.over = threading.Event()
        self.failures: list[str] = []
        """Whatever is not as demanded."""
        self.counts: Counter[str] = Counter()
        self._waiting: queue.SimpleQueue[Errand] = queue.SimpleQueue()
        for errand in errands:
            self._waiting.put(errand)
        self._done = 0
        self._changed = threading.Condition()

    def next(self) -> Errand | None:
        with suppress(queue.Empty):
            return self._waiting.get_nowait()
        return None

    def count(self, what: str, times: int = 1) -> None:
        with self._changed:
            self.counts[what] += times

    def answered(self, status: int, text: str) -> None:
        self.count(f"answers {status}")
        if status >= 500:
            self.failures.append(f"an answer of status {status}: {text[:200]}")

    def ended(self, errand: Errand) -> None:
        with self._changed:
            self._done += 1
            self._changed.notify_all()

    def wait_until_done(self, number: int, deadline: float) -> bool:
        """Whether so many jobs have ended before that moment."""
        with self._changed:
            return self._changed.wait_for(lambda: self._done >= number, max(0.0, deadline - time.monotonic()))


class Client:
    """Runs errands, a few at a time, until there are none."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._http = httpx.Client(base_url=world.server.address, trust_env=False, timeout=30)
        self._socket: ClientConnection | None = None
        self._line = ExitStack()
        """Closes the socket."""

    def run(self) -> None:
        try:
            with self._http:
                self._run()
                self._hang_up()
        except Exception:
            self._world.failures.append(f"a client broke: {traceback.format_exc()}")

    def _run(self) -> None:
        hand: list[Errand] = []
        pause = _POLL_S[0]
        while not self._world.over.is_set():
            while len(hand) < IN_HAND and (errand := self._world.next()):
                hand.append(errand)
            if not hand:
                break
            left = [errand for errand in hand if not self._advance(errand)]
            pause = _POLL_S[0] if len(left) < len(hand) else min(_POLL_S[1], pause * 1.5)
            hand = left
            time.sleep(pause)

    def _advance(self, errand: Errand) -> bool:
        """One step of it. True: it is done."""
        try:
            if errand.name is None:
                self._submit(errand)
                return False
            errand.end = self.look(errand)
            if errand.end.state == "waiting":
                errand.end = None
                return False
            if errand.end.state == "succeeded":
                errand.complaint = self._inspect(errand)
        except Broken:
            errand.end = None
            self._world.count("broken answers")
            time.sleep(0.1)
            return False
        self._world.ended(errand)
        return True

    def look(self, errand: Errand) -> Seen:
        """The job as it is. Raises Broken."""
        assert errand.name is not None
        if errand.socket:
            return read_runware(self._talk(runware_question(errand.name)))
        answer = self._ask(errand.door.poll(errand.name))
        return errand.door.read(answer.json())

    def _submit(self, errand: Errand) -> None:
        hook = f"{self._world.outside.address}/told/{errand.number}" if errand.hook else None
        order = Order(self._source(errand), errand.task_uuid, hook)
        if errand.socket:
            answer = self._talk(runware_task(order, "async"))
        else:
            answer = self._ask(errand.door.submit(order)).json()
        if errand.door is RUNWARE and answer.get("errors"):
            # An earlier submit was not answered, and yet heard: the name that we gave it says so.
            assert answer["errors"][0]["code"] == "conflictTaskUUID", answer
            self._world.count("accepted, as a repeated submit found")
            errand.name = errand.task_uuid
        else:
            errand.name = errand.door.accepted(answer)

    def _source(self, errand: Errand) -> str:
        if errand.source == "url":
            return f"{self._world.outside.address}/picture/{errand.number}"
        if errand.source == "inline":
            return (inline if errand.door.inline_only else data_uri)(errand.picture)
        try:
            sent = self._http.post("/api/v3/media/upload/binary", files={"file": ("p.png", errand.picture)})
        except httpx.TransportError as error:
            raise Broken from error
        return str(self._checked(sent).json()["data"]["download_url"])

    def _ask(self, ask: Ask) -> httpx.Response:
        try:
            return self._checked(self._http.request(ask.method, ask.path, json=ask.body))
        except httpx.TransportError as error:
            raise Broken from error

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        self._world.answered(answer.status_code, answer.text)
        if answer.status_code >= 500:
            raise Broken
        return answer

    def _talk(self, task: dict[str, Any]) -> dict[str, Any]:
        """One task over the WebSocket, which is opened when there is none. Raises Broken."""
        try:
            if self._socket is None:
                address = self._world.server.address.replace("http", "ws") + "/v1"
                self._socket = self._line.enter_context(connect(address, open_timeout=30))
                self._exchange({"taskType": "authentication", "apiKey": "any"})
            return self._exchange(task)
        except (OSError, WebSocketException, TimeoutError) as error:
            self._hang_up()
            raise Broken from error

    def _exchange(self, task: dict[str, Any]) -> dict[str, Any]:
        assert self._socket is not None
        self._socket.send(json.dumps([task]))
        while True:
            answer: dict[str, Any] = json.loads(self._socket.recv(timeout=30))
            item = (answer.get("data") or answer["errors"])[0]
            if item.get("taskUUID") == task.get("taskUUID"):  # else it is of an earlier task that we gave up
                return answer

    def _hang_up(self) -> None:
        self._socket = None
        with suppress(OSError, WebSocketException):
            self._line.close()

    def _inspect(self, errand: Errand) -> str | None:
        """What is wrong with the result. Raises Broken."""
        assert errand.end is not None and errand.end.url is not None
        try:
            answer = self._checked(self._http.get(errand.end.url))
        except httpx.TransportError as error:
            raise Broken from error
        if answer.status_code != 200:
            return f"its result is answered with {answer.status_code}"
        image = Image.open(io.BytesIO(answer.content)).convert("RGB")
        wanted = errand.door.result(*SOURCE)
        if image.size != wanted:
            return f"its result is {image.size} instead of {wanted}"
        mean = np.asarray(image, np.float64).mean(axis=(0, 1))
        if np.abs(mean - errand.colour).max() > MOST_COLOUR_ERROR:
            return f"its result is of colour {mean.round(1)} instead of {errand.colour}"
        return None
