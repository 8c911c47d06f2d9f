"""Which networks there are, and where their weights lie: `weights/manifest.toml` turned into checked local files.

No torch in here: the API half also asks which models exist and what shape their work has.
"""

import hashlib
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from server.errors import ModelNotFound
from server.plan import Shape

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_REPOSITORY = Path(__file__).parent.parent / "weights"
_INSTALLED = Path(__file__).parent / "weights_data"  # where the wheel puts the same folder
FOLDER = _REPOSITORY if (_REPOSITORY / "manifest.toml").exists() else _INSTALLED

AUTO = "auto"


@dataclass(frozen=True)
class Checkpoint:
    """One entry of the manifest whose file is here."""

    name: str
    path: Path
    sha256: str | None
    """What the file must hash to, or None when nobody knows: a file of the operator's own."""
    shape: Shape
    licence: str
    note: str


class Catalog:
    """The models of this machine: those bundled with the server, then those installed in `folder`."""

    def __init__(self, folder: Path, *, tile: int = 0) -> None:
        """`tile` replaces every model's own tile side, unless 0."""
        self._folder = folder
        self._tile = tile
        self._entries: dict[str, dict[str, Any]] = tomllib.loads((FOLDER / "manifest.toml").read_text("utf-8"))[
            "models"
        ]

    def names(self) -> list[str]:
        """Those whose files are here, best first: the manifest's order."""
        return [name for name in self._entries if self._path(name).is_file()]

    def get(self, name: str) -> Checkpoint:
        """The model of that name; "auto" is the best one present. Raises ModelNotFound."""
        if name == AUTO:
            present = self.names()
            if not present:
                raise ModelNotFound("no weights are installed")
            name = present[0]
        entry = self._entries.get(name)
        if entry is None:
            raise ModelNotFound(f"there is no model {name!r}; installed are {', '.join(self.names())}", field="model")
        path = self._path(name)
        if not path.is_file():
            raise ModelNotFound(
                f"the weights of {name!r} are not installed: put {path.name} into {path.parent}", field="model"
            )
        shape = Shape(name, entry["scale"], entry["tile"], entry["halo"])
        if self._tile:
            shape = replace(shape, tile=max(self._tile, 2 * shape.halo + 16))
        return Checkpoint(name, path, entry.get("sha256"), shape, entry["licence"], entry.get("note", ""))

    def _path(self, name: str) -> Path:
        entry = self._entries[name]
        folder = FOLDER / "bundled" if entry["bundled"] else self._folder
        return folder / str(entry["file"])


@cache
def sha256_of(path: Path) -> str:
    """Hash of a file, read once per process."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify(checkpoint: Checkpoint) -> str:
    """The file's SHA-256, which must be the manifest's. Raises ModelNotFound when it is not."""
    digest = sha256_of(checkpoint.path)
    if checkpoint.sha256 not in (None, digest):
        raise ModelNotFound(
            f"the weights of {checkpoint.name!r} are damaged or not the ones of the manifest: {checkpoint.path} "
            f"has SHA-256 {digest}, not {checkpoint.sha256}"
        )
    return digest
