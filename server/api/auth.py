"""Authentication: the `Authorization` header of a request → its caller; and which requests are allowed without keys."""

import base64
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
    """The owner id of a key, which jobs and uploads store."""


LOCAL = Caller("local")
"""Every caller of a server without keys; such a server listens on loopback only."""


class Auth:
    """Authenticates callers. Without a key in the settings or in the table the server is open to its own machine.

    It never becomes open again, not even when every key has been revoked: an operator who revokes a key wants less
    access, not more. The database is read each time, so that a change of a key takes effect at the next request.
    """

    def __init__(self, config: Config, keys: Keys) -> None:
        """Raises BadConfig."""
        self._keys = keys
        self._cors = Cors(config)
        self._public = urlsplit(config.public_base_url).hostname if config.public_base_url else None
        self._fixed = {hashed: owner_of(hashed) for hashed in map(hash_key, config.api_keys)}
        self._has_keys = bool(self._fixed)

    def is_open(self) -> bool:
        """Whether there has never been a key."""
        if not self._has_keys:
            self._has_keys = self._keys.any()
        return not self._has_keys

    def authenticate(self, authorization: str | None) -> Caller:
        """The caller with this header: `Bearer KEY`, `Token KEY` or only `KEY`, as the vendors' SDKs send it; or Basic
        with any user name and the key as the password. Raises Unauthorized."""
        if self.is_open():
            return LOCAL
        # Keys are compared by their hashes, which an attacker can't choose: see keys.py.
        hashed = hash_key(_key_in(authorization or ""))
        owner = self._fixed.get(hashed) or self._keys.find(hashed)
        if owner is None:
            raise Unauthorized("Invalid API key")
        return Caller(owner)

    def check(self, caller: Caller) -> None:
        """Check again a caller who was authenticated before. Raises Unauthorized when the key has been revoked."""
        if not (self.is_open() or caller.id in self._fixed.values() or self._keys.is_valid(caller.id)):
            raise Unauthorized("Invalid API key")

    def check_origin(self, headers: Mapping[str, str]) -> None:
        """Refuse requests of other sites' web pages to an open server. Raises Forbidden.

        Loopback does not protect from a browser on this machine: any page in it may send requests there, and by DNS
        rebinding even read the answers. Such requests name another host, or come from another origin. Origins that the
        operator has listed by name are allowed; `*` allows none where there are no keys. A request without a Host
        header is not a browser's: all browsers send one, monitors that speak HTTP/1.0 do not.
        """
        if self._is_foreign(headers) and self.is_open():
            raise Forbidden("without API keys this server answers its own machine only; `keys create` makes one")

    def _is_foreign(self, headers: Mapping[str, str]) -> bool:
        host, origin = headers.get("host", ""), headers.get("origin")
        names = [_hostname(f"//{host}")] if host else []
        if origin is not None and not self._cors.is_listed(origin):
            names.append(_hostname(origin))
        return not all(name is not None and (name == self._public or _is_loopback(name)) for name in names)


def _hostname(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        return parts.hostname if parts.port is None or parts.port else None
    except ValueError:  # brackets around text that is not an address, a port that is not a number
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
    if scheme.lower() == "basic":
        return _password(rest.strip())
    return rest.strip() if scheme.lower() in ("bearer", "token") else authorization.strip()


def _password(credentials: str) -> str:
    """Empty if it is not base64 of a user name, a colon and a password."""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""
