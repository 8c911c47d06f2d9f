"""Seeded damage to requests and to picture files: what a caller's bug, a broken line or malice would make of them."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Request:
    """An HTTP request as it goes over the wire, but for `Host` and `Content-Length`."""

    method: str
    path: str
    """With its query; ASCII."""
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    length: int | None = None
    """What `Content-Length` says where that is not the body's length."""
    tricks: tuple[str, ...] = ()
    """What was done to it."""


@dataclass(frozen=True)
class Pairs:
    """An object of JSON as it is written: names may come twice."""

    items: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Deep:
    """A value within so many lists, or objects."""

    depth: int
    in_lists: bool
    value: Any


NUMBERS: tuple[Any, ...] = (
    *(0, -0.0, -1, 1, 2, 3, 0.5, 9.999, 10, 10.001, 100, 255, 256, 65536, 2**31, 2**53 + 1, -(2**63), 2**64),
    *(1e-320, 1e308, -1e308, 5e-324, 10**400, -(10**400), 1e22),
)
TEXTS = (
    *("", " ", "0", "4", "true", "null", "2k", "4K", "8k ", "PNG", "jpeg", "gif", "../../etc/passwd", "%00", "\0"),
    *("é" * 20, "e\u0301", "\u202e\u2066gnp", "\ufeff", "\ud800", "\U0010ffff", "😀" * 50, "İstanbul", "ﬁ", "\u2028"),
    *("a" * 300, "A" * 70000, "'; DROP TABLE jobs; --", "{{7*7}}", "${jndi:ldap://x}", "<script>alert(1)</script>"),
    *("data:", "data:image/png;base64,", "data:image/png;base64,AAAA", "data:image/png,%FF%D8", "data:text/html,x"),
    *("http://", "http://[", "http://127.0.0.1:9/x.png", "http://169.254.169.254/latest", "https://x.invalid/a.png"),
    *("http://user:pass@127.0.0.1/", "file:///etc/passwd", "http://0x7f.1/", "http://[::1]:1/", "ftp://127.0.0.1/a"),
    *("http://127.0.0.1:99999/", "http://a\nb/", "=" * 9, "iVBORw0KGgo", "////", "2023-13-45T99:99:99Z", "0000-01-01"),
    *("00000000-0000-0000-0000-000000000000", "0" * 32, "1e5", "0x10", "١٢٣", "NaN", "-Infinity", "1" * 5000),
)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"": None}, {"__proto__": {}}, [1, "a", None])
LITERALS = ("NaN", "Infinity", "-Infinity", "1e999", "01", "+1", ".5", "1.", "0x1F", "'a'", "undefined", "-", "\\u12")
TYPES = (
    *("", "/", "\xff", "a" * 2000, "text/plain", "image/png", "application/xml", "multipart/form-data"),
    *("application/json", "application/json; charset=utf-16", "application/json; charset=nonsense"),
    *("multipart/form-data; boundary=", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"),
)
ODD_HEADERS = {
    "Authorization": ("", "Bearer", "Bearer ", "Basic YTpi", "Bearer " + "k" * 4000, "Bearer \xe9"),
    "Accept": ("text/html", "application/xml;q=0.1", "*/*, " * 200, "\x80"),
    "Range": ("bytes=0-0", "bytes=-1", "bytes=5-2", "bytes=9999999-", "bytes=a-b", "lines=1-2", "bytes=0-1,3-4,7-"),
    "range": ("bytes=" + "0-0," * 500, "bytes=-0", "bytes=" + "9" * 400 + "-"),
    "X-Forwarded-Host": ("evil.example", "a b", "<x>", "x" * 3000, "127.0.0.1, evil", "[::1"),
    "X-Forwarded-Proto": ("https", "javascript", "https,http", ""),
    "Content-Encoding": ("gzip", "br", "identity", "nonsense"),
    "If-None-Match": ('"x"', "*"),
    "If-Range": ('"x"', "yesterday"),
    "Expect": ("100-continue", "miracles"),
    "Upgrade": ("websocket", "h2c"),
    "Origin": ("http://127.0.0.1", "null", "http://["),
    "Host": ("localhost", "["),
    "Connection": ("close", "upgrade"),
    "Transfer-Encoding": ("identity",),
    "Cookie": ("a=" + "b" * 4000,),
    "Last-Event-ID": ("-1", "\xff\xfe"),
}
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW")


# --- requests -------------------------------------------------------------------------------------------------------


def mutate_request(request: Request, chance: random.Random) -> Request:
    """One to four changes, most of them to what it says rather than to how it is sent."""
    tricks: tuple[Callable[[Request, random.Random], Request], ...] = (_of_path, _of_headers, _of_method, _of_length)
    weights = [3, 3, 1, 1]
    if request.body[:1] in (b"{", b"["):
        tricks, weights = (_of_json, *tricks), [16, *weights]
    if request.body:
        tricks, weights = (_of_bytes, *tricks), [4, *weights]
    for trick in chance.choices(tricks, weights, k=chance.choice((1, 1, 1, 2, 2, 3, 4))):
        request = trick(request, chance)
        request = replace(request, tricks=(*request.tricks, trick.__name__.removeprefix("_of_")))
    return request


def mutate_json(value: Any, chance: random.Random) -> bytes:
    """A JSON text, of a value that was changed in one to three places."""
    tree = _to_tree(value)
    for _ in range(chance.choice((1, 1, 2, 3))):
        tree = _changed(tree, chance, chance.randrange(max(1, _size(tree))))
    text = _write(tree)
    if chance.random() < 0.06:  # where a number or a word stood
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(LITERALS) + text[at:]
    return text.encode("utf-8", "surrogatepass")


def _of_json(request: Request, chance: random.Random) -> Request:
    try:
        return replace(request, body=mutate_json(json.loads(request.body), chance))
    except (ValueError, RecursionError):  # an earlier trick has been there
        return _of_bytes(request, chance)


def _of_bytes(request: Request, chance: random.Random) -> Request:
    body = bytearray(request.body)
    at = chance.randrange(len(body) + 1)
    match chance.randrange(8):
        case 0:
            del body[at:]
        case 1:
            for _ in range(chance.randint(1, 8)):
                if body:
                    body[chance.randrange(len(body))] = chance.randrange(256)
        case 2:
            body[at:at] = chance.randbytes(chance.randint(1, 40))
        case 3:
            body[at:at] = chance.choice(
                (b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"\xed\xa0\x80", b"\r\n\r\n", b"{" * 3000)
            )
        case 4:
            body += chance.choice((b"}", b",", b"\0", b" garbage", bytes(body[:200])))
        case 5:
            body = bytearray(bytes(body).decode("utf-8", "replace").encode(chance.choice(("utf-16", "utf-32-le"))))
        case 6:
            body = bytearray(chance.choice((b"", b"null", b"[]", b"{}", b'""', b"0", b"[" * 50000, b'{"a":' * 30000)))
        case _:
            del body[: chance.randint(1, 20)]
    return replace(request, body=bytes(body))


def _of_path(request: Request, chance: random.Random) -> Request:
    path, mark, query = request.path.partition("?")
    at = chance.randrange(1, len(path) + 1)
    odd = (
        "%00",
        "%ff",
        "%2e%2e/",
        "/../",
        "//",
        "/",
        "%",
        "%zz",
        ";a=b",
        "%0a",
        "%F0%9F%98%80",
        "a" * 3000,
        "*",
        "%25",
    )
    pieces = query.split("&")
    which = chance.randrange(len(pieces))
    match chance.randrange(6):
        case 0:
            path = path[:at] + chance.choice(odd) + path[at:]
        case 1:
            path = path[:at]
        case 2:
            path = path.swapcase()
        case 3:
            query = "&".join(
                (query, chance.choice(("limit=-1", "a=b&a=c", "=", "&&", "task_id", "webhook=%ff", "page=1e9")))
            )
        case 4:
            name = pieces[which].partition("=")[0]
            value = quote(str(_nasty(chance))[:2000].encode("utf-8", "surrogatepass"))
            query = "&".join((*pieces[:which], f"{name}={value}", *pieces[which + 1 :]))
        case _:
            parts = path.split("/")
            value = quote(chance.choice(TEXTS)[:2000].encode("utf-8", "surrogatepass"), safe="")
            path = "/".join((*parts[:-1], value))
    return replace(request, path=path + (mark or "?") + query if query else path)


def _of_headers(request: Request, chance: random.Random) -> Request:
    headers = list(request.headers)
    match chance.randrange(5):
        case 0 | 1:
            name = chance.choice(tuple(ODD_HEADERS))
            headers.append((name, chance.choice(ODD_HEADERS[name])))
        case 2:
            headers = [each for each in headers if each[0] != "Content-Type"] + [("Content-Type", chance.choice(TYPES))]
        case 3:
            headers = [each for each in headers if each[0] != "Content-Type"]
        case _:
            headers.append((chance.choice(("X-A", "Content-Type", "Authorization", "Accept")), chance.choice(TYPES)))
    return replace(request, headers=headers)


def _of_method(request: Request, chance: random.Random) -> Request:
    return replace(request, method=chance.choice(METHODS))


def _of_length(request: Request, chance: random.Random) -> Request:
    return replace(request, length=chance.choice((0, 1, len(request.body) // 2, len(request.body) + 7, 10**12)))


def _nasty(chance: random.Random) -> Any:
    match chance.randrange(5):
        case 0 | 1:
            return chance.choice(NUMBERS)
        case 2 | 3:
            return chance.choice(TEXTS)
        case _:
            return chance.choice(OTHERS)


def _to_tree(value: Any) -> Any:
    if isinstance(value, dict):
        return Pairs(tuple((name, _to_tree(each)) for name, each in value.items()))
    return [_to_tree(each) for each in value] if isinstance(value, list) else value


def _size(tree: Any) -> int:
    """Values in it, itself included."""
    if isinstance(tree, Pairs):
        return 1 + sum(_size(each) for _, each in tree.items)
    return 1 + sum(map(_size, tree)) if isinstance(tree, list) else 1


def _changed(tree: Any, chance: random.Random, at: int) -> Any:
    """With the value number `at`, in the order of writing, made another."""
    if at == 0:
        return _other(tree, chance)
    at -= 1
    if isinstance(tree, list):
        made = []
        for each in tree:
            size = _size(each)
            made.append(_changed(each, chance, at) if 0 <= at < size else each)
            at -= size
        return made
    assert isinstance(tree, Pairs)
    items = []
    for name, each in tree.items:
        size = _size(each)
        items.append((name, _changed(each, chance, at) if 0 <= at < size else each))
        at -= size
    return Pairs(tuple(items))


def _other(tree: Any, chance: random.Random) -> Any:
    if isinstance(tree, Pairs) and tree.items and chance.random() < 0.7:
        items = list(tree.items)
        at = chance.randrange(len(items))
        name, value = items[at]
        match chance.randrange(5):
            case 0:
                del items[at]
            case 1:
                items[at] = (
                    chance.choice((name.upper(), name + " ", "_" + name, "", name[:1], chance.choice(TEXTS))),
                    value,
                )
            case 2:
                items.append((name, _nasty(chance)))  # twice; the latter counts
            case 3:
                items.append((chance.choice((*TEXTS, "scale", "size", "seed", "faces", "extra")), _nasty(chance)))
            case _:
                items[at] = (name, _nasty(chance))
        return Pairs(tuple(items))
    if isinstance(tree, list) and tree and chance.random() < 0.6:
        return chance.choice((tree * 2, tree * 150, tree[1:], [tree], [*tree, _nasty(chance)], [_nasty(chance), *tree]))
    if isinstance(tree, str) and chance.random() < 0.3:
        return chance.choice(
            (tree[: len(tree) // 2], tree + "=", tree * 2, tree.upper(), " " + tree, tree[::-1], [tree])
        )
    if isinstance(tree, int | float) and chance.random() < 0.3:
        return chance.choice((-tree, tree + 1, str(tree), [tree], tree * 1000))
    if chance.random() < 0.05:
        return Deep(chance.choice((5, 200, 2000, 30000)), chance.random() < 0.5, tree)
    return _nasty(chance)


def _write(tree: Any) -> str:
    if isinstance(tree, Pairs):
        return "{" + ",".join(f"{json.dumps(name)}:{_write(each)}" for name, each in tree.items) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(_write, tree)) + "]"
    if isinstance(tree, Deep):
        before, after = ("[", "]") if tree.in_lists else ('{"a":', "}")
        return before * tree.depth + _write(tree.value) + after * tree.depth
    return json.dumps(tree, ensure_ascii=not _speakable(tree))


def _speakable(value: Any) -> bool:
    return not isinstance(value, str) or not any("\ud800" <= letter <= "\udfff" for letter in value)


# --- files ----------------------------------------------------------------------------------------------------------


def mutate_file(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """One to three changes; `other` is a file to be mixed in."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        size = len(changed)
        if size < 8:
            break
        # Heads and tables stand in front.
        at = chance.randrange(min(size, 600)) if chance.random() < 0.6 else chance.randrange(size)
        match chance.randrange(9):
            case 0:
                for _ in range(chance.randint(1, 12)):
                    changed[chance.randrange(size)] ^= 1 << chance.randrange(8)
            case 1:
                changed[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                number = chance.choice((0, 1, 2, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 100_000))
                width = 2 if number <= 0xFFFF and chance.random() < 0.5 else 4
                changed[at : at + width] = number.to_bytes(width, chance.choice(("big", "little")))
            case 3:
                del changed[chance.randrange(8, size) :]
            case 4:
                changed[at:at] = chance.randbytes(chance.randint(1, 64))
            case 5:
                del changed[at : at + chance.randint(1, 64)]
            case 6:
                end = at + chance.randint(1, 400)
                changed[at:at] = changed[at:end]
            case 7:
                cut = chance.randrange(min(len(other), size))
                changed[cut:] = other[cut:]
            case _:
                length = chance.randint(1, 200)
                changed[at : at + length] = bytes(min(length, size - at))
    return bytes(changed)
