"""The operator's own checkpoints in the weights folder, and the facts about each in `index.json` there.

A network can only be recognised with torch; server/worker/indexer.py does that when a worker starts, and on the command
line. The API half reads the index, and ignores entries of files whose size or modification time has changed.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from server.files import write_atomically
from server.weights.manifest import Manifest

SUFFIXES = (".pth", ".safetensors")
_INDEX = "index.json"


@dataclass(frozen=True)
class Network:
    """The network that was recognised in a file."""

    sha256: str
    arch: str
    scale: int
    tile: int
    halo: int


@dataclass(frozen=True)
class Own:
    """A file in the weights folder that is not in the manifest."""

    file: str
    size: int
    mtime_ns: int
    network: Network | None
    problem: str | None
    """Why it can't be used. Exactly one of `network` and `problem` is None."""

    @property
    def name(self) -> str:
        """The name that callers use."""
        return Path(self.file).stem


def candidates(folder: Path, manifest: Manifest) -> list[Path]:
    """The files in the weights folder that may be the operator's own checkpoints."""
    known = {str(file.path) for entry in manifest.entries.values() for file in entry.files}
    if not folder.is_dir():
        return []
    paths = sorted(folder.iterdir())
    return [path for path in paths if path.suffix in SUFFIXES and path.name not in known and path.is_file()]


def read_index(folder: Path) -> list[Own]:
    """The entries of files that have not changed since they were indexed."""
    try:
        rows: list[dict[str, Any]] = json.loads((folder / _INDEX).read_text("utf-8"))
        found = [Own(**{**row, "network": row["network"] and Network(**row["network"])}) for row in rows]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return []  # missing, damaged, or of another version: it is only a cache
    return [own for own in found if stamp(folder / own.file) == (own.size, own.mtime_ns)]


def write_index(folder: Path, found: Sequence[Own]) -> None:
    write_atomically(folder / _INDEX, json.dumps([asdict(own) for own in found], indent=2))


def stamp(path: Path) -> tuple[int, int] | None:
    """Size and modification time of a file; None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
