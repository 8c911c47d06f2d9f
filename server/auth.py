"""API keys: the `Authorization` header of a request → whose request it is."""

import hashlib
import hmac
from dataclasses import dataclass

from server.config import Config
from server.errors import Unauthorized


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


def _key_in(authorization: str) -> str:
    scheme, _, rest = authorization.strip().partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else authorization.strip()
