"""Source pictures: a URL, one of our own files, or the bytes themselves."""

import base64
import binascii
import codecs
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import httpx
from ssrfguard import Resolver

from server.config import Config
from server.errors import InvalidField, SourceNotAllowed, SourceTooLarge, SourceUnreachable
from server.images.read.sniff import sniff
from server.outbound.ssrf import NotAllowed, Unreachable, is_web_url, request, run

MAX_REDIRECTS = 5
_HEADERS = {
    "Accept": "image/*, */*;q=0.5",
    "Accept-Encoding": "identity",  # so that the counted bytes are the stored bytes
}
_DATA_URI = re.compile(
    # Bounded: unbounded repeats store every position for backtracking, gigabytes for a hostile text.
    r"data:(image/[\w.+-]{1,100}|application/octet-stream|)((?:;[^;,]{0,100}){0,8}),",
    re.IGNORECASE,
)

LONG = 1 << 20
"""Characters. A C function that reads so many stops the other threads for about a millisecond."""
_PIECE = 1 << 16
"""Characters that are decoded at a time: all other threads wait for as long as that takes."""
_NO_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_OWN_FILE = re.compile(r"/(?:files|uploads)/([0-9a-f]{32}(?:\.[a-z0-9]{1,8})?)/*\Z")
_OWN_JOB = re.compile(r"/jobs/([0-9a-f]{32})/(result|source)/*\Z")


class LongText(str):
    """A caller's text of more than LONG characters, in pieces: reading all of it in one C function, or only copying it,
    would stop all other threads until it is done.

    As a `str` it is a short description, like `<base64, 3000000 characters>`: no address, no name and no picture. Where
    any text is accepted, the description is what is stored.
    """

    pieces: tuple[str, ...]
    """Of about LONG characters each."""

    def __new__(cls, pieces: Iterable[str]) -> "LongText":
        kept = tuple(pieces)
        made = super().__new__(cls, described(kept[0], sum(map(len, kept))))
        made.pieces = kept
        return made


def text_in_pieces(pieces: Iterable[bytes]) -> str:
    """The text of these bytes: a LongText if it is long. What is not UTF-8 is replaced."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts, held = list[str](), bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= LONG:
            texts.append(decoder.decode(bytes(held)))
            held.clear()
    last = decoder.decode(bytes(held), final=True)
    return LongText([*texts, last]) if texts else last


def described(start: str, length: int) -> str:
    """A text for a picture that begins like this, as its kind and length."""
    head = re.match(r"data:[\w/.+;=-]{0,100},", start, re.IGNORECASE)
    return f"<{head[0].removesuffix(',') if head else 'base64'}, {length} characters>"


@dataclass(frozen=True)
class Source:
    """A source picture; exactly one of the three is given."""

    data: bytes | None = None
    url: str | None = None
    """To be downloaded."""
    key: str | None = None
    """One of our own files."""

    def __post_init__(self) -> None:
        assert [self.data, self.url, self.key].count(None) == 2


def parse_source(text: str, own_bases: Sequence[str]) -> Source:
    """A caller's text for a picture: a URL, a data URI or plain base64. Raises InvalidField.

    `own_bases` are the starts of our own links: our own files are read directly, not over the network. Links to this
    server under another name stay URLs here; `Service.resolve` recognises them by `own_file` and `own_job`.
    """
    first, *others = text.pieces if isinstance(text, LongText) else (text.strip(),)
    if others:
        first = first.lstrip()
    if first[:8].lower().startswith(("http://", "https://")):
        if others or not is_web_url(first):
            raise _not_a_source()
        key = own_file(first)
        if key is not None and any(first.startswith(f"{base}/") for base in own_bases):
            return Source(key=key)
        return Source(url=first)
    head = _DATA_URI.match(first)
    rest = [first[head.end() :] if head else first, *others]
    if head is None or head[2].lower().endswith(";base64"):
        return Source(data=_from_base64(rest))
    try:
        return Source(data=b"".join(unquoted(rest)))
    except ValueError as error:
        raise _not_a_source() from error


def unquoted(texts: Iterable[str]) -> Iterator[bytes]:
    """The bytes of a text with %-escapes, piece by piece. Raises ValueError."""
    begun = ""
    for piece in _cut(texts, _PIECE):
        piece = begun + piece
        cut = piece.rfind("%", -2) if "%" in piece[-2:] else len(piece)  # an escape must not be cut
        begun = piece[cut:]
        yield _unquoted(piece[:cut].encode())
    yield _unquoted(begun.encode())


def _unquoted(piece: bytes) -> bytes:
    """The same as unquote_to_bytes, which takes half a second for a million escapes, by a function in C for another
    sign of escapes (RFC 2045, section 6.7)."""
    if _NO_ESCAPE.search(piece):
        return unquote_to_bytes(piece)
    return binascii.a2b_qp(piece.replace(b"=", b"=3D").replace(b"%", b"="))


def _cut(texts: Iterable[str], length: int) -> Iterator[str]:
    return (text[start : start + length] for text in texts for start in range(0, len(text), length))


def own_file(url: str) -> str | None:
    """The key of the file that one of our links leads to, or None for any other URL.

    Links are recognised by their path alone, whatever comes before and after it: the same server has several names and
    proxies with prefixes, and some clients append a query. Keys are too long to match by chance. Whether the file
    exists is not checked.
    """
    found = _OWN_FILE.search(_path_of(url))
    return found[1] if found else None


def own_job(url: str) -> tuple[str, str] | None:
    """The job, and which of its pictures (`result` or `source`), that one of our links leads to; or None."""
    found = _OWN_JOB.search(_path_of(url))
    return (found[1], found[2]) if found else None


def _path_of(url: str) -> str:
    try:
        return unquote(urlsplit(url).path)
    except ValueError:  # brackets around text that is not an address
        return ""


def _from_base64(texts: Iterable[str]) -> bytes:
    """Standard or URL-safe alphabet, with or without padding, line breaks and blanks. Decoded in pieces, so that other
    threads run in between."""
    pieces, rest, has_blanks = list[bytes](), "", False
    try:
        for piece in _cut(_without_padding(texts), _PIECE):
            lines = piece.replace("\r", "").replace("\n", "")
            digits = lines.replace(" ", "").replace("\t", "").replace("-", "+").replace("_", "/")
            if "=" in digits:
                raise _not_a_source()
            has_blanks = has_blanks or len(digits) < len(lines)
            digits = rest + digits
            whole = len(digits) // 4 * 4
            pieces.append(base64.b64decode(digits[:whole], validate=True))
            rest = digits[whole:]
        pieces.append(base64.b64decode(rest + "=" * (-len(rest) % 4), validate=True))
    except ValueError as error:
        raise _not_a_source() from error
    data = b"".join(pieces)
    # Ordinary words with blanks between them are valid base64 too, but were not meant as base64.
    if not data or (has_blanks and sniff(data[:32]) is None):
        raise _not_a_source()
    return data


def _without_padding(texts: Iterable[str]) -> list[str]:
    kept, last = list(texts), ""
    while kept and not last:
        last = kept.pop().rstrip("= \t\r\n")
    return [*kept, last]


def _not_a_source() -> InvalidField:
    return InvalidField("image must be an http(s) URL, a data URI of a picture, or base64", field="image")


def download(url: str, config: Config, resolver: Resolver | None = None) -> bytes:
    """The file at that URL. Raises SourceUnreachable, SourceNotAllowed or SourceTooLarge.

    Ends within `config.fetch_timeout_s`, however slowly the other side sends. `resolver`: see ssrf.request.
    """
    file = io.BytesIO()
    download_to(file, url, config, resolver)
    return file.getvalue()


def download_to(file: "Writable", url: str, config: Config, resolver: Resolver | None = None) -> None:
    """The same into a file, so that many downloads at a time take little memory."""
    try:
        run(lambda: _download(file, url, config, resolver), config.fetch_timeout_s)
    except NotAllowed as error:
        raise SourceNotAllowed("the picture's address is not one that this server may fetch from") from error
    except Unreachable as error:
        raise SourceUnreachable(f"the picture could not be downloaded: {error}") from error


class Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


async def _download(file: Writable, url: str, config: Config, resolver: Resolver | None) -> None:
    for _ in range(MAX_REDIRECTS + 1):
        target = await _ask(file, url, config, resolver)
        if target is None:
            return
        url = target
    raise SourceUnreachable(f"the picture's address redirects more than {MAX_REDIRECTS} times")


async def _ask(file: Writable, url: str, config: Config, resolver: Resolver | None) -> str | None:
    """One request: the URL that it redirects to, or None when the body has been written to the file."""
    async with request("GET", url, config, config.fetch_timeout_s, _HEADERS, resolver=resolver) as response:
        if response.next_request is not None:
            return str(response.next_request.url)
        if response.status_code != 200:
            raise Unreachable(f"its server answered {response.status_code}")
        await _read(file, response, config.max_source_bytes)
        return None


async def _read(file: Writable, response: httpx.Response, limit: int) -> None:
    too_large = SourceTooLarge(f"the picture's file is over this server's limit of {limit} bytes")
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and len(length) < 20 and int(length) > limit:
        raise too_large
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > limit:
            raise too_large
        file.write(chunk)
