"""Requests to URLs that callers choose, protected against server-side request forgery (SSRF): downloads of pictures,
webhooks and uploads of results.

A name is resolved once, each of its addresses must be public (or on the operator's list, `UPSCALE_ALLOW_HOSTS`), and
the connection goes to the checked address. Redirects are not followed automatically: each is a new URL to be checked.
Error messages for callers never reveal what a name resolved to.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from ssl import SSLContext
from typing import TypeVar
from urllib.parse import urlsplit

import anyio
import httpx
from ssrfguard import Policy, Resolver, SSRFGuardError
from ssrfguard.httpx import AsyncClient

from server import __version__
from server.blobs.base import Reader
from server.config import BadConfig, Config

MAX_URL_LENGTH = 8192
_CONNECT_S = 5.0
_ANSWER_BYTES = 4096
_PIECE_BYTES = 1 << 18
_NOT_ALLOWED = "the address is not one that this server may call"
_USER_AGENT = f"upscale-server/{__version__}"
# Lone surrogates can't be encoded, PostgreSQL can't store NUL; neither is part of any URL.
_NOT_IN_URL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_EVERYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))

_T = TypeVar("_T")


class NotAllowed(Exception):
    """This server must not call that address."""


class Unreachable(Exception):
    """No answer, or an incomplete one; the text gives the reason."""


def is_web_url(text: str) -> bool:
    """Whether it is an http(s) URL at all. Whether it may be called is checked when it is called."""
    return _read_url(text) is not None


def why_not(url: str, config: Config) -> str | None:
    """Why this server must not call the URL, as far as that is known before a name is resolved: its port, or a private
    address. None: no reason is known."""
    address = _read_url(url)
    if address is None:
        return _NOT_ALLOWED
    try:
        policy = _policy(address, read_allowed(config.allow_hosts))
        policy.check_url(str(address))
        if address.host == "localhost" or address.host.endswith(".localhost"):
            policy.check_address("127.0.0.1")
    except NotAllowed as error:
        return str(error)
    except SSRFGuardError:
        return _NOT_ALLOWED
    return None


def send(
    method: str, url: str, body: bytes | Reader, headers: Mapping[str, str], config: Config, timeout_s: float
) -> int:
    """The status of the answer; the rest of the answer is dropped. No redirect is followed. A blob is read while it is
    sent.

    Raises NotAllowed and Unreachable; ends within `timeout_s`.
    """
    if isinstance(body, bytes):
        return _send(method, url, body, headers, config, timeout_s)
    return _send(method, url, _pieces(body), {**headers, "Content-Length": str(body.size)}, config, timeout_s)


async def _pieces(reader: Reader) -> AsyncIterator[bytes]:
    for start in range(0, reader.size, _PIECE_BYTES):
        yield reader.read(start, _PIECE_BYTES)


def _send(
    method: str,
    url: str,
    body: bytes | AsyncIterator[bytes],
    headers: Mapping[str, str],
    config: Config,
    timeout_s: float,
) -> int:
    async def exchange() -> int:
        async with request(method, url, config, timeout_s, headers, body) as response:
            # Most answers are short. Reading them whole avoids a connection error on the other side.
            with suppress(httpx.HTTPError), anyio.move_on_after(1):
                size = 0
                async for chunk in response.aiter_raw():
                    size += len(chunk)
                    if size > _ANSWER_BYTES:
                        break
            return response.status_code

    return run(exchange, timeout_s)


@asynccontextmanager
async def request(
    method: str,
    url: str,
    config: Config,
    timeout_s: float,
    headers: Mapping[str, str],
    body: bytes | AsyncIterator[bytes] | None = None,
    resolver: Resolver | None = None,
) -> AsyncIterator[httpx.Response]:
    """One request; the body of its answer is not read yet. To be used within `run`.

    `resolver` has the form of socket.getaddrinfo, its default; the addresses that it returns are checked.
    """
    address = _read_url(url)
    if address is None:
        raise NotAllowed(_NOT_ALLOWED)
    policy = _policy(address, read_allowed(config.allow_hosts))
    timeout = httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s))
    async with AsyncClient(policy=policy, resolver=resolver, verify=_tls(), trust_env=False, timeout=timeout) as client:
        sent = client.build_request(method, address, headers={"User-Agent": _USER_AGENT, **headers}, content=body)
        try:
            response = await client.send(sent, stream=True)
        except UnicodeError as error:  # httpx parses the target of a redirect even if it does not follow it
            raise Unreachable("its server redirects to an invalid URL") from error
        try:
            yield response
        finally:
            await response.aclose()


def run(exchange: Callable[[], Awaitable[_T]], timeout_s: float) -> _T:
    """Run the exchange, for `timeout_s` at most, however slowly the other side sends. Raises NotAllowed and
    Unreachable."""

    async def timed() -> _T:
        with anyio.fail_after(timeout_s):
            return await exchange()

    try:
        return anyio.run(timed)
    except TimeoutError as error:
        raise Unreachable(f"its server was not done within {timeout_s:g} seconds") from error
    except httpx.TimeoutException as error:
        raise Unreachable("its server does not answer") from error
    except (SSRFGuardError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise NotAllowed(_NOT_ALLOWED) from error
    except httpx.HTTPError as error:
        raise Unreachable("its server can't be reached") from error


def _read_url(text: str) -> httpx.URL | None:
    """None if it is not an http(s) URL.

    Two parsers check it, because each accepts what the other refuses: httpx ports like 99999, +80 and 8_0, urlsplit
    names that are invalid in IDNA.
    """
    if len(text) > MAX_URL_LENGTH or _NOT_IN_URL.search(text):
        return None
    try:
        parts, url = urlsplit(text), httpx.URL(text)
        good = parts.scheme in ("http", "https") and parts.hostname and url.host and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        return None
    return url if good else None


# --- the operator's list --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Allowed:
    """One entry of `allow_hosts`: a name or a network, at one port or at any."""

    name: str | None
    network: IPv4Network | IPv6Network | None
    port: int | None


def read_allowed(entries: Iterable[str]) -> tuple[Allowed, ...]:
    """`name`, `address` or `network/bits`, optionally with `:port` (then IPv6 in brackets). Raises BadConfig."""
    return tuple(_read_entry(entry) for entry in entries)


def _read_entry(entry: str) -> Allowed:
    host, colon, port = entry.rpartition(":") if entry.count(":") == 1 or "]:" in entry else (entry, "", "")
    host = host.removeprefix("[").removesuffix("]").lower()
    try:
        if colon and not 0 < int(port) < 65536:
            raise ValueError("no such port")
        if re.fullmatch(r"[0-9.]+|.*[:/].*", host):
            network = ip_network(host)
            Policy(allowed_networks=(network,))  # refuses networks that would allow every address by translation
            return Allowed(None, network, int(port) if port else None)
        if not re.fullmatch(r"[\w.-]+", host):
            raise ValueError("not a host name")
    except ValueError as error:
        raise BadConfig(f"UPSCALE_ALLOW_HOSTS: {entry!r}: {error}") from error
    return Allowed(host, None, int(port) if port else None)


def _policy(url: httpx.URL, allowed: Sequence[Allowed]) -> Policy:
    """What one request may reach. On public hosts only web and unprivileged ports, so that no mail server is called."""
    host = url.raw_host.decode("ascii")
    port = url.port or (443 if url.scheme == "https" else 80)
    here = [each for each in allowed if each.port in (None, port)]
    networks = [each.network for each in here if each.network is not None]
    if any(each.name == host for each in here):
        networks, listed = list(_EVERYWHERE), True
    else:
        listed = any(_literal_in(host, network) for network in networks)
    if not (listed or port in (80, 443) or port >= 1024):
        raise NotAllowed("the port is not one that this server may call")
    return Policy(allowed_networks=tuple(networks), allowed_ports=frozenset({port}), max_url_length=MAX_URL_LENGTH)


def _literal_in(host: str, network: IPv4Network | IPv6Network) -> bool:
    try:
        return ip_address(host) in network
    except ValueError:
        return False


@cache
def _tls() -> SSLContext:
    return httpx.create_ssl_context(trust_env=False)  # takes 20 ms, and it never changes
