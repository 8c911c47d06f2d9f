"""`weights add`: the operator's own checkpoint, from a file or an address, into the weights folder."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from server.config import Config
from server.errors import Conflict, InvalidRequest, ModelNotFound
from server.files import write_atomically
from server.outbound.resumable_download import OnProgress, Wanted, download, open_client, partial_of
from server.weights.manifest import File, read_manifest
from server.weights.own import SUFFIXES, Stated, allows_commercial, stated_at
from server.weights.store import Store, sha256_of


def is_address(source: str) -> bool:
    return urlsplit(source).scheme in ("http", "https")


def name_of(source: str) -> str:
    """The file's own name, without the folders of its path or address."""
    return PurePosixPath(unquote(urlsplit(source).path)).name if is_address(source) else Path(source).name


def add(
    source: str, name: str, stated: Stated, config: Config, on_progress: OnProgress, *, pause_s: float = 1.0
) -> Path:
    """Install the checkpoint as the file `name`, with what is stated of it beside it, and return its path.

    `stated.sha256`: that it must have; empty for a file whose own is taken. Raises InvalidRequest, Conflict if another
    file has that name, ModelNotFound (the licence policy) and Unavailable. OSError if a file can't be read.
    """
    known = {str(file.path) for entry in read_manifest().entries.values() for file in entry.files}
    if Path(name).suffix not in SUFFIXES or Path(name).name != name or name.startswith("."):
        raise InvalidRequest(f"{name!r} can't be the name of a checkpoint: it must end with {', '.join(SUFFIXES)}")
    if name in known:
        raise InvalidRequest(f"{name} is in the manifest: `weights pull` gets it, or choose another --name")
    if is_address(source) and not stated.sha256:
        raise InvalidRequest("for an address give --sha256, as its publisher states it: the file could be another one")
    if config.licence_policy == "commercial" and not allows_commercial(stated.licence, ""):
        licence = stated.licence or "unknown: give --licence"
        raise ModelNotFound(
            f"{name} is refused, because UPSCALE_LICENCE_POLICY=commercial and its licence is {licence}"
        )
    store = Store(config.weights_path)
    with store.locked():
        path = store.folder / name
        partial = partial_of(path)
        if is_address(source):
            with open_client(config.weights_proxy) as client:
                wanted = Wanted(source, path, stated.sha256, None)
                digest = download(client, wanted, store, on_progress, pause_s=pause_s)
        else:
            store.require_space(Path(source).stat().st_size)
            shutil.copyfile(source, partial)
            digest = sha256_of(partial)
            if stated.sha256 not in ("", digest):
                partial.unlink()
                raise InvalidRequest(f"{source} has SHA-256 {digest}, not {stated.sha256}")
        if path.exists() and sha256_of(path) != digest:
            partial.unlink()
            raise Conflict(f"another checkpoint is installed as {name}: choose another --name, or remove that file")
        # Before the checkpoint has its name: it is never there without its licence.
        write_atomically(stated_at(path), json.dumps(asdict(replace(stated, sha256=digest)), indent=2))
        store.commit(partial, File(PurePosixPath(name), "", digest, None), digest)
    return path
