"""Weights that come inside a Python package: found through the package's metadata and read as data files.

The package itself is never imported: its code would run, and nothing of it is needed.
"""

import functools
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from server.weights.manifest import PackageFile


@functools.lru_cache(maxsize=64)
def locate(name: str, file: str) -> Path | None:
    """Where `file` of the distribution `name` lies, or None when the package or the file is not installed."""
    try:
        path = Path(str(distribution(name).locate_file(file)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def find(source: PackageFile) -> Path | None:
    """The file, from the first of its packages that is installed and has it; None where there is none."""
    for name, file in source.places:
        path = locate(name, file)
        if path is not None:
            return path
    return None
