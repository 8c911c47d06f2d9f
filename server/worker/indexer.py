"""Recognises the operator's own checkpoints by their content and keeps what it found in the weights folder's index."""

from pathlib import Path

import structlog
import torch

from server.errors import ModelNotFound
from server.models import load_model
from server.weights.catalog import AUTO
from server.weights.manifest import Manifest, read_manifest
from server.weights.own import Network, Own, candidates, read_index, stamp, write_index
from server.weights.store import sha256_of

log = structlog.get_logger()

_LARGEST_BYTES = 1 << 30  # several times what the networks we know take; a diffusion model would fill the memory


def index(folder: Path, manifest: Manifest | None = None) -> list[Own]:
    """Look at every checkpoint that is new or has changed, and return what is known of all. Files that can't be used
    are in it too, with the reason."""
    manifest = manifest or read_manifest()
    known = {own.file: own for own in read_index(folder)}
    found: list[Own] = []
    for path in candidates(folder, manifest):
        taken = {own.name for own in found if own.network}
        own = known.get(path.name)
        # A problem may be solved by another file's going, a name be taken by its coming.
        if own is None or own.network is None or own.name in taken or own.name in manifest.entries:
            own = _look_at(path, manifest, taken)
        found.append(own)
    if found != list(known.values()):
        try:
            write_index(folder, found)
        except OSError as error:  # a folder that may only be read still has weights to offer, just none of these
            log.warning("the index can't be written", folder=str(folder), reason=str(error))
    return found


def _look_at(path: Path, manifest: Manifest, taken: set[str]) -> Own:
    size, mtime_ns = stamp(path) or (0, 0)
    try:
        network, problem = _recognise(path, size, manifest, taken), None
    except ModelNotFound as error:
        network, problem = None, error.message
        log.warning("checkpoint not usable", file=path.name, reason=problem)
    return Own(path.name, size, mtime_ns, network, problem)


def _recognise(path: Path, size: int, manifest: Manifest, taken: set[str]) -> Network:
    if path.stem in manifest.entries or path.stem == AUTO:
        raise ModelNotFound(f"the name {path.stem} belongs to the manifest: rename {path.name}")
    if path.stem in taken:
        raise ModelNotFound(f"another file has the name {path.stem}: rename {path.name}")
    if size > _LARGEST_BYTES:
        raise ModelNotFound(f"{path.name} is too large for any network this server knows")
    try:
        model = load_model(path, name=path.stem, sha256=None, device=torch.device("cpu"))
    except ModelNotFound:
        raise
    except Exception as error:  # NOTE: anybody's file, of any content; it must not keep a worker from starting
        raise ModelNotFound(f"{path.name} is not a checkpoint this server can read") from error
    return Network(sha256_of(path), model.arch, model.facts.scale, model.facts.tile, model.facts.halo)
