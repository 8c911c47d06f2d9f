"""Sources: what counts as one, and what a download must never reach, exceed or wait for. Real servers on loopback."""

import base64
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from server.config import MIB
from server.errors import InvalidField, SourceNotAllowed, SourceTooLarge, SourceUnreachable
from server.outbound.source import Source, download, parse_source
from tests.conftest import MakeConfig, Picture

Answer = Callable[[socket.socket], None]
Serve = Callable[..., str]
KEY = "0123456789abcdef" * 2 + ".png"


def say(head: str, body: bytes = b"") -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.sendall(f"HTTP/1.1 {head}\r\nConnection: close\r\n\r\n".encode() + body)

    return answer


def redirect(location: str) -> Answer:
    return say(f"302 Found\r\nLocation: {location}\r\nContent-Length: 0")


def drip(head: bytes) -> Answer:
    """First that, then a byte now and then, for ever."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    return answer


@contextmanager
def serving(answer: Answer, host: str, port: int = 0) -> Iterator[str]:
    with socket.create_server((host, port)) as listener:

        def one(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.recv(65536)
                answer(connection)

        def loop() -> None:
            with suppress(OSError):  # closed, when the test is over
                while True:
                    threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield f"http://{host}:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(answer, host="127.0.0.1", port=0)`: the URL of a server that gives every request this answer."""
    with ExitStack() as stack:
        yield lambda answer, host="127.0.0.1", port=0: stack.enter_context(serving(answer, host, port))


# --- what counts as a source ----------------------------------------------------------------------------------------


def test_addresses_are_kept_for_later() -> None:
    for url in ("http://example.com/a.png", "HTTPS://example.com/ü?x=1", "https://here.example/files/../x"):
        assert parse_source(f" {url}\n", ["https://here.example"]) == Source(url=url)


def test_our_own_files_are_known_by_their_key() -> None:
    bases = ["https://here.example", "http://127.0.0.1:8000"]
    for base in bases:
        assert parse_source(f"{base}/files/{KEY}", bases) == Source(key=KEY)
    foreign = f"https://here.example.evil/files/{KEY}"
    assert parse_source(foreign, bases) == Source(url=foreign)


@pytest.mark.parametrize(
    "head", ["data:image/png;base64,", "DATA:;name=a;BASE64,", "data:application/octet-stream;base64,", ""]
)
def test_base64_comes_in_every_usual_spelling(head: str) -> None:
    data = bytes(range(256)) + b"\xfb\xff"
    standard, safe = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    lines = base64.encodebytes(data).decode()
    for text in (standard, safe, standard.rstrip("="), safe.rstrip("="), lines):
        assert parse_source(head + text, []) == Source(data=data)


def test_a_data_uri_may_be_percent_encoded() -> None:
    assert parse_source("data:image/gif,GIF89a%00%ff", []) == Source(data=b"GIF89a\x00\xff")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "a",
        "a picture",
        "picture.png",
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "data:text/html;base64,AAAA",
        "data:image/png;base64,",
        "data:image/png;base64,A",
        "data:image/png;base64,AA=A",
        "data:image/png",
        "data:image/png,\ud800",
        "http://example.com/\x00",
        "http://example.com/\ud800",
        "http://example.com/" + "x" * 8192,
        "AAA\u00e4",
    ],
)
def test_anything_else_is_no_source(text: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_source(text, [])
    assert caught.value.field == "image"


# --- downloads ------------------------------------------------------------------------------------------------------


def test_an_allowed_address_is_downloaded(config: MakeConfig, serve: Serve, picture: Picture) -> None:
    url = serve(say("200 OK", picture()))
    for entry in ("127.0.0.1", "127.0.0.0/8", url.removeprefix("http://")):
        assert download(f"{url}/a.png", config(allow_hosts=(entry,))) == picture()


def test_an_allowed_name_is_downloaded(config: MakeConfig, serve: Serve, picture: Picture) -> None:
    port = serve(say("200 OK", picture())).rpartition(":")[2]
    for entry in ("localhost", "LOCALHOST", f"localhost:{port}"):
        assert download(f"http://localhost:{port}/", config(allow_hosts=(entry,))) == picture()


def test_the_request_shows_nothing_it_need_not(
    config: MakeConfig, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection = listener.accept()[0]
            with connection:
                asked.append(connection.recv(65536))
                say("200 OK", b"x")(connection)

        thread = threading.Thread(target=answer)
        thread.start()
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        download(f"http://127.0.0.1:{listener.getsockname()[1]}/a", config(allow_hosts=("127.0.0.1",)))
        thread.join()
    head = asked[0].decode().lower()
    assert "accept-encoding: identity" in head
    assert "cookie" not in head and "authorization" not in head


REFUSED = [
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://2130706433:{port}/",  # decimal
    "http://0177.0.0.1:{port}/",  # octal
    "http://0x7f.1:{port}/",  # hexadecimal and short
    "http://127.1:{port}/",
    "http://0.0.0.0:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",  # IPv4 within IPv6
    "http://[64:ff9b::7f00:1]:{port}/",  # NAT64
    "http://[2002:7f00:1::]:{port}/",  # 6to4
    "http://[fe80::1%25lo]:{port}/",
    "http://①②⑦.⓪.⓪.①:{port}/",
    "http://169.254.169.254/latest/meta-data/",
    "http://10.0.0.1/",
    "http://100.64.0.1/",  # carrier-grade NAT
    "http://192.168.1.1/",
    "http://172.16.0.1/",
    "http://[fd00::1]/",
    "http://[fec0::1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[64:ff9b::a9fe:a9fe]/",  # the same by NAT64
    "http://[64:ff9b:1::7f00:1]:{port}/",  # NAT64 of a network's own
    "http://[2002:a9fe:a9fe::]/",  # by 6to4
    "http://[2001:0:7f00:1::]/",  # Teredo
    "http://[::127.0.0.1]:{port}/",  # as IPv4 was written in IPv6 once
    "http://017700000001:{port}/",  # octal, in one piece
    "http://0x7f000001:{port}/",
    "http://224.0.0.1/",  # multicast
    "http://255.255.255.255/",
    "http://user:secret@127.0.0.1:{port}/",
    "http://example.com:22/",
    "http://example.com:25/",
    "ftp://example.com/a.png",
    "file:///etc/passwd",
    "http:///a.png",
    "http://[::1/",
]


@pytest.mark.parametrize("url", REFUSED)
def test_what_is_not_public_is_refused_before_anybody_is_called(config: MakeConfig, url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        with pytest.raises(SourceNotAllowed) as caught:
            download(url.format(port=listener.getsockname()[1]), config(fetch_timeout_s=5))
        assert str(caught.value) == "the picture's address is not one that this server may fetch from"
        with pytest.raises(BlockingIOError):
            listener.accept()


class Rebinding:
    """A resolver for tests, in the form of socket.getaddrinfo: its answers change from call to call."""

    def __init__(self, *answers: list[str]) -> None:
        self.asked = 0
        self._answers = answers

    def __call__(self, host: str | None, port: Any, *_: Any, **__: Any) -> list[Any]:
        answer = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        found = []
        for address in answer:
            inet6 = ":" in address
            family = socket.AF_INET6 if inet6 else socket.AF_INET
            place = (address, int(port), 0, 0) if inet6 else (address, int(port))
            found.append((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place))
        return found


PUBLIC = "198.18.0.1"
"""An unused network; the operator's list allows it, so that the next step is tested without a network."""


@pytest.mark.parametrize(
    "answer",
    [["127.0.0.1"], [PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], ["::ffff:127.0.0.1"], ["169.254.169.254"], ["::1"]],
    ids=" ".join,
)
def test_names_are_worth_what_all_their_addresses_are(config: MakeConfig, answer: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        port = listener.getsockname()[1]
        made = config(fetch_timeout_s=5, allow_hosts=(f"{PUBLIC}:{port}",))
        with pytest.raises(SourceNotAllowed):
            download(f"http://evil.example:{port}/", made, Rebinding(answer))
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_name_that_changes_between_looking_and_calling_is_asked_only_once(config: MakeConfig, serve: Serve) -> None:
    """First it is an address that may be called, then ours: the call goes to the one that was looked at."""
    secret = serve(say("200 OK", b"secret"), "127.0.0.1")
    port = int(secret.rpartition(":")[2])
    serve(say("200 OK", b"harmless"), "127.0.0.2", port)
    rebinding = Rebinding(["127.0.0.2"], ["127.0.0.1"])
    assert download(f"http://evil.example:{port}/", config(allow_hosts=("127.0.0.2",)), rebinding) == b"harmless"
    assert rebinding.asked == 1


def test_a_name_that_changes_between_two_redirects_is_looked_at_anew(config: MakeConfig, serve: Serve) -> None:
    port = int(serve(say("200 OK", b"secret"), "127.0.0.1").rpartition(":")[2])
    serve(redirect(f"http://evil.example:{port}/again"), "127.0.0.2", port)
    rebinding = Rebinding(["127.0.0.2"], ["127.0.0.1"])
    with pytest.raises(SourceNotAllowed):
        download(f"http://evil.example:{port}/", config(allow_hosts=("127.0.0.2",)), rebinding)
    assert rebinding.asked == 2


KINDS = {
    "loopback": r"//(127\.0\.0\.1|localhost|\[::1\])[:/]",
    "unspecified": r"//0\.0\.0\.0",
    "decimal host": r"//2130706433",
    "octal host": r"//0177\.|//0177000",
    "hexadecimal host": r"//0x7f",
    "short host": r"//127\.1:",
    "other digits": "①",
    "IPv4 mapped": r"\[::ffff:",
    "IPv4 compatible": r"\[::127",
    "NAT64": r"\[64:ff9b:",
    "6to4": r"\[2002:",
    "Teredo": r"\[2001:0:",
    "link-local": r"//169\.254|\[fe80:",
    "private": r"//10\.|//192\.168|//172\.16",
    "unique local": r"\[fd00:|\[fec0:",
    "carrier-grade NAT": r"//100\.64",
    "multicast and broadcast": r"//224\.|//255\.",
    "userinfo": "//user:",
    "port": ":25/|:22/",
    "scheme": "^(ftp|file):",
    "no host": r"///a|\[::1/",
}


def test_no_kind_of_address_is_forgotten() -> None:
    """Redirects, loops, large and slow bodies, mixed answers and rebinding have tests of their own, here."""
    missing = [kind for kind, pattern in KINDS.items() if not any(re.search(pattern, url) for url in REFUSED)]
    assert missing == []
    assert len(KINDS) == 21 and len(REFUSED) == 37


def test_what_is_allowed_is_no_wider_than_it_says(config: MakeConfig, serve: Serve) -> None:
    url = serve(say("200 OK", b"x"))
    port = int(url.rpartition(":")[2])
    for entry in ("localhost", "127.0.0.2", "10.0.0.0/8", f"127.0.0.1:{port - 1}", "27.0.0.1"):
        with pytest.raises(SourceNotAllowed):
            download(url, config(allow_hosts=(entry,)))
    with pytest.raises(SourceNotAllowed):  # credentials are refused wherever they go
        download(url.replace("http://", "http://user@"), config(allow_hosts=("127.0.0.1",)))


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.2:{port}/",
        "http://169.254.169.254/",
        "file:///etc/passwd",
        "//[::1]/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:0/",
        "//user@127.0.0.1/",
        "http://[",
    ],
)
def test_every_redirect_is_looked_at_anew(config: MakeConfig, serve: Serve, target: str) -> None:
    inner = serve(say("200 OK", b"secret"), "127.0.0.2").rpartition(":")[2]
    outer = serve(redirect(target.format(port=inner)))
    with pytest.raises(SourceNotAllowed):
        download(outer, config(allow_hosts=("127.0.0.1",)))


@pytest.mark.parametrize("target", ["http://xn--/", "http://127.0.0.1:x/"])
def test_a_redirect_to_something_that_is_no_address_ends_the_download(
    config: MakeConfig, serve: Serve, target: str
) -> None:
    with pytest.raises(SourceUnreachable, match="could not be downloaded: its server "):
        download(serve(redirect(target)), config(allow_hosts=("127.0.0.1",)))


def test_redirects_to_what_is_allowed_are_followed(config: MakeConfig, serve: Serve) -> None:
    inner = serve(say("200 OK", b"picture"), "127.0.0.2")
    outer = serve(redirect(f"{inner}/a.png"))
    assert download(outer, config(allow_hosts=("127.0.0.0/8",))) == b"picture"


def test_redirects_in_a_circle_end(config: MakeConfig, serve: Serve) -> None:
    with pytest.raises(SourceUnreachable, match="redirects more than 5 times"):
        download(serve(redirect("/again")), config(allow_hosts=("127.0.0.1",)))


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden", "500 Oops", "204 No Content", "304 Not Modified"])
def test_any_answer_but_200_is_named(config: MakeConfig, serve: Serve, status: str) -> None:
    with pytest.raises(SourceUnreachable, match=f"its server answered {status[:3]}$"):
        download(serve(say(f"{status}\r\nContent-Length: 0")), config(allow_hosts=("127.0.0.1",)))


def test_a_length_over_the_limit_is_refused_at_once(config: MakeConfig, serve: Serve) -> None:
    url = serve(drip(f"HTTP/1.1 200 OK\r\nContent-Length: {500 * 2**20}\r\n\r\n".encode()))
    with pytest.raises(SourceTooLarge, match=f"limit of {100 * 2**20} bytes"):
        download(url, config(allow_hosts=("127.0.0.1",)))  # which would last, at a byte now and then


def test_bytes_are_counted_when_no_length_is_said(config: MakeConfig, serve: Serve) -> None:
    made = config(allow_hosts=("127.0.0.1",), max_source_bytes=100_000)
    assert len(download(serve(say("200 OK", bytes(100_000))), made)) == 100_000
    with pytest.raises(SourceTooLarge):
        download(serve(say("200 OK", bytes(100_001))), made)


@pytest.mark.parametrize(
    "head",
    [b"", b"HTTP/1.1 200 OK\r\nX-Endless: ", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"],
    ids=["status", "headers", "body"],
)
def test_a_server_that_drips_is_left_in_time(config: MakeConfig, serve: Serve, head: bytes) -> None:
    with pytest.raises(SourceUnreachable, match=r"within 0\.4 seconds"):
        download(serve(drip(head)), config(allow_hosts=("127.0.0.1",), fetch_timeout_s=0.4))


def test_a_server_that_says_nothing_is_left_in_time(config: MakeConfig, serve: Serve) -> None:
    url = serve(lambda _: time.sleep(1))
    with pytest.raises(SourceUnreachable, match=r"within 0\.3 seconds"):
        download(url, config(allow_hosts=("127.0.0.1",), fetch_timeout_s=0.3))


def test_no_one_there_and_no_such_name_and_half_a_body_are_unreachable(config: MakeConfig, serve: Serve) -> None:
    made = config(allow_hosts=("127.0.0.1", "nowhere.invalid"))
    half = serve(say("200 OK\r\nContent-Length: 10", b"half"))
    for url in ("http://127.0.0.1:1/", "http://nowhere.invalid/", half, serve(lambda _: None)):
        with pytest.raises(SourceUnreachable, match="could not be downloaded: its server can't be reached$"):
            download(url, made)


def test_a_hostile_data_uri_is_refused_in_little_time_and_memory() -> None:
    text = "data:image/png" + ";" * 5_000_000
    tracemalloc.start()
    started = time.thread_time()
    with pytest.raises(InvalidField):
        parse_source(text, ())
    assert time.thread_time() - started < 2
    assert tracemalloc.get_traced_memory()[1] < 60 * MIB
    tracemalloc.stop()
