"""Cross-origin resource sharing: the origins whose web pages may read our answers. None, unless the operator lists
them.

Browsers send a preflight request (`OPTIONS`) before a page may send anything but a plain form, and show a page only
answers that name its origin. Keys are sent in a header that the page's script sets; there are no cookies, so none are
allowed.
"""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from server.config import BadConfig, Config

ANY = "*"
METHODS = "GET, HEAD, POST, PUT, DELETE"
REQUEST_HEADERS = "Authorization, Content-Type, Range, If-Range, If-None-Match, If-Modified-Since, Prefer, Cancel-After"
EXPOSED = (
    "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, Last-Modified, Location, "
    "Mcp-Session-Id, Retry-After"
)
"""Headers of answers that scripts may read, in addition to those that are always readable."""
MAX_AGE_S = 7200
"""How long a browser may store the answer to a preflight request."""
_NAMES = re.compile(r"[\w!#$%&'*+.^`|~-]{1,64}(?:, ?[\w!#$%&'*+.^`|~-]{1,64}){0,32}", re.ASCII)


class Cors:
    def __init__(self, config: Config) -> None:
        """Raises BadConfig."""
        self._origins = read_origins(config.cors_origins)

    def is_listed(self, origin: str | None) -> bool:
        """Whether the operator has listed this origin by name."""
        return origin is not None and origin.lower() in self._origins

    def allows(self, origin: str | None) -> bool:
        return origin is not None and (ANY in self._origins or self.is_listed(origin))

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Headers of the answer to a request with these headers."""
        if not self._origins:
            return {}
        varies = {} if ANY in self._origins else {"Vary": "Origin"}
        origin = headers.get("origin")
        if not self.allows(origin):
            return varies
        return varies | {
            "Access-Control-Allow-Origin": self._allowed_origin(origin),
            "Access-Control-Expose-Headers": EXPOSED,
        }

    def preflight(self, method: str, headers: Mapping[str, str]) -> dict[str, str] | None:
        """Headers of the answer to a preflight request; None if the request is not one."""
        is_preflight = method == "OPTIONS" and "access-control-request-method" in headers
        origin = headers.get("origin")
        if not is_preflight or not self.allows(origin):
            return None
        wanted = headers.get("access-control-request-headers", "")
        answer = {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": wanted if _NAMES.fullmatch(wanted) else REQUEST_HEADERS,
            "Access-Control-Max-Age": str(MAX_AGE_S),
        }
        if headers.get("access-control-request-private-network") == "true":
            answer["Access-Control-Allow-Private-Network"] = "true"
        return self.headers(headers) | answer

    def _allowed_origin(self, origin: str | None) -> str:
        return ANY if ANY in self._origins else str(origin)


def read_origins(entries: Sequence[str]) -> frozenset[str]:
    """`scheme://host[:port]` each, or `*`. Raises BadConfig."""
    return frozenset(entry if entry == ANY else _read(entry) for entry in entries)


def _read(entry: str) -> str:
    origin = entry.lower()
    try:
        parts = urlsplit(origin)
        good = parts.scheme and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or origin != f"{parts.scheme}://{parts.netloc}" or "@" in origin:
        raise BadConfig(f"UPSCALE_CORS_ORIGINS: {entry!r} must be an origin like https://app.example, or *")
    usual = {"http": ":80", "https": ":443"}.get(parts.scheme, ":")
    return origin.removesuffix(usual)  # as browsers write it
