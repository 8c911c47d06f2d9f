"""Valid requests of every dialect, damaged ones on their way to a server, and what is wrong with its answers."""

import http.client
import json
import random
import re
import socket
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import numpy as np
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from server.api.dialects import dialect_of
from tests.api.dialects.mcp.test_messages import tool_call, tool_headers
from tests.stress.clients import (
    ESRGAN,
    NATIVE,
    NOVITA,
    NOVITA_OLD,
    RUNWARE,
    UPSCALER,
    VIBEDREAM,
    Ask,
    Door,
    Order,
    data_uri,
    inline,
    new_uuid,
    png,
)
from tests.stress.mutate import Request, mutate_json, mutate_request

SLOW_S = 20.0
"""An answer must not take longer, also on a machine that has other things to do."""
THREADS = 4
_TIMEOUT_S = 60.0
_HANDSHAKE = re.compile("Failed to open a WebSocket connection: ")
_NO_NETWORK = re.compile("weights|not installed|no model")


# --- valid requests -------------------------------------------------------------------------------------------------

_JSON = [("Content-Type", "application/json")]


def _request(ask: Ask) -> Request:
    body = b"" if ask.body is None else json.dumps(ask.body).encode()
    return Request(ask.method, ask.path, _JSON if body else [], body)


def _post(path: str, body: Any) -> Request:
    return _request(Ask("POST", path, body))


def _get(path: str) -> Request:
    return Request("GET", path)


def _form(path: str, **parts: str | bytes) -> Request:
    """`multipart/form-data`; bytes are files."""
    body = b""
    for name, value in parts.items():
        is_file = isinstance(value, bytes)
        head = f'Content-Disposition: form-data; name="{name}"' + ('; filename="a.png"' if is_file else "")
        data = value if isinstance(value, bytes) else value.encode()
        body += b"--limit\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n"
    return Request("POST", path, [("Content-Type", "multipart/form-data; boundary=limit")], body + b"--limit--\r\n")


def _tool(name: str, **arguments: Any) -> Request:
    return Request("POST", "/mcp", list(tool_headers(name).items()), json.dumps(tool_call(name, **arguments)).encode())


def valid_requests(address: str) -> dict[str, list[Request]]:
    """Of every dialect, about jobs and files that are there: one of each of its routes, submits several times."""
    data = png(64, 1, (200, 120, 40))
    order = Order(data_uri(data))
    with httpx.Client(base_url=address, trust_env=False, timeout=_TIMEOUT_S) as client:

        def submitted(door: Door, order: Order) -> str:
            ask = door.submit(order)
            while (answer := client.request(ask.method, ask.path, json=ask.body)).status_code == 429:
                time.sleep(0.2)  # what came of earlier damage is still at work
            return door.accepted(answer.raise_for_status().json())

        ids = {door.name: submitted(door, order) for door in (NATIVE, UPSCALER, VIBEDREAM, NOVITA)}
        task = new_uuid()
        submitted(RUNWARE, replace(order, task_uuid=task))
        predicted = {"version": "nightmareai/real-esrgan", "input": {"image": data_uri(data), "scale": 1}}
        replicated = client.post("/v1/predictions", json=predicted).raise_for_status().json()["id"]
        uploaded = client.post("/v1/files", files={"content": ("p.png", data)}).raise_for_status().json()["id"]
        sent = client.post("/api/v3/media/upload/binary", files={"file": ("p.png", data)}).raise_for_status().json()
        file = "/files/" + sent["data"]["download_url"].rsplit("/", 1)[1]
        ticket = client.post("/api/v3/media/uploads", json={"filename": "p.png"}).raise_for_status().json()
        ticket_path = "/uploads/" + ticket["data"]["upload"]["url"].rsplit("/", 1)[1]
    job, prediction = ids["native"], ids[UPSCALER.name]
    more = {"format": "webp", "quality": 80, "background": "#ffffff", "seed": 1, "creativity": 0, "depth": 8}
    faces = {"image": inline(data), "scale": 1, "face_enhance": True, "enable_sync_mode": True}
    hook = {"webhook": {"url": "http://127.0.0.1:9/", "test_mode": {"enabled": True, "return_task_status": "x"}}}
    tasks = [
        {"taskType": "ping", "ping": True},
        {"taskType": "authentication", "apiKey": "any"},
        {"taskType": "imageUpload", "taskUUID": task, "image": data_uri(data)},
        {"taskType": "mediaStorage", "taskUUID": task, "operation": "upload", "media": data_uri(data)},
        {"taskType": "getResponse", "taskUUID": task},
    ]
    runware = RUNWARE.submit(replace(order, task_uuid=task)).body
    full = runware[0] | {"outputType": ["URL"], "ttl": 60, "includeCost": True, "outputQuality": 90, "settings": {}}
    return {
        "native": [
            *[_post("/jobs", {"image": data_uri(data), "scale": 1} | more)] * 3,
            _post("/jobs", {"image": inline(data), "size": [32, 2], "faces": {"strength": 0.5, "only": [0]}}),
            _form("/jobs", file=data, scale="2", format="png"),
            _post("/plan", {"width": 640, "height": 480, "target": "2k"}),
            _post("/plan", {"image": inline(data), "scale": 4, "model": "auto", "denoise": 0.5}),
            _get(f"/jobs/{job}"),
            _get("/jobs?state=queued&limit=5"),
            _get(f"/jobs/{job}/result"),
            _post(f"/jobs/{job}/cancel", {}),
            Request("DELETE", f"/jobs/{job}"),
            _get("/models"),
            replace(_get(file), headers=[("Range", "bytes=0-9")]),
            Request("HEAD", file),
            Request("PUT", ticket_path, [("Content-Type", "image/png")], data),
            _get("/healthz"),
            _get("/openapi/native.json"),
        ],
        "wavespeed": [
            *[_request(UPSCALER.submit(replace(order, hook="http://127.0.0.1:9/x")))] * 3,
            *[_request(ESRGAN.submit(order))] * 2,
            _post("/api/v3/wavespeed-ai/real-esrgan", faces),
            _request(UPSCALER.poll(prediction)),
            _get("/api/v3/predictions?page=1&page_size=5&status=completed&created_after=2023-04-01T12:34:56Z"),
            _post("/api/v3/predictions", {"page": 1, "page_size": 5, "status": "failed", "include_inputs": True}),
            Request("DELETE", f"/api/v3/predictions/{prediction}"),
            _post("/api/v3/predictions/delete", {"ids": [prediction, "x"]}),
            _post("/api/v3/media/uploads", {"filename": "a.png", "size": 100, "content_type": "image/png"}),
            _form("/api/v3/media/upload/binary", file=data),
            _get("/api/v3/account/usage"),
            _post("/api/v3/model/price", {"model_id": "wavespeed-ai/real-esrgan", "inputs": {"image": inline(data)}}),
            _get("/api/v2/models"),
        ],
        "vibedream": [
            *[_request(VIBEDREAM.submit(order))] * 3,
            _post(
                "/api/v1/models/image-upscaler/generate",
                {"image": inline(data), "target_resolution": "2k", "output_format": "png", "enable_sync_mode": True},
            ),
            _request(VIBEDREAM.poll(ids["vibedream"])),
        ],
        "novita": [
            *[_request(NOVITA.submit(order))] * 2,
            _post("/v3/async/image-upscaler", {"image": inline(data), "output_format": "png", "extra": hook}),
            *[_request(NOVITA_OLD.submit(Order(inline(data))))] * 2,
            _request(NOVITA.poll(ids[NOVITA.name])),
        ],
        "replicate": [
            *[_post("/v1/predictions", predicted)] * 3,
            _post("/v1/models/nightmareai/real-esrgan/predictions", {"input": {"image": data_uri(data), "scale": 2}}),
            _get(f"/v1/predictions/{replicated}"),
            _post(f"/v1/predictions/{replicated}/cancel", {}),
            _get("/v1/predictions?cursor=x"),
            _form("/v1/files", content=data, metadata='{"a": 1}'),
            _get(f"/v1/files/{uploaded}"),
            _get("/v1/models/nightmareai/real-esrgan/versions"),
        ],
        "webui": [
            *[_post("/sdapi/v1/extra-single-image", {"image": inline(data), "upscaling_resize": 1})] * 2,
            _post("/sdapi/v1/extra-single-image", {"image": inline(data), "upscaler_1": "Lanczos", "resize_mode": 1}),
            _post("/sdapi/v1/extra-batch-images", {"imageList": [{"data": inline(data), "name": "a"}]}),
            _post("/sdapi/v1/png-info", {"image": inline(data)}),
            _get("/sdapi/v1/progress?skip_current_image=true"),
            _get("/sdapi/v1/upscalers"),
        ],
        "mcp": [
            *[_tool("upscale", image=data_uri(data), scale=1, wait_s=0.05)] * 3,
            *[_tool("plan", width=640, height=480, target="2k")] * 2,
            _tool("plan", image=inline(data), size=[32, 2]),
            _tool("jobs", id=job, wait_s=0.01, cancel=True),
            _tool("jobs", state="queued", limit=5),
            _tool("models"),
            Request("DELETE", "/mcp", [("Mcp-Session-Id", job)]),
        ],
        "runware": [
            *[_post("/v1", runware)] * 2,
            *[_post("/v1", [full])] * 2,
            _post("/v1", [{"taskType": "authentication", "apiKey": "any"}, full, tasks[0]]),
            *[_post("/v1", [each]) for each in tasks],
        ],
    }


# --- sending --------------------------------------------------------------------------------------------------------


class Line:
    """One connection to the server, kept as long as what is sent allows."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def ask(self, request: Request) -> tuple[int, http.client.HTTPMessage, bytes] | None:
        """Status, headers and body; None when the server has hung up without a word."""
        for fresh in (False, True):  # a kept connection may have been closed meanwhile
            if fresh or self._socket is None:
                self.close()
                self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=_TIMEOUT_S)
                fresh = True
            try:
                return self._exchange(self._socket, request)
            except (http.client.RemoteDisconnected, ConnectionError):
                self.close()
                if fresh:
                    return None
        return None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, to: socket.socket, request: Request) -> tuple[int, http.client.HTTPMessage, bytes]:
        length = len(request.body) if request.length is None else request.length
        headers = [("Host", f"127.0.0.1:{self._port}"), *request.headers]
        if length or request.method in ("POST", "PUT", "PATCH"):
            headers.append(("Content-Length", str(length)))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers)
        to.sendall(f"{request.method} {request.path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + request.body)
        framed = length == len(request.body)
        if not framed:  # the server must not wait for what never comes
            with suppress(OSError):  # it may have answered and hung up already
                to.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(to, method=request.method)
        with response:
            response.begin()
            body = response.read()
        if response.will_close or not framed or request.method in ("TRACE", "BREW"):
            self.close()
        return response.status, response.headers, body


def complaint(request: Request, status: int, headers: http.client.HTTPMessage, body: bytes) -> str | None:
    """What is wrong with an answer."""
    text = body.decode("utf-8", "replace")
    if status >= 500 and not (status == 503 and _NO_NETWORK.search(text)):
        return f"status {status}: {text[:200]}"
    if status < 400 or request.method == "HEAD":
        return None
    if status == 400 and text == "Invalid HTTP request received.":
        return None  # by uvicorn: it was not HTTP
    if status < 500 and _HANDSHAKE.match(text) and _asks_for_upgrade(request):
        # By uvicorn's WebSocket half: a handshake that is none ends before the application, and any dialect, is asked.
        return None
    try:
        error = json.loads(text)
    except ValueError:
        return f"an error that is no JSON, status {status}: {text[:200]!r}"
    # Damage to the path may have led to another dialect.
    own = {"path", "length"} & set(request.tricks)
    dialects = _FORMS.values() if own else [_FORMS[dialect_of(request.path.partition("?")[0]).NAME]]
    if not any(fields <= set(error) for forms in dialects for fields in forms):
        return f"an error in another form, status {status}: {text[:200]}"
    return None


def _asks_for_upgrade(request: Request) -> bool:
    """To a WebSocket. Whatever else it says, it is not HTTP any more that is spoken."""
    headers = [(name.lower(), value.lower()) for name, value in request.headers]
    return ("connection", "upgrade") in headers and ("upgrade", "websocket") in headers


_FORMS: dict[str, tuple[set[str], ...]] = {
    "native": ({"error"},),
    "wavespeed": ({"code", "message", "error"}, {"error"}),
    "vibedream": ({"error", "message"},),
    "novita": ({"code", "reason", "message", "metadata"},),
    "runware": ({"errors"},),
    "replicate": ({"title", "detail", "status"},),
    "webui": ({"error", "detail", "body", "errors"}, {"detail"}),
    "mcp": ({"jsonrpc", "id", "error"},),
}


@dataclass
class Tally:
    """What came of a dialect's requests."""

    statuses: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        taken = np.array(self.seconds or [0.0]) * 1000
        return {
            "requests": len(self.seconds),
            "answers": dict(sorted(self.statuses.items())),
            "milliseconds": {"p50": round(float(np.median(taken)), 1), "most": round(float(taken.max()), 1)},
            "complaints": self.complaints[:20],
        }


def send_all(port: int, seeds: Sequence[Request], number: int, seed: str) -> Tally:
    """Mutated ones, by THREADS clients at a time."""
    tally = Tally()

    def work(thread: int) -> None:
        chance = random.Random(f"{seed} {thread}")
        line = Line(port)
        for _ in range(number // THREADS + (thread < number % THREADS)):
            request = mutate_request(_renamed(chance.choice(seeds)), chance)
            started = time.perf_counter()
            wrong: str | None = None
            try:
                answer = line.ask(request)
            except (http.client.HTTPException, OSError, ValueError) as error:
                line.close()
                answer, wrong = None, f"{type(error).__name__}: {error}"
            else:
                wrong = complaint(request, *answer) if answer else None  # which means that it hung up
            taken = time.perf_counter() - started
            if taken > SLOW_S:
                wrong = wrong or f"an answer after {taken:.1f} s"
            tally.seconds.append(taken)
            tally.statuses[str(answer[0]) if answer else "none"] += 1
            if wrong:
                shown = f"{request.method} {request.path[:100]} {request.headers} {request.body[:300]!r}"
                tally.complaints.append(f"{wrong} — to {'+'.join(request.tricks)}: {shown[:600]}")
        line.close()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    return tally


def _renamed(request: Request) -> Request:
    """A task is taken once: its name must be new, or all that is heard is that it was there."""
    return replace(
        request, body=re.sub(rb'("taskUUID": ")[0-9a-f-]{36}', rb"\g<1>" + new_uuid().encode(), request.body)
    )


# --- frames ---------------------------------------------------------------------------------------------------------


def send_frames(address: str, seeds: Sequence[Request], number: int, seed: str) -> Tally:
    """Over one WebSocket after another. After each mutated frame a ping tells that the conversation goes on."""
    chance, tally = random.Random(seed), Tally()
    address = address.replace("http", "ws") + "/v1"
    line = ExitStack()
    talk: ClientConnection | None = None
    for _ in range(number):
        frame = _frame(_renamed(chance.choice(seeds)), chance)
        started = time.perf_counter()
        try:
            if talk is None:
                talk = line.enter_context(connect(address, open_timeout=_TIMEOUT_S))
                if chance.random() < 0.9:
                    talk.send('[{"taskType": "authentication", "apiKey": "any"}]')
            talk.send(frame)
            talk.send('{"taskType": "ping", "ping": true}')
            _hear(talk, tally)
        except ConnectionClosed as error:
            code = error.rcvd.code if error.rcvd else 1006
            tally.statuses[f"closed {code}"] += 1
            if code not in (1000, 1003, 1007, 1008, 1009):
                tally.complaints.append(f"closed with {code} — after {frame[:300]!r}")
            talk = None
        except (WebSocketException, OSError) as error:
            tally.complaints.append(f"{type(error).__name__}: {error} — after {frame[:300]!r}")
            talk = None
        tally.seconds.append(time.perf_counter() - started)
        if talk is not None and chance.random() < 0.02:
            talk = None
        if talk is None:
            with suppress(WebSocketException, OSError):
                line.close()
    with suppress(WebSocketException, OSError):
        line.close()
    return tally


def _frame(request: Request, chance: random.Random) -> str | bytes:
    if chance.random() < 0.8:
        body = mutate_json(json.loads(request.body), chance)
    else:
        body = mutate_request(request, chance).body
    with suppress(UnicodeDecodeError):
        return body.decode()
    return body


def _hear(talk: ClientConnection, tally: Tally) -> None:
    """All that comes until the pong."""
    while True:
        answer = json.loads(talk.recv(timeout=_TIMEOUT_S))
        errors = answer.get("errors", [])
        tally.statuses["error" if errors else "data"] += 1
        tally.complaints += [f"internal: {each}" for each in errors if each["code"] == "internalServerError"]
        if any(item.get("taskType") == "ping" for item in answer.get("data", [])):
            return
