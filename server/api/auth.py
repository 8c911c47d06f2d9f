"""API keys: the `Authorization` header of a request → whose request it is; and who may ask where there are none."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from server.api.cors import Cors
from server.config import Config
from server.db.keys import Keys, hash_key, owner_of
from server.errors import Forbidden, Unauthorized


@dataclass(frozen=True)
class Caller:
    id: str
    """Stands for a key wherever jobs and uploads name their owner."""


LOCAL = Caller("local")
"""Everybody, on a server without keys: such a server listens on loopback only."""


class Gate:
    """Who may come in. It is open, to this machine, until there is a key in the settings or in the table.

    It never opens again, not even when every key has been revoked: who takes a key away wants less access, not more.
    It reads the database each time, so that what an operator does to a key counts from the next request on.
    """

    def __init__(self, config: Config, keys: Keys) -> None:
        """Raises BadConfig."""
        self._keys = keys
        self._cors = Cors(config)
        self._public = urlsplit(config.public_base_url).hostname if config.public_base_url else None
        self._fixed = {hashed: owner_of(hashed) for hashed in map(hash_key, config.api_keys)}
        self._closed = bool(self._fixed)

    def is_open(self) -> bool:
        if not self._closed:
            self._closed = self._keys.any()
        return not self._closed

    def admit(self, authorization: str | None) -> Caller:
        """Who sends this header: `Bearer KEY`, or the bare `KEY` that some vendors' SDKs send. Raises Unauthorized."""
        if self.is_open():
            return LOCAL
        # Keys are compared by their hashes, of which nobody who guesses can choose a part: see keys.py.
        hashed = hash_key(_key_in(authorization or ""))
        owner = self._fixed.get(hashed) or self._keys.find(hashed)
        if owner is None:
            raise Unauthorized("Invalid API key")
        return Caller(owner)

    def check(self, caller: Caller) -> None:
        """Whether who was let in before still may be here. Raises Unauthorized."""
        if not (self.is_open() or caller.id in self._fixed.values() or self._keys.is_good(caller.id)):
            raise Unauthorized("Invalid API key")

    def check_origin(self, headers: Mapping[str, str]) -> None:
        """Keep strangers' web pages out of an open server. Raises Forbidden.

        Loopback is no wall against a browser on this machine: any page it shows may send requests there, and by DNS
        rebinding even read the answers. Such requests name another host, or come from another origin. Origins that the
        operator has listed one by one may; `*` lets nobody in where there are no keys. Without a Host header it is no
        browser: they all send one, monitors that speak HTTP/1.0 do not.
        """
        if self._is_foreign(headers) and self.is_open():
            raise Forbidden("without API keys this server answers its own machine only; `keys create` makes one")

    def _is_foreign(self, headers: Mapping[str, str]) -> bool:
        host, origin = headers.get("host", ""), headers.get("origin")
        names = [_hostname(f"//{host}")] if host else []
        if origin is not None and not self._cors.named(origin):
            names.append(_hostname(origin))
        return not all(name is not None and (name == self._public or _is_loopback(name)) for name in names)


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # brackets around what is no address
        return None


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
