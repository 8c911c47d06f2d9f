"""Reads `weights/manifest.toml`: the checkpoints that the server knows, their sources and licences."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from server.errors import InvalidRequest
from server.job.tiling import Geometry

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_REPOSITORY = Path(__file__).parents[2] / "weights"
_INSTALLED = Path(__file__).parents[1] / "weights_data"  # the same folder in a wheel
FOLDER = _INSTALLED if _INSTALLED.exists() else _REPOSITORY  # beside an installed one, `weights` is not ours

ALL = "all"
"""The group of all weights that can be downloaded."""


class Kind(str, Enum):
    UPSCALER = "upscaler"
    FACE_RESTORER = "face-restorer"
    FACE_DETECTOR = "face-detector"
    FACE_PARSER = "face-parser"
    DIFFUSION = "diffusion"
    CONTROLNET = "controlnet"


@dataclass(frozen=True)
class PackageFile:
    """The same network in a Python package, in another number format."""

    places: tuple[tuple[str, str], ...]
    """Distributions that have this file, and its path in each; the first is a dependency of this server."""
    sha256: str
    size: int
    """In bytes."""
    form: str
    """The number format: "fp16"."""


@dataclass(frozen=True)
class File:
    """One file of an entry."""

    path: PurePosixPath
    """Relative to the weights folder, and to the URL of a mirror."""
    url: str
    """Where its authors publish it; empty for bundled files."""
    sha256: str | None
    size: int | None
    """In bytes. Like the hash, None if no two public sources agree on it."""


@dataclass(frozen=True)
class Entry:
    """The manifest's facts about a checkpoint, installed or not."""

    name: str
    kind: Kind
    bundled: bool
    """Part of the server; all others are installed in the weights folder."""
    path: PurePosixPath
    """Of its only file, or of the folder of its files."""
    files: tuple[File, ...]
    arch: str
    geometry: Geometry | None
    """None for anything but upscalers."""
    licence: str
    commercial: bool
    """Whether the licence clearly allows commercial use."""
    note: str
    package: PackageFile | None = None
    """The same network in a Python package, used if it is not installed in the weights folder."""

    @property
    def size(self) -> int | None:
        """In bytes, or None if the size of any file is unknown."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)


@dataclass(frozen=True)
class Manifest:
    folder: Path
    """The manifest's folder; its subfolder `bundled/` has the bundled weights."""
    entries: Mapping[str, Entry]
    """By name, in the manifest's order."""
    groups: Mapping[str, tuple[str, ...]]

    def select(self, names: Sequence[str]) -> list[Entry]:
        """The entries of these names and groups, without repetition. Raises InvalidRequest for an unknown name."""
        found: dict[str, Entry] = {}
        for name in names:
            members = (name,) if name in self.entries else self.groups.get(name)
            if members is None:
                known = ", ".join((*self.groups, *self.entries))
                raise InvalidRequest(f"there are no weights {name!r}; the manifest has {known}", field="name")
            found |= {member: self.entries[member] for member in members}
        return list(found.values())

    def hint(self, name: str) -> str:
        """The argument for `weights pull` that installs this entry with everything that it needs."""
        if self.entries[name].kind is Kind.UPSCALER:
            return name
        groups = (group for group, members in self.groups.items() if name in members and group != ALL)
        return next(groups, name)


def read_manifest(folder: Path = FOLDER) -> Manifest:
    """The manifest in `folder`, by default the server's own."""
    return _parsed(folder, (folder / "manifest.toml").read_text("utf-8"))


@lru_cache(4)
def _parsed(folder: Path, text: str) -> Manifest:
    content = tomllib.loads(text)
    entries = {name: _entry(name, values) for name, values in content["models"].items()}
    groups = {name: tuple(members) for name, members in content.get("groups", {}).items()}
    groups[ALL] = tuple(name for name, entry in entries.items() if not entry.bundled)
    return Manifest(folder, entries, groups)


def _entry(name: str, values: dict[str, Any]) -> Entry:
    url = values.get("url", "")
    if "folder" in values:
        path = PurePosixPath(values["folder"])
        files = tuple(_file(path / each["file"], url + each["file"], each) for each in values["files"])
    else:
        path = PurePosixPath(values["file"])
        files = (_file(path, url, values),)
    kind = Kind(values["kind"])
    return Entry(
        name=name,
        kind=kind,
        bundled=values["bundled"],
        path=path,
        files=files,
        arch=values["arch"],
        geometry=Geometry(name, values["scale"], values["tile"], values["halo"]) if kind is Kind.UPSCALER else None,
        licence=values["licence"],
        commercial=values["commercial"],
        note=values["note"],
        package=_package(values["package"]) if "package" in values else None,
    )


def _package(values: dict[str, Any]) -> PackageFile:
    places = tuple((each["name"], each["file"]) for each in values["places"])
    return PackageFile(places, values["sha256"], values["bytes"], values["form"])


def _file(path: PurePosixPath, url: str, values: dict[str, Any]) -> File:
    return File(path, url, values.get("sha256"), values.get("bytes"))
