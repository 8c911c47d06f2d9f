"""`weights pull`: from the manifest's URLs, or a mirror, into the weights folder."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from server.config import Config
from server.errors import InvalidRequest
from server.outbound.resumable_download import OnProgress, Wanted, download, open_client, partial_of
from server.weights.catalog import check_licence
from server.weights.manifest import Entry, File
from server.weights.store import Store, sha256_of


@dataclass(frozen=True)
class Pulled:
    file: File
    sha256: str
    was_here: bool
    pinned: bool
    """The manifest has no hash for this file; from now on the hash must stay the same."""


def pull(
    entries: Sequence[Entry], config: Config, progress: Callable[[File], OnProgress], *, pause_s: float = 1.0
) -> Iterator[Pulled]:
    """Yields each file of the entries once it is installed. Files that are already installed are checked, and
    downloaded again if they are damaged.

    Nothing is downloaded unless all files are allowed and the disk has room for all. Raises InvalidRequest,
    ModelNotFound (the licence policy), Conflict (another pull runs) and Unavailable.
    """
    for entry in entries:
        if entry.bundled:
            raise InvalidRequest(f"{entry.name} comes with the server: there is nothing to download", field="name")
        check_licence(entry, config.licence_policy)
    store = Store(config.weights_path)
    files = [file for entry in entries for file in entry.files]
    with store.locked(), open_client(config.weights_proxy) as client:
        missing = []
        for file in files:
            digest = _digest_if_intact(store, file)
            if digest is None:
                missing.append(file)
            else:
                yield Pulled(file, digest, was_here=True, pinned=False)
        store.require_space(sum(_missing_bytes(store, file) for file in missing))
        for file in missing:
            url = f"{config.weights_mirror}/{file.path}" if config.weights_mirror else file.url
            wanted = Wanted(url, store.path(file), store.expected(file), file.size)
            digest = download(client, wanted, store, progress(file), pause_s=pause_s)
            pinned = store.commit(partial_of(wanted.path), file, digest)
            yield Pulled(file, digest, was_here=False, pinned=pinned)


def _digest_if_intact(store: Store, file: File) -> str | None:
    path = store.path(file)
    digest = sha256_of(path) if path.is_file() else None
    return digest if store.expected(file) in (None, digest) else None


def _missing_bytes(store: Store, file: File) -> int:
    partial = partial_of(store.path(file))
    return max(0, (file.size or 0) - (partial.stat().st_size if partial.exists() else 0))
