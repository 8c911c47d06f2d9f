"""Where a source picture comes from: an address, one of our own files, or the bytes themselves.

Callers choose addresses, so downloading is guarded: a name is resolved once, every address it has must be public (or
on the operator's list, `UPSCALE_ALLOW_HOSTS`), the connection goes to the address that was looked at, and every
redirect is looked at anew. What a caller reads in an error never tells what a name resolved to.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from ssl import SSLContext
from urllib.parse import unquote_to_bytes

import anyio
import httpx
from ssrfguard import Policy, SSRFGuardError
from ssrfguard.httpx import AsyncClient

from server import __version__
from server.blobs import KEY
from server.config import BadConfig, Config
from server.errors import InvalidField, SourceNotAllowed, SourceTooLarge, SourceUnreachable

MAX_REDIRECTS = 5
MAX_URL_LENGTH = 8192
_CONNECT_S = 5.0
_HEADERS = {
    "User-Agent": f"upscale-server/{__version__}",
    "Accept": "image/*, */*;q=0.5",
    "Accept-Encoding": "identity",  # so that the bytes counted are the bytes kept
}
_DATA_URI = re.compile(r"data:(image/[\w.+-]+|application/octet-stream|)((?:;[^;,]*)*),", re.IGNORECASE)
# Lone surrogates can't be encoded, NUL can't be kept by PostgreSQL; neither is part of any URL.
_NOT_IN_URL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_EVERYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
_REFUSED = "the picture's address is not one that this server may fetch from"


@dataclass(frozen=True)
class Source:
    """A picture to be worked on; exactly one of the three is given."""

    data: bytes | None = None
    url: str | None = None
    """Still to be downloaded."""
    key: str | None = None
    """One of our own files."""

    def __post_init__(self) -> None:
        assert [self.data, self.url, self.key].count(None) == 2


def parse_source(text: str, own_bases: Sequence[str]) -> Source:
    """What a caller wrote as its picture: a URL, a data URI or bare base64. Raises InvalidField.

    `own_bases` are the starts of our own links: a file of ours is read directly, not over the network.
    """
    text = text.strip()
    if text[:8].lower().startswith(("http://", "https://")):
        if len(text) > MAX_URL_LENGTH or _NOT_IN_URL.search(text):
            raise _not_a_source()
        for base in own_bases:
            key = text.removeprefix(f"{base}/files/")
            if KEY.fullmatch(key):
                return Source(key=key)
        return Source(url=text)
    head = _DATA_URI.match(text)
    if head is None:
        return Source(data=_from_base64(text))
    if head[2].lower().endswith(";base64"):
        return Source(data=_from_base64(text[head.end() :]))
    try:
        return Source(data=unquote_to_bytes(text[head.end() :]))
    except ValueError as error:
        raise _not_a_source() from error


def _from_base64(text: str) -> bytes:
    """Standard or URL-safe alphabet, padded or not, in lines or not."""
    digits = text.replace("\r", "").replace("\n", "").replace("-", "+").replace("_", "/").rstrip("=")
    try:
        data = base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except ValueError as error:
        raise _not_a_source() from error
    if not data:
        raise _not_a_source()
    return data


def _not_a_source() -> InvalidField:
    return InvalidField("image must be an http(s) URL, a data URI of a picture, or base64", field="image")


@dataclass(frozen=True)
class Allowed:
    """One entry of `allow_hosts`: a name or a network, at one port or at all."""

    name: str | None
    network: IPv4Network | IPv6Network | None
    port: int | None


def read_allowed(entries: Iterable[str]) -> tuple[Allowed, ...]:
    """`name`, `address` or `network/bits`, perhaps with `:port` (then IPv6 in brackets). Raises BadConfig."""
    return tuple(_read_entry(entry) for entry in entries)


def _read_entry(entry: str) -> Allowed:
    host, colon, port = entry.rpartition(":") if entry.count(":") == 1 or "]:" in entry else (entry, "", "")
    host = host.removeprefix("[").removesuffix("]").lower()
    try:
        if colon and not 0 < int(port) < 65536:
            raise ValueError("no such port")
        if re.fullmatch(r"[0-9.]+|.*[:/].*", host):
            network = ip_network(host)
            Policy(allowed_networks=(network,))  # knows networks that would let everything through by translation
            return Allowed(None, network, int(port) if port else None)
        if not re.fullmatch(r"[\w.-]+", host):
            raise ValueError("not a host name")
    except ValueError as error:
        raise BadConfig(f"UPSCALE_ALLOW_HOSTS: {entry!r}: {error}") from error
    return Allowed(host, None, int(port) if port else None)


def download(url: str, config: Config) -> bytes:
    """The file at that address. Raises SourceUnreachable, SourceNotAllowed or SourceTooLarge.

    Ends within `config.fetch_timeout_s`, however slowly the other side drips.
    """
    try:
        return anyio.run(_download, url, config)
    except TimeoutError as error:
        raise SourceUnreachable(
            f"the picture could not be downloaded within {config.fetch_timeout_s:g} seconds"
        ) from error
    except httpx.TimeoutException as error:
        raise SourceUnreachable("the picture could not be downloaded: its server does not answer") from error
    except (SSRFGuardError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise SourceNotAllowed(_REFUSED) from error
    except httpx.HTTPError as error:
        raise SourceUnreachable("the picture could not be downloaded: its server can't be reached") from error


async def _download(url: str, config: Config) -> bytes:
    allowed = read_allowed(config.allow_hosts)
    with anyio.fail_after(config.fetch_timeout_s):
        for _ in range(MAX_REDIRECTS + 1):
            answer = await _request(httpx.URL(url), allowed, config)
            if isinstance(answer, bytes):
                return answer
            url = answer
    raise SourceUnreachable(f"the picture's address redirects more than {MAX_REDIRECTS} times")


async def _request(url: httpx.URL, allowed: Sequence[Allowed], config: Config) -> bytes | str:
    """One request: the body, or the address that it redirects to."""
    timeout = httpx.Timeout(config.fetch_timeout_s, connect=_CONNECT_S)
    async with (
        AsyncClient(
            policy=_policy(url, allowed), verify=_tls(), trust_env=False, timeout=timeout, headers=_HEADERS
        ) as client,
        client.stream("GET", url) as response,
    ):
        if response.next_request is not None:
            return str(response.next_request.url)
        if response.status_code != 200:
            raise SourceUnreachable(f"the picture could not be downloaded: its server answered {response.status_code}")
        return await _read(response, config.max_source_bytes)


async def _read(response: httpx.Response, limit: int) -> bytes:
    too_large = SourceTooLarge(f"the picture's file is over this server's limit of {limit} bytes")
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > limit:
            raise too_large
    return bytes(data)


def _policy(url: httpx.URL, allowed: Sequence[Allowed]) -> Policy:
    """What one request may reach. Of public hosts, web and unprivileged ports: nobody is to talk to mail servers."""
    host = url.raw_host.decode("ascii")
    port = url.port or (443 if url.scheme == "https" else 80)
    here = [each for each in allowed if each.port in (None, port)]
    networks = [each.network for each in here if each.network is not None]
    if any(each.name == host for each in here):
        networks, listed = list(_EVERYWHERE), True
    else:
        listed = any(_literal_in(host, network) for network in networks)
    if not (listed or port in (80, 443) or port >= 1024):
        raise SourceNotAllowed(_REFUSED)
    return Policy(allowed_networks=tuple(networks), allowed_ports=frozenset({port}), max_url_length=MAX_URL_LENGTH)


def _literal_in(host: str, network: IPv4Network | IPv6Network) -> bool:
    try:
        return ip_address(host) in network
    except ValueError:
        return False


@cache
def _tls() -> SSLContext:
    return httpx.create_ssl_context(trust_env=False)  # costs 20 ms, and nothing in it changes
