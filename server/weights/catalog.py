"""Which weights are on this machine: those bundled with the server, those installed, and the operator's own.

No torch in here: the API half also asks which models exist and what shape their work has.
"""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from server.config import Config, LicencePolicy
from server.errors import ModelNotFound, cut
from server.job import Params
from server.plan import Shape
from server.weights import choice
from server.weights.choice import AUTO, DeviceKind
from server.weights.manifest import FOLDER, Entry, Kind, Manifest, read_manifest
from server.weights.own import Own, read_index
from server.weights.store import Store, sha256_of

__all__ = [
    "AUTO",
    "FOLDER",
    "Blend",
    "Catalog",
    "Checkpoint",
    "DeviceKind",
    "Weights",
    "check_licence",
    "sha256_of",
    "verify",
]


@dataclass(frozen=True)
class Weights:
    """Weights whose files are all here."""

    name: str
    path: Path
    """The file, or the folder of the files."""
    files: tuple[tuple[Path, str | None], ...]
    """Each file, and what it must hash to: None when nobody knows."""
    licence: str
    note: str

    @property
    def sha256(self) -> str | None:
        """What the one file must hash to, or None: nobody knows, or there are several."""
        return self.files[0][1] if len(self.files) == 1 else None


@dataclass(frozen=True)
class Checkpoint(Weights):
    """An upscaling network."""

    shape: Shape


@dataclass(frozen=True)
class Blend:
    """What a job runs: one network, or several of the same shape with their weights mixed."""

    parts: tuple[tuple[Checkpoint, float], ...]
    """Each network and its share; the shares are 1 together."""

    @property
    def name(self) -> str:
        """As results tell it: the network's, or "fidelity-x4 0.4 + perceptual-x4 0.6"."""
        if len(self.parts) == 1:
            return self.parts[0][0].name
        return " + ".join(f"{checkpoint.name} {share:g}" for checkpoint, share in self.parts)

    @property
    def shape(self) -> Shape:
        return replace(self.parts[0][0].shape, name=self.name)

    def verify(self) -> str:
        """The SHA-256 of the one network's file, else of the recipe: a line of share, file's hash and name for each.
        Raises ModelNotFound when a file is not the right one."""
        hashes = [verify(checkpoint) for checkpoint, _ in self.parts]
        if len(hashes) == 1:
            return hashes[0]
        rows = zip(hashes, self.parts, strict=True)
        recipe = "".join(f"{share:g}  {digest}  {checkpoint.name}\n" for digest, (checkpoint, share) in rows)
        return hashlib.sha256(recipe.encode()).hexdigest()


class Catalog:
    """What there is to ask for by name. Entries whose licence the policy refuses are as if they were not here, but for
    the words of the refusal."""

    def __init__(
        self, folder: Path, *, tile: int = 0, policy: LicencePolicy = "any", manifest: Manifest | None = None
    ) -> None:
        """`folder`: of installed weights. `tile` replaces every model's own tile side, unless 0."""
        self._store = Store(folder)
        self._tile = tile
        self._policy = policy
        self._manifest = manifest or read_manifest()
        self._paths: dict[str, list[str]] = {}

    @classmethod
    def of(cls, config: Config) -> "Catalog":
        return cls(config.weights_path, tile=config.tile, policy=config.licence_policy)

    def names(self, kind: Kind = Kind.UPSCALER) -> list[str]:
        """Those that are here and may be used: the manifest's in its order, then the operator's own."""
        entries = [entry for entry in self._manifest.entries.values() if entry.kind is kind]
        names = [entry.name for entry in entries if self._is_here(entry) and self._is_allowed(entry)]
        if kind is Kind.UPSCALER and self._policy == "any":
            names += [own.name for own in self._own()]
        return names

    def choose(self, params: Params, *, ratio: float = 4.0, device: DeviceKind = "cpu") -> Blend:
        """What a job with these parameters runs; see choice.py. Raises ModelNotFound and InvalidField."""
        shares = choice.choose(params, ratio=ratio, device=device, present=self.names())
        return Blend(tuple((self.get(name), share) for name, share in shares))

    def get(self, name: str) -> Checkpoint:
        """The upscaling network of that name. Raises ModelNotFound."""
        entry = self._manifest.entries.get(name)
        if entry is None:
            return self._own_checkpoint(name)
        if entry.shape is None:
            raise ModelNotFound(f"{name} is not an upscaling network, but a {entry.kind.value}", field="model")
        found = self.find(name)
        return Checkpoint(found.name, found.path, found.files, found.licence, found.note, self._tiled(entry.shape))

    def find(self, name: str) -> Weights:
        """The manifest's weights of that name, of whatever kind. Raises ModelNotFound."""
        entry = self._manifest.entries.get(name)
        if entry is None:
            raise self._unknown(name)
        check_licence(entry, self._policy)
        path = self._path(entry, entry.path)
        if not self._is_here(entry):
            advice = (
                f"they come with the server, but {path.name} is not there: install it again"
                if entry.bundled
                else f"`python -m server weights pull {self._manifest.hint(name)}` gets them, or put {path.name} into "
                "the weights folder"  # no path: callers over the network read this too
            )
            raise ModelNotFound(f"the weights of {cut(name)!r} are not installed: {advice}", field="model")
        files = tuple((self._path(entry, file.path), self._store.expected(file)) for file in entry.files)
        return Weights(name, path, files, entry.licence, entry.note)

    def _own(self) -> list[Own]:
        return [own for own in read_index(self._store.folder) if own.network]

    def _own_checkpoint(self, name: str) -> Checkpoint:
        own = next((own for own in self._own() if own.name == name), None)
        if own is None or own.network is None:
            raise self._unknown(name)
        if self._policy != "any":
            raise ModelNotFound(
                f"{name} is not in weights/manifest.toml, so nobody has said that its licence allows commercial use, "
                "and UPSCALE_LICENCE_POLICY=commercial: give it an entry that says so",
                field="model",
            )
        path = self._store.folder / own.file
        shape = self._tiled(Shape(name, own.network.scale, own.network.tile, own.network.halo))
        files = ((path, own.network.sha256),)
        return Checkpoint(name, path, files, "unknown", "Put into the weights folder by the operator.", shape)

    def _unknown(self, name: str) -> ModelNotFound:
        return ModelNotFound(f"there is no model {cut(name)!r}; installed are {', '.join(self.names())}", field="model")

    def _tiled(self, shape: Shape) -> Shape:
        return replace(shape, tile=max(self._tile, 2 * shape.halo + 16)) if self._tile else shape

    def _is_here(self, entry: Entry) -> bool:
        # At each submit, of all entries: joining the paths anew would take five times as long as looking.
        paths = self._paths.get(entry.name)
        if paths is None:
            paths = self._paths[entry.name] = [str(self._path(entry, file.path)) for file in entry.files]
        return all(map(os.path.isfile, paths))

    def _is_allowed(self, entry: Entry) -> bool:
        return entry.commercial or self._policy == "any"

    def _path(self, entry: Entry, path: PurePosixPath) -> Path:
        folder = self._manifest.folder / "bundled" if entry.bundled else self._store.folder
        return folder / path


def check_licence(entry: Entry, policy: LicencePolicy) -> None:
    """Raises ModelNotFound when the operator's policy refuses these weights, with the reason."""
    if policy == "commercial" and not entry.commercial:
        raise ModelNotFound(
            f"{entry.name} is refused, because UPSCALE_LICENCE_POLICY=commercial and its licence is: {entry.licence}. "
            f"{entry.note}",
            field="model",
        )


def verify(weights: Weights) -> str:
    """The SHA-256 of the weights, whose files must be the expected ones: of their one file, else of the list of their
    files' hashes as `sha256sum` prints it. Raises ModelNotFound when one is not."""
    digests = []
    for path, expected in weights.files:
        digest = sha256_of(path)
        if expected not in (None, digest):
            raise ModelNotFound(
                f"the weights of {weights.name!r} are damaged or not the ones of the manifest: {path} has SHA-256 "
                f"{digest}, not {expected}"
            )
        digests.append(digest)
    if len(digests) == 1:
        return digests[0]
    rows = zip(digests, weights.files, strict=True)
    listing = "".join(f"{digest}  {path.relative_to(weights.path)}\n" for digest, (path, _) in rows)
    return hashlib.sha256(listing.encode()).hexdigest()
