"""A tar of installed weights, for machines without a network: `weights export` writes it, `weights import` reads it.

Its first member, `weights.json`, lists the other members with their SHA-256 and the manifest's facts about them. The
import accepts only files that are in its own manifest, uses the manifest's paths, and checks all files before it
installs the first.
"""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from server.config import LicencePolicy
from server.errors import InvalidRequest, ModelNotFound
from server.files import atomic_file, partial_files_removed_on_signals
from server.weights.catalog import check_licence
from server.weights.manifest import Entry, File, Manifest
from server.weights.store import Store, sha256_of

_LISTING = "weights.json"
_FORMAT = 1
_LARGEST_LISTING_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Listed:
    """One row of the listing."""

    entry: Entry
    file: File
    sha256: str
    size: int


def export(entries: Sequence[Entry], store: Store, tar: Path) -> list[Listed]:
    """Write the files of the entries, which must all be installed, to a new tar. The same files give the same tar.

    Raises ModelNotFound if a file is missing or damaged, InvalidRequest if there is nothing to write or `tar` exists,
    Unavailable if the disk is full.
    """
    if tar.exists():
        raise InvalidRequest(f"{tar} exists already")
    rows = [_row(entry, file, store) for entry in entries for file in entry.files]
    if not rows:
        raise InvalidRequest("there is nothing to export: no weights are installed")
    Store(tar.absolute().parent).require_space(sum(row.size for row in rows))
    with (
        partial_files_removed_on_signals(),
        atomic_file(tar) as partial,
        tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive,
    ):
        listing = _write_listing(rows)
        archive.addfile(_member(_LISTING, len(listing)), io.BytesIO(listing))
        for row in rows:
            with store.path(row.file).open("rb") as content:
                archive.addfile(_member(str(row.file.path), row.size), content)
    return rows


def import_(tar: Path, store: Store, manifest: Manifest, policy: LicencePolicy) -> list[Listed]:
    """Install all files of a tar that `export` wrote, or none.

    Raises InvalidRequest if it is not such a tar, is incomplete, or has a file that is not in the manifest or has
    another hash there; ModelNotFound if the policy refuses a licence; Unavailable if the disk is full; Conflict.
    """
    staging = store.folder / ".import"
    with store.locked():
        shutil.rmtree(staging, ignore_errors=True)  # left by an import that was killed
        staging.mkdir()
        try:
            with tarfile.open(tar, "r:") as archive:
                rows = _read_listing(archive, tar, store, manifest)
                for row in rows:
                    check_licence(row.entry, policy)
                store.require_space(sum(row.size for row in rows))
                staged = _unpack(archive, tar, rows, staging)
        except (tarfile.TarError, EOFError) as error:
            raise InvalidRequest(f"{tar} is damaged, or was not written by `weights export`") from error
        else:
            store.commit_all([(staged[number], row.file, row.sha256) for number, row in enumerate(rows)])
        finally:
            shutil.rmtree(staging)
    return rows


def _row(entry: Entry, file: File, store: Store) -> Listed:
    path = store.path(file)
    if not path.is_file():
        raise ModelNotFound(f"the weights of {entry.name!r} are not installed: there is no {path}")
    digest = sha256_of(path)
    if store.expected(file) not in (None, digest):
        raise ModelNotFound(f"the weights of {entry.name!r} are damaged: {path} has SHA-256 {digest}")
    return Listed(entry, file, digest, path.stat().st_size)


def _write_listing(rows: Sequence[Listed]) -> bytes:
    entries = {row.entry.name: row.entry for row in rows}
    content = {
        "format": _FORMAT,
        "files": [{"path": str(row.file.path), "sha256": row.sha256, "bytes": row.size} for row in rows],
        "entries": {
            name: {"licence": entry.licence, "commercial": entry.commercial, "note": entry.note}
            for name, entry in entries.items()
        },
    }
    return json.dumps(content, indent=2).encode()


def _read_listing(archive: tarfile.TarFile, tar: Path, store: Store, manifest: Manifest) -> list[Listed]:
    invalid = InvalidRequest(f"{tar} was not written by `weights export`")
    member = archive.next()
    if member is None or member.name != _LISTING or not member.isreg() or member.size > _LARGEST_LISTING_BYTES:
        raise invalid
    try:
        content: dict[str, Any] = json.loads(_content(archive, member).read())
        if content["format"] != _FORMAT:
            raise InvalidRequest(f"{tar} was written by another version of this server, in format {content['format']}")
        listed = [(str(row["path"]), str(row["sha256"]), int(row["bytes"])) for row in content["files"]]
    except (ValueError, TypeError, KeyError) as error:
        raise invalid from error
    known = {str(file.path): (entry, file) for entry in manifest.entries.values() for file in entry.files}
    rows: list[Listed] = []
    for path, sha256, size in listed:
        if path not in known or known[path][0].bundled:
            raise InvalidRequest(f"{tar} has {path!r}, which is not in this server's manifest")
        if path in (str(row.file.path) for row in rows):
            raise invalid
        entry, file = known[path]
        expected = store.expected(file)
        if expected not in (None, sha256):
            raise InvalidRequest(f"{tar} has another {path}: its SHA-256 is {sha256}, not {expected}")
        rows.append(Listed(entry, file, sha256, size))
    return rows


def _unpack(archive: tarfile.TarFile, tar: Path, rows: Sequence[Listed], staging: Path) -> list[Path]:
    """Write the rows' files to `staging`, and check them. Names in the tar are never used as paths."""
    staged = [staging / str(number) for number in range(len(rows))]
    waiting = {str(row.file.path): number for number, row in enumerate(rows)}
    for member in _members(archive):
        number = waiting.pop(member.name, None)
        if number is None or not member.isreg() or member.size != rows[number].size:
            raise InvalidRequest(f"{tar} has {member.name!r}, which is not in its listing, or has another size there")
        digest = hashlib.sha256()
        with _content(archive, member) as content, staged[number].open("wb") as file:
            while block := content.read(_BLOCK_BYTES):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != rows[number].sha256:
            raise InvalidRequest(f"{member.name} in {tar} is damaged: its SHA-256 is not the listed one")
    if waiting:
        raise InvalidRequest(f"{tar} is incomplete: {', '.join(waiting)} is missing")
    return staged


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        yield member


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(member)
    assert content is not None  # it is a regular file
    return content


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    return member
