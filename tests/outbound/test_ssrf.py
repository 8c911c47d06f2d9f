"""Requests to URLs that callers choose: their answers, and refused addresses. Downloads: test_source.py."""

import time

import pytest

from server.config import BadConfig
from server.errors import InvalidField, SourceNotAllowed
from server.outbound.source import download, parse_source
from server.outbound.ssrf import NotAllowed, Unreachable, is_web_url, read_allowed, send, why_not
from tests.conftest import MakeConfig, Receiver
from tests.outbound.test_source import drip, redirect, say, serving

HERE = ("127.0.0.1",)


@pytest.mark.parametrize(
    "url", ["http://example.com", "https://example.com:8443/a?b=c#d", "HTTP://EXAMPLE.com/ü", "http://[::1]:80/x"]
)
def test_what_is_a_web_address(url: str) -> None:
    assert is_web_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "/hook",
        "ftp://example.com/",
        "http://",
        "http:///hook",
        "http://?a",
        "http://[::1/",
        "http://example.com/\x00",
        "http://example.com/\n",
        "http://example.com/\ud800",
        "http://example.com/" + "x" * 8192,
        "javascript:alert(1)",
    ],
)
def test_what_is_none(url: str) -> None:
    assert not is_web_url(url)


@pytest.mark.parametrize(
    ("url", "allow"),
    [
        ("http://example.com:25/", ()),
        ("https://example.com:22/hook", ()),
        ("http://127.0.0.1:25/", ()),
        ("http://127.0.0.1:9000/", ()),
        ("http://localhost:9000/", ()),
        ("http://a.localhost/", ()),
        ("http://[::1]/", ()),
        ("http://10.1.2.3/", HERE),
        ("http://[::ffff:10.0.0.1]/", ()),
        ("http://169.254.169.254/", ()),
        ("http://2130706433/", ()),
        ("http://user:secret@example.com/", ()),
    ],
)
def test_some_addresses_are_known_to_be_no_good_before_they_are_called(
    config: MakeConfig, url: str, allow: tuple[str, ...]
) -> None:
    assert why_not(url, config(allow_hosts=allow)) in (
        "the address is not one that this server may call",
        "the port is not one that this server may call",
    )


@pytest.mark.parametrize(
    ("url", "allow"),
    [
        ("http://example.com/", ()),
        ("https://example.com:8443/a?b=c", ()),
        ("http://127.0.0.1:25/", HERE),
        ("http://localhost:9000/", ("localhost",)),
        ("http://hooks.lan:81/x", ("hooks.lan:81",)),
        ("http://no-such-name.example/", ()),
    ],
)
def test_of_others_nothing_is_said_before_they_are_called(config: MakeConfig, url: str, allow: tuple[str, ...]) -> None:
    assert why_not(url, config(allow_hosts=allow)) is None


NO_ADDRESS = [
    *(f"http://127.0.0.1:{port}/" for port in ("99999", "65536", "0", "00", "-1", "+80", "8_0", " 80", "٨٠", "0x50")),
    *(f"http://127.0.0.1:{port}/" for port in ("http", "1e3", "80:80", "80 ", "9" * 5000, "0" * 5000 + "80")),
    *("http://[::1]:99999/", "https://example.com:65536", "http://user:secret@example.com:99999/"),
    *("http://", "http:///a", "http://:80/", "http://?a", "http://#a", "http://@/", "http://user@/", "http://@:80/"),
    *("http:a", "http:/a", "http:////a", "http:\\\\a", "http//a", "//a/", "://a", "httpx://a/", "ws://a/", "file:///a"),
    *("http://xn--/", "http://xn--a/", "http://xn--ü/", "http://\u00ad/", "http://\u200b/"),
    *("http://①.⓪/", "http://١٢٧.0.0.1/", "http://א1a.example/", "http://ﬀ.example/", "http://\u2100.example/"),
    *("http://\u2024/", "http://\u3002a/", "http://😀.example/", "http://" + "ü" * 70 + ".example/"),
    *("http://[", "http://[]/", "http://]/", "http://[::1", "http://[a]/", "http://[v1.a]/", "http://[:::1]/"),
    *("http://[127.0.0.1]/", "http://a[b]c/", "http://[::1]a/", "http://256.1.1.1/"),
    *("http://a\tb/", "http://a\nb/", "http://a/\x7f", "http://a/?\ud800", "http://" + "a" * 9000 + "/"),
]
"""Refused as soon as one is given."""
NOWHERE = [
    *("http://a b/", "http://%/", "http://%zz/", "http://%00/", "http://a%2fb/", "http://a\\b/", "http://<>/"),
    *("http://a|b/", "http://{}/", 'http://"/', "http://*/", "http://.", "http://..", "http://a..b/", "http://.a/"),
    *("http://" + "a" * 64 + ".example/", "http://" + "a." * 200 + "example/", "http://" + "a" * 8000 + "/"),
    *("http://[::1]80/", "http://[::1%lo]/", "http://[::1%25]/", "http://4294967296/", "http://1.2.3.4.5/"),
    *("http://user:secret@127.0.0.1/", "http://user:@127.0.0.1/", "http://:@127.0.0.1/", "http://a:b@c@127.0.0.1/"),
]
"""These have the form of URLs, and none is called."""


@pytest.mark.parametrize("url", NO_ADDRESS + NOWHERE, ids=lambda url: ascii(url)[:60])
def test_odd_addresses_are_refused_in_words_as_pictures_webhooks_and_targets(config: MakeConfig, url: str) -> None:
    assert is_web_url(url) == (url in NOWHERE)
    with pytest.raises(SourceNotAllowed, match="^the picture's address is not one that this server may fetch from$"):
        download(url, config(allow_hosts=HERE))
    with pytest.raises(NotAllowed, match="^the address is not one that this server may call$"):
        send("POST", url, b"x", {}, config(allow_hosts=HERE), 5)
    if url.startswith("http://") and url not in NOWHERE:  # much else is base64
        with pytest.raises(InvalidField):
            parse_source(url, ())


# --- sending --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_what_is_sent_arrives_as_it_is(config: MakeConfig, receiver: Receiver, method: str) -> None:
    headers = {"Content-Type": "image/png", "webhook-id": "1"}
    assert send(method, f"{receiver.url}/a%20b?c=d&e", b"\0bytes", headers, config(allow_hosts=HERE), 5) == 200
    (got,) = receiver.got
    assert (got.method, got.path, got.body) == (method, "/a%20b?c=d&e", b"\0bytes")
    assert (got.headers["content-type"], got.headers["webhook-id"]) == ("image/png", "1")
    assert got.headers["user-agent"].startswith("upscale-server/")
    assert "authorization" not in got.headers and "cookie" not in got.headers


@pytest.mark.parametrize("status", [204, 302, 404, 500])
def test_any_answer_is_an_answer_and_no_redirect_is_followed(
    config: MakeConfig, receiver: Receiver, status: int
) -> None:
    receiver.answers = [status]
    assert send("POST", receiver.url, b"", {}, config(allow_hosts=HERE), 5) == status
    assert len(receiver.got) == 1


@pytest.mark.parametrize("target", ["http://xn--/", "http://xn--a:99999/"])
def test_a_redirect_to_a_name_that_is_none_is_as_good_as_no_answer(config: MakeConfig, target: str) -> None:
    with serving(redirect(target), "127.0.0.1") as url, pytest.raises(Unreachable, match="^its server redirects to"):
        send("POST", url, b"x", {}, config(allow_hosts=HERE), 5)


def test_an_answer_that_never_ends_is_left_at_its_status(config: MakeConfig) -> None:
    for answer in (say("200 OK", bytes(10**7)), drip(b"HTTP/1.1 202 Accepted\r\n\r\n")):
        with serving(answer, "127.0.0.1") as url:
            assert send("POST", url, b"x", {}, config(allow_hosts=HERE), 5) in (200, 202)


def test_who_does_not_answer_is_left_in_time(config: MakeConfig) -> None:
    for answer in (lambda _: time.sleep(1), drip(b"HTTP/1.1 200 OK\r\nX-Endless: ")):
        match = r"^its server was not done within 0\.3 seconds$"
        with serving(answer, "127.0.0.1") as url, pytest.raises(Unreachable, match=match):
            send("POST", url, b"x", {}, config(allow_hosts=HERE), 0.3)


def test_no_one_there_is_unreachable(config: MakeConfig) -> None:
    with pytest.raises(Unreachable, match="^its server can't be reached$"):
        send("POST", "http://127.0.0.1:1/", b"x", {}, config(allow_hosts=HERE), 5)


@pytest.mark.parametrize(
    "url",
    [
        "{receiver}/",
        "http://localhost:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://user:secret@example.com/",
        "http://example.com:25/",
        "file:///etc/passwd",
    ],
)
def test_what_is_not_public_is_not_called(config: MakeConfig, receiver: Receiver, url: str) -> None:
    port = receiver.url.rpartition(":")[2]
    with pytest.raises(NotAllowed) as caught:
        send("POST", url.format(receiver=receiver.url, port=port), b"x", {}, config(), 5)
    assert "not one that this server may call" in str(caught.value)
    assert receiver.got == []


# --- the operator's list --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry", ["127.0.0.1", "10.0.0.0/8", "::1", "[::1]:80", "fd00::/8", "minio", "minio.internal:9000", "10.0.0.0/8:80"]
)
def test_entries_that_mean_something(entry: str) -> None:
    assert len(read_allowed([entry])) == 1


@pytest.mark.parametrize(
    "entry", ["10.0.0.1/8", "host:port", "host:0", "host:70000", "a b", "http://host", "300.1.1.1"]
)
def test_entries_that_mean_nothing_stop_the_start(entry: str) -> None:
    with pytest.raises(BadConfig, match="UPSCALE_ALLOW_HOSTS"):
        read_allowed([entry])
