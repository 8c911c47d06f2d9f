"""The HTTP APIs we speak. A new one is a file here and its line in DIALECTS."""

from server.api.dialects.base import Dialect
from server.api.dialects.native import routes as native
from server.api.dialects.novita import routes as novita
from server.api.dialects.runware import routes as runware
from server.api.dialects.vibedream import routes as vibedream
from server.api.dialects.wavespeed import routes as wavespeed

DIALECTS: tuple[Dialect, ...] = (wavespeed, vibedream, novita, runware, native)
"""In the order in which paths are asked for; native, which owns whatever no vendor does, comes last."""


def dialect_of(path: str) -> Dialect:
    """Who answers for this path, whether or not there is anything at it."""
    return next(each for each in DIALECTS if any(_below(path, prefix) for prefix in each.PREFIXES))


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")
