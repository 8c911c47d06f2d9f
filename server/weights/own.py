"""Checkpoints of the operator's own, dropped into the weights folder: what `index.json` beside them says of each.

To recognise a network one must read its weights, which takes torch; `indexer.py` does that when a worker starts, and on
the command line. The API half reads what it wrote, and believes it of a file while its size and time are unchanged.
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
    """What was recognised in a file."""

    sha256: str
    arch: str
    scale: int
    tile: int
    halo: int


@dataclass(frozen=True)
class Own:
    """One file that the manifest doesn't know."""

    file: str
    size: int
    mtime_ns: int
    network: Network | None
    problem: str | None
    """Why it can't be used, or None. There is either this or a network."""

    @property
    def name(self) -> str:
        """What callers name it by."""
        return Path(self.file).stem


def candidates(folder: Path, manifest: Manifest) -> list[Path]:
    """The files in the weights folder that may be the operator's own checkpoints."""
    known = {str(file.path) for entry in manifest.entries.values() for file in entry.files}
    if not folder.is_dir():
        return []
    paths = sorted(folder.iterdir())
    return [path for path in paths if path.suffix in SUFFIXES and path.name not in known and path.is_file()]


def read_index(folder: Path) -> list[Own]:
    """What is known of the files that are still as they were then."""
    try:
        rows: list[dict[str, Any]] = json.loads((folder / _INDEX).read_text("utf-8"))
        found = [Own(**{**row, "network": row["network"] and Network(**row["network"])}) for row in rows]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return []  # none, or damaged, or another version's: it is only a cache
    return [own for own in found if stamp(folder / own.file) == (own.size, own.mtime_ns)]


def write_index(folder: Path, found: Sequence[Own]) -> None:
    write_atomically(folder / _INDEX, json.dumps([asdict(own) for own in found], indent=2))


def stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file, or None when there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
