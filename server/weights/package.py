"""Weights in a Python package: found by the package's metadata and read as data files.

The package is never imported: none of its code is needed.
"""

import functools
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from server.weights.manifest import PackageFile


@functools.lru_cache(maxsize=64)
def locate(name: str, file: str) -> Path | None:
    """The path of `file` of the distribution `name`; None if the package or the file is not installed."""
    try:
        path = Path(str(distribution(name).locate_file(file)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def find(source: PackageFile) -> Path | None:
    """The file in the first of its packages that is installed and has it; None if none has."""
    for name, file in source.places:
        path = locate(name, file)
        if path is not None:
            return path
    return None
