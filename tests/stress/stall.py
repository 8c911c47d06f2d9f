"""Can one caller stop the others? `python -m tests.stress.stall [--short] [--json FILE]`.

Hostile heads, patterns, frames, bodies and pictures are sent to a real server on loopback, one kind after the other,
from several connections at a time, while a process of its own asks for `/healthz` again and again.

What is demanded, else the exit status is 1:

* every attack is answered as it should be: refused in words, or done;
* the longest answer under any attack takes at most ten times the 99th percentile at rest in the same run, and a second.

On a machine that does other work the second says little. So each attack also tells how much CPU time the API process
took while that one answer was waited for: that is what its own work delayed it by, whoever else had the cores.
"""

import argparse
import base64
import io
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from server.images.chunks import png_chunk as chunk
from tests.stress.server_process import Launched

TIMES_AT_REST, MOST_S = 10.0, 1.0
AT_ONCE = 4
"""Connections of an attack."""
KEY = "a-key-of-one-caller"
ESRGAN = "/api/v3/wavespeed-ai/real-esrgan"
_GONE = "closed"
"""What an attacker sees whose connection was closed while it still sent."""


@dataclass(frozen=True)
class Target:
    address: str
    """http://host:port"""
    key: str
    file: str = "/files/" + "0" * 32
    """The path of a file that is there."""
    scale: float = 1.0
    """Of the attacks' sizes."""

    def size(self, whole: int) -> int:
        return max(1, int(whole * self.scale))

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@dataclass
class Seen:
    """What the watcher saw during an attack, or at rest."""

    answers: int
    median_ms: float
    p99_ms: float
    longest_ms: float
    longest_cpu_ms: float
    """Most CPU time of the API process while one answer was waited for."""
    outcomes: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


# --- attacks: each sends one hostile thing, and says how it was answered ----------------------------------------------


def exchange(target: Target, parts: Sequence[bytes]) -> str:
    """The status that comes back."""
    host, port = target.address.removeprefix("http://").split(":")
    got = b""
    with socket.create_connection((host, int(port)), timeout=120) as line:

        def send() -> None:
            with suppress(OSError):
                for part in parts:
                    line.sendall(part)

        sender = threading.Thread(target=send)
        sender.start()
        with suppress(OSError):
            while b"\r\n" not in got and (data := line.recv(65536)):
                got += data
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
        sender.join()
    return got.split(b" ")[1].decode() if got.startswith(b"HTTP/1.1 ") else _GONE


def _head(method: str, path: str, target: Target, *fields: bytes) -> bytes:
    own = (b"Host: localhost", b"Authorization: Bearer " + target.key.encode())
    return b"\r\n".join([f"{method} {path} HTTP/1.1".encode(), *own, *fields]) + b"\r\n\r\n"


def many_fields(target: Target) -> str:
    fields = [b"a: b\r\n" * 10_000] * target.size(100)
    return exchange(target, [b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", *fields, b"\r\n"])


def long_header(target: Target) -> str:
    value = [b"x" * 1_000_000] * target.size(60)
    return exchange(target, [b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", *value, b"\r\n\r\n"])


def blanks(target: Target) -> str:
    return exchange(target, [_head("GET", target.file, target, b'If-None-Match: "a"' + b" " * 120_000 + b'"b"')])


def fewer_blanks(target: Target) -> str:
    return exchange(target, [_head("GET", target.file, target, b'If-None-Match: "a"' + b" " * 60_000 + b'"b"')])


def large_frames(target: Target) -> str:
    """Before authentication."""
    try:
        with connect("ws" + target.address.removeprefix("http") + "/v1", proxy=None, max_size=None) as line:
            line.send("x" * target.size(64 << 20))
            line.recv(60)
    except ConnectionClosed as closed:
        return f"closed {closed.rcvd.code}" if closed.rcvd else _GONE
    return "answered"


def empty_fragments(target: Target) -> str:
    try:
        with connect("ws" + target.address.removeprefix("http") + "/v1", proxy=None) as line:
            line.send("" for _ in range(target.size(500_000)))
            line.recv(60)
    except ConnectionClosed as closed:
        return f"closed {closed.rcvd.code}" if closed.rcvd else _GONE
    return "answered"


def tiny_chunks(target: Target) -> str:
    head = _head("POST", ESRGAN, target, b"Transfer-Encoding: chunked", b"Connection: close")
    return exchange(target, [head, *[b"1\r\n \r\n" * 10_000] * target.size(50), b"0\r\n\r\n"])


def pipelined(target: Target) -> str:
    return exchange(target, [_head("GET", "/healthz", target) * target.size(20_000)])


def _post(target: Target, path: str, body: bytes, mime: str = "application/json") -> str:
    headers = target.headers | {"Content-Type": mime}
    try:
        answer = httpx.post(target.address + path, content=body, headers=headers, trust_env=False, timeout=180)
    except httpx.HTTPError:
        return _GONE
    return str(answer.status_code)


def deep_json(target: Target) -> str:
    return _post(target, ESRGAN, b'{"a":' * 19_000)


def json_parts(target: Target) -> str:
    return _post(target, ESRGAN, b"[" + b"{}," * target.size(10_000_000) + b"{}]")


def long_key(target: Target) -> str:
    return _post(target, "/jobs", b'{"' + b"k" * target.size(50_000_000) + b'": 1}')


def json_blanks(target: Target) -> str:
    return _post(target, ESRGAN, b"{" + b" " * target.size(50_000_000) + b"}")


def packed_texts(target: Target) -> str:
    """Fifty texts of 50 MB each, packed."""
    packed = zlib.compress(bytes(target.size(50_000_000)), 9)
    texts = [chunk(b"zTXt", b"key%d\0\0" % number + packed) for number in range(50)]
    return _plan(target, _png_with(texts))


def many_chunks(target: Target) -> str:
    return _plan(target, _png_with([chunk(b"abCd", b"")] * target.size(500_000)))


def large_picture(target: Target) -> str:
    """A legitimate one: 100 MB as base64, and the plan for it is made."""
    return _plan(target, noise(target))


def large_form(target: Target) -> str:
    """The same picture as the text of a form's field."""
    return _post(
        target, "/plan", _PART + base64.b64encode(noise(target)) + _END, f"multipart/form-data; boundary={_BOUNDARY}"
    )


def escapes(target: Target) -> str:
    """50 MB of %-escapes in a form."""
    return _post(
        target, "/plan", b"scale=1&image=" + b"%41" * target.size(17_000_000), "application/x-www-form-urlencoded"
    )


def wide_json(target: Target) -> str:
    """100 MB of JSON in UTF-16, which is no picture."""
    return _post(target, "/plan", ('{"image": "' + "A" * target.size(50_000_000) + '"}').encode("utf-16-le"))


_BOUNDARY = "limit-of-parts"
_PART = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"\r\n\r\n'.encode()
_END = f"\r\n--{_BOUNDARY}--\r\n".encode()


def noise(target: Target) -> bytes:
    """A picture of 75 MB."""
    side = int((target.size(75_000_000) / 3) ** 0.5)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(side * side * 3)).save(buffer, "BMP")
    return buffer.getvalue()


def _plan(target: Target, data: bytes) -> str:
    return _post(target, "/plan", b'{"scale": 1, "image": "' + base64.b64encode(data) + b'"}')


def _png_with(chunks: Sequence[bytes]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, "PNG")
    data, place = buffer.getvalue(), 8 + 25
    return data[:place] + b"".join(chunks) + data[place:]


Attack = Callable[[Target], str]
ATTACKS: dict[str, tuple[Attack, tuple[str, ...]]] = {
    "a million header fields": (many_fields, ("431", _GONE)),
    "a header of 60 MB": (long_header, ("431", _GONE)),
    "If-None-Match with 120,000 blanks": (blanks, ("431",)),
    "If-None-Match with 60,000 blanks": (fewer_blanks, ("200",)),
    "frames of 64 MiB before authentication": (large_frames, ("closed 1009", _GONE)),
    "500,000 empty fragments": (empty_fragments, ("closed 1009", _GONE)),
    "500,000 chunks": (tiny_chunks, ("400",)),
    "20,000 requests at once": (pipelined, ("200", "400")),
    "deep JSON": (deep_json, ("400",)),
    "30 MB of JSON's own signs": (json_parts, ("400",)),
    "a JSON key of 50 MB": (long_key, ("400",)),
    "50 MB of blanks in JSON": (json_blanks, ("400",)),
    "50 zTXt of 50 MB": (packed_texts, ("422",)),
    "a PNG of 500,000 chunks": (many_chunks, ("422",)),
    "50 MB of %-escapes in a form": (escapes, ("422",)),
    "100 MB of JSON in UTF-16": (wide_json, ("422",)),
    "a legitimate picture of 100 MB in base64": (large_picture, ("200",)),
    "a legitimate picture of 100 MB in base64, in a form": (large_form, ("200",)),
}
"""By name: what is sent, and which answers are right."""


# --- watching ---------------------------------------------------------------------------------------------------------


def watch(address: str, pid: int, seconds: float) -> None:
    """A process of its own: asks until it is told to end on standard input, then writes what it saw, as JSON."""
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    seen: list[tuple[float, float]] = []
    deadline = time.monotonic() + seconds if seconds else float("inf")
    with httpx.Client(base_url=address, trust_env=False, timeout=300) as client:
        client.get("/healthz")
        print("watching", flush=True)
        while not over.is_set() and time.monotonic() < deadline:
            cpu, started = cpu_s(pid), time.perf_counter()
            client.get("/healthz").raise_for_status()
            seen.append((time.perf_counter() - started, cpu_s(pid) - cpu))
            over.wait(0.005)
    print(json.dumps(seen))


def cpu_s(pid: int) -> float:
    """CPU time of all threads of the process, from the scheduler: exact to the tick."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


class Watcher:
    def __init__(self, address: str, pid: int, seconds: float = 0.0) -> None:
        command = [sys.executable, "-m", "tests.stress.stall", "--watch", address, str(pid), str(seconds)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "watching\n"

    def stop(self) -> Seen:
        out, _ = self._process.communicate(input="")
        return summary(json.loads(out))

    def wait(self) -> Seen:
        assert self._process.stdout is not None
        out = self._process.stdout.read()
        self._process.wait()
        return summary(json.loads(out))


def summary(seen: Sequence[Sequence[float]]) -> Seen:
    times = sorted(wall * 1000 for wall, _ in seen)
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    return Seen(
        len(times),
        round(times[len(times) // 2], 2),
        round(p99, 2),
        round(times[-1], 2),
        round(max(cpu for _, cpu in seen) * 1000, 2),
    )


# --- all of it --------------------------------------------------------------------------------------------------------


def attack(target: Target, name: str, at_once: int) -> tuple[dict[str, int], list[str]]:
    """How one kind was answered, by outcome; and what should not have been."""
    send, right = ATTACKS[name]
    with ThreadPoolExecutor(at_once) as threads:
        outcomes = list(threads.map(lambda _: send(target), range(at_once)))
    return {each: outcomes.count(each) for each in sorted(set(outcomes))}, [o for o in outcomes if o not in right]


def measure(folder: Path, scale: float, at_once: int, rest_s: float, only: str = "") -> dict[str, Any]:
    server = Launched(folder, UPSCALE_API_KEYS=KEY, UPSCALE_MAX_SOURCE_BYTES=str(100 << 20))
    server.start()
    try:
        server.wait_until_ready()
        (api,) = [each.pid for each in server.processes() if each.role == "api"]
        key = secrets.token_hex(16)
        (server.data_dir / "blobs" / key).write_bytes(_png_with([]))
        target = Target(server.address, KEY, f"/files/{key}", scale)
        for name in ("If-None-Match with 60,000 blanks", "deep JSON", "a PNG of 500,000 chunks"):
            attack(Target(server.address, KEY, target.file, 1e-4), name, 1)  # what is loaded at its first use
        rest = Watcher(server.address, api, rest_s).wait()
        found: dict[str, Seen] = {}
        for name in (name for name in ATTACKS if only in name):
            watcher = Watcher(server.address, api)
            time.sleep(0.3)
            outcomes, wrong = attack(target, name, at_once)
            seen = watcher.stop()
            seen.outcomes, seen.wrong = outcomes, wrong
            found[name] = seen
            print(f"{name}: longest {seen.longest_ms:g} ms ({seen.longest_cpu_ms:g} ms CPU), {outcomes}", flush=True)
    finally:
        server.end()
    limit_ms = min(TIMES_AT_REST * rest.p99_ms, MOST_S * 1000)
    longest = max(each.longest_ms for each in found.values())
    return {
        "at_rest": asdict(rest),
        "attacks": {name: asdict(each) for name, each in found.items()},
        "limit_ms": round(limit_ms, 1),
        "longest_ms": longest,
        "longest_cpu_ms": max(each.longest_cpu_ms for each in found.values()),
        "answered_rightly": not any(each.wrong for each in found.values()),
        "within": longest <= limit_ms,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a twentieth of the sizes")
    parser.add_argument("--only", default="", help="attacks with this in their name")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--watch", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.watch:
        address, pid, seconds = args.watch
        watch(address, int(pid), float(seconds))
        return 0
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # it tells at length when it is hung up on
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), 0.05 if args.short else 1.0, AT_ONCE, 3.0 if args.short else 10.0, args.only)
    print(json.dumps({name: value for name, value in found.items() if name != "attacks"}, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if found["within"] and found["answered_rightly"] else 1


if __name__ == "__main__":
    sys.exit(main())
