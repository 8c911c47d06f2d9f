"""Recognises the operator's own checkpoints by their content, and writes the index of the weights folder."""

from pathlib import Path

import structlog
import torch

from server.errors import ModelNotFound
from server.models import load_model
from server.weights.catalog import AUTO, CHAIN
from server.weights.manifest import Manifest, read_manifest
from server.weights.own import Network, Own, candidates, read_index, read_stated, stamp, write_index
from server.weights.store import sha256_of

log = structlog.get_logger()

_LARGEST_BYTES = 1 << 30  # several times what the networks we know take; a diffusion model would fill the memory


def index(folder: Path, manifest: Manifest | None = None) -> list[Own]:
    """Examine every checkpoint that is new or has changed, and return the facts about all. Files that cannot be used
    are included, with the reason."""
    manifest = manifest or read_manifest()
    known = {own.file: own for own in read_index(folder)}
    found: list[Own] = []
    for path in candidates(folder, manifest):
        taken = {own.name for own in found if own.network}
        own = known.get(path.name)
        # Another file that was removed may have solved a problem; one that was added may have taken a name.
        if own is None or own.network is None or own.name in taken or own.name in manifest.entries:
            own = _look_at(path, manifest, taken)
        found.append(own)
    if found != list(known.values()):
        try:
            write_index(folder, found)
        except OSError as error:  # a read-only folder still offers other weights, but none of these
            log.warning("the index cannot be written", folder=str(folder), reason=str(error))
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
    if CHAIN.strip() in path.stem:
        raise ModelNotFound(f"commas separate the names of several networks: rename {path.name}")
    if path.stem in taken:
        raise ModelNotFound(f"another file has the name {path.stem}: rename {path.name}")
    if size > _LARGEST_BYTES:
        raise ModelNotFound(f"{path.name} is too large for any network this server knows")
    stated = read_stated(path)
    if stated is not None and stated.sha256 != sha256_of(path):
        raise ModelNotFound(f"{path.name} is not the file that was added: its SHA-256 is {sha256_of(path)}")
    scale = stated.scale if stated else None
    try:
        model = load_model(path, name=path.stem, sha256=None, device=torch.device("cpu"), scale=scale)
    except ModelNotFound:
        raise
    except Exception as error:  # NOTE: the file may have any content, and must not prevent a worker from starting
        raise ModelNotFound(f"{path.name} is not a checkpoint this server can read") from error
    return Network(sha256_of(path), model.arch, model.facts.scale, model.facts.tile, model.facts.halo)
