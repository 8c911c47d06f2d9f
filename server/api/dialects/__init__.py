"""The HTTP APIs that this server speaks. A new one is a folder here and its line in DIALECTS."""

from server.api.dialects import native, novita, runware, vibedream, wavespeed
from server.api.dialects.base import Dialect

DIALECTS: tuple[Dialect, ...] = (wavespeed, vibedream, novita, runware, native)
"""In the order in which paths are matched; native, which has all paths that no vendor has, comes last."""


def dialect_of(path: str) -> Dialect:
    """The dialect that answers for this path, whether or not there is a route."""
    return next(each for each in DIALECTS if any(_below(path, prefix) for prefix in each.PREFIXES))


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")
