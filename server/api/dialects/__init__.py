"""The HTTP APIs that this server speaks. A new one is a folder here and its line in DIALECTS."""

from server.api.dialects import mcp, native, novita, replicate, runware, vibedream, wavespeed, webui
from server.api.dialects.base import Dialect

DIALECTS: tuple[Dialect, ...] = (wavespeed, vibedream, novita, runware, replicate, webui, mcp, native)
"""In the order in which documents list them; native, which has all paths that no vendor has, comes last."""


def dialect_of(path: str) -> Dialect:
    """The dialect with the longest prefix of this path, whether or not there is a route."""
    return next(dialect for prefix, dialect in _BY_PREFIX if _below(path, prefix))


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix if prefix.endswith("/") else f"{prefix}/")


_BY_PREFIX = sorted(
    ((prefix, each) for each in DIALECTS for prefix in each.PREFIXES), key=lambda found: len(found[0]), reverse=True
)
