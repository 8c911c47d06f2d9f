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

SUFFIXES = (".pth", ".pt", ".safetensors")
_INDEX = "index.json"
_STATED = ".json"
"""After a checkpoint's whole name."""

_COMMERCIAL = {
    *("0bsd", "agpl-3.0", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0"),
    *("gpl-3.0", "isc", "lgpl-3.0", "mit", "mpl-2.0", "unlicense", "wtfpl"),
}
"""Licences, by their SPDX names, that clearly allow commercial use."""
_NON_COMMERCIAL_CODE = {"AuraSR", "GFPGAN", "RestoreFormer"}
"""Architectures whose code in spandrel has other terms than spandrel itself."""


@dataclass(frozen=True)
class Stated:
    """What the operator has said of a checkpoint: `weights add`. It lies beside it as NAME.pth.json."""

    sha256: str
    licence: str = ""
    author: str = ""
    source: str = ""
    """The address where it was published."""
    purpose: str = ""
    scale: int | None = None
    """Where the weights do not tell it: ESRGAN of ×3."""


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


def stated_at(path: Path) -> Path:
    """The file beside a checkpoint."""
    return path.with_name(path.name + _STATED)


def read_stated(path: Path) -> Stated | None:
    """What was said of the checkpoint at `path`; None if nothing was, or if it can't be read."""
    try:
        return Stated(**json.loads(stated_at(path).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def allows_commercial(licence: str, arch: str) -> bool:
    """Whether a licence that was stated, and the architecture's code, clearly allow commercial use."""
    name = licence.lower().removesuffix("-only").removesuffix("-or-later")
    return name in _COMMERCIAL and arch not in _NON_COMMERCIAL_CODE


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
    """Size and modification time of a checkpoint, or of what was stated of it if that is newer; None if it does not
    exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    stated = stated_at(path)
    return status.st_size, max(status.st_mtime_ns, stated.stat().st_mtime_ns if stated.exists() else 0)
