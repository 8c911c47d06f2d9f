"""API keys: the `Authorization` header of a request → whose request it is; and who may ask where there are none."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from server.config import Config
from server.errors import Forbidden, Unauthorized


@dataclass(frozen=True)
class Caller:
    id: str
    """Stands for a key wherever jobs and uploads name their owner; the key can't be told from it."""


LOCAL = Caller("local")
"""Everybody, on a server without keys: such a server listens on loopback only."""


def authenticate(authorization: str | None, config: Config) -> Caller:
    """Who sends this header: `Bearer KEY`, or the bare `KEY` that some vendors' SDKs send. Raises Unauthorized."""
    if not config.api_keys:
        return LOCAL
    key = _key_in(authorization or "").encode()
    # Every key is compared, in constant time, so that an answer's time tells nothing about any of them.
    matches = [hmac.compare_digest(key, known.encode()) for known in config.api_keys]
    if not any(matches):
        raise Unauthorized("Invalid API key")
    return Caller(hashlib.sha256(key).hexdigest()[:16])


def check_origin(headers: Mapping[str, str], config: Config) -> None:
    """Keep strangers' web pages out of a server without keys. Raises Forbidden.

    Loopback is no wall against a browser on this machine: any page it shows may send requests there, and by DNS
    rebinding even read the answers. Such requests name another host, or come from another origin.
    """
    if config.api_keys:
        return
    public = urlsplit(config.public_base_url).hostname if config.public_base_url else None
    host = urlsplit(f"//{headers.get('host', '')}").hostname
    origin = headers.get("origin")
    for name in (host, host if origin is None else urlsplit(origin).hostname):
        if name is None or not (name == public or _is_loopback(name)):
            raise Forbidden("without API keys this server answers its own machine only; set UPSCALE_API_KEYS")


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _key_in(authorization: str) -> str:
    scheme, _, rest = authorization.strip().partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else authorization.strip()
