"""The weights on this machine: bundled with the server, installed, and the operator's own.

Needs no torch: the API half also uses it, for the models' names and for estimates.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from server.config import Config, LicencePolicy
from server.errors import InvalidField, ModelNotFound, cut
from server.job.creativity import recipe
from server.job.job import Params
from server.job.mask import MASKED
from server.job.plan import Sizes, make_plan
from server.job.tiling import Geometry
from server.weights import choice, package
from server.weights.choice import AUTO, Choice, Content, DeviceKind, Limits
from server.weights.manifest import FOLDER, Entry, Kind, Manifest, read_manifest
from server.weights.own import Own, Stated, allows_commercial, read_index, read_stated
from server.weights.rates import REFINER
from server.weights.store import Store, sha256_of

__all__ = [
    "AUTO",
    "FOLDER",
    "Blend",
    "Catalog",
    "Checkpoint",
    "Choice",
    "Content",
    "DeviceKind",
    "Limits",
    "Networks",
    "Weights",
    "check_licence",
    "sha256_of",
    "verify",
]


CHAIN = ", "
"""Between the names of networks that run one after the other."""

_REMOVED = {
    "perceptual-x4": "ask for RealESRGAN_x4plus, which draws more detail, or fidelity-x4, which stays with its source",
}
"""Names of earlier versions, and what to use instead."""


@dataclass(frozen=True)
class Weights:
    """Weights whose files are all on this machine."""

    name: str
    path: Path
    """The file, or the folder of the files."""
    files: tuple[tuple[Path, str | None], ...]
    """Each file, and the SHA-256 that it must have; None if that is unknown."""
    licence: str
    note: str
    form: str = ""
    """Where they come from and their number format: "release", "package, fp16", "own" (the operator's), "bundled"."""
    author: str = field(default="", kw_only=True)
    """As the operator stated it; empty for those of the manifest."""
    source: str = field(default="", kw_only=True)
    """Likewise the address where it was published."""

    @property
    def sha256(self) -> str | None:
        """The SHA-256 that the one file must have; None if it is unknown, or if there are several files."""
        return self.files[0][1] if len(self.files) == 1 else None


@dataclass(frozen=True)
class Checkpoint(Weights):
    """An upscaling network."""

    geometry: Geometry = field(kw_only=True)
    stated_scale: int | None = field(default=None, kw_only=True)
    """Of the operator's: what was said when it was added; see `recognise` in server/models/."""


@dataclass(frozen=True)
class Blend:
    """One network, or several of the same architecture whose weights are mixed."""

    parts: tuple[tuple[Checkpoint, float], ...]
    """Each network and its share; the sum of the shares is 1."""

    @property
    def name(self) -> str:
        """As in results: the network's, or "realesr-general-x4v3 0.3 + realesr-general-wdn-x4v3 0.7"."""
        return mix_of([(checkpoint.name, None, share) for checkpoint, share in self.parts])[0]

    @property
    def geometry(self) -> Geometry:
        return replace(self.parts[0][0].geometry, name=self.name)

    def verify(self) -> str:
        """The SHA-256 of the one network's file, else of the recipe: a line of share, file's hash and name for each.
        Raises ModelNotFound if a file has another hash than it must have."""
        return mix_of([(each.name, verify(each), share) for each, share in self.parts])[1]


def mix_of(parts: Sequence[tuple[str, str | None, float]]) -> tuple[str, str]:
    """Name and SHA-256 of a mix of parts (name, SHA-256, share): those of the only part, else of the recipe, which has
    a line of share, hash and name for each part."""
    if len(parts) == 1:
        return parts[0][0], parts[0][1] or ""
    name = " + ".join(f"{name} {share:g}" for name, _, share in parts)
    recipe = "".join(f"{share:g}  {digest}  {name}\n" for name, digest, share in parts)
    return name, hashlib.sha256(recipe.encode()).hexdigest()


def masked_of(asked: tuple[str, str | None], kept: tuple[str, str | None]) -> tuple[str, str]:
    """Name and SHA-256 of a result that is `kept`'s where a mask says so, and else `asked`'s: the SHA-256 of a line of
    hash and name for each."""
    rows = "".join(f"{digest}  {name}\n" for name, digest in (asked, kept))
    return f"{asked[0]}{MASKED}{kept[0]}", hashlib.sha256(rows.encode()).hexdigest()


@dataclass(frozen=True)
class Networks:
    """The networks of a job: the main one and, if results are mixed, fidelity-x4 too."""

    main: Blend
    fidelity: Checkpoint | None
    """The network whose result is mixed in, or None."""
    choice: Choice
    before: tuple[Checkpoint, ...] = ()
    """Networks of ×1 that run over the source first."""

    @property
    def name(self) -> str:
        """As in results: the network's, or "fidelity-x4 0.5 + RealESRGAN_x4plus 0.5", or "1x-dejpg, 4x-photo"."""
        return CHAIN.join((*(each.name for each in self.before), self._mixed.name))

    @property
    def form(self) -> str | None:
        """Of the only network; None if there are several."""
        parts = self._mixed.parts
        return parts[0][0].form if len(parts) == 1 and not self.before else None

    def verify(self) -> str:
        """As `Blend.verify`, for all networks; of several in a row the SHA-256 of a line of hash and name for each.
        Raises ModelNotFound."""
        if not self.before:
            return self._mixed.verify()
        rows = [*((verify(each), each.name) for each in self.before), (self._mixed.verify(), self._mixed.name)]
        return hashlib.sha256("".join(f"{digest}  {name}\n" for digest, name in rows).encode()).hexdigest()

    @property
    def _mixed(self) -> Blend:
        """All networks with their shares, as if their weights were mixed."""
        if self.fidelity is None:
            return self.main
        rest = 1 - self.choice.fidelity
        parts = tuple((checkpoint, round(share * rest, 3)) for checkpoint, share in self.main.parts)
        return Blend(((self.fidelity, self.choice.fidelity), *parts))


class Catalog:
    """What there is to ask for by name. Entries whose licence the policy refuses are as if they were not here, but for
    the words of the refusal."""

    def __init__(
        self,
        folder: Path,
        *,
        tile: int = 0,
        policy: LicencePolicy = "any",
        manifest: Manifest | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        """`folder`: of installed weights. `tile` replaces every model's own tile side, unless 0. `limits`: of what
        `auto` takes on a CPU."""
        self._store = Store(folder)
        self._tile = tile
        self._policy = policy
        self._manifest = manifest or read_manifest()
        self._paths: dict[str, list[str]] = {}
        self._limits = limits

    @classmethod
    def of(cls, config: Config) -> "Catalog":
        limits = Limits(config.auto_limit_s, named=config.real_esrgan == "auto")
        return cls(config.weights_path, tile=config.tile, policy=config.licence_policy, limits=limits)

    def names(self, kind: Kind = Kind.UPSCALER) -> list[str]:
        """Names of the weights that are on this machine and allowed: the manifest's in its order, then the
        operator's."""
        entries = [entry for entry in self._manifest.entries.values() if entry.kind is kind]
        names = [entry.name for entry in entries if self._is_here(entry) and self._is_allowed(entry)]
        if kind is Kind.UPSCALER:
            names += [own.name for own in self._own() if self._allows(own)]
        return names

    def choose(
        self,
        params: Params,
        sizes: Sizes | None = None,
        *,
        planes: int = 1,
        device: DeviceKind = "cpu",
        content: Content = "photo",
        rates: Mapping[str, float] | None = None,
    ) -> Networks:
        """What a job with these parameters runs; see choice.py.

        `sizes`: None while the source's is unknown; `planes`: 2 with alpha that goes through the
        network too. `rates`: pixels a second by network on this machine, as in rates.py; None while they are unknown.
        `params.model` may name several in a row, separated by commas; all but the last are of ×1.
        Raises ModelNotFound and InvalidField.
        """
        first, last = self._in_a_row(params.model)
        if first and sizes and sizes.enlargement <= 1 and self._enlarges(last):
            *first, last = first
        if last != params.model:
            params = replace(params, model=last)

        def seconds(wanted: Choice) -> float | None:
            return self._seconds(wanted, sizes, planes, rates) if sizes and rates else None

        found = choice.choose(
            params,
            ratio=sizes.enlargement if sizes else 4.0,
            device=device,
            present=self.names(),
            content=content,
            frames=sizes.frames if sizes else 1,
            seconds=seconds,
            limits=self._limits,
        )
        main = Blend(tuple((self.get(name), share) for name, share in found.weights))
        before = tuple(self.get(name) for name in first)
        return Networks(main, None if found.alone else self.get(choice.FIDELITY), found, before)

    def _enlarges(self, name: str) -> bool:
        return name in (AUTO, choice.REAL_ESRGAN) or self.get(name).geometry.scale > 1

    def _in_a_row(self, names: str) -> tuple[list[str], str]:
        """The networks of ×1 that run first, and the last. Raises ModelNotFound and InvalidField."""
        *first, last = [name.strip() for name in names.split(CHAIN.strip())]
        for name in first:
            scale = self.get(name).geometry.scale
            if scale != 1:
                raise InvalidField(
                    f"{cut(name)} enlarges ×{scale}: of several networks only the last may", field="model"
                )
        return first, last

    def _seconds(self, wanted: Choice, sizes: Sizes, planes: int, rates: Mapping[str, float]) -> float | None:
        """The estimated time of all frames, or None where a network's rate is unknown."""
        names = [name for name, _ in wanted.weights] + ([] if wanted.alone else [choice.FIDELITY])
        total, (w, h) = 0.0, sizes.result
        for name in names:
            if name not in rates:
                return None
            plan = make_plan(sizes, self.get(name).geometry, creativity=wanted.creativity)
            total += plan.network_pixels / rates[name]
            w, h = plan.canvas
        refining = w * h * recipe(wanted.creativity).steps / rates[REFINER] if REFINER in rates else 0.0
        return planes * total + sizes.frames * refining

    def get(self, name: str) -> Checkpoint:
        """The upscaling network of that name. Raises ModelNotFound."""
        entry = self._manifest.entries.get(name)
        if entry is None:
            return self._own_checkpoint(name)
        if entry.geometry is None:
            raise ModelNotFound(f"{name} is not an upscaling network, but a {entry.kind.value}", field="model")
        found = self.find(name)
        return Checkpoint(**vars(found), geometry=self._tiled(entry.geometry))

    def find(self, name: str) -> Weights:
        """The manifest's weights of that name, of any kind. Raises ModelNotFound."""
        entry = self._manifest.entries.get(name)
        if entry is None:
            raise self._unknown(name)
        check_licence(entry, self._policy)
        path = self._path(entry, entry.path)
        if not self._has_files(entry):
            packaged = _packaged(entry)
            if packaged is not None and entry.package is not None:
                form = f"package, {entry.package.form}"
                return Weights(name, packaged, ((packaged, entry.package.sha256),), entry.licence, entry.note, form)
            advice = (
                f"they are part of the server, but {path.name} is missing: install the server again"
                if entry.bundled
                else f"`python -m server weights pull {self._manifest.hint(name)}` gets them, or put {path.name} "
                "into the weights folder"  # no path: remote callers see this too
            )
            raise ModelNotFound(f"the weights of {cut(name)!r} are not installed: {advice}", field="model")
        files = tuple((self._path(entry, file.path), self._store.expected(file)) for file in entry.files)
        form = "bundled" if entry.bundled else "release"
        return Weights(name, path, files, entry.licence, entry.note, form)

    def _own(self) -> list[Own]:
        return [own for own in read_index(self._store.folder) if own.network]

    def _own_checkpoint(self, name: str) -> Checkpoint:
        own = next((own for own in self._own() if own.name == name), None)
        if own is None or own.network is None:
            raise self._unknown(name)
        path = self._store.folder / own.file
        stated = read_stated(path) or Stated("")
        if not self._allows(own):
            licence = stated.licence or "unknown: none was given to `weights add`"
            raise ModelNotFound(
                f"{name} is refused, because UPSCALE_LICENCE_POLICY=commercial, it is a network of {own.network.arch}, "
                f"and its licence is {licence}",
                field="model",
            )
        geometry = self._tiled(Geometry(name, own.network.scale, own.network.tile, own.network.halo))
        files = ((path, own.network.sha256),)
        note = "Put into the weights folder by the operator."
        return Checkpoint(
            name,
            path,
            files,
            stated.licence or "unknown",
            stated.purpose or note,
            "own",
            author=stated.author,
            source=stated.source,
            geometry=geometry,
            stated_scale=stated.scale,
        )

    def _allows(self, own: Own) -> bool:
        if self._policy == "any" or own.network is None:
            return True
        stated = read_stated(self._store.folder / own.file)
        return stated is not None and allows_commercial(stated.licence, own.network.arch)

    def _unknown(self, name: str) -> ModelNotFound:
        if name in _REMOVED:
            return ModelNotFound(f"{name} is no longer part of the server: {_REMOVED[name]}", field="model")
        return ModelNotFound(f"there is no model {cut(name)!r}; installed are {', '.join(self.names())}", field="model")

    def _tiled(self, geometry: Geometry) -> Geometry:
        return replace(geometry, tile=max(self._tile, 2 * geometry.halo + 16)) if self._tile else geometry

    def _is_here(self, entry: Entry) -> bool:
        return self._has_files(entry) or _packaged(entry) is not None

    def _has_files(self, entry: Entry) -> bool:
        # Runs for all entries at each submit: joining the paths each time would take five times as long as the check.
        paths = self._paths.get(entry.name)
        if paths is None:
            paths = self._paths[entry.name] = [str(self._path(entry, file.path)) for file in entry.files]
        return all(map(os.path.isfile, paths))

    def _is_allowed(self, entry: Entry) -> bool:
        return entry.commercial or self._policy == "any"

    def _path(self, entry: Entry, path: PurePosixPath) -> Path:
        folder = self._manifest.folder / "bundled" if entry.bundled else self._store.folder
        return folder / path


def _packaged(entry: Entry) -> Path | None:
    return package.find(entry.package) if entry.package is not None else None


def check_licence(entry: Entry, policy: LicencePolicy) -> None:
    """Raises ModelNotFound, with the reason, if the operator's policy refuses these weights."""
    if policy == "commercial" and not entry.commercial:
        raise ModelNotFound(
            f"{entry.name} is refused, because UPSCALE_LICENCE_POLICY=commercial and its licence is: {entry.licence}. "
            f"{entry.note}",
            field="model",
        )


def verify(weights: Weights) -> str:
    """The SHA-256 of the weights: of their only file, else of the list of their files' hashes in the format of
    `sha256sum`. Raises ModelNotFound if a file has another hash than it must have."""
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
